"""The organisation's commands: up, init, status, down, doctor; and those of seats, `design` and `programs`, from files of their own.
Mounted by `orgctl.py`.

Commands read facts directly and ask the controller for action by a request file; Ctrl-C and detach only stop watching.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lab.answer import as_data
from lab.errors import UserError
from lab.files import remove, write_json
from lab.home import Home, check_program, meant
from lab.ledger import Ledger
from lab.state import View
from org import daemon, design_commands, meeting, program_commands, seat_commands, session, swap
from org import design as designs
from org.agents import base
from org.events import describe
from org.grid import Grid
from tasks.spec import Task
from worktrees.repo import trunk_branch

app = typer.Typer(add_completion=False)
app.add_typer(design_commands.design, name="design")
app.add_typer(program_commands.app)
app.add_typer(seat_commands.app)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DesignOption = Annotated[
    str | None, typer.Option(help=f"Org design: a shipped name ({', '.join(designs.shipped())}) or a YAML file. Default: chief.")
]
TaskOption = Annotated[
    str | None, typer.Option(help="Task: a shipped name (nanochat) or a folder with a task.yaml. Default: nanochat.")
]
ScaleOption = Annotated[str | None, typer.Option(help="Scale of the task. Default: its first (nanochat: cpu).")]
NameOption = Annotated[
    str | None, typer.Option(help="Name of the session and its tmux socket. Default: the directory's name.")
]
BackendOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Backend for every agent that is no human: sweep (an optimiser; needs no key, spends no money), claude, codex, chat, shell, "
        "or auto (the best that can start here; says which). NAME=BACKEND for one agent or role (chief=claude); may be given several "
        "times. Default: as the design says. In a session that is there it swaps."
    ),
]
SlotsOption = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Slots (CPU shares or GPUs) to use. Default: all GPUs, or 2 to 4 CPU cores."),
]
ProgramOption = Annotated[
    str | None,
    typer.Option(
        help="Program of research: one with a trunk, banks and a ledger of its own, beside others of this repository. Default: main."
    ),
]
RoleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        help="Use another prompt: NAME=FILE.md for a role, or, in a session that is there, for an agent. May be given several times.",
    ),
]

LibraryOption = Annotated[
    list[Path] | None,
    typer.Option("--library", help="A folder of papers (text, PDF) or Markdown for `orgctl search` to read. May be given several times."),
]


def _wish(
    program: str | None,
    design: str | None,
    task: str | None,
    scale: str | None,
    name: str | None,
    backend: list[str] | None,
    slots: int | None,
    role: list[str] | None,
    library: list[Path] | None,
) -> session.Wish:
    roles = swap.pairs(role, "--role")
    for whose, file in roles.items():
        if not Path(file).expanduser().is_file():
            raise UserError(f"--role {whose}={file}: there is no such file")
    plain = [item for item in backend or [] if "=" not in item]
    if len(plain) > 1:
        raise UserError(f"--backend {' --backend '.join(plain)}: name one backend for all, or write NAME=BACKEND")
    one = plain[0] if plain else None
    others = swap.pairs([item for item in backend or [] if "=" in item], "--backend")
    return session.Wish(design, task, scale, name, one, slots, roles, others, library, _program(program))


def _program(name: str | None) -> str:
    """The program that is meant, by name, environment or working directory."""
    return check_program(name) if name else meant(Path.cwd().resolve())


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
    library: LibraryOption = None,
    program: ProgramOption = None,
) -> None:
    """Make a research repository in DIRECTORY and prepare its data, without starting anybody."""
    home = _home_for(_root(directory), _wish(program, design, task, scale, name, backend, slots, role, library))
    print(f"ready: {home.root} (branch {trunk_branch(home.program)}). Next: cd {home.root} && {home.command} up")


def _home_for(root: Path, wish: session.Wish) -> Home:
    if session.exists(root, wish.program):
        home = session.reopen(root, wish)
        seat_commands.swapped(home, wish.swap(designs.read(home)), _say)
    else:
        home = session.found(root, wish, _say)
    session.ready_data(home, _say, serving=daemon.alive(home) is not None)
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
    library: LibraryOption = None,
    program: ProgramOption = None,
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
    wish = _wish(program, design, task, scale, name, backend, slots, role, library)
    root = _root(directory)
    grid = Grid(session.name_for(root, wish), Home(root, wish.program))
    grid.check_free()
    home = _home_for(root, wish)
    settings = designs.read(home)
    began = time.monotonic()
    size = shutil.get_terminal_size((220, 50)) if sys.stdout.isatty() else os.terminal_size((220, 50))
    if daemon.alive(home):
        _say(f"{settings.name} is up already ({home.root})")
        grid.relayout(size.columns, size.lines)
    else:
        remove(home.until, home.org)
        daemon.start(home, (size.columns, size.lines))
        agents = ", ".join(agent.name for agent in settings.design.agents)
        took = time.monotonic() - began
        _say(f"{settings.name} is up in {took:.1f} s: design {settings.design.name}, {agents}, {settings.slots} slots")
    if seconds:
        write_json(home.until, {"time": time.time() + seconds}, home.org)
    if any(base.load(agent.backend).spends_money for agent in settings.design.agents):
        _say("some of these agents spend money")
    if detach:
        print(f"attach: cd {home.root} && {home.command} attach    stop: {home.command} down")
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        seat_commands.show(grid, None)
        if not seconds:
            gone = daemon.alive(home) is None
            works = f"detached; {settings.name} works on. Stop it: {home.command} down    (in {home.root})"
            print(f"{settings.name} is down" if gone else works)
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
    try:
        return meeting.seconds(text)
    except ValueError as error:
        raise UserError(f"--for {text}: {error}") from error


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
        print(f"\nno longer watching; the organisation works on. Stop it: {home.command} down    (in {home.root})")
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
    daemon.stop(home, seat_commands.asker(), keep_runs)
    print(f"{designs.read(home).name} is down; nothing is lost. Go on: {home.command} up    look back: {home.command} report")


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """What is going on: standing, slots, agents, experiments."""
    from org.printed import render
    from org.status import snapshot

    home = Home.find()
    grid = Grid(designs.read(home).name, home)
    found = snapshot(home, grid)
    if not as_data(as_json, found):
        render(found)


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
