"""The ledger keeps every fact, in order, whoever writes, and notices when somebody touches it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lab import ledger as module
from lab.errors import UserError
from lab.ledger import MIGRATIONS, Ledger

WRITER = """
import sys
from pathlib import Path
from lab.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    ledger.append_new("proposal", "E", {"writer": sys.argv[2], "number": number}, actor=sys.argv[2])
"""

ENDLESS = """
import sys
from pathlib import Path
from lab.ledger import Ledger
ledger, number = Ledger(Path(sys.argv[1])), 0
while True:
    number += 1
    fact = ledger.append_new("proposal", "E", {"writer": sys.argv[2], "number": number}, actor=sys.argv[2])
    print(number, fact.subject, flush=True)
"""
"""Says what it has written, after it has written it."""


def test_facts_come_back_in_order_with_their_content(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    ledger.append("session", {"task": "nanochat", "text": "a\n\u2028\ud83d\ude00 'quoted'"})
    ledger.append("note", {"x": 1.25}, subject="E0001", actor="r1")
    again = Ledger(tmp_path / "ledger.db")
    assert [(fact.kind, fact.subject, fact.actor) for fact in again.facts()] == [
        ("session", "", "lab"),
        ("note", "E0001", "r1"),
    ]
    assert again.facts(kind="note")[0].body == {"x": 1.25}
    assert again.facts(after=1) == again.facts(subject="E0001")
    assert again.verify() == []


def test_the_database_refuses_to_change_or_delete_a_fact(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    ledger.append("note", {"a": 1})
    raw = sqlite3.connect(tmp_path / "ledger.db")
    for statement in ("UPDATE facts SET body='{}'", "DELETE FROM facts"):
        with pytest.raises(sqlite3.DatabaseError, match="append-only"):
            raw.execute(statement)


def test_verify_names_a_fact_that_was_changed_behind_the_triggers(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    for number in range(5):
        ledger.append("note", {"n": number})
    raw = sqlite3.connect(tmp_path / "ledger.db")
    raw.execute("DROP TRIGGER facts_no_update")
    raw.execute("DROP TRIGGER facts_no_delete")
    raw.execute("UPDATE facts SET body='{\"n\": 99}' WHERE id=3")
    raw.commit()
    assert any("fact 3" in line for line in ledger.verify())
    raw.execute("DELETE FROM facts WHERE id=2")
    raw.commit()
    assert any("fact 2 is missing" in line for line in ledger.verify())


def test_processes_writing_at_once_lose_nothing_and_share_no_name(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, create=True).close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"w{number}", "25"]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    facts = Ledger(path).facts()
    assert len({fact.subject for fact in facts}) == len(facts) == 100
    for number in range(4):
        assert [fact.body["number"] for fact in facts if fact.actor == f"w{number}"] == list(range(25))
    assert Ledger(path).verify() == []


def test_writers_killed_in_the_middle_lose_nothing_that_they_had_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, create=True).close()
    endless = [
        subprocess.Popen([sys.executable, "-c", ENDLESS, str(path), f"k{number}"], stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    steady = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"w{number}", "200"]) for number in range(2)]
    said: dict[str, list[str]] = {}
    for index, writer in enumerate(endless):
        assert writer.stdout is not None
        first = [writer.stdout.readline() for _ in range(30)]
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read()
        assert writer.wait(60) == -signal.SIGKILL
        said[f"k{index}"] = [*first, *(line for line in rest.splitlines(keepends=True) if line.endswith("\n"))]
    assert [writer.wait(60) for writer in steady] == [0, 0]
    ledger = Ledger(path)
    facts = ledger.facts()
    assert ledger.verify() == [] and len({fact.subject for fact in facts}) == len(facts)
    for name, lines in said.items():
        mine = [f"{fact.body['number']} {fact.subject}\n" for fact in facts if fact.actor == name]
        assert mine[: len(lines)] == lines and len(mine) - len(lines) <= 1, "only the last may have died before it was said"
    assert sum(fact.actor.startswith("w") for fact in facts) == 400


def test_append_once_writes_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    assert ledger.append_once("result", {"a": 1}, "R0001") is not None
    assert ledger.append_once("result", {"a": 2}, "R0001") is None
    assert len(ledger.facts()) == 1


def test_a_missing_or_broken_ledger_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="orgctl up"):
        Ledger(tmp_path / "none.db")
    (tmp_path / "junk.db").write_bytes(b"this is not a database, not at all" * 100)
    with pytest.raises(UserError, match="cannot open"):
        Ledger(tmp_path / "junk.db")


def migrations(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return sorted(row[0] for row in database.execute("SELECT name FROM migrations"))


def test_applied_migrations_are_named_in_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, create=True).append("note", {"a": 1})
    assert migrations(path) == sorted(name for name, _ in MIGRATIONS)
    later = [*MIGRATIONS, ("notes", "CREATE TABLE notes (text TEXT) STRICT; CREATE INDEX notes_text ON notes (text);")]
    monkeypatch.setattr(module, "MIGRATIONS", later)
    for _ in range(2):
        assert [fact.body for fact in Ledger(path).facts()] == [{"a": 1}]
    assert migrations(path) == sorted(name for name, _ in later)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"newer version of orgctl \(migration 'notes'\)") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"])
def test_nothing_takes_the_place_of_a_fact(tmp_path: Path, verb: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, create=True)
    ledger.append("note", {"a": 1})
    with contextlib.closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(f"{verb} INTO facts SELECT id, time, kind, subject, actor, '{{}}', hash FROM facts")
    assert [fact.body for fact in ledger.facts()] == [{"a": 1}] and ledger.verify() == []


def test_a_ledger_of_the_first_version_which_named_no_migrations_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, create=True).append("note", {"a": 1})
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE migrations")
        database.execute("DROP TRIGGER facts_in_order")
        database.execute("PRAGMA user_version=1")
        database.commit()
    assert [fact.body for fact in Ledger(path).facts()] == [{"a": 1}]
    assert migrations(path) == ["append-only inserts", "facts"]


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    Ledger(path, create=True).append("note", {"a": 1})
    monkeypatch.setattr(module, "MIGRATIONS", [*MIGRATIONS, ("half", "CREATE TABLE half (x TEXT); CREATE TABLE facts (x TEXT);")])
    with pytest.raises(UserError, match="facts already exists"):
        Ledger(path)
    monkeypatch.undo()
    assert [fact.body for fact in Ledger(path).facts()] == [{"a": 1}] and migrations(path) == ["append-only inserts", "facts"]
