"""Copies of the science that `git clean -fdx` does not reach: ledger, mail and the pinned task under `.git/orgctl/` (of programs but main
below that), and the head of the hash chain.

Called by the controller every hour and at `down`. The copied head lets `ledger verify` notice a ledger that was rewritten whole.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

from lab.files import write_atomic, write_json
from lab.home import MAIN, Home
from lab.ledger import Ledger


def folder(home: Home) -> Path:
    place = home.root / ".git" / "orgctl"
    return place if home.program == MAIN else place / "programs" / home.program


def back_up(home: Home, ledger: Ledger) -> None:
    """Copy the ledger (through SQLite, so that the copy is whole) and the mail; replace the copy before. Raises sqlite3.DatabaseError, and
    leaves that copy alone, where the ledger is damaged."""
    place = folder(home)
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / "ledger.db.tmp"
    temporary.unlink(missing_ok=True)
    source, target = sqlite3.connect(ledger.path), sqlite3.connect(temporary)
    try:
        source.backup(target)
        (found,) = target.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"{ledger.path} is damaged: {found}")
    finally:
        target.close()
        source.close()
    temporary.replace(place / "ledger.db")
    with contextlib.suppress(shutil.Error):  # a message that moves from new to cur meanwhile is copied next time
        shutil.copytree(
            home.comms, place / "comms", symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tmp", "bad")
        )
    for pinned in (home.task, home.next_task):
        if pinned.is_file() and not (place / pinned.name).exists():  # once: what was changed since is no better copy
            write_atomic(place / pinned.name, pinned.read_bytes())
    number, digest = ledger.head()
    write_json(place / "head.json", {"fact": number, "hash": digest})
