"""The memory of a session: an index of all that was proposed, measured, said and read, in `.org/memory.db` (SQLite FTS5).

Called by `orgctl search` and `orgctl ask`. A derived file: `update` adds what is new in the ledger, the mail and the folders, before
every question; delete it and the next question builds it anew. Mail is indexed apart from everything else, so that a hundred
thousand messages do not drown ten thousand experiments. What an experiment is worth is never copied from words: it comes from the
ledger's facts, folded by `lab.state`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from comms.mailbox import Mail
from comms.message import IDENTITY, Message
from lab.disowned import KIND, passed_over
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.records import Experiment
from lab.similar import outcome
from lab.state import State
from lab.text import clean
from org import passages, pdf
from org.passages import Passage

VERSION = 3
"""Of the tables below; an index of another version is built anew."""
BUSY_SECONDS = 30.0
"""How long a question waits for another one that is adding to the index."""
DIFF_LIMIT = 60_000
"""Characters of a diff that are indexed."""
PATIENCE_SECONDS = 30.0
"""How long one question reads papers as PDF; the next one goes on with the rest. Agents' shell tools end after two minutes."""
BATCH = 1_000
"""Messages added in one transaction."""
LENGTH = len("20260131T120000-000000-0123abcd.md")
SETTLED = 1.0
"""Seconds after which a folder's time of change can be relied on: two changes may bear the same time."""
KINDS = ("proposal", "amendment", "attempt", "nomination", "confirm", "verdict", "unmerged", "withdrawn", "review")
"""Facts that change what is known of the experiment that they are about; beside those of trunk."""
COLUMNS = "kind TEXT, source TEXT, part TEXT, line INTEGER, place TEXT, sender TEXT, time REAL, about TEXT, title TEXT, body TEXT"
SCHEMA = [
    statement.format(table=table, columns=COLUMNS)
    for table in ("records", "letters")
    for statement in (
        "CREATE TABLE {table} (id INTEGER PRIMARY KEY, {columns})",
        "CREATE INDEX {table}_source ON {table} (source)",
        "CREATE INDEX {table}_place ON {table} (place, source)",
        "CREATE VIRTUAL TABLE {table}_words USING fts5(title, body, content='{table}', content_rowid='id', "
        "tokenize='porter unicode61 remove_diacritics 2')",
        "CREATE TRIGGER {table}_added AFTER INSERT ON {table} BEGIN "
        "INSERT INTO {table}_words (rowid, title, body) VALUES (new.id, new.title, new.body); END",
        "CREATE TRIGGER {table}_gone AFTER DELETE ON {table} BEGIN "
        "INSERT INTO {table}_words ({table}_words, rowid, title, body) VALUES ('delete', old.id, old.title, old.body); END",
        "INSERT INTO {table}_words ({table}_words, rank) VALUES ('rank', 'bm25(2.0, 1.0)')",
    )
] + [
    "CREATE TABLE experiments (id TEXT PRIMARY KEY, agent TEXT, status TEXT, outcome TEXT, verdict TEXT, removes TEXT)",
    "CREATE INDEX experiments_removes ON experiments (removes) WHERE removes != ''",
    "CREATE TABLE files (path TEXT PRIMARY KEY, kind TEXT, changed INTEGER, size INTEGER)",
    "CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT)",
]
"""A word in a title counts twice."""
Row = tuple[str, str, str, int, str, str, float, str, str, str]
Say = Callable[[str], None]


