"""`orgctl programs`: the programs of research of a repository, each with its trunk, banks and standing. Mounted by `org.commands`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lab.answer import as_data
from lab.home import MAIN, Home
from lab.ledger import Ledger
from lab.state import View
from lab.text import clean
from org import daemon
from org import design as designs
from org.screen import say
from tasks.spec import Task

app = typer.Typer(add_completion=False)


@app.command()
def programs(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """The programs of research in this repository. Any command is about one of them: `orgctl --program NAME ...`, else main."""
    found = listed(Home.find())
    if as_data(as_json, found):
        return
    for one in found:
        up = "up" if one["up"] else "not running"
        standing = f"{one['experiments']} experiments, {one['promoted']} promoted, trunk {one['trunk'][:8]}"
        work = f"design {clean(one['design'], 24)}, scale {clean(one['scale'], 24)}, slots {one['slots']}"
        say(f"{one['program']:16} {up:11}  {work}: {standing}", hang=30)


def listed(home: Home) -> list[dict[str, Any]]:
    """Each program of the repository, main first: what it is called and works on, which slots are its own, and how far it got."""
    found = []
    for one in sorted([home, *home.others()], key=lambda each: (each.program != MAIN, each.program)):
        session, view = designs.read(one), View(Ledger(one.ledger))
        view.refresh()
        state = view.state
        task = Task.model_validate_json(one.task.read_text(encoding="utf-8"))
        found.append({
            "program": one.program, "session": session.name, "design": session.design.name, "task": task.name,
            "scale": session.scale, "slots": session.slots, "first": session.first, "trunk": state.trunk,
            "promoted": len(state.promotions()), "experiments": len(state.experiments), "up": daemon.alive(one) is not None,
        })  # fmt: skip
    return found
