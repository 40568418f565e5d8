"""The data of a session: prepared once, pinned, and prepared again when they were lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.runspec import read_manifest
from lab.state import State, fold
from org.session import Wish, found, ready_data
from tests.conftest import TOY


def state(home: Home) -> State:
    return fold(Ledger(home.ledger).facts())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A session with its data, whose manifest names a path that is another one each time."""
    task = tmp_path / "toytask"
    shutil.copytree(TOY, task)
    prepare = task / "workspace" / "toy" / "prepare.py"
    text = prepare.read_text()
    assert text.count("manifest = {") == 1
    prepare.write_text(text.replace("manifest = {", 'manifest = {"mask": [str(Path.cwd())], ', 1))
    made = found(tmp_path / "research", Wish(design="autoresearch", task=str(task), slots=1))
    ready_data(made, lambda line: None)
    return made


def test_data_that_were_lost_are_prepared_again_and_their_new_manifest_is_pinned_with_an_alarm(home: Home) -> None:
    before = state(home).session
    shutil.rmtree(home.data)
    ready_data(home, lambda line: None)
    after = state(home)
    assert after.session["manifest"] == read_manifest(home.data)[1] != before["manifest"]
    assert after.session["hashes"] == before["hashes"] and [text.split(":")[0] for text in after.alarms] == [
        f"{home.data} was gone and has been prepared again"
    ]
    count = len(Ledger(home.ledger).facts())
    ready_data(home, lambda line: None)
    assert len(Ledger(home.ledger).facts()) == count, "said once"


def test_a_manifest_that_was_edited_is_not_pinned_anew(home: Home) -> None:
    before, path = state(home).session, home.data / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mask": []}))
    for _ in range(2):
        with pytest.raises(UserError, match="is not the data this session began with"):
            ready_data(home, lambda line: None)
    assert state(home).session == before and not state(home).alarms


def test_data_that_come_out_otherwise_when_prepared_again_are_refused(home: Home) -> None:
    before = state(home).session
    ledger = Ledger(home.ledger)
    ledger.append("session", {"hashes": {**before["hashes"], "corpus": "0" * 64}})
    shutil.rmtree(home.data)
    with pytest.raises(UserError, match="hashes differ"):
        ready_data(home, lambda line: None)
    assert state(home).session["manifest"] == before["manifest"]
