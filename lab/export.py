"""The ledger for other programs: facts as JSON lines or as a Parquet table, runs as TSV. Called by `orgctl ledger export`.

Facts are read one by one, so that a ledger larger than memory can be exported; a file is there whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from lab.errors import UserError
from lab.ledger import Ledger
from lab.results import results
from lab.state import View
from lab.text import clean
from tasks.spec import Task

BATCH = 10_000
"""Facts of one row group of a Parquet file."""


def json_lines(ledger: Ledger) -> Iterator[str]:
    """Every fact as a line of JSON: {id, time, kind, subject, actor, body, hash}."""
    for fact in ledger.each():
        yield json.dumps(dataclasses.asdict(fact), default=str) + "\n"


def jsonl(ledger: Ledger, out: Path) -> None:
    with _whole(out) as temporary, open(temporary, "w", encoding="utf-8") as handle:
        handle.writelines(json_lines(ledger))


def tsv(ledger: Ledger, task: Task, out: Path | None) -> None:
    """One row a run (`lab.results`), to standard output without a file."""
    view = View(ledger)
    view.refresh()
    text = results(view.state, task)
    if out is None:
        sys.stdout.write(text)
    else:
        with _whole(out) as temporary:
            temporary.write_text(text, encoding="utf-8")


def parquet(ledger: Ledger, out: Path) -> None:
    """A table of facts: id (int64), time (UTC, microseconds), kind, subject, actor, body (JSON text), hash.

    Raises UserError when pyarrow, an optional part of orgctl, is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet needs pyarrow, which is not installed here: pip install pyarrow") from error
    text = pyarrow.string()
    names = ("kind", "subject", "actor", "body", "hash")
    schema = pyarrow.schema(
        [("id", pyarrow.int64()), ("time", pyarrow.timestamp("us", tz="UTC")), *((name, text) for name in names)]
    )
    facts = ledger.each()
    with _whole(out) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while batch := list(islice(facts, BATCH)):
            columns = {
                "id": [fact.id for fact in batch],
                "time": [round(fact.time * 1e6) for fact in batch],
                "body": [json.dumps(fact.body, sort_keys=True, default=str) for fact in batch],
                **{name: [getattr(fact, name) for fact in batch] for name in ("kind", "subject", "actor", "hash")},
            }
            writer.write_table(pyarrow.table(columns, schema=schema))


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A name to write to that becomes `out` in the end, or nothing. Raises UserError for a folder."""
    if out.is_dir():
        raise UserError(f"--out {clean(out)} is a folder: name a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
