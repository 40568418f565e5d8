"""The controller as a daemon: started by `orgctl up`, found by its file, stopped by `orgctl down`. One a session, by lock.

Runs as `python -I -m org.daemon ROOT COLUMNS ROWS PROGRAM`. A plain SIGTERM makes it leave everything as it is; the next `up` takes over.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import psutil
from filelock import FileLock, Timeout

from lab.backup import folder
from lab.errors import UserError
from lab.home import MAIN, Home
from lab.process import Identity
from lab.requests import ask, wait_answer, waiting
from org import design as designs
from org import strays
from org.controller import Controller, shut_down
from org.grid import Grid
from worktrees.repo import GitError

STOP_SECONDS = 45.0
"""A controller that was asked to stop gets this long to end agents and runs."""


def alive(home: Home) -> Identity | None:
    """The controller that serves this home, if one does."""
    identity = Identity.recorded(home.controller)
    return identity if identity and identity.alive() else None


def start(home: Home, size: tuple[int, int], seconds: float = 30) -> Identity:
    """Start the controller and wait until it serves. Raises UserError with its last words when it does not."""
    log_path = home.org / "controller.log"
    with open(log_path, "ab") as handle:
        child = subprocess.Popen(
            [sys.executable, "-I", "-m", "org.daemon", str(home.root), str(size[0]), str(size[1]), home.program],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
            cwd=home.root,
            env=strays.unseated(dict(os.environ)),  # begun from a seat it would end with that
        )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        identity = alive(home)
        if identity:
            return identity
        if child.poll() is not None:
            break
        time.sleep(0.05)
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    raise UserError(f"the controller did not start: {lines[-1] if lines else 'it said nothing'} (log: {log_path})")


def stop(home: Home, actor: str, keep_runs: bool) -> None:
    """Ask the controller to stop and wait; what is left, or all where none lives, is stopped here. Doing it twice is harmless.

    Raises UserError when the controller does not end.
    """
    identity = alive(home)
    if identity:
        asked = ask(home, "stop", actor, {"keep_runs": keep_runs})
        deadline = time.monotonic() + STOP_SECONDS
        while identity.alive():
            refused = wait_answer(home, asked, 0)
            if refused is not None and not refused.get("ok"):
                raise UserError(str(refused.get("error")))
            if time.monotonic() > deadline:
                raise UserError(
                    f"the controller (pid {identity.pid}) does not stop: look at {home.org}/controller.log, kill it, "
                    "then run `orgctl down` again"
                )
            time.sleep(0.1)
    for request in waiting(home):
        if request.kind == "stop":
            (home.requests / f"{request.id}.json").unlink(missing_ok=True)
    try:
        with FileLock(home.locks / "controller.lock", timeout=5):
            try:
                last = Controller(home)
                last.lab.vet()
            except (UserError, sqlite3.DatabaseError) as error:
                if isinstance(error.__cause__ or error, sqlite3.DatabaseError):
                    raise _stopped_without_ledger(home, keep_runs, error) from error
                raise
            running = any(run.status == "running" for run in last.lab.state.runs.values())
            if last.grid.running() or (running and not keep_runs):
                shut_down(home, last.lab, last.grid, keep_runs)
    except Timeout as error:
        raise UserError(f"another controller began to serve {home.root} meanwhile: run `orgctl down` again") from error


def _stopped_without_ledger(home: Home, keep_runs: bool, error: Exception) -> UserError:
    """End agents and (unless kept) runs of an organisation whose ledger nobody can read, by what is seen of them; what to say then."""
    Grid(designs.read(home).name, home).kill()
    if not keep_runs:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            runner = Identity.of(process.pid) if "lab.runner" in words and Path(words[-1]).parent == home.runs else None
            if runner:
                runner.signal_group()
    home.controller.unlink(missing_ok=True)
    ended, why = "agents are ended" if keep_runs else "agents and runs are ended", error.__cause__ or error
    return UserError(
        f"{ended}, but the ledger {home.ledger} is damaged ({why}): put its last copy, {folder(home) / 'ledger.db'}, in its place, "
        "and remove ledger.db-wal and ledger.db-shm beside it"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="The controller of one session (started by `orgctl up`).")
    parser.add_argument("root", type=Path)
    parser.add_argument("columns", type=int)
    parser.add_argument("rows", type=int)
    parser.add_argument("program", nargs="?", default=MAIN)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    home = Home(options.root, options.program)
    try:
        with FileLock(home.locks / "controller.lock", timeout=0):
            controller = Controller(home, (options.columns, options.rows))

            def leave(number: int, frame: FrameType | None) -> None:
                controller.leaving = True

            signal.signal(signal.SIGTERM, leave)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            controller.run()
    except Timeout:
        print(f"another controller serves {home.root} already", file=sys.stderr)
        return 3
    except (UserError, GitError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
