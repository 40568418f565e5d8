"""One pane: what it should run, what tmux says of it, and the process in it. The grid makes, starts and ends them."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from lab.errors import UserError
from lab.process import Identity
from org.tmux import Pane

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}\Z")
ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}\Z")
BOARD = "board"
"""The agent name of the pane in window 0."""
GRACE = 3.0
"""Seconds a process has to leave after its terminal is gone, before it is killed."""


@dataclass(frozen=True)
class PaneSpec:
    """What one pane should run. `env` is added to the server's scrubbed environment; it goes to tmux over standard input, where
    no other user of the machine can see it."""

    agent: str
    role: str
    argv: list[str]
    cwd: Path
    env: dict[str, str]


@dataclass(frozen=True)
class PaneState:
    """What tmux says of one pane. `exit_signal` ("SIGKILL") is None before tmux 3.3, which does not tell."""

    agent: str
    role: str
    pane_id: str
    window: str
    pid: int
    dead: bool
    exit_status: int | None
    exit_signal: str | None
    in_mode: bool
    """Copy mode or the like: keys typed now do not reach the agent."""
    started: float | None = None
    """When the process in the pane began, seconds since the epoch; None when it is gone."""
    placeholder: bool = False
    """The pane is there, what it is for was not started yet."""

    @property
    def untold(self) -> bool:
        """It has ended, and tmux has not told how."""
        return self.dead and self.exit_status is None and self.exit_signal is None


def zombie(pid: int) -> bool:
    """Has it ended, and its parent not asked how?"""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return False


def state_of(pane: Pane) -> PaneState:
    """The pane as tmux tells it, with when its process began."""
    process = None if pane.dead else Identity.of(pane.pid)
    return PaneState(
        pane.agent, pane.role, pane.pane_id, pane.window, pane.pid, pane.dead,
        pane.exit_status, pane.exit_signal, pane.in_mode, process.began() if process else None, pane.placeholder,
    )  # fmt: skip


def check(spec: PaneSpec) -> None:
    """Raises UserError for a name, role or directory with which no pane can be made."""
    if not NAME.match(spec.agent):
        raise UserError(f"agent name {spec.agent!r}: use a-z, 0-9 and -, at most 31 characters")
    if not ROLE.match(spec.role):
        raise UserError(f"role {spec.role!r} of agent {spec.agent}: use letters, digits, . _ -, at most 41 characters")
    if not spec.argv:
        raise ValueError(f"agent {spec.agent} has no command")
    if not spec.cwd.is_dir():
        raise UserError(f"agent {spec.agent} cannot start in {spec.cwd}: no such directory: run `orgctl up` again")


def reap(processes: list[Identity | None]) -> None:
    """Wait for processes whose terminal went away; one that ignores the hang-up is killed with its group after
    GRACE."""
    deadline = time.monotonic() + GRACE
    left = [process for process in processes if process is not None and process.alive()]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [process for process in left if process.alive()]
    for process in left:
        process.signal_group(signal.SIGKILL)
