"""The commands for one agent's seat: attach, logs, takeover, release, restart, prompt. Mounted by `org.commands`.

Looking reads facts and screens; everything else is a person's request to the controller.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lab import client
from lab.areas import PERSON
from lab.disowned import counted
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.ledger_commands import opened
from lab.state import State
from lab.takeover import taker
from lab.text import clean
from org import daemon, people, prompt, swap
from org import design as designs
from org.agents.event import read_events
from org.events import describe
from org.grid import Grid
from tasks.spec import Task

app = typer.Typer(add_completion=False)

AgentName = Annotated[str, typer.Argument(help="Name of an agent, such as r1 (`orgctl status` lists them).")]


@app.command()
def attach(
    agent: Annotated[str | None, typer.Argument(help="Show this agent's pane first. Default: the board.")] = None,
) -> None:
    """Show the tmux grid on this terminal (Ctrl-b d detaches, Ctrl-b z zooms a pane, Ctrl-b n: next window)."""
    home = Home.find()
    settings = designs.read(home)
    grid = Grid(settings.name, home)
    if agent is not None and agent not in [*settings.design.names, "board"]:
        raise UserError(f"there is no agent {agent!r} here: {', '.join(settings.design.names)}")
    if not grid.running():
        raise UserError(f"{settings.name} is not up: run `{home.command} up` in {home.root}")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("attach needs a terminal: use `orgctl status` or `orgctl logs AGENT` instead")
    size = shutil.get_terminal_size()
    grid.relayout(size.columns, size.lines)
    show(grid, agent)


def show(grid: Grid, agent: str | None) -> None:
    """Show the grid on this terminal until the person detaches or the organisation stops."""
    status = subprocess.run(grid.attach_argv(agent)).returncode
    if status != 0 and grid.running():
        raise UserError(f"tmux could not attach (exit {status}): is TERM={os.environ.get('TERM', '')} right for this terminal?")


@app.command()
def logs(
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="How many events from the end.")] = 40,
    screen: Annotated[bool, typer.Option("--screen", help="Print what the agent's pane shows now instead.")] = False,
) -> None:
    """What an agent did and what became of its seat: its events with the ledger's facts about it, or its screen."""
    home = Home.find()
    settings = designs.read(home)
    if agent not in settings.design.names:
        raise UserError(f"there is no agent {agent!r} here: {', '.join(settings.design.names)}")
    if screen:
        grid = Grid(settings.name, home)
        if not grid.running():
            raise UserError(f"{settings.name} is not up: there is no screen to show")
        print(grid.capture(agent))
        return
    now, events = time.time(), read_events(home, agent, lines)
    told = [(min(float(event["time"]), now), f"{clean(event['state'])}: {clean(str(event.get('text', '')))}") for event in events]
    told += [(fact.time, line) for fact, line in _facts_about(agent)]
    for moment, line in sorted(told)[-lines:]:
        print(f"{time.strftime('%H:%M:%S', time.localtime(moment))} {line}")
    if not told:
        print(f"{agent} has left no events yet")


def _facts_about(agent: str) -> list[tuple[Fact, str]]:
    """What the ledger says of an agent's seat: starts and ends, what could not be delivered, its budget, what people did there."""
    ledger, state = Ledger(Home.find().ledger), State()
    try:
        facts = [fact for kind in ("agent", "intervention") for fact in counted(ledger, kind, agent)]
    finally:
        ledger.close()
    return [(fact, line) for fact in facts if (line := describe(fact, state))]


def asker() -> str:
    """Who asks for what is for people: $ORGCTL_AGENT, else a person, wherever they stand. Raises UserError for who may only read here."""
    return client.check_guest(os.environ.get("ORGCTL_AGENT") or PERSON)


def _ask(home: Home, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask the controller as a person. Raises UserError when it refuses, or does not answer."""
    found = client.request(home, kind, asker(), body, 10)
    if "waiting" in found:
        raise UserError("no controller answers: the request waits until the next `orgctl up`")
    return found


@app.command()
def takeover(
    agent: AgentName,
    toggle: Annotated[bool, typer.Option("--toggle", help="Give it back when it is taken over already (the grid's key).")] = False,
) -> None:
    """Take an agent's pane over: nothing is typed or handed to it any more, runs begun meanwhile count as assisted. `release` gives it
    back, and mail that waited flows. In the grid: Ctrl-b t."""
    if toggle and agent in opened()[1].state.taken_over:
        release(agent)
        return
    _ask(Home.find(), "takeover", {"agent": agent})
    print(f"{agent} is yours: orgctl attach {agent}. Give it back: orgctl release {agent}")


@app.command()
def release(agent: AgentName) -> None:
    """Give a pane that was taken over back to its agent."""
    had = _ask(Home.find(), "release", {"agent": agent}).get("had")
    print(f"{agent} has its pane back" if had else f"nobody had taken {agent} over: it has its pane")


@app.command()
def restart(
    agent: AgentName,
    role: Annotated[Path | None, typer.Option(help="Give it this role file from now on.")] = None,
    backend: Annotated[str | None, typer.Option(help="Give it this backend from now on.")] = None,
) -> None:
    """Start an agent's process anew (also one that was given up), with another role text or backend if asked for."""
    if role is not None or backend is not None:
        if role is not None and not role.expanduser().is_file():
            raise UserError(f"--role {role}: there is no such file")
        home = Home.find()
        swapped(home, swap.Swap({agent: str(role)} if role else {}, {agent: backend} if backend else {}))
        return
    _ask(Home.find(), "restart", {"agent": agent})
    print(f"{agent} was restarted")


@app.command("prompt")
def show_prompt(agent: AgentName) -> None:
    """Print exactly what an agent was told at its start: role, skills, task, organisation, laboratory, seat. Before its first start:
    what it will be told."""
    home = Home.find()
    settings = designs.read(home)
    seat = next((seat for seat in settings.design.seats(home) if seat.agent == agent), None)
    if seat is None:
        raise UserError(f"there is no agent {agent!r} here: {', '.join(settings.design.names)}")
    task = Task.model_validate_json(home.task.read_text())
    recorded = opened()[1].state.prompts.get(agent, "")
    told = prompt.told(seat, recorded)
    if recorded and told is None:
        print(f"what {agent} was told ({recorded[:8]}) does not lie there any more: this is what it would be told now", file=sys.stderr)
    print(told or prompt.compose(settings.design, task, seat, prompt.role_of(home, settings.design, seat)), end="")


def swapped(home: Home, wanted: swap.Swap, say: Callable[[str], None] = print) -> None:
    """Swap roles, backends, settings or the budget of a session that is there: by its controller, or here when none serves."""
    if wanted == swap.Swap():
        return
    if daemon.alive(home):
        roles = {name: str(Path(file).expanduser().resolve()) for name, file in wanted.roles.items()}
        found = _ask(home, "swap", {**asdict(wanted), "roles": roles})
        changed = str(found.get("changed", ""))
        for line in found.get("words", []):
            say(clean(line, 600))
    else:
        ledger = Ledger(home.ledger)
        try:
            settings, who = designs.read(home), asker()
            seat = next((seat for seat in settings.design.seats(home) if seat.agent == who), None)
            people.check(seat, bool(taker(ledger, who)), "swap")
            after, names = swap.apply(home, settings, wanted, ledger, who, say)
            changed = swap.told(after.design, names)
        finally:
            ledger.close()
    say(f"swapped: {changed}" if changed else "nothing to swap: it is so already")
