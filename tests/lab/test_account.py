"""The account: what is known is counted, what is not known stays unknown."""

from __future__ import annotations

from typing import Any

import pytest

from lab.account import account, device_name, spent
from tasks.spec import Budget

TIMES: dict[str, Any] = {
    "budget": Budget(kind="tokens", amount=1000),
    "train_seconds": 2.0, "score_seconds": 0.5, "wall_seconds": 3.0, "peak_memory_bytes": 1000, "device": "a CPU",
    "threads": 1, "host_load": 0.7,
}  # fmt: skip


def test_flops_are_the_scorers_cost_of_a_token_times_the_feeders_tokens() -> None:
    made = account({"tokens": 1000, "steps": 10}, {"params": 50, "flops_per_token": 300.0}, **TIMES)
    assert (made["flops"], made["tokens_per_second"], made["steps"], made["params"]) == (300_000.0, 500.0, 10, 50)
    assert made["host_load"] == 0.7


@pytest.mark.parametrize("odd", [None, "many", True, float("nan"), float("inf"), -1, [3]])
def test_what_is_not_a_number_is_unknown_and_never_zero(odd: object) -> None:
    made = account({"tokens": odd, "steps": odd}, {"params": odd, "flops_per_token": odd}, **TIMES)
    keys = ("tokens", "steps", "params", "flops", "flops_per_token", "tokens_per_second")
    assert [made[key] for key in keys] == [None] * 6


def test_a_run_without_counts_and_score_still_has_an_account() -> None:
    made = account(None, None, **{**TIMES, "train_seconds": None})
    assert made["tokens"] is None and made["wall_seconds"] == 3.0


def test_the_device_has_a_name() -> None:
    assert device_name() and "\n" not in device_name()
