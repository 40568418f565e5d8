"""Where the next try is worth most: each area's tries, hits, best effect and cost, as the ledger has them. Pure; nothing is stored.

Shown to the chief by `orgctl areas` and in the standup's digest. A try is an idea with a verdict that rests on something, a hit one
that is `improved` and was not taken back. The choice that matters most: an area is ranked by what it may still give (the upper end
of its hit rate) for an hour of a slot, so that what was hardly tried is not written off, and what is dear has to be better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lab import areas
from lab.records import Experiment
from lab.state import State

DRY = 6
"""Tries without a hit from which an area is worth a decision."""
DRIED_UP = 3 * DRY
"""The same for an area that gave something before."""


@dataclass(frozen=True)
class Area:
    """One area's record. `rate`, `low`, `high`: share of hits with a 95 % interval (Jeffreys)."""

    area: str
    tries: int
    hits: int
    streak: int
    """Tries since the last hit."""
    rate: float
    low: float
    high: float
    under_way: int
    best: str
    """The experiment with the best effect; "" for none."""
    effect: float | None
    """In the metric's unit, as its verdict says."""
    gpu_hours: float
    budget: float | None
    worth: float | None
    """Upper end of the hit rate for an hour of a slot; None before anything was run."""
    agents: tuple[str, ...]
    """Who is assigned to it."""
    retired: str
    """Why it is a dead end; "" for a living one."""

    @property
    def dry(self) -> bool:
        """Is it worth asking whether this is a dead end?"""
        return not self.retired and self.streak >= (DRIED_UP if self.hits else DRY)


def table(state: State, minimize: bool, now: float, more: Iterable[str] = ()) -> list[Area]:
    """Every area, the most promising first, retired ones last. `more`: areas of the task that nobody tried yet."""
    found = [_area(state, name, minimize, now) for name in areas.known(state, more)]
    return sorted(found, key=lambda one: (bool(one.retired), -(math.inf if one.worth is None else one.worth), one.area))


def _area(state: State, name: str, minimize: bool, now: float) -> Area:
    ideas = [one for one in state.experiments.values() if areas.within(name, one.places) and not one.removes]
    judged = [one for one in ideas if one.tried]
    hits = sum(hit(one) for one in judged)
    streak = next((back for back, one in enumerate(reversed(judged)) if hit(one)), len(judged))
    low, high = jeffreys(hits, len(judged))
    effects = [(value, one.id) for one in judged if (value := _effect(one)) is not None]
    effect, best = (min(effects) if minimize else max(effects)) if effects else (None, "")
    hours = areas.spent(state, name, now)
    ran = sum(bool(one.runs) for one in ideas)
    agents = [
        one.agent for one in map(state.direction.assignments.get, state.direction.current.values())
        if one and name in one.areas and areas.assigned(state, one.agent, now) is one
    ]  # fmt: skip
    gone = state.direction.retired.get(name)
    return Area(
        name, len(judged), hits, streak, hits / len(judged) if judged else math.nan, low, high,
        sum(one.status in ("queued", "running", "nominated", "confirming") for one in ideas), best, effect, hours,
        state.direction.budgets.get(name), high * ran / hours if hours else None, tuple(agents), areas.told(gone) if gone else "",
    )  # fmt: skip


def hit(one: Experiment) -> bool:
    return one.verdict == "improved" and one.reverted is None


def _effect(one: Experiment) -> float | None:
    value = (one.attempts[-1].verdict or {}).get("effect") if one.attempts else None
    return float(value) if isinstance(value, int | float) else None


def jeffreys(hits: int, tries: int) -> tuple[float, float]:
    """95 % interval of a share by Jeffreys' prior, Beta(1/2, 1/2) (Brown, Cai and DasGupta 2001); 0 and 1 at the ends where all
    tries agree, and without tries."""
    from scipy.special import betaincinv

    low = float(betaincinv(hits + 0.5, tries - hits + 0.5, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 0.5, tries - hits + 0.5, 0.975)) if hits < tries or not tries else 1.0
    return low, high if tries else 1.0


def rate_text(one: Area) -> str:
    """2 of 9 (5 to 54 %)"""
    return f"{one.hits} of {one.tries} ({100 * one.low:.0f} to {100 * one.high:.0f} %)" if one.tries else "untried"
