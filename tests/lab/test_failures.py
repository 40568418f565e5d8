"""What a damaged file of the organisation is told as: which file, and where its copy lies."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from pydantic import ValidationError

from lab import failures
from lab.backup import back_up, folder
from lab.home import Home
from lab.ledger import Ledger
from org.session import Wish, found
from tasks.spec import Task
from tests.conftest import TOY


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = found(tmp_path / "research", Wish(design="solo", task=str(TOY), name="t-damage", slots=1, backend="shell"))
    ledger = Ledger(made.ledger)
    for number in range(400):
        ledger.append("session", {"note": "x" * 200, "number": number})
    back_up(made, ledger)
    ledger.close()
    monkeypatch.setenv("ORGCTL_HOME", str(made.root))
    return made


def test_a_damaged_task_is_named_with_its_copy(home: Home) -> None:
    for path in (home.task, home.next_task):
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        with pytest.raises(ValidationError) as error:
            Task.model_validate_json(path.read_text())
        told = failures.line(error.value)
        assert told is not None and told.startswith(f"{path} is damaged (Invalid JSON"), told
        assert f"put its copy, {folder(home) / path.name}, in its place" in told and "\n" not in told
        ledger = Ledger(home.ledger)
        back_up(home, ledger)
        ledger.close()
        path.write_bytes((folder(home) / path.name).read_bytes())
        assert path.read_bytes() == good, "a copy of the damaged one takes no place"


def test_a_ledger_that_is_damaged_in_the_middle_is_not_a_full_disk(home: Home) -> None:
    raw = bytearray(home.ledger.read_bytes())
    raw[len(raw) // 2 : -4096] = b"\xa5" * (len(raw) - 4096 - len(raw) // 2)
    home.ledger.write_bytes(raw)
    ledger = Ledger(home.ledger)
    with pytest.raises(Exception) as error:
        ledger.facts()
    told = failures.line(error.value)
    assert told is not None and f"the ledger {home.ledger} is damaged" in told and "free disk space" not in told
    copy = (folder(home) / "ledger.db").read_bytes()
    with pytest.raises(sqlite3.DatabaseError):
        back_up(home, ledger)
    assert (folder(home) / "ledger.db").read_bytes() == copy, "a damaged ledger takes no good copy's place"
    assert f"put its last copy, {folder(home) / 'ledger.db'}, in its place" in told
    ledger.close()
    for stale in home.org.glob("ledger.db*"):
        stale.unlink()
    home.ledger.write_bytes((folder(home) / "ledger.db").read_bytes())
    assert len(Ledger(home.ledger).facts()) > 400
