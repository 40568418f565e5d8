"""What an idea that costs more has to beat: its parent given as much, on a larger budget and, where that is nearer, at a larger size.

Called by the workflow, which queues what is missing. Pure functions of folded facts. The choice that matters most: both must be
beaten, so the better of the two decides; the second is run only for what has beaten the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab import cost
from lab.records import Bank, Experiment, Run
from tasks.spec import Task

FAILURES = 3
"""Runs of one control that may fail before the laboratory gives up on the comparison."""
ROUNDING = 1.001
"""Ratio up to which a control's budget may fall short of the FLOPs that are charged: budgets of tokens and steps are whole."""


@dataclass(frozen=True)
class Control:
    """The parent with `factor` times the bank's budget, its dial at `dial` (None: as the scale sets it)."""

    factor: float
    dial: int | float | None = None
    size: float = 1.0
    """Its cost for as much of the budget, as a multiple of the bank's."""

    def said(self, task: Task) -> str:
        """What it is, for a verdict's reasoning."""
        budget = f"{self.factor:.6g}x the budget"
        if self.dial is None or task.dial is None:
            return f"trunk with {budget}"
        return f"trunk at {task.dial.arg} {self.dial:g} ({self.size:.3g}x the cost of a token) with {budget}"


def charged(experiment: Experiment, bank: Bank, target: bool = False) -> cost.Cost | None:
    """The cost of an idea by its confirming runs, else by its first one; None while neither is known."""
    for purpose in ("confirm", "nominate"):
        if runs := [run for run in experiment.runs_for(purpose) if run.status == "ok"]:
            return cost.cost(runs, bank, target)
    return None


def runs_of(experiment: Experiment, task: Task, wanted: Control, kind: str = "flops") -> list[Run]:
    """Runs of this control of the latest attempt. One that was given less than what is charged now is none: an idea whose cost
    differs from seed to seed would be compared with what its cheapest ones cost."""
    least = task.scale.budget.amount * wanted.factor / (ROUNDING if kind == "flops" else cost.SECONDS_TOLERANCE) - 1
    return [run for run in experiment.runs_for("control") if run.dial == wanted.dial and run.budget["amount"] >= least]


def values(runs: Sequence[Run], beside: Run) -> list[float]:
    """Metrics on split audit of those that ended well where the idea's run `beside` was measured too."""
    return [run.metric["audit"] for run in runs if run.status == "ok" and run.machine == beside.machine]


def missing(runs: Sequence[Run], bank: int) -> int:
    """Runs that must still be asked for, where a full bank has `bank`."""
    return max(0, bank - sum(run.status == "ok" or not run.over for run in runs))


def broken(runs: Sequence[Run]) -> str:
    """Why there will be no such control; "" when there may be."""
    failed = [run for run in runs if run.status in ("crashed", "invalid", "timeout")]
    return failed[-1].reason if len(failed) >= FAILURES else ""


def refusal(experiment: Experiment, bank: Bank | None, task: Task) -> str | None:
    """Why no control of this experiment can be ordered by hand; None when it can. `bank`: its parent's, None while that is not full."""
    attempt, name = experiment.attempt, experiment.id
    if experiment.removes:
        return f"{name} takes something out of trunk: it is judged by its audit and has no control"
    if attempt is None:
        return f"{name} was not run yet: what it costs is not measured (orgctl exp run {name})"
    if experiment.withdrawn is not None:
        return f"{name} was withdrawn: nothing of it is run any more"
    if experiment.runs_for("control") or attempt.control_ordered:
        return f"{name} has its control already: orgctl exp show {name}"
    if attempt.verdict and attempt.verdict["verdict"] != "bought":
        return f"{name} is {experiment.status}: a control is for what was not judged yet, or was `bought` by trunk's frontier alone"
    if bank is None:
        return f"the bank of {name}'s parent is not full, or out of date: what the idea costs more is not known"
    known = charged(experiment, bank, bool(task.scale.target))
    if known is None:
        ran = any(run.status == "ok" for run in experiment.runs_for("nominate"))
        return (
            f"neither FLOPs nor seconds of {name} can be compared with the bank's"
            if ran
            else f"the first run of {name} is not over: what it costs is not measured"
        )
    if known.control is None:
        return f"no extra cost of {name} is measured ({known.said}): there is nothing to control"
    return None
