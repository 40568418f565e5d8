"""Process identity: pid plus start time, since a pid alone is reused. Used for runs, the controller and agents."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Identity:
    """One process for ever: `started` is the kernel's start time in seconds since the epoch."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Identity of a living process, else None."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Is that very process still running (a zombie is not)?"""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 0.05
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def signal_group(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process group that this process leads; nothing when it is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
