"""From what the scorer says to a run's metric, and to the cost of reaching a target."""

from __future__ import annotations

from typing import Any

import pytest

from lab.errors import Stopped
from lab.measure import measure, shown, splits_to_score
from tasks.spec import Task, load
from tests.conftest import TOY

ACCOUNT = {"tokens": 4096, "flops": 1e6, "train_seconds": 5.0, "startup_seconds": 1.5, "flops_unknown": ""}


def task(**target: Any) -> Task:
    plain = load(str(TOY))
    return Task.model_validate({**plain.model_dump(), "scale": {**plain.scale.model_dump(), "target": target or None}})


def said(**metric: float) -> dict[str, Any]:
    return {"status": "ok", "reason": "", "metric": metric}


def reason(one: Task, splits: list[str], score: dict[str, Any], account: dict[str, Any] = ACCOUNT) -> str:
    with pytest.raises(Stopped) as stopped:
        measure(one, splits, score, account)
    assert stopped.value.status == "invalid"
    return stopped.value.reason


def test_a_scorers_values_are_the_metric_of_the_splits_asked_for() -> None:
    assert measure(task(), ["search"], said(search=0.5, audit=0.7), ACCOUNT) == {"search": 0.5}
    assert reason(task(), ["search"], said(audit=0.7)) == "no val_mse for the split search"
    assert reason(task(), ["search"], {"status": "invalid", "reason": "looks ahead"}) == "looks ahead"


@pytest.mark.parametrize(("cost", "value"), [("tokens", 4096), ("flops", 1e6), ("seconds", 3.5)])
def test_with_a_target_the_metric_is_what_it_cost_to_reach_it(cost: str, value: float) -> None:
    one = task(value=0.6, cost=cost)
    assert (one.metric.name, one.metric.direction) == (f"{cost}_to_target", "minimize")
    assert splits_to_score(one, ["search"]) == ["search", "audit"]
    assert measure(one, ["search"], said(search=0.9, audit=0.6), ACCOUNT) == {"search": value}


def test_a_run_that_misses_the_target_is_invalid_and_learns_no_value_of_a_split_it_was_not_to_read() -> None:
    one = task(value=0.6, cost="tokens")
    scored = said(search=0.5, audit=0.61)
    assert reason(one, ["search", "audit"], scored) == "missed the target: val_mse on audit 0.61, was to be at most 0.6"
    assert reason(one, ["search"], scored) == "missed the target: val_mse on audit was to be at most 0.6"
    assert shown({**scored, "position_loss": {"audit": [1], "search": [2]}}, ["search"]) == {
        **said(search=0.5), "position_loss": {"search": [2]},
    }  # fmt: skip


def test_of_a_core_score_more_is_better() -> None:
    one = task(value=0.25, cost="tokens", split="core")
    assert measure(one, ["search"], said(search=0.9, core=0.26), ACCOUNT) == {"search": 4096}
    assert reason(one, ["search"], said(search=0.9, core=0.2)).startswith("missed the target: CORE was to be at least")


def test_a_cost_that_nobody_knows_is_no_metric() -> None:
    unknown = {**ACCOUNT, "flops": None, "flops_unknown": "mine::op"}
    one = task(value=0.6, cost="flops")
    assert reason(one, ["audit"], said(audit=0.5), unknown) == "the flops that it took to the target are unknown: mine::op"
