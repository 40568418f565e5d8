"""What went wrong, as the one line that whoever asked gets: for mistakes, refusals and a machine that is out of something.

The door prints it and exits with code 2; `lab.tools` gives it back as a tool's error. Everything else is a bug.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from pydantic import ValidationError

from lab import backup
from lab.errors import UserError
from lab.home import Home
from tasks.spec import Task, TaskError
from worktrees.repo import GitError


def line(error: BaseException) -> str | None:
    """What is wrong, where, and what to do, on one line; None for a bug, which deserves its traceback."""
    if isinstance(error, (UserError, TaskError, GitError)):
        return " ".join(str(error).split())
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ": ".join(filter(None, [".".join(str(part) for part in first["loc"]), " ".join(first["msg"].split())]))
        if error.title == Task.__name__ and (damaged := _task()):
            return f"{damaged[0]} is damaged ({where}): put its copy, {damaged[1]}, in its place"
        return f"a file of this organisation is damaged ({error.title}: {where})"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        home = _home()
        ledger, copy = (home.ledger, backup.folder(home) / "ledger.db") if home else (".org/ledger.db", ".git/orgctl/ledger.db")
        return (
            f"the ledger {ledger} is damaged ({error}): `orgctl down`, then put its last copy, {copy}, in its place,"
            " and remove ledger.db-wal and ledger.db-shm beside it"
        )
    if isinstance(error, sqlite3.Error):
        return f"the ledger cannot be used: {error}: free disk space or stop what holds it, then try again"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}: check the path, its permissions and the free disk space"
    return None


def _home() -> Home | None:
    try:
        return Home.find()
    except UserError:
        return None


def _task() -> tuple[Path, Path] | None:
    """(the pinned task that cannot be read, its copy), of the organisation here."""
    home = _home()
    if home is None:
        return None
    for path in (home.task, home.next_task):
        try:
            Task.model_validate_json(path.read_bytes())
        except ValidationError:
            return path, backup.folder(home) / path.name
        except OSError:
            continue
    return None
