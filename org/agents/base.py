"""The protocol that every backend fulfils, the seat an agent sits in, and the hook events it leaves behind.

A backend answers: what to start in the pane, whether it can start here at all, and whether it spends somebody's money. How an
agent is doing is read from its hook events (`events.jsonl`) by `org.status`, never asked.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lab.home import Home

BACKENDS = ("sweep", "shell")
"""Modules of this package that hold a `BACKEND`."""


@dataclass(frozen=True)
class Seat:
    """One agent's place: who, where, on which slot."""

    home: Home
    agent: str
    role: str
    backend: str
    slot: int | None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def worktree(self) -> Path:
        return self.home.worktrees / self.agent

    @property
    def folder(self) -> Path:
        return self.home.agents / self.agent


@dataclass(frozen=True)
class Launch:
    """What the pane runs as its own process. `env` is added to a scrubbed environment."""

    argv: list[str]
    cwd: Path
    env: dict[str, str]


class Backend(Protocol):
    """One kind of agent."""

    name: str
    spends_money: bool

    def missing(self) -> str | None:
        """Why it cannot start on this machine (one line with the remedy), or None."""

    def launch(self, seat: Seat) -> Launch:
        """What to start. Files it needs are written under `seat.folder`, never into the worktree."""


AUTO = ("sweep",)
"""What `--backend auto` tries, best first."""


def choose() -> str:
    """The first of AUTO that can start on this machine."""
    return next((name for name in AUTO if load(name).missing() is None), AUTO[-1])


def load(name: str) -> Backend:
    """The backend of that name. Raises KeyError for an unknown one."""
    if name not in BACKENDS:
        raise KeyError(name)
    backend: Backend = importlib.import_module(f"org.agents.{name}").BACKEND
    return backend


def seat_env(seat: Seat) -> dict[str, str]:
    """What every agent's process gets: who it is and where its organisation lives."""
    return {
        "ORGCTL_HOME": str(seat.home.root),
        "ORGCTL_AGENT": seat.agent,
        "ORGCTL_ROLE": seat.role,
        "ORGCTL_SLOT": "" if seat.slot is None else str(seat.slot),
    }


def write_event(home: Home, agent: str, state: str, text: str = "") -> None:
    """Append one hook event: the agent's state from now on, and a line for people. One O_APPEND write: lines never mix.

    `state` is one of starting, working, waiting, idle, paused, taken_over, stopped; dead, failed and unknown are derived by
    looking (`org.status`).
    """
    path = home.agents / agent / "events.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": time.time(), "state": state, "text": text[:2000], "pid": os.getpid()}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_events(home: Home, agent: str, last: int = 1) -> list[dict[str, Any]]:
    """The last hook events of an agent, oldest first; malformed lines are passed over. Reads at most the last 64 kB."""
    path = home.agents / agent / "events.jsonl"
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, path.stat().st_size - 65536))
            lines = handle.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    events: list[dict[str, Any]] = []
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if (
            isinstance(value, dict)
            and isinstance(value.get("time"), int | float)
            and isinstance(value.get("state"), str)
        ):
            events.append(value)
            if len(events) == last:
                break
    return events[::-1]
