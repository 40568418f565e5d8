"""The commands that look at the ledger whole: `ledger verify` and `ledger export`; and how every command of the laboratory opens it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lab import export as exports
from lab.answer import as_data
from lab.backup import folder as backup_folder
from lab.disowned import KIND, passed_over
from lab.errors import UserError
from lab.files import read_json
from lab.home import Home
from lab.ledger import Ledger
from lab.state import View
from lab.text import printable
from lab.verify import verify as verified
from tasks.spec import Task
from worktrees.repo import Repo

ledger_app = typer.Typer(
    help="The append-only record of everything that was tried and measured.", no_args_is_help=True, add_completion=False
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Identity = Annotated[str, typer.Argument(help="An experiment, such as E0001.", metavar="EXPERIMENT")]


class Format(StrEnum):
    """What `ledger export` can write."""

    jsonl = "jsonl"
    tsv = "tsv"
    parquet = "parquet"


def opened() -> tuple[Home, View]:
    """The session here, and its ledger folded. Raises UserError when there is none."""
    home = Home.find()
    view = View(Ledger(home.ledger))
    view.refresh()
    return home, view


@ledger_app.command()
def verify(as_json: JsonFlag = False) -> None:
    """Does everything that the ledger says still follow from what is there?

    Recomputes the hash chain and compares its head with the copy outside `.org`; reads every result again from its run's folder;
    looks for every snapshot in git; and derives every nomination, verdict and promotion anew from the facts before it. One line
    for each thing that does not fit; exit code 1 then.
    """
    home = Home.find()
    ledger = Ledger(home.ledger)
    task = Task.model_validate_json(home.task.read_text())
    problems = verified(ledger, task, home.runs, Repo(home.root, home.program), read_json(backup_folder(home) / "head.json"))
    (facts, _), gone = ledger.head(), sorted(passed_over(ledger.each(KIND)))
    if not as_data(as_json, {"facts": facts, "problems": problems, "disowned": gone}):
        for line in problems or [f"{facts} facts: chain whole, results as recorded, snapshots in git, verdicts as derived anew"]:
            print(printable(line))
        if gone:
            print(f"disowned, and passed over by every reader: fact {', '.join(map(str, gone))}")
    if problems:
        raise typer.Exit(1)


@ledger_app.command()
def export(
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="jsonl: one fact a line, nothing left out. parquet: the same facts as a table, their bodies as JSON text. "
            "tsv: one row a run, for spreadsheets, as in report/results.tsv.",
        ),
    ] = Format.jsonl,
    out: Annotated[Path | None, typer.Option(help="Write to this file; standard output without it.")] = None,
) -> None:
    """Everything in the ledger, for other programs."""
    home = Home.find()
    ledger = Ledger(home.ledger)
    if form is Format.parquet:
        if out is None:
            raise UserError("parquet is not for the eye: name a file with --out")
        exports.parquet(ledger, out)
    elif form is Format.tsv:
        exports.tsv(ledger, Task.model_validate_json(home.task.read_text()), out)
    elif out is None:
        for line in exports.json_lines(ledger):
            sys.stdout.write(line)
    else:
        exports.jsonl(ledger, out)
    if out is not None:
        print(out)
