"""What the bank of a promoted commit says about its promotion: it stands, or it is taken back. Pure; the workflow calls it.

An idea is accepted by runs that were picked for being good; its bank is made of fresh ones. The choice that matters most: the
comparison is made once, when the bank is full, and its outcome is a fact, so that runs which join a bank later change nothing.
"""

from __future__ import annotations

from typing import Any

from lab import verdict
from lab.records import Experiment, Trunk
from lab.state import State, bank_of

LEVEL = 0.05
"""One-sided p of Welch's t at which the new bank counts as better than its parent's. A removal stands unless its bank is worse."""


def check(state: State, step: Trunk, minimize: bool, wanted: int) -> dict[str, Any] | None:
    """Body of the fact `checked` about a promotion, effects in the metric's unit; None until both banks have `wanted` runs.

    Where the environment has changed since, the parent's bank is out of date: its fresh runs (`lab.claims`) stand in, if there
    are as many.
    """
    experiment = state.experiments[step.experiment]
    mine, theirs = (bank_of(state, commit).values(state.split) for commit in (step.commit, step.parent))
    if len(theirs) < wanted:
        theirs = [
            run.metric[state.split] for run in experiment.runs
            if run.purpose == "parent" and run.status == "ok" and run.environment == state.environment and state.split in run.metric
        ]  # fmt: skip
    if min(len(mine), len(theirs)) < wanted:
        return None
    test = verdict.welch(mine, theirs, minimize=minimize)
    holds = verdict.welch(theirs, mine, minimize=minimize).p_better >= LEVEL if experiment.removes else test.p_better < LEVEL
    return {
        "commit": step.commit, "effect": test.effect, "low": test.low, "high": test.high, "p": test.p_better,
        "n": len(mine), "m": len(theirs), "holds": holds,
    }  # fmt: skip


def why_reverted(experiment: Experiment) -> str:
    """In a clause, for trunk's history."""
    found = experiment.check or {}
    word = "worse" if experiment.removes else "not better"
    return f"its bank is {word} than its parent's (p = {found.get('p', float('nan')):.2g})"


def said(experiment: Experiment, unit: str) -> list[str]:
    """A line on the check of a promotion; none before it was made."""
    found = experiment.check
    if found is None:
        return []
    outcome = "it stands" if found["holds"] else f"reverted: {why_reverted(experiment)}"
    return [
        f"own bank against its parent's: {found['effect']:+.4g} {unit} (95 % interval {found['low']:+.4g} to {found['high']:+.4g}),"
        f" n = {found['n']} against m = {found['m']}, one-sided p = {found['p']:.2g}; {outcome}"
    ]
