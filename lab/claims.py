"""What a session claims: a promoted idea's effect by runs that took no part in accepting it, and which claims hold together.

Called by the workflow (which parent runs are still to be made), the report and `orgctl exp show`. Pure functions of folded facts:
the reported effect is derived from runs and stored nowhere. Whatever is computed from the data that accepted an idea flatters
it (benchmarks/verdict.py), so 8 fresh runs are held against 8 fresh runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab import verdict
from lab.records import Attempt, Experiment, Run
from lab.state import State, bank_of
from tasks.spec import Task

FAR = 4.0
"""Sigmas that the near end of an accepted effect's interval must exceed for the old bank to serve as the parent's side: that
flatters by .03 sigma at most (benchmarks/verdict.py, at a true effect of 5), and big gains stay cheap."""
FAILURES = 3
"""Parent runs that may fail before no more are asked for."""
RATE = 0.05
"""Share of the claims called surviving that may be false, on average (the q of Benjamini and Hochberg)."""


@dataclass(frozen=True)
class Reported:
    """An effect by fresh runs: the promoted commit's bank minus its parent, in the metric's unit, with a 95 % interval."""

    effect: float
    low: float
    high: float
    n: int
    """Runs of the promoted commit's bank."""
    m: int
    """Runs of its parent."""
    sigma: float
    """Standard deviation of the parent's runs."""
    fresh: bool
    """Are the parent's runs younger than the acceptance? Else they are its old bank, which took part in it."""


def reported(state: State, experiment: Experiment, minimize: bool, wanted: int) -> Reported | None:
    """The effect of a promoted experiment; None while either side has fewer than `wanted` runs in one environment."""
    attempt = _accepted(experiment)
    if attempt is None:
        return None
    fresh = not far(attempt.verdict or {}, minimize)
    sides = _sides(state, attempt, _parents(experiment) if fresh else state.bank(attempt.parent).runs, wanted)
    if sides is None:
        return None
    mine, parent = sides[0][:wanted], sides[1][:wanted] if fresh else sides[1]
    test = verdict.welch(mine, parent, minimize=minimize)
    sigma = verdict.sigma_interval(parent)[0]
    return Reported(test.effect, test.low, test.high, len(mine), len(parent), sigma, fresh)


def _sides(state: State, attempt: Attempt, parents: Sequence[Run], wanted: int) -> tuple[list[float], list[float]] | None:
    """Metrics of a promoted commit's bank and of these runs of its parent, from the first environment in which both have `wanted`."""
    split = state.split
    mine, theirs = (
        [run for run in runs if run.status == "ok" and split in run.metric] for runs in (state.bank(attempt.commit).runs, parents)
    )
    if min(len(mine), len(theirs)) < wanted:
        return None
    for environment in dict.fromkeys(run.environment for run in mine):
        sides = [[run.metric[split] for run in side if run.environment == environment] for side in (mine, theirs)]
        if min(map(len, sides)) >= wanted:
            return sides[0], sides[1]
    return None


def far(judged: dict[str, Any], minimize: bool) -> bool:
    """Does the whole interval of this verdict's effect lie beyond FAR sigma on the better side?"""
    near, sigma = judged.get("high" if minimize else "low"), judged.get("sigma")
    if not isinstance(near, int | float) or not isinstance(sigma, int | float):
        return False
    return (-near if minimize else near) > FAR * sigma


def parents_missing(state: State, experiment: Experiment, minimize: bool, wanted: int) -> int:
    """Runs of a promoted experiment's parent that must still be asked for, so that its effect can be reported."""
    attempt = _accepted(experiment)
    if attempt is None or far(attempt.verdict or {}, minimize):
        return 0
    runs = _parents(experiment)
    if _sides(state, attempt, runs, wanted):
        return 0
    if attempt.commit != state.trunk and len(bank_of(state, attempt.commit).values(state.split)) < wanted:
        return 0  # trunk has moved and so has the environment: there will be nothing to compare them with
    if sum(run.status in ("crashed", "invalid", "timeout") for run in runs) >= FAILURES:
        return 0
    good = [run for run in runs if run.status == "ok" and run.environment == state.environment]
    return max(0, wanted - len(good) - sum(not run.over for run in runs))


def said(state: State, identity: str, task: Task) -> list[str]:
    """A line on an experiment's reported effect; none for what was not promoted."""
    experiment = state.experiments[identity]
    attempt = _accepted(experiment)
    if attempt is None:
        return []
    minimize = task.metric.direction == "minimize"
    found = reported(state, experiment, minimize, state.wanted)
    if found is None and not experiment.stands:
        return []
    if found is None:
        own = len(bank_of(state, attempt.commit).values(state.split))
        parents = sum(run.status == "ok" for run in _parents(experiment))
        wanted = state.wanted
        needed = "" if far(attempt.verdict or {}, minimize) else f", {min(parents, wanted)} of {wanted} of its parent"
        return [f"reported effect: not measured yet ({min(own, wanted)} of {wanted} runs of its own bank{needed})"]
    gain = -found.effect if minimize else found.effect
    size = f": {gain / found.sigma:.2f} sigma better" if found.sigma else ""
    what = "fresh runs of its parent" if found.fresh else f"its parent's old bank, as it lies beyond {FAR:g} sigma"
    return [
        f"reported effect {found.effect:+.4g} {task.metric.unit} (95 % interval {found.low:+.4g} to {found.high:+.4g}){size},"
        f" by n = {found.n} fresh runs against m = {found.m}, {what}"
    ]


def claims(state: State) -> list[tuple[Experiment, float, bool]]:
    """Every idea that was compared on fresh seeds, its p (one-sided, of its latest such verdict), and whether it survives
    `survives` over all of them. What is `invalid` claims nothing: the same metric for every seed has the smallest p of all."""
    found = []
    for experiment in state.experiments.values():
        judged = [one.verdict["p"] for one in experiment.attempts if one.verdict and _is_p(one.verdict.get("p"))]
        if judged and experiment.verdict != "invalid":
            found.append((experiment, judged[-1]))
    kept = survives([p for _, p in found])
    return [(experiment, p, alive) for (experiment, p), alive in zip(found, kept, strict=True)]


def survives(ps: Sequence[float], rate: float = RATE) -> list[bool]:
    """Benjamini and Hochberg (1995): the k smallest of n p values survive, k the largest with p_(k) <= rate k / n.

    Raises ValueError for a p that is not within 0 and 1.
    """
    if not all(map(_is_p, ps)):
        raise ValueError("a p value lies within 0 and 1")
    ordered = sorted(ps)
    bound = max((p for k, p in enumerate(ordered, start=1) if p <= rate * k / len(ps)), default=-1.0)
    return [p <= bound for p in ps]


def _is_p(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _accepted(experiment: Experiment) -> Attempt | None:
    """The attempt that became trunk."""
    return next((one for one in reversed(experiment.attempts) if one.commit == experiment.promoted), None)


def _parents(experiment: Experiment) -> list[Run]:
    return [run for run in experiment.runs if run.purpose == "parent"]
