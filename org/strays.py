"""What an agent's life leaves behind: processes that it started and that do not go with its pane. Called by `org.grid`.

A shell tool puts its commands into sessions of their own, which the end of a terminal does not reach; such a process would go on
using a core that runs are measured on. They are known by the environment that every seat gives to all that begins in it. The
controller and the runs are never among them: they are started without it.
"""

from __future__ import annotations

import contextlib
import os

import psutil

from lab.home import Home

SEAT = ("ORGCTL_AGENT", "ORGCTL_ROLE", "ORGCTL_SLOT")
"""What marks a process as begun in a seat."""


def find(home: Home, agent: str) -> list[psutil.Process]:
    """Those that were begun in this agent's seat."""
    return begun(home).get(agent, [])


def begun(home: Home) -> dict[str, list[psutil.Process]]:
    """Processes that were begun in a seat of this session, by agent; those that are there and in a pane too."""
    found: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            env = process.environ()
            whose = env.get("ORGCTL_AGENT")
            if whose and (env.get("ORGCTL_HOME"), env.get("ORGCTL_PROGRAM")) == (str(home.root), home.program):
                found.setdefault(whose, []).append(process)
    return found


def end(processes: list[psutil.Process]) -> None:
    """Kill them, but for this very process and those above it. Processes that are gone are passed over, whoever has their number now."""
    mine = {os.getpid(), *(one.pid for one in psutil.Process().parents())}
    for process in processes:
        if process.pid not in mine:
            with contextlib.suppress(psutil.Error):
                process.kill()


def unseated(environment: dict[str, str]) -> dict[str, str]:
    """An environment without the marks of a seat: for what outlives it."""
    return {name: value for name, value in environment.items() if name not in SEAT}
