"""The account: what is known is counted, what is not known stays unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.account import account, cpu_clock, device_name, spent
from lab.gpus import reading
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


METERED = {"tokens": 1000, "flops": 9e5, "flops_per_token": 900.0, "startup_seconds": 0.5, "data_wait": 0.01, "seconds": 1.4}


def test_flops_that_a_feeder_metered_count_before_the_scorers() -> None:
    made = account(METERED, {"flops_per_token": 300.0}, **TIMES)
    assert (made["flops"], made["flops_per_token"], made["flops_unknown"]) == (9e5, 900.0, "")
    assert (made["startup_seconds"], made["data_wait_seconds"]) == (0.5, 0.01)


def test_flops_that_could_not_be_metered_are_unknown_with_the_operators_named_whatever_the_scorer_says() -> None:
    made = account({**METERED, "flops": None, "flops_unknown": "mine::op\x1b[31m"}, {"flops_per_token": 300.0}, **TIMES)
    assert (made["flops"], made["flops_unknown"]) == (None, "mine::op")
    assert account({**METERED, "flops": None}, None, **TIMES)["flops_unknown"] == "nothing was metered"


def test_training_after_a_budget_of_seconds_is_overtime() -> None:
    times = {**TIMES, "budget": Budget(kind="time", amount=1.2)}
    assert account(METERED, None, **times)["overtime_seconds"] == pytest.approx(2.0 - 0.5 - 1.4)
    simple = {name: value for name, value in METERED.items() if name != "seconds"}
    assert account(simple, None, **times)["overtime_seconds"] == pytest.approx(2.0 - 0.5 - 1.2)
    assert account(METERED, None, **TIMES)["overtime_seconds"] is None


@pytest.mark.parametrize(("kind", "value"), [("time", 1.4), ("tokens", 1000), ("flops", 9e5), ("steps", None)])
def test_what_was_spent_of_a_budget_stands_in_the_feeders_counts(kind: str, value: float | None) -> None:
    assert spent(METERED, kind) == value
    assert spent(None, kind) is None


def test_a_run_without_counts_and_score_still_has_an_account() -> None:
    made = account(None, None, **{**TIMES, "train_seconds": None})
    assert made["tokens"] is None and made["wall_seconds"] == 3.0


def test_the_device_has_a_name() -> None:
    assert device_name() and "\n" not in device_name()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1024, 1980\n", (1 << 30, 1980)), ("[N/A], 345", (None, 345)), ("7, [Not Supported]", (7 << 20, None)),
        ("No devices", (None, None)), ("", (None, None)),
    ],
)  # fmt: skip
def test_a_line_of_the_gpus_driver_gives_memory_in_use_and_clock(line: str, expected: tuple[int | None, int | None]) -> None:
    assert reading(line) == expected


def test_the_clock_of_a_run_is_that_of_its_cores_where_the_kernel_tells_it(tmp_path: Path) -> None:
    for cpu, khz in ((0, "2400000\n"), (1, "3000000\n"), (3, "<unknown>\n")):
        (tmp_path / f"cpu{cpu}" / "cpufreq").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "cpufreq" / "scaling_cur_freq").write_text(khz)
    assert cpu_clock([0], tmp_path) == 2400.0 and cpu_clock([0, 1, 3, 7], tmp_path) == 2700.0
    assert cpu_clock([3], tmp_path) is None and cpu_clock([], tmp_path) is None
    assert account(None, None, **TIMES)["clock_mhz"] is None and account(None, None, **TIMES, clock_mhz=1980.0)["clock_mhz"] == 1980.0