class Memory:
    """The index of one session, open. Use it in a `with`, or `close` it."""

    def __init__(self, home: Home, library: Iterable[str] = ()) -> None:
        """`library`: folders of papers (text or PDF) and Markdown. Raises UserError when the index cannot be opened or made."""
        self.home, self.library = home, [Path(folder) for folder in library]
        self.path = home.org / "memory.db"
        self.mail = Mail(home.comms)
        try:
            self.db = self._open()
        except sqlite3.OperationalError as error:
            raise UserError(f"the index {self.path} cannot be opened ({error}): try again, or move it away") from error
        except sqlite3.DatabaseError:  # broken, or of another version: it is derived, so it is made anew
            self.db = self._anew()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.db.close()

    def forget(self) -> None:
        """Throw the index away; the next `update` builds it anew."""
        self.db.close()
        self.db = self._anew()

    def _anew(self) -> sqlite3.Connection:
        try:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            return self._open()
        except (sqlite3.DatabaseError, OSError) as error:
            raise UserError(f"the index {self.path} cannot be made: {error}: free disk space, or move it away") from error

    def _open(self) -> sqlite3.Connection:
        if self.path.is_symlink():
            self.path.unlink()
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")  # derived: after a power cut it is made anew
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                db.execute("BEGIN IMMEDIATE")  # somebody may be making it: look again, as the only writer
                if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    if db.execute("SELECT 1 FROM sqlite_master").fetchone():
                        raise sqlite3.DatabaseError("of another version")
                    for statement in SCHEMA:
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version={VERSION}")
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            self.db.execute("ROLLBACK")
            raise

    # ------------------------------------------------------------------ what is new

    def update(self, say: Say = lambda text: None, patience: float = PATIENCE_SECONDS) -> None:
        """Add what is new; quick when nothing is. A broken index is built anew. `say` hears of work that takes seconds, of papers that
        cannot be read, and of another process that adds for so long that this one goes on without. `patience`: seconds for PDFs.
        """
        try:
            self._update(say, patience)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise UserError(f"the index {self.path} cannot be written ({error}): free disk space, or move it away") from error
            say("another process is adding to the index: what is newest may be missing")
        except sqlite3.DatabaseError:
            self.forget()
            self._update(say, patience)

    def _update(self, say: Say, patience: float) -> None:
        ledger = Ledger(self.home.ledger)
        try:
            if not self._same_ledger(ledger):
                self.forget()
            if not self._mark("fact").startswith(f"{ledger.head()[0]} "):
                with self._writing():
                    self._facts(ledger, say)
        finally:
            ledger.close()
        for to in self.mail.places():
            self._letters(to, say)
        self._files(say, patience)

    def _mark(self, name: str) -> str:
        row = self.db.execute("SELECT value FROM marks WHERE name=?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def _set(self, name: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))

    def _add(self, table: str, rows: Iterable[Row]) -> None:
        names = "kind, source, part, line, place, sender, time, about, title, body"
        safe = (tuple(_text(value) if isinstance(value, str) else value for value in row) for row in rows)
        self.db.executemany(f"INSERT INTO {table} ({names}) VALUES (?,?,?,?,?,?,?,?,?,?)", safe)

    # ------------------------------------------------------------------ the ledger

    def _same_ledger(self, ledger: Ledger) -> bool:
        """Is what was indexed still the beginning of this ledger?"""
        last, _, digest = self._mark("fact").partition(" ")
        if not last:
            return True
        fact = next(ledger.each(after=int(last) - 1), None)
        return fact is not None and (fact.id, fact.hash) == (int(last), digest)

    def _facts(self, ledger: Ledger, say: Say) -> None:
        after = int(self._mark("fact").partition(" ")[0] or 0)
        last, digest = ledger.head()
        if last == after:
            return
        if any(ledger.each(KIND, after=after)):
            after = 0  # what was indexed by facts that are disowned now is said anew
        touched = dict.fromkeys(fact.subject for kind in KINDS for fact in ledger.each(kind, after=after))
        trunks = ledger.facts("trunk")
        for fact in trunks:
            if fact.id > after:
                touched |= dict.fromkeys(_moved(fact))
        if len(touched) > BATCH:
            say(f"indexing {len(touched)} experiments, once")
        for name in touched:
            if (removes := self._experiment(ledger, name, trunks)) and removes not in touched:
                self._experiment(ledger, removes, trunks)  # what an audit's removal takes out, or gives back
        self._set("fact", f"{last} {digest}")

    def _experiment(self, ledger: Ledger, name: str, trunks: list[Fact]) -> str:
        """Index one experiment anew, from all facts about it. Returns the experiment that it would remove, "" for an idea."""
        names = {name, *(row[0] for row in self.db.execute("SELECT id FROM experiments WHERE removes=? AND removes != ''", (name,)))}
        facts = [fact for one in names for fact in ledger.facts(subject=one)]
        facts += [fact for fact in trunks if _moved(fact) & names]
        state = State(disowned=passed_over(ledger.each(KIND)))
        for fact in sorted(facts, key=lambda fact: fact.id):
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # malformed: passed over, as in `lab.state.View`
                state.apply(fact)
        item = state.experiments.get(name)
        try:
            lines = told(item) if item else []
        except (KeyError, TypeError, ValueError, AttributeError):
            return ""
        self.db.execute("DELETE FROM records WHERE source=? AND place=''", (name,))
        if item is None:
            self.db.execute("DELETE FROM experiments WHERE id=?", (name,))
            return ""
        verdict = item.attempt.verdict if item.attempt else None
        figures = json.dumps({key: verdict.get(key) for key in ("verdict", "effect", "low", "high", "n", "m")} if verdict else {})
        row = (name, item.agent, item.status, outcome(item), figures, item.removes)
        self.db.execute("INSERT OR REPLACE INTO experiments VALUES (?,?,?,?,?,?)", tuple(map(_text, row)))
        self._add("records", lines)
        return item.removes

    # ------------------------------------------------------------------ mail

    def _letters(self, to: str, say: Say) -> None:
        """Index the mail of one agent or channel anew where its folders have changed since they were looked at."""
        folders, mark = self.mail.folders(to), f"mail {to}"
        now = time.time_ns()
        times = [_changed(folder) for folder in folders]
        seen = json.loads(self._mark(mark) or "null")
        if seen == times and all(now - when > SETTLED * 1e9 for when in times):
            return
        there = {name[:-3] for folder in folders for name in _listed(folder) if len(name) == LENGTH and name[-3:] == ".md"}
        known = self._known(to, there)
        new, gone = sorted(filter(IDENTITY.fullmatch, there - known)), [(to, id) for id in known - there]
        if len(new) > BATCH:
            say(f"indexing {len(new)} messages of {to}, once")
        for start in range(0, len(new), BATCH):
            found = [message for id in new[start : start + BATCH] if (message := self.mail.look(to, id))]
            with self._writing():  # somebody may have added the same meanwhile
                held = "SELECT 1 FROM letters WHERE place=? AND source=?"
                self._add("letters", (_letter(one) for one in found if not self.db.execute(held, (to, one.id)).fetchone()))
        with self._writing():
            self.db.executemany("DELETE FROM letters WHERE place=? AND source=?", gone)
            self._set(mark, json.dumps(times if all(now - when > SETTLED * 1e9 for when in times) else None))

    def _known(self, to: str, there: set[str]) -> set[str]:
        """Ids of the indexed messages to an agent or channel, or of those `there` that are certainly indexed.

        Nearly always what is new is newest. So only the last ids are compared, if the numbers then agree; else all.
        """
        last, count = self.db.execute("SELECT max(source), count(*) FROM letters WHERE place=?", (to,)).fetchone()
        newer = {id for id in there if id > last} if last else there
        if len(there) - len(newer) == count and (last is None or last in there):
            return there - newer
        return {row[0] for row in self.db.execute("SELECT source FROM letters WHERE place=?", (to,))}

    # ------------------------------------------------------------------ files

    def _files(self, say: Say, patience: float) -> None:
        """Digests, notes and the library: what has changed is read again, what is gone is forgotten."""
        known = {row[0]: row[1:] for row in self.db.execute("SELECT path, kind, changed, size FROM files")}
        places = [("digest", self.home.org / "standups"), ("note", self.home.org / "notes")]
        there: dict[str, tuple[str, int, int]] = {}
        for kind, folder in [*places, *(("library", folder) for folder in self.library)]:
            suffixes = (*passages.SUFFIXES, passages.PDF) if kind == "library" else passages.SUFFIXES
            for path, changed, size in passages.files(folder, suffixes):
                if kind != "digest" or path.endswith("/digest.md"):
                    there.setdefault(path, (kind, changed, size))
        new = [(path, *facts) for path, facts in there.items() if known.get(path) != facts]
        papers = [one for one in new if _is_pdf(one[0])]
        new = [one for one in new if not _is_pdf(one[0])]
        gone = known.keys() - there.keys()
        for start in range(0, len(new), BATCH):
            with self._writing():
                for one in new[start : start + BATCH]:
                    self._file(*one, _passages(one[0]))
        if gone:
            with self._writing():
                for path in gone:
                    self.db.execute("DELETE FROM records WHERE source=? AND place='file'", (path,))
                    self.db.execute("DELETE FROM files WHERE path=?", (path,))
        self._papers(papers, say, patience)

    def _papers(self, papers: list[tuple[str, str, int, int]], say: Say, patience: float) -> None:
        """Read papers as PDF, each added by itself: they take seconds, and nobody else is to wait for all of them."""
        began = time.monotonic()
        if len(papers) > 1:
            say(f"reading {len(papers)} papers as PDF, once")
        for done, one in enumerate(papers):
            if done and time.monotonic() - began > patience:
                say(f"papers as PDF that are not read yet: {len(papers) - done}; the next question goes on with them")
                return
            pages, why = pdf.pages(Path(one[0]))
            if why:
                say(f"{clean(one[0], 300)}: {why}")
            with self._writing():
                self._file(*one, [Passage(number, "", text) for number, text in enumerate(pages, start=1) if text.strip()])

    def _file(self, path: str, kind: str, changed: int, size: int, found: list[Passage]) -> None:
        self.db.execute("DELETE FROM records WHERE source=? AND place='file'", (path,))
        self.db.execute("INSERT OR REPLACE INTO files VALUES (?,?,?,?)", (_text(path), kind, changed, size))
        name, when, part = os.path.basename(path), changed / 1e9, "page" if _is_pdf(path) else ""
        self._add("records", ((kind, path, part, one.line, "file", "", when, "", one.title or name, one.body) for one in found))


def told(item: Experiment) -> list[Row]:
    """What an experiment says of itself and what was said of it, as rows of the index."""
    first = item.hypothesis.strip().splitlines() or [""]
    knobs = [f"{name} = {value}" for name, value in item.params.items()]
    again = item.again.get("why") if isinstance(item.again, dict) else None
    before = [str(one.text.get(key)) for one in item.versions[:-1] for key in ("hypothesis", "mechanism")]
    said = [item.hypothesis, item.mechanism, item.family, item.held_constant, ", ".join(knobs), str(again or ""), *before]
    said += [f"withdrawn: {item.withdrawn}"] if item.withdrawn is not None else []

    def row(kind: str, part: str, sender: str, when: float, title: str, body: str) -> Row:
        return (kind, item.id, part, 0, "", sender, when, item.id, title, body)

    rows = [row("proposal", "", item.agent, item.proposed, first[0][:300], "\n".join(line for line in said if line))]
    for attempt in item.attempts:
        changed = ", ".join(map(str, attempt.changed))
        rows.append(row("diff", str(attempt.number), item.agent, item.proposed, changed, altered(attempt.diff[:DIFF_LIMIT])))
        if attempt.verdict:
            reasons = attempt.verdict.get("reasoning")
            lines = "\n".join(map(str, reasons if isinstance(reasons, list) else []))
            rows.append(row("verdict", str(attempt.number), "lab", item.proposed, str(attempt.verdict["verdict"]), lines))
    rows += [row("review", "", one.actor, one.time, one.finding, one.text) for one in item.reviews]
    return rows


def altered(diff: str) -> str:
    """The lines that a diff takes out or puts in. What stands unchanged around them was not tried."""
    return "\n".join(line for line in diff.splitlines() if line[:1] in ("+", "-") and not line.startswith(("+++ ", "--- ")))


def _moved(fact: Fact) -> set[str]:
    """The experiments that a step of trunk brings in or takes back."""
    return {str(name) for key in ("experiment", "reverts") if (name := fact.body.get(key))}


def _letter(message: Message) -> Row:
    """A letter as a row. A digest is indexed once, from its file: what is mailed of it is found by its id alone."""
    title, body = f"{message.about} {message.thread}".strip(), message.body
    if message.kind == "digest" and message.sender == "lab":
        title = body = ""
    return ("message", message.id, message.kind, 0, message.to, message.sender, message.time, message.about, title, body)


def _is_pdf(path: str) -> bool:
    return path.lower().endswith(passages.PDF)


def _passages(path: str) -> list[Passage]:
    text = passages.read(Path(path))
    return passages.cut(text) if text is not None else []


def _text(value: str) -> str:
    """Text that SQLite takes: halves of surrogate pairs are no UTF-8."""
    return value.encode("utf-8", "replace").decode()


def _changed(folder: Path) -> int:
    """When a folder was changed, in ns; 0 when it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def rows(db: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries."""
    found = db.execute(query, values)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]
