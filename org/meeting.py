"""When the organisation holds a standup and what it does with those whom nobody assigned: the design's rules (`process.standup`).

`Standup` is what people write; `due` says whether one is due now, and why: a pure function of the rules, the ledger and the clock.
Called by the controller's duty (`org.standup`). Without `every`, `at` or `after` a standup is held only when somebody asks for it.
"""

from __future__ import annotations

import re
import time
from typing import Literal

from pydantic import Field, field_validator

from lab.state import State
from org.written import Model

OPEN = ("proposed", "queued", "running", "nominated", "confirming", "withdrawn")
"""States of an experiment that is not finished, or never will be."""
Unassigned = Literal["own-ideas", "queue", "replicate"]


class Standup(Model):
    """When a standup is held and how. Each of `every`, `at` and `after` is a reason by itself."""

    every: str | None = None
    """Time between two standups: 90s, 60m or 2h (60 alone means minutes)."""
    at: str | None = None
    """Time of day on this machine's clock: "09:00"."""
    after: int = Field(default=0, ge=0)
    """Experiments that must finish between two standups; 0: progress is no reason."""
    deadline: str = "5m"
    """How long agents have for their reports."""
    limit: int = Field(default=6000, ge=500, le=50_000)
    """Characters of a report that are read; `orgctl standup report` refuses more."""
    unassigned: Unassigned = "own-ideas"
    """What a researcher without an assignment does, once there is a chief: ideas of its own; only what waits (ideas of people; its slot
    serves the queue); or replicate what was measured before."""

    @field_validator("every", "deadline", mode="before")
    @classmethod
    def _span(cls, value: object) -> object:
        if value is None or isinstance(value, bool):
            return value
        seconds(str(value))
        return str(value)

    @field_validator("at", mode="before")
    @classmethod
    def _clock(cls, value: object) -> object:
        if type(value) is int and 0 <= value < 24 * 60:  # YAML reads an unquoted 10:30 as a number to the base of 60
            value = f"{value // 60:02d}:{value % 60:02d}"
        if value is not None and not (isinstance(value, str) and re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value)):
            raise ValueError('must be a time of day such as "09:00"')
        return value


def seconds(text: str) -> float:
    """A span of time in seconds: 90s, 10m, 2h; a number alone means minutes. Raises ValueError with what to write."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smh]?)", text.strip())
    if not found or float(found[1]) <= 0:
        raise ValueError("must be a time such as 90s, 10m or 2h")
    return float(found[1]) * {"": 60, "s": 1, "m": 60, "h": 3600}[found[2]]


def finished(state: State) -> int:
    """Experiments that are over, whatever came of them."""
    return sum(count for status, count in state.tally().items() if status not in OPEN)


def due(rules: Standup, state: State, now: float) -> str:
    """Why a standup is due; "" when none is, or one is going on. A time for which nobody was up is not made up for."""
    last = state.direction.standup
    if last is not None and last.closed is None:
        return ""
    since = max(last.opened if last else 0.0, state.up[-1][0] if state.up else now)
    if rules.every and now - since >= seconds(rules.every):
        return f"every {rules.every}"
    if rules.at and since < _latest(rules.at, now):
        return f"at {rules.at}"
    done = finished(state) - (last.finished if last else 0)
    if rules.after and done >= rules.after:
        return f"{done} experiments finished"
    return ""


def _latest(clock: str, now: float) -> float:
    """The last moment up to `now` at which the clock on the wall said so."""
    hours, minutes = map(int, clock.split(":"))
    today = time.localtime(now)
    for back in (0, 1):
        moment = time.mktime((today.tm_year, today.tm_mon, today.tm_mday - back, hours, minutes, 0, 0, 0, -1))
        if moment <= now:
            return moment
    return 0.0
