"""An agent's events: what it, its hooks or the controller say of its state, one JSON line each in `.org/agents/<agent>/events.jsonl`.

Written by whoever acts for the agent, read by `org.status`. The last line is the agent's word; whether it still holds is derived.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from lab.home import Home
from org.agents.lines import opened, parsed

STATES = (
    "starting", "working", "waiting", "idle", "needs_person", "rate_limited", "paused", "taken_over", "stopped",
)  # fmt: skip
"""What an agent may say. waiting: for a run; needs_person: it asks something that only a person answers (`text`); paused: by a
person or for a spent budget; dead, failed and unknown are derived by looking, never said."""


def write_event(home: Home, agent: str, state: str, text: str = "", **more: Any) -> None:
    """Append one event: the state from now on, a line for people, and fields of the writer's own (`until` of a rate limit,
    `hook` that wrote it, `begun` when that started, `session`). One O_APPEND write: lines never mix."""
    path = home.agents / agent / "events.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"time": time.time(), "state": state, "text": text[:2000], "pid": os.getpid(), **more}
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe there fails at once
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, (json.dumps(record) + "\n").encode())
    finally:
        os.close(descriptor)


def read_events(home: Home, agent: str, last: int = 1) -> list[dict[str, Any]]:
    """The last events of an agent, oldest first; malformed lines are passed over. Reads at most the last 64 kB."""
    path = home.agents / agent / "events.jsonl"
    try:
        with opened(path) as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - 65536))
            lines = handle.read(65536).splitlines()
    except OSError:
        return []
    events: list[dict[str, Any]] = []
    for line in reversed(lines):
        value = parsed(line)
        if value is not None and known(value.get("time")) and isinstance(value.get("state"), str):
            if "until" in value and not known(value["until"]):
                del value["until"]
            events.append(value)
            if len(events) == last:
                break
    return events[::-1]


def known(moment: object) -> bool:
    """Is this a time that a clock can show, in seconds since the epoch? JSON holds infinities and numbers of any length too."""
    return isinstance(moment, int | float) and 0 <= moment < 1e11
