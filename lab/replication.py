"""Replications: an `improved` change run once more, on fresh seeds, by order of somebody who doubts it. Pure.

The workflow asks for the missing runs and writes what came of them as a fact; a reviewer reads it and says `ok` or `doubt`. The
choice that matters most: the runs that accepted the change take no part, and neither do those of an earlier replication.
"""

from __future__ import annotations

import statistics
from typing import Any

from lab import verdict
from lab.records import Attempt, Experiment, Replication, Run
from lab.state import State, bank_of

LEVEL = 0.05
"""One-sided p of Welch's t below which a replication holds. Four fresh runs against a bank of 12 then hold for 95 in 100 true gains of
2 sigma, for 50 of 1 sigma, and for 5 of none (noncentral t, 14 degrees of freedom)."""
SEEDS = 4
"""Fresh runs where the order does not say."""
MOST = 16
"""Most fresh runs that may be ordered."""
LOST_RUNS = 1
"""Lost runs that a replication may have, as in a confirmation."""


def ordered(experiment: Experiment) -> Replication | None:
    """The replication under way, if any."""
    last = experiment.replications[-1] if experiment.replications else None
    return last if last and last.result is None else None


def refusal(experiment: Experiment) -> str | None:
    """Why it cannot be replicated now; None when it can."""
    if experiment.verdict != "improved":
        return f"{experiment.id} is {experiment.status}: only what has the verdict `improved` is replicated"
    if ordered(experiment):
        return f"{experiment.id} is being replicated already: `orgctl exp show {experiment.id}`"
    return None


def runs_of(experiment: Experiment, order: Replication) -> list[Run]:
    """The runs of this order alone."""
    return experiment.runs_for("replicate", order.attempt)[order.before :]


def missing(state: State, experiment: Experiment, order: Replication) -> int:
    """Runs that must still be asked for; 0 once one has failed."""
    runs = runs_of(experiment, order)
    if _failure(runs):
        return 0
    return max(0, order.seeds - len(_values(state, runs)) - sum(not run.over for run in runs))


def outcome(state: State, experiment: Experiment, order: Replication, attempt: Attempt, minimize: bool) -> dict[str, Any] | None:
    """Body of the fact `replication`: {attempt, by, against, effect, low, high, p, n, m, holds, why}, effects in the metric's unit.

    None while something that it needs still runs. What costs more is compared with its control, all else with its parent's bank.
    """
    runs, bank = runs_of(experiment, order), bank_of(state, attempt.parent)
    body: dict[str, Any] = {
        "attempt": order.attempt, "by": order.by, "against": f"the bank of {attempt.parent[:8]}",
        **dict.fromkeys(("effect", "low", "high", "p")), "n": 0, "m": 0, "holds": False, "why": "",
    }  # fmt: skip
    if failed := _failure(runs):
        return {**body, "why": f"{failed.id} (seed {failed.seed}) ended {failed.status}: {failed.reason}"}
    asked = max((run.queued for run in runs), default=0.0)
    if any(not run.over for run in runs) or any(not run.over and run.queued <= asked for run in bank.runs):
        return None
    mine, theirs = _values(state, runs), bank.values(state.split)
    if control := _control(state, experiment, order.attempt, minimize):
        theirs, body["against"] = control, "its control at equal cost"
    if len(mine) < 2 or len(theirs) < 2:
        return {**body, "why": "its parent's bank was measured in another environment: nothing to compare with"}
    test = verdict.welch(mine, theirs, minimize=minimize)
    found = {"effect": test.effect, "low": test.low, "high": test.high, "p": test.p_better, "n": len(mine), "m": len(theirs)}
    return {**body, **found, "holds": test.p_better < LEVEL}


def said(body: dict[str, Any], unit: str) -> str:
    """What came of a replication, in a line."""
    word = "holds" if body["holds"] else "does not hold"
    if body["effect"] is None:
        return f"replication ordered by {body['by']} {word}: {body['why']}"
    return (
        f"replication ordered by {body['by']} {word}: {body['effect']:+.4g} {unit} (95 % interval {body['low']:+.4g} to "
        f"{body['high']:+.4g}) against {body['against']}, n = {body['n']} against m = {body['m']}, one-sided p = {body['p']:.2g}"
    )


def _control(state: State, experiment: Experiment, attempt: int, minimize: bool) -> list[float]:
    """Values of the best control that the change had to beat, where it had any: its parent on a larger budget, or at a larger size."""
    groups: dict[int | float | None, list[Run]] = {}
    for run in experiment.runs_for("control", attempt):
        groups.setdefault(run.dial, []).append(run)
    found = [values for runs in groups.values() if len(values := _values(state, runs, any_budget=True)) > 1]
    return min(found, key=lambda values: statistics.fmean(values) * (1 if minimize else -1), default=[])


def _failure(runs: list[Run]) -> Run | None:
    """A run of the change that did not end well, or one lost once too often: neither gets new seeds."""
    lost = [run for run in runs if run.status == "lost"]
    bad = [run for run in runs if run.status in ("crashed", "invalid", "timeout")]
    return bad[0] if bad else lost[-1] if len(lost) > LOST_RUNS else None


def _values(state: State, runs: list[Run], any_budget: bool = False) -> list[float]:
    """Of the runs that went well in the session's environment. Controls have a budget of their own."""
    machine = state.environment[0] if state.environment else None
    return [
        run.metric[state.split] for run in runs
        if run.status == "ok" and state.split in run.metric
        and (run.machine == machine if any_budget else run.environment == state.environment)
    ]  # fmt: skip
