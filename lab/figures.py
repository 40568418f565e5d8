"""What the facts say in figures: trunk's steps by their own banks, and how the slots' time was spent. Pure functions of folded facts.

Called by the report, the digest and benchmarks/organisation.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab import verdict
from lab.state import State


@dataclass(frozen=True)
class Level:
    """One step of trunk as its own bank measured it. `low`, `high`: 95 % interval, NaN below two runs."""

    commit: str
    experiment: str
    time: float
    n: int
    mean: float
    low: float
    high: float
    sigma: float


def levels(state: State, split: str) -> list[Level]:
    """Steps of trunk in order, each as its own bank measured it; steps without a finished bank run are left out."""
    found = []
    for step in state.trunks:
        bank = state.bank(step.commit)
        values = bank.values(split)
        if values:
            mean, low, high = (
                verdict.mean_interval(values) if len(values) > 1 else (bank.mean(split), math.nan, math.nan)
            )
            found.append(
                Level(step.commit, step.experiment, step.time, len(values), mean, low, high, bank.sigma(split))
            )
    return found


def decimals(steps: Sequence[Level]) -> int:
    """Decimals of an effect: the baseline's noise to two digits. Means get one more."""
    sigma = steps[0].sigma if steps else math.nan
    return max(0, min(12, 1 - math.floor(math.log10(sigma)))) if math.isfinite(sigma) and sigma > 0 else 4


def idle_share(state: State, slots: int, since: float, until: float) -> float:
    """Share of the slot time between two moments (epoch seconds) in which no run occupied the slot; 0 to 1.

    Times in which the organisation was down do not count.

    A run that has not ended counts as busy up to `until`. Raises ValueError without slots or time.
    """
    if slots < 1 or not until > since:
        raise ValueError("an idle share needs at least one slot and a span of time")
    busy = 0.0
    by_slot: dict[int | None, list[tuple[float, float]]] = {}
    for run in state.runs.values():
        if run.started is not None:
            end = run.ended if run.ended is not None else until
            begin, end = max(run.started, since), min(end, until)
            if end > begin:
                by_slot.setdefault(run.slot, []).append((begin, end))
    for intervals in by_slot.values():
        reached = since
        for begin, end in sorted(intervals):  # runs of one slot do not overlap, but a clock may be set back
            busy += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
    return min(1.0, max(0.0, 1 - busy / (slots * up_seconds(state, since, until))))


def up_seconds(state: State, since: float, until: float) -> float:
    """How long the organisation was up between two moments; all of it where the ledger does not say."""
    parts = [min(end or until, until) - max(begin, since) for begin, end in state.up]
    return sum(part for part in parts if part > 0) or until - since


def span(state: State) -> tuple[float, float] | None:
    """(first, last) moment that the session's facts speak of, epoch seconds; None without any."""
    moments = [step.time for step in state.trunks]
    for run in state.runs.values():
        moments += [moment for moment in (run.queued, run.started, run.ended) if moment is not None]
    if isinstance(state.session.get("stopped"), int | float):
        moments.append(float(state.session["stopped"]))
    return (min(moments), max(moments)) if moments else None


def slots_of(state: State) -> int:
    """Slots of the session; where nobody wrote them down, those that were used."""
    known = state.session.get("slots")
    return known if isinstance(known, int) and known > 0 else len({r.slot for r in state.runs.values() if r.started})
