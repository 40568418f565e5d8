"""The rules of work of an org design: what it may turn of queue, bank, confirmation, money, standups and restarts.

A part of `org.design`, under `process` in a design file.
"""

from __future__ import annotations

import itertools

from pydantic import Field, field_validator

from lab import verdict
from lab.records import BANK
from org.meeting import Standup
from org.written import Model

FOUND = {2: 63, 3: 75, 4: 82, 5: 85, 6: 87, 7: 89, BANK: 90}
"""Bank -> of 100 ideas that are really better by 2 sigma, how many are found against one of so many runs, by the default stages
(benchmarks/verdict.py)."""


class Restart(Model):
    """How a dead agent is brought back: after `first_seconds`, doubling each time up to `longest_seconds`."""

    first_seconds: float = Field(default=1.0, gt=0)
    """Wait before the first restart, in seconds."""
    longest_seconds: float = Field(default=60.0, gt=0)
    """No wait is longer than this, in seconds."""
    attempts: int = Field(default=5, ge=0)
    """Restarts in a row after which the organisation gives the agent up and says so."""
    well_seconds: float = Field(default=120.0, gt=0)
    """An agent that lived this long counts as well again: its next death is a first one. In seconds."""

    def wait(self, restarts: int) -> float | None:
        """Seconds to wait before the next restart after `restarts` of them in a row; None: give the agent up."""
        if restarts >= self.attempts:
            return None
        return float(min(self.longest_seconds, self.first_seconds * 2 ** min(restarts, 30)))


class Budget(Model):
    """What agents may spend on models in this session; an agent's own limits stand in its `settings`, under the same names."""

    budget_dollars: float | None = Field(default=None, gt=0)
    """Dollars, of the requests whose price is known; null: no limit."""
    budget_tokens: int | None = Field(default=None, gt=0)
    """Tokens of every kind; null: no limit."""


class Process(Model):
    """The rules of work that a design may turn."""

    queue_ahead: int = Field(default=2, ge=1, le=20)
    """Runs that one agent may have waiting or running at a time."""
    bank: int = Field(default=BANK, ge=2, le=64)
    """Baseline runs of each new trunk commit, before anything is compared with it."""
    confirm_stages: list[int] = Field(default=list(verdict.STAGES), min_length=1)
    """Fresh-seed runs of a candidate in all after each stage of its confirmation; a clear stage ends it early. The error
    rates of a verdict are simulated for the default stages and bank; fewer runs find less."""
    audit_every: int = Field(default=0, ge=0)
    """Promotions after which each of trunk's ideas is left out in turn, to see whether it still helps; 0: only when ordered."""
    messages: bool = True
    """May agents write to each other? If not, only the laboratory and people are heard."""
    budget: Budget = Budget()
    """What all agents together may spend on models."""
    standup: Standup = Standup()
    """When the organisation meets, and what those do whom nobody assigned."""
    restart: Restart = Restart()
    """Back-off when an agent's process dies."""

    @property
    def caution(self) -> str:
        """What a verdict against so small a bank is worth, in a line; "" for one that is large enough."""
        if self.bank >= BANK:
            return ""
        return (
            f"process.bank: {self.bank}: fewer baseline runs than the {BANK} that verdicts are made for: no more is believed by"
            f" mistake, but of 100 ideas that are really better by 2 sigma {FOUND[self.bank]} are found instead of {FOUND[BANK]}"
        )

    @field_validator("confirm_stages")
    @classmethod
    def _rising(cls, stages: list[int]) -> list[int]:
        if stages[0] < 2 or stages[-1] > 64 or any(b <= a for a, b in itertools.pairwise(stages)):
            raise ValueError("must be numbers of runs that rise, from 2 to 64 at most: two seeds are the least that can be judged")
        return stages
