"""The ledger: append-only facts in SQLite (WAL), each carrying the hash of the one before. Everything else is derived.

Writers are many (controller, commands of agents); every write is one short BEGIN IMMEDIATE transaction. Triggers refuse
UPDATE, DELETE and REPLACE; under one user id tampering cannot be prevented, but `verify` finds it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import UserError

GENESIS = "0" * 64

MIGRATIONS: list[tuple[str, str]] = [  # (name, script), in order; a name once released is never changed
    (
        "facts",
        """
        CREATE TABLE facts (
            id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
            actor TEXT NOT NULL, body TEXT NOT NULL, hash TEXT NOT NULL
        ) STRICT;
        CREATE INDEX facts_kind ON facts (kind, id);
        CREATE INDEX facts_subject ON facts (subject, id);
        CREATE TRIGGER facts_no_update BEFORE UPDATE ON facts BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
        CREATE TRIGGER facts_no_delete BEFORE DELETE ON facts BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
        """,
    ),
    (
        "append-only inserts",  # INSERT OR REPLACE fires no trigger of DELETE
        """
        CREATE TRIGGER facts_in_order BEFORE INSERT ON facts
            WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM facts)
            BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
        """,
    ),
]
TRIGGERS = {"facts_no_update", "facts_no_delete", "facts_in_order"}


@dataclass(frozen=True)
class Fact:
    """One line of the ledger. `time` in seconds since the epoch; `subject` is the experiment or run it is about."""

    id: int
    time: float
    kind: str
    subject: str
    actor: str
    body: dict[str, Any]
    hash: str


def fact_hash(previous: str, time_: float, kind: str, subject: str, actor: str, body: str) -> str:
    """SHA-256 (hex) over the previous hash and this fact's columns."""
    text = json.dumps([previous, repr(time_), kind, subject, actor, body], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Ledger:
    """An open ledger. Cheap to open; one object a process (not shared between threads)."""

    def __init__(self, path: Path, create: bool = False, read_only: bool = False) -> None:
        """Open `path`; with `create` make it. Raises UserError when it is missing or no ledger. `read_only`: as it is, and nothing is
        written, not even a migration; what is no ledger shows when it is read (sqlite3.Error)."""
        if not create and not path.is_file():
            raise UserError(f"no ledger at {path}: run `orgctl up` first")
        self.path = path
        self.own: set[int] = set()
        """Numbers of the facts that this object wrote."""
        if read_only:
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
            return
        try:
            self._db = sqlite3.connect(path, timeout=20, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._migrate()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"cannot open the ledger {path}: {error}: restore it from .git/orgctl/ or start elsewhere"
            ) from error

    def _migrate(self) -> None:
        """Apply what is missing, in order. Raises UserError for a ledger that a newer version has migrated."""
        names = [name for name, _ in MIGRATIONS]
        if self._applied() == set(names):
            return
        with self._transaction():  # somebody may have done it meanwhile: look again, as the only writer
            applied = self._applied()
            if applied is None:  # new, or of the first version, which wrote no names down and knew one migration
                self._db.execute("CREATE TABLE migrations (name TEXT PRIMARY KEY, time REAL NOT NULL) STRICT")
                old = self._db.execute("PRAGMA user_version").fetchone()[0] > 0
                applied = {names[0]} if old else set()
                self._note(applied)
            if unknown := sorted(applied - set(names)):
                raise UserError(
                    f"the ledger {self.path} was written by a newer version of orgctl (migration {unknown[0]!r}): update orgctl"
                )
            for name, script in MIGRATIONS:
                if name not in applied:
                    for statement in _statements(script):
                        self._db.execute(statement)
            self._note(set(names) - applied)
            self._db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def _applied(self) -> set[str] | None:
        """Names of the migrations that this database has had; None where no names are kept."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE type='table' AND name='migrations'").fetchone():
            return None
        return {row[0] for row in self._db.execute("SELECT name FROM migrations")}

    def _note(self, names: set[str]) -> None:
        self._db.executemany("INSERT INTO migrations VALUES (?, ?)", [(name, time.time()) for name in sorted(names)])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise UserError(
                f"cannot write the ledger {self.path}: {error}: free disk space or stop what holds it, then try again"
            ) from error
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _insert(self, kind: str, subject: str, actor: str, body: dict[str, Any]) -> Fact:
        row = self._db.execute("SELECT id, hash FROM facts ORDER BY id DESC LIMIT 1").fetchone()
        number, previous = (row[0] + 1, row[1]) if row else (1, GENESIS)
        text = json.dumps(
            body, sort_keys=True, default=str
        )  # ASCII: half a surrogate pair in an agent's text is no UTF-8
        kind, subject, actor = (value.encode("utf-8", "replace").decode() for value in (kind, subject, actor))
        now = time.time()
        digest = fact_hash(previous, now, kind, subject, actor, text)
        self._db.execute("INSERT INTO facts VALUES (?,?,?,?,?,?,?)", (number, now, kind, subject, actor, text, digest))
        self.own.add(number)
        return Fact(number, now, kind, subject, actor, json.loads(text), digest)

    def append(self, kind: str, body: dict[str, Any], subject: str = "", actor: str = "lab") -> Fact:
        """Write one fact and return it."""
        with self._transaction():
            return self._insert(kind, subject, actor, body)

    def append_all(self, facts: list[tuple[str, str, dict[str, Any]]], actor: str = "lab") -> list[Fact]:
        """Write several (kind, subject, body) in one transaction: all of them or none."""
        with self._transaction():
            return [self._insert(kind, subject, actor, body) for kind, subject, body in facts]

    def append_once(
        self, kind: str, body: dict[str, Any], subject: str, actor: str = "lab", but: Container[int] = ()
    ) -> Fact | None:
        """Write the fact unless this actor has written one of this kind about this subject already (those numbered in `but` do not
        count); None then. Makes a step idempotent, whatever others wrote."""
        with self._transaction():
            known = self._db.execute("SELECT id FROM facts WHERE kind=? AND subject=? AND actor=?", (kind, subject, actor))
            if any(number not in but for (number,) in known):
                return None
            return self._insert(kind, subject, actor, body)

    def append_unless(self, other: str, kind: str, body: dict[str, Any], subject: str, actor: str = "lab") -> Fact | None:
        """Write the fact unless one of the kind `other` about this subject is there already; None then."""
        with self._transaction():
            if self._db.execute("SELECT 1 FROM facts WHERE kind=? AND subject=? LIMIT 1", (other, subject)).fetchone():
                return None
            return self._insert(kind, subject, actor, body)

    def append_new(self, kind: str, prefix: str, body: dict[str, Any], actor: str = "lab") -> Fact:
        """Write a fact about a new subject: `prefix` and the next number (E0001, E0002, ...), taken in the same transaction."""
        with self._transaction():
            return self._insert(kind, f"{prefix}{self.count(kind) + 1:04d}", actor, body)

    def facts(self, kind: str | None = None, subject: str | None = None, after: int = 0) -> list[Fact]:
        """Facts in order, optionally of one kind, about one subject, or after an id."""
        return list(self.each(kind, subject, after))

    def each(self, kind: str | None = None, subject: str | None = None, after: int = 0) -> Iterator[Fact]:
        """The same one by one, for ledgers that need not be in memory whole."""
        where, values = ["id > ?"], [after]  # type: tuple[list[str], list[Any]]
        if kind is not None:
            where.append("kind = ?")
            values.append(kind)
        if subject is not None:
            where.append("subject = ?")
            values.append(subject)
        rows = self._db.execute(
            f"SELECT id,time,kind,subject,actor,body,hash FROM facts WHERE {' AND '.join(where)} ORDER BY id", values
        )
        for i, t, of, about, actor, body, digest in rows:
            yield Fact(i, t, of, about, actor, _read(body), digest)

    def count(self, kind: str) -> int:
        """Number of facts of a kind, whoever wrote them."""
        return int(self._db.execute("SELECT COUNT(*) FROM facts WHERE kind=?", (kind,)).fetchone()[0])

    def head(self) -> tuple[int, str]:
        """(id, hash) of the last fact; (0, 64 zeros) when empty."""
        row = self._db.execute("SELECT id, hash FROM facts ORDER BY id DESC LIMIT 1").fetchone()
        return (int(row[0]), str(row[1])) if row else (0, GENESIS)

    def verify(self) -> list[str]:
        """Recompute the hash chain. Returns one line for each break; empty when it holds."""
        triggers = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type='trigger'")}
        gone = sorted(TRIGGERS - triggers)
        problems = [f"the ledger's trigger {name} is gone: somebody made it possible to change facts" for name in gone]
        previous, expected = GENESIS, 1
        for number, when, kind, subject, actor, body, digest in self._db.execute(
            "SELECT id,time,kind,subject,actor,body,hash FROM facts ORDER BY id"
        ):
            if number != expected:
                problems.append(f"fact {expected} is missing (next is {number})")
            if fact_hash(previous, when, kind, subject, actor, body) != digest:
                problems.append(f"fact {number} ({kind} {subject}) does not match its hash")
            previous, expected = digest, number + 1
        return problems

    def close(self) -> None:
        self._db.close()


def _read(text: str) -> dict[str, Any]:
    """A fact's body; empty when it is no JSON object, which only somebody who went round this file can have written."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _statements(script: str) -> Iterator[str]:
    """Split an SQL script into statements; a trigger's inner semicolons stay inside it."""
    buffer = ""
    for piece in script.split(";"):
        buffer += piece + ";"
        if sqlite3.complete_statement(buffer):
            if buffer.strip(" \n;"):
                yield buffer
            buffer = ""
