"""Worktrees whose editable files change while their agent does nothing: somebody else writes there, which is found, not prevented.

Called by `org.team` with what it sees of everybody, once a second. Who it was cannot be known under one user id, only who was at work.
A turn of the agent's own may begin and end between two looks: its events tell. In doubt nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from org import wake
from org.agents.base import Seat
from org.agents.event import read_events

SLACK = 2.0
"""Seconds for which an agent has to be seen doing nothing before a change: what it wrote last may be seen late."""
LATE = 3.0
"""Seconds after the last look at which too much may have gone by unseen: such a look finds nothing, the next one may."""


@dataclass
class Touched:
    """What is known of every worktree. Lost with the controller, which then sees no change before the next."""

    stamps: dict[str, dict[str, int]] = field(default_factory=dict)
    """Agent -> editable file -> when it was changed or put there, in nanoseconds since the epoch; 0 for one that is gone."""
    calm: dict[str, float] = field(default_factory=dict)
    """Since when each agent that does nothing was seen so."""
    told: set[str] = field(default_factory=set)
    """Agents of whose present calm a change was told: once is enough, a person who edits there saves often."""
    looked: float = 0.0

    def look(self, seats: Mapping[str, Seat], states: Mapping[str, str], editable: Sequence[str], now: float) -> dict[str, list[str]]:
        """Files that were changed since the last look, by agent, where it was not the agent. Times in seconds since the epoch."""
        found = {}
        last, self.looked = self.looked, now
        for name, seat in seats.items():
            before, stamps = self.stamps.get(name), _stamps(seat, editable)
            self.stamps[name] = stamps
            if states[name] not in wake.CALM or _acted(seat) > last:
                self.calm.pop(name, None)
                self.told.discard(name)
            if states[name] not in wake.CALM:
                continue
            since = self.calm.setdefault(name, now)
            if before is None or name in self.told or now - last > LATE:
                continue
            limit = int((since + SLACK) * 1e9)
            changed = [path for path, moment in stamps.items() if moment != before.get(path) and (moment or int(now * 1e9)) > limit]
            if changed:
                found[name] = changed
                self.told.add(name)
        return found


def _acted(seat: Seat) -> float:
    """When the agent's last event was; 0 where there is none."""
    events = read_events(seat.home, seat.agent)
    return float(events[-1]["time"]) if events else 0.0


def _stamps(seat: Seat, editable: Sequence[str]) -> dict[str, int]:
    found = {}
    for path in editable:
        try:
            found[path] = (seat.worktree / path).lstat().st_ctime_ns  # an older file that is moved there keeps its mtime
        except OSError:
            found[path] = 0
    return found
