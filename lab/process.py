"""Process identity: pid plus start time, since a pid alone is reused. Used for runs, the controller and agents.

The start time is taken from boot on Linux, not from the clock: setting the clock must not make every process look like a stranger.
psutil, which takes 40 ms to import, is asked elsewhere only: hooks of agents' programs look at themselves at every prompt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from lab.files import read_json


@dataclass(frozen=True)
class Identity:
    """One process for ever: `started` in seconds since boot (Linux) or since the epoch (elsewhere)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Identity of a living process, else None."""
        found = _look(pid)
        return cls(pid, found[0]) if found else None

    @classmethod
    def recorded(cls, path: Path) -> Identity | None:
        """The identity that a JSON file names as {pid, started}, alive or not; None where it names none."""
        found = read_json(path) or {}
        try:
            return cls(int(found["pid"]), float(found["started"]))
        except (KeyError, TypeError, ValueError):
            return None

    def alive(self) -> bool:
        """Is that very process still running (a zombie is not)?"""
        found = _look(self.pid)
        return found is not None and abs(found[0] - self.started) < 0.05 and found[1] not in ("Z", "zombie")

    def began(self) -> float:
        """When it started, in seconds since the epoch by today's clock."""
        if Path("/proc/self/stat").exists():
            return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + self.started
        return self.started

    def signal_group(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process group that this process leads; nothing when it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def starved(counters: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed since it booted because memory ran out (`oom_kill` of proc_vmstat(5)); 0 where it does not
    say."""
    try:
        return next((int(line.split()[1]) for line in counters.read_text().splitlines() if line.startswith("oom_kill ")), 0)
    except (OSError, IndexError, ValueError):
        return 0


def _look(pid: int) -> tuple[float, str] | None:
    """(start time, state) of a process; None when there is none. Fields 22 and 3 of /proc/PID/stat (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK"), fields[0]
    except (OSError, IndexError, ValueError):
        if Path("/proc/self/stat").exists():
            return None
    import psutil

    try:
        process = psutil.Process(pid)
        return process.create_time(), process.status()
    except psutil.Error:
        return None
