"""The one exception that a user may cause: a sentence that says what is wrong, where, and what to do.

Commands print it on one line and exit with code 2; everything else that escapes is a bug and shows its traceback. And the
one by which a run ends early, which becomes its result.
"""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Wrong input or a refused action. `str(error)` is the whole message: one line, no traceback."""


class Unpinned(UserError):
    """A file that was pinned by hash is another one now: nothing is run by it, and no experiment is to blame."""


class Stopped(Exception):
    """A run ends here with this status (crashed, invalid, timeout, killed) and reason; `log` holds the last words."""

    def __init__(self, status: str, reason: str, log: Path | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.log = status, reason, log
