"""Turns that a person began by typing into an agent's pane without taking it over: found in the agent's events, each once.

Called by `org.words`, which writes them down as interventions. An event carries the moment at which a turn began, and so does the fact:
a controller that was away finds what was typed meanwhile, and one that comes back finds nothing twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from lab.home import Home
from org.agents.event import known
from org.agents.lines import Grown

What = Literal["typed", "typed_end"]
LAG = 4.0
"""Seconds after the beginning of a turn within which a CLI's own record may still tell of the time before: it lags by up to two."""
OVER = ("idle", "starting", "paused", "stopped")
"""States that end a turn. An agent that waits for its provider, or asks a person something, may be in the middle of one."""


@dataclass
class Typed:
    """What a person typed to one agent. `noted`: the beginning of the last turn that is written down, in seconds since the epoch."""

    home: Home
    agent: str
    noted: float = 0.0
    begun: float | None = None
    """When the turn began that goes on by the events, if a person began it."""
    ahead: list[dict[str, Any]] = field(default_factory=list)
    """Events that were read and not told of yet."""

    def __post_init__(self) -> None:
        self._grown = Grown(self.home.agents / self.agent / "events.jsonl")

    def read(self) -> None:
        """Take in what is new of the events."""
        self.ahead += (one for one in self._grown.new() if known(one.get("time")) and isinstance(one.get("state"), str))

    def over(self, moment: float) -> None:
        """The turn is over by then, as something else than an event says; in its place after what was written until now."""
        self.read()
        self.ahead.append({"time": moment, "state": "stopped"})

    def moves(self, until: float | None = None) -> list[tuple[What, float]]:
        """What began and ended by then (all there is by default), in order, that was not told before: (what, when)."""
        self.read()
        cut = next((index for index, one in enumerate(self.ahead) if until is not None and one["time"] > until), len(self.ahead))
        events, self.ahead = self.ahead[:cut], self.ahead[cut:]
        return [move for event in events for move in self._after(event)]

    def _ended(self, moment: float) -> list[tuple[What, float]]:
        before, self.begun = self.begun, None
        return [] if before is None or before < self.noted else [("typed_end", moment)]

    def _after(self, event: dict[str, Any]) -> list[tuple[What, float]]:
        moment = min(float(event["time"]), time.time())
        person = event.get("person")
        found: list[tuple[What, float]] = []
        fresh = event.get("hook") == "UserPromptSubmit"  # a prompt begins a turn, whatever became of the one before
        if fresh or event["state"] in OVER or event.get("hook") == "StopFailure" or person is False:
            found = self._ended(moment)
        if person is True and event["state"] == "working" and self.begun is None:
            self.begun = moment
            if moment > self.noted:
                self.noted = moment
                found.append(("typed", moment))
        return found
