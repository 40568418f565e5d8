"""`orgctl standup`: call one, report to it, read its digest. Mounted by `orgctl.py`."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lab import client
from lab.answer import LISTENER, as_data
from lab.direction import Standup
from lab.disowned import counted
from lab.errors import UserError
from lab.home import Home
from lab.ledger_commands import JsonFlag, opened
from lab.text import clean
from org import design as designs
from org import reports
from org.lever_commands import ask, tell
from org.screen import say

app = typer.Typer(add_completion=False)
standup = typer.Typer(
    help="Standups. Without a verb: call one now (for a chief or a person). Everybody is asked for a report; the digest checks every "
    "claim against the ledger and says what waits for a decision.",
    invoke_without_command=True,
    add_completion=False,
)
app.add_typer(standup, name="standup")


@standup.callback()
def call(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Call a standup now, unless a verb says something else."""
    if context.invoked_subcommand is None:
        answer, home = ask("standup", {}), Home.find()
        tell(answer, as_json, f"standup {answer.get('standup')} is open; its digest: {home.command} standup show {answer.get('standup')}")


@standup.command()
def report(
    done: Annotated[list[str] | None, typer.Option(help="Done since the last standup, with experiment ids; may be repeated.")] = None,
    learned: Annotated[list[str] | None, typer.Option(help="What the results say about why; may be repeated.")] = None,
    next_: Annotated[list[str] | None, typer.Option("--next", help="What comes next, a plan each; may be repeated.")] = None,
    blocked: Annotated[list[str] | None, typer.Option(help="What stops you; may be repeated.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Take it from a Markdown file with the headings Done, Learned, Next, Blocked; `-`: from standard input."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Report to the standup that is open. A second report takes the place of the first."""
    home, view = opened()
    agent, limit = client.me(home), designs.read(home).design.process.standup.limit
    given = {"done": done, "learned": learned, "next": next_, "blocked": blocked}
    if file is not None and LISTENER.get():
        raise UserError("file: a tool takes no files: say it in done, learned, next and blocked")
    if file is not None:
        try:
            text = reports.as_text(sys.stdin.buffer.read(reports.LIMIT_BYTES)) if str(file) == "-" else reports.read(file)
        except ValueError as error:
            raise UserError(f"--file {file}: {error}") from error
        if text is None:
            raise UserError(f"--file {file}: there is no such file")
    else:
        meeting = view.state.direction.standup
        said = {name: "\n".join(f"- {' '.join(line.split())}" for line in lines or []) for name, lines in given.items()}
        text = reports.render(meeting.id if meeting else "", agent, said)
    name = reports.submit(home, view.state, agent, text, limit)
    if not as_data(as_json, {"standup": name, "agent": agent}):
        print(f"{name} has {agent}'s report. Go on with your work; the digest arrives by mail.")


@standup.command()
def show(
    number: Annotated[int | None, typer.Argument(help="Which standup. Default: the last.", metavar="NUMBER", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """A standup's digest; while it is open, who has reported and who is still asked."""
    home, view = opened()
    found = [one for one in view.state.direction.standups.values() if number in (None, one.number)]
    if not found:
        raise UserError(f"there was no standup {number}" if number else "there was no standup yet: `orgctl standup` calls one")
    one = found[-1]
    text = "" if one.closed is None else (list(counted(view.ledger, "standup", one.id))[-1].body.get("text") or "")
    here, aside = (one.reported, one.aside) if one.closed is not None else _so_far(home, one)
    if as_data(as_json, {**dataclasses.asdict(one), "reported": here, "aside": aside, "text": text}):
        return
    if one.closed is None:
        missing = [name for name in one.agents if name not in here]
        print(f"standup {one.number} ({one.why}) is open until {time.strftime('%H:%M:%S', time.localtime(one.deadline))}")
        print(f"reported: {', '.join(here) or 'nobody'}; still asked: {', '.join(missing) or 'nobody'}")
        for name, why in aside.items():
            print(f"{name} is no report: it {clean(why)}")
        return
    say(text)


def _so_far(home: Home, one: Standup) -> tuple[list[str], dict[str, str]]:
    """Of a standup that is open: (who has reported, files that are no report with the reason)."""
    limit = designs.read(home).design.process.standup.limit
    here, aside = [], {}
    for agent in one.agents:
        try:
            here += [agent] if reports.handed_in(home, one.number, agent, limit) else []
        except ValueError as error:
            aside[f"{agent}.md"] = str(error)
    return here, aside
