"""The local executor: runs as processes of this machine. `start` leaves a runner that outlives the controller.

A run is a folder on disk and a process identity, no handle: whoever comes later can stop it, or bury its leftovers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from lab.errors import UserError
from lab.home import Home
from lab.process import Identity

PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CONFIG_HOME")
"""All of the environment that a runner gets; git needs HOME. What is not in a runner cannot be read out of it."""
POLL_SECONDS = 0.02
KILL_SECONDS = 5.0


def start(home: Home, run_id: str) -> Identity:
    """Start the runner of `.org/runs/<run_id>`, whose `spec.json` is there, as its own session leader; returns at once.

    Raises UserError when no process can be started.
    """
    folder = home.runs / run_id
    try:
        with open(folder / "runner.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "lab.runner", str(folder)],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            )
    except OSError as error:
        raise UserError(f"cannot start {run_id} in {folder}: {error.strerror}: is the disk full?") from error
    identity = Identity.of(process.pid)
    if identity is None:  # not even a zombie: somebody else's waitpid was quicker than we
        raise UserError(f"{run_id} was gone as soon as it started: see {folder}/runner.log")
    _started[identity] = process
    return identity


def stop(identity: Identity, seconds: float = 10.0, run_dir: Path | None = None) -> None:
    """End a run: SIGTERM to its runner, which kills its tree and writes the result `killed`.

    What is left after `seconds` gets SIGKILL; with `run_dir` strays of that run too (`bury`). A process that only has
    the same pid is left alone.
    """
    tree = _tree(identity)
    if identity.alive():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(identity.pid, signal.SIGTERM)
        _wait(identity, seconds)
    if identity.alive():
        tree = _tree(identity)
        _kill(tree)
        _wait(identity, KILL_SECONDS)
    _kill(tree)
    collect()
    if run_dir is not None:
        bury(run_dir)


def bury(run_dir: Path) -> int:
    """Kill what a runner that was itself killed left behind: processes whose HOME lies in that run's folder.

    Returns how many. A runner that ended by itself leaves nothing. Call only when the runner is dead.
    """
    mark = str(run_dir.resolve()) + os.sep
    strays = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HOME", "").startswith(mark):
                strays.append(process)
    _kill(strays)
    return len(strays)


def collect() -> None:
    """Collect ended runners that this very process started, so that none stays a zombie. Cheap: call it in the loop."""
    for identity, process in list(_started.items()):
        if process.poll() is not None:
            _codes[identity] = process.returncode
            del _started[identity]


def code(identity: Identity) -> int | None:
    """How an ended runner ended, as its parent hears it (-9: by SIGKILL); None of a runner that another process had started."""
    collect()
    return _codes.get(identity)


_started: dict[Identity, subprocess.Popen[bytes]] = {}
"""Runners that this process is the parent of."""
_codes: dict[Identity, int] = {}
"""Exit codes of those that ended; a session has some thousands."""


def _tree(identity: Identity) -> list[psutil.Process]:
    """The runner and everything below it; empty when it is gone."""
    if not identity.alive():
        return []
    try:
        root = psutil.Process(identity.pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    """SIGKILL, and wait until they are gone (or zombies of parents that do not collect them)."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline and any(_lives(process) for process in processes):
        collect()
        time.sleep(POLL_SECONDS)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _wait(identity: Identity, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while identity.alive() and time.monotonic() < deadline:
        collect()
        time.sleep(POLL_SECONDS)
