"""The ledger for other programs: what is exported can be read back, by lines, as a table, in a spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.commands import app
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Fact, Ledger, fact_hash
from tests.lab.story import TASK, Story

Row = dict[str, object]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A session with a bank and one idea."""
    one = Home(tmp_path / "research")
    one.make()
    one.settings.write_text("")
    one.task.write_text(TASK.model_dump_json())
    story = Story(one.org)
    story.bank()
    story.run("nominate", "c1", story.idea(), search=2.4)
    story.ledger.append("note", {"text": "tab\tline\nquote\" \ud83d\ude00 =1+1"}, "E0001", "r1")
    monkeypatch.setenv("ORGCTL_HOME", str(one.root))
    return one


def export(*words: str) -> str:
    done = CliRunner().invoke(app, ["ledger", "export", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_json_lines_hold_every_fact_whole(home: Home) -> None:
    facts = Ledger(home.ledger).facts()
    assert [Fact(**json.loads(line)) for line in export().splitlines()] == facts
    out = home.root / "deep" / "facts.jsonl"
    assert export("--format", "jsonl", "--out", str(out)) == f"{out}\n" and out.read_text() == export()


def test_a_table_has_one_row_a_run(home: Home) -> None:
    out = home.root / "runs.tsv"
    export("--format", "tsv", "--out", str(out))
    rows = list(csv.DictReader(out.open(), delimiter="\t"))
    assert [row["run"] for row in rows] == ["R0001", "R0002", "R0003", "R0004", "R0005"] and rows[-1]["search"] == "2.4"
    assert export("--format", "tsv") == out.read_text()


def test_a_parquet_file_holds_the_chain(home: Home) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = home.root / "facts.parquet"
    export("--format", "parquet", "--out", str(out))
    table = parquet.read_table(out)
    assert table.column_names == ["id", "time", "kind", "subject", "actor", "body", "hash"]
    facts = Ledger(home.ledger).facts()
    rows = table.to_pylist()
    assert [(row["id"], row["kind"], json.loads(row["body"]), row["hash"]) for row in rows] == [
        (fact.id, fact.kind, fact.body, fact.hash) for fact in facts
    ]
    assert [row["time"].timestamp() for row in rows] == pytest.approx([fact.time for fact in facts], abs=1e-6)
    last, before = facts[-1], facts[-2]
    row = rows[-1]
    assert fact_hash(before.hash, last.time, row["kind"], row["subject"], row["actor"], row["body"]) == row["hash"]


def test_parquet_needs_a_file_and_pyarrow(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="name a file with --out"):
        export("--format", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        export("--format", "parquet", "--out", str(home.root / "facts.parquet"))
    assert not list(home.root.glob("*parquet*"))


def test_an_export_that_fails_leaves_no_half_a_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    out = home.root / "facts.jsonl"
    out.write_text("the one before")

    def broken(fact: Fact) -> Row:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataclasses, "asdict", broken)
    with pytest.raises(OSError, match="No space left"):
        export("--out", str(out))
    assert out.read_text() == "the one before" and [path.name for path in home.root.iterdir() if path.is_file()] == ["facts.jsonl"]


@pytest.mark.parametrize("form", ["jsonl", "tsv", "parquet"])
def test_a_folder_to_write_to_is_refused_in_one_line(home: Home, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(home.root)
    for folder in (".", str(home.root), "/"):
        with pytest.raises(UserError, match="is a folder: name a file"):
            export("--format", form, "--out", folder)
