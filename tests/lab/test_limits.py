"""What a candidate may take beside its budget: twice the baseline's largest, a little more, and a reason with both numbers."""

from __future__ import annotations

from typing import Any

from lab.limits import SLACK, allowed, baseline, exceeded
from lab.records import Run


def ended(status: str = "ok", **account: Any) -> Run:
    return Run(
        id="R0001", experiment="", attempt=0, purpose="bank", commit="", seed=0, splits=[], budget={}, agent="lab",
        home_slot=None, queued=0.0, status=status, account=account,
    )  # fmt: skip


def test_the_largest_of_the_runs_that_ended_well_is_what_counts() -> None:
    bank = [ended(checkpoint_bytes=5, score_seconds=2.0), ended(checkpoint_bytes=7), ended("crashed", checkpoint_bytes=99)]
    assert baseline(bank) == {"checkpoint_bytes": 7, "score_seconds": 2.0}
    assert baseline([ended("crashed"), ended("queued")]) is None, "a bank without a run limits nothing"


def test_twice_the_baseline_and_the_slack_are_allowed_and_no_more() -> None:
    limits = {"checkpoint_bytes": 10 << 20, "score_seconds": 4.0}
    most = 2 * (10 << 20) + SLACK["checkpoint_bytes"]
    assert allowed(limits, "checkpoint_bytes") == most and exceeded(limits, "checkpoint_bytes", most) == ""
    assert exceeded(limits, "checkpoint_bytes", 30 << 20) == (
        "what training left takes 30.0 MiB: the baseline 10.0 MiB, and 2 times that and 64.0 KiB are allowed"
    )
    assert exceeded(limits, "score_seconds", 13.1) and not exceeded(limits, "score_seconds", 12.9)


def test_what_nobody_measured_is_not_limited() -> None:
    assert exceeded(None, "checkpoint_bytes", 1e12) == exceeded({}, "checkpoint_bytes", 1e12) == ""
    assert exceeded({"score_seconds": 1.0}, "score_seconds", None) == ""
