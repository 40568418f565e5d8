"""What went wrong, as the one line that whoever asked gets: for mistakes, refusals and a machine that is out of something.

The door prints it and exits with code 2; `lab.tools` gives it back as a tool's error. Everything else is a bug.
"""

from __future__ import annotations

import sqlite3

from pydantic import ValidationError

from lab.errors import UserError
from tasks.spec import TaskError
from worktrees.repo import GitError


def line(error: BaseException) -> str | None:
    """What is wrong, where, and what to do, on one line; None for a bug, which deserves its traceback."""
    if isinstance(error, (UserError, TaskError, GitError)):
        return " ".join(str(error).split())
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        return f"a file of this organisation is damaged ({error.title}: {field}: {first['msg']})"
    if isinstance(error, sqlite3.Error):
        return f"the ledger cannot be used: {error}: free disk space or stop what holds it, then try again"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}: check the path, its permissions and the free disk space"
    return None
