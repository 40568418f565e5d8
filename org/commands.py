"""The organisation's commands: up, init, status, attach, logs, takeover, release, restart, down, doctor. Mounted by `orgctl.py`.

Commands read facts directly and ask the controller for action by a request file; Ctrl-C and detach only stop watching.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lab.answer import as_data
from lab.client import me
from lab.errors import UserError
from lab.files import write_json
from lab.home import Home
from lab.ledger import Ledger
from lab.records import View
from lab.requests import ask, wait_answer
from lab.text import clean
from org import daemon, session
from org import design as designs
from org.agents import base
from org.events import describe
from org.grid import Grid
from tasks.spec import Task

app = typer.Typer(add_completion=False)

AgentName = Annotated[str, typer.Argument(help="Name of an agent, such as r1 (`orgctl status` lists them).")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DesignOption = Annotated[
    str | None, typer.Option(help="Org design: a shipped name (chief, solo) or a YAML file. Default: chief.")
]
TaskOption = Annotated[
    str | None, typer.Option(help="Task: a shipped name (nanochat) or a folder with a task.yaml. Default: nanochat.")
]
ScaleOption = Annotated[str | None, typer.Option(help="Scale of the task. Default: its first (nanochat: cpu).")]
NameOption = Annotated[
    str | None, typer.Option(help="Name of the session and its tmux socket. Default: the directory's name.")
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        help="Backend for every agent that is no human: sweep (an optimiser; needs no key, spends no money), shell, or auto (the best "
        "that can start here; says which). Default: as the design says."
    ),
]
SlotsOption = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Slots (CPU shares or GPUs) to use. Default: all GPUs, or 2 to 4 CPU cores."),
]
RoleOption = Annotated[
    list[str] | None,
    typer.Option("--role", help="Use another prompt for a role: NAME=FILE.md. May be given several times."),
]


def _wish(
    design: str | None,
    task: str | None,
    scale: str | None,
    name: str | None,
    backend: str | None,
    slots: int | None,
    role: list[str] | None,
) -> session.Wish:
    roles = None
    if role:
        from org import role as role_files

        roles = role_files.find()
        for item in role:
            key, found, file = item.partition("=")
            if not found or not Path(file).is_file():
                raise UserError(f"--role {item}: write NAME=FILE.md, and the file must exist")
            roles[key] = Path(file).resolve()
    if backend == "auto":
        backend = base.choose()
        _say(f"backend auto: {backend} (the best that can start here; spends nobody's money)")
    return session.Wish(design, task, scale, name, backend, slots, roles)


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(help="An empty directory (made if missing), or a clean clone of a research repository.")
    ],
    design: DesignOption = None,
    task: TaskOption = None,
    scale: ScaleOption = None,
    name: NameOption = None,
    backend: BackendOption = None,
    slots: SlotsOption = None,
    role: RoleOption = None,
) -> None:
    """Make a research repository in DIRECTORY and prepare its data, without starting anybody."""
    home = _home_for(_root(directory), _wish(design, task, scale, name, backend, slots, role))
    print(f"ready: {home.root} (branch org/trunk). Next: cd {home.root} && orgctl up")


def _home_for(root: Path, wish: session.Wish) -> Home:
    home = session.reopen(root, wish) if session.exists(root) else session.found(root, wish)
    session.ready_data(home, _say)
    return home


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@app.command()
def up(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Where the research repository is or shall be. Default: the one around the working directory, else that."),
    ] = None,
    design: DesignOption = None,
    task: TaskOption = None,
    scale: ScaleOption = None,
    name: NameOption = None,
    backend: BackendOption = None,
    slots: SlotsOption = None,
    role: RoleOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; the organisation works on.")] = False,
    for_: Annotated[
        str | None,
        typer.Option("--for", help="Stop by itself after this time (90s, 10m, 2h; 90 means minutes), print the report and exit."),
    ] = None,
) -> None:
    """Start the organisation, or start what is missing of it; touch nothing that is well.

    On a terminal it attaches to the tmux grid (window 0 is the board). Without a terminal it stays in the foreground and prints a
    line for every event. Ctrl-C and detaching (Ctrl-b d) only stop watching: `orgctl down` stops the organisation.
    """
    seconds = _seconds(for_) if for_ else None
    wish = _wish(design, task, scale, name, backend, slots, role)
    root = _root(directory)
    grid = Grid(session.name_for(root, wish), Home(root))
    grid.check_free()
    home = _home_for(root, wish)
    settings = designs.read(home)
    began = time.monotonic()
    size = shutil.get_terminal_size((220, 50)) if sys.stdout.isatty() else os.terminal_size((220, 50))
    if daemon.alive(home):
        _say(f"{settings.name} is up already ({home.root})")
        grid.relayout(size.columns, size.lines)
    else:
        home.until.unlink(missing_ok=True)
        daemon.start(home, (size.columns, size.lines))
        agents = ", ".join(agent.name for agent in settings.design.agents)
        took = time.monotonic() - began
        _say(f"{settings.name} is up in {took:.1f} s: design {settings.design.name}, {agents}, {settings.slots} slots")
    if seconds:
        write_json(home.until, {"time": time.time() + seconds})
    if any(base.load(agent.backend).spends_money for agent in settings.design.agents):
        _say("some of these agents spend money")
    if detach:
        print(f"attach: cd {home.root} && orgctl attach    stop: orgctl down")
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        _attach(grid, None)
        if not seconds:
            gone = daemon.alive(home) is None
            print(f"{settings.name} is down" if gone else f"detached; {settings.name} works on. Stop it: orgctl down    (in {home.root})")
            return
    _watch(home)
    if seconds:
        _finish(home)


def _root(directory: Path | None) -> Path:
    """The folder that is meant: as given, else the organisation around the working directory, else the working directory."""
    if directory is None:
        with contextlib.suppress(UserError):
            return Home.find().root
    root = (directory or Path.cwd()).expanduser().resolve()
    if ".org" in root.parts:
        raise UserError(f"{root} lies inside an organisation's own .org folder: give another directory")
    return root


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or float(found[1]) <= 0:
        raise UserError(f"--for {text}: write a time such as 90s, 10m or 2h")
    return float(found[1]) * {"": 60, "s": 1, "m": 60, "h": 3600}[found[2]]


def _attach(grid: Grid, agent: str | None) -> None:
    """Show the grid on this terminal until the person detaches or the organisation stops."""
    status = subprocess.run(grid.attach_argv(agent)).returncode
    if status != 0 and grid.running():
        raise UserError(f"tmux could not attach (exit {status}): is TERM={os.environ.get('TERM', '')} right for this terminal?")


def _watch(home: Home) -> None:
    """Print a line per event until the organisation stops, or Ctrl-C. A controller that dies before `--for` is over is replaced."""
    view = View(Ledger(home.ledger))
    view.refresh()
    unseen = view.ledger.facts(after=max(0, view.state.last - 5))
    try:
        while True:
            for fact in unseen:
                line = describe(fact, view.state)
                if line:
                    print(f"{time.strftime('%H:%M:%S', time.localtime(fact.time))} {line}", flush=True)
            alive = daemon.alive(home)
            unseen = view.refresh()
            if alive is None and not unseen:
                if not home.until.exists():
                    return
                _say("the controller is gone before its time: starts it again")
                daemon.start(home, (220, 50))
            time.sleep(0.5)
    except KeyboardInterrupt:
        print(f"\nno longer watching; the organisation works on. Stop it: orgctl down    (in {home.root})")
        raise typer.Exit(0) from None


def _finish(home: Home) -> None:
    """The time is over and the controller gone: stop what it may have left, write the report, print it."""
    from lab.report import write_report

    daemon.stop(home, "person", keep_runs=False)
    ledger = Ledger(home.ledger)
    view = View(ledger)
    view.refresh()
    write_report(home, view.state, Task.model_validate_json(home.task.read_text()))
    print((home.report / "report.md").read_text())
    print(f"report: {home.report}/report.md, progress.png, results.tsv")


@app.command()
def down(
    keep_runs: Annotated[
        bool,
        typer.Option("--keep-runs", help="Let the runs that are going on finish; the next `up` takes their results."),
    ] = False,
) -> None:
    """Stop agents and runs, and keep every fact. `orgctl up` goes on where this stopped."""
    home = Home.find()
    daemon.stop(home, me(home), keep_runs)
    print(f"{designs.read(home).name} is down; nothing is lost. Go on: orgctl up    look back: orgctl report")


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """What is going on: standing, slots, agents, experiments."""
    from org.status import render, snapshot

    home = Home.find()
    grid = Grid(designs.read(home).name, home)
    found = snapshot(home, grid)
    if not as_data(as_json, found):
        render(found)


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
        raise UserError(f"{settings.name} is not up: run `orgctl up` in {home.root}")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("attach needs a terminal: use `orgctl status` or `orgctl logs AGENT` instead")
    size = shutil.get_terminal_size()
    grid.relayout(size.columns, size.lines)
    _attach(grid, agent)


@app.command()
def logs(
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="How many events from the end.")] = 40,
    screen: Annotated[bool, typer.Option("--screen", help="Print what the agent's pane shows now instead.")] = False,
) -> None:
    """What an agent did: its events, or its screen."""
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
    events = base.read_events(home, agent, lines)
    for event in events:
        print(
            f"{time.strftime('%H:%M:%S', time.localtime(event['time']))} {clean(event['state'])}: {clean(str(event.get('text', '')))}"
        )
    if not events:
        print(f"{agent} has left no events yet")


def _ask_person(kind: str, agent: str) -> None:
    home = Home.find()
    identity = ask(home, kind, me(home), {"agent": agent})
    found = wait_answer(home, identity, 10)
    if found is None:
        raise UserError("no controller answers: the request waits until the next `orgctl up`")
    if not found.get("ok"):
        raise UserError(str(found.get("error")))


@app.command()
def takeover(agent: AgentName) -> None:
    """Record that a person has an agent's pane from now on; `release` gives it back."""
    _ask_person("takeover", agent)
    print(f"{agent} is yours: orgctl attach {agent}. Give it back: orgctl release {agent}")


@app.command()
def release(agent: AgentName) -> None:
    """Give a pane that was taken over back to its agent."""
    _ask_person("release", agent)
    print(f"{agent} has its pane back")


@app.command()
def restart(agent: AgentName) -> None:
    """Start an agent's process anew (also one that was given up)."""
    _ask_person("restart", agent)
    print(f"{agent} was restarted")


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Check tmux, git, torch, GPUs, agent CLIs, credentials (present or not, never printed) and disk, and what each missing thing costs."""
    from org import doctor as examination

    place = Path.cwd()
    with contextlib.suppress(UserError):
        place = Home.find().root
    found = examination.checks(place)
    if as_json:
        print(examination.to_json(found))
    else:
        examination.show(found)
    if not examination.required_ok(found):
        raise typer.Exit(2)
