"""The home of one session: a research repository and its `.org/` folder, and where each kind of fact lives in it.

Every command starts here: `Home.find()` looks at ORGCTL_HOME, else walks up from the working directory to `.org/org.yaml`. A repository
may hold several programs of research, each a session with a ledger and a trunk of its own: `main` lives in `.org` itself, any other in
`.org/programs/<name>`. ORGCTL_PROGRAM names the one that is meant, else the folder that the working directory lies in.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lab.errors import UserError

MAIN = "main"
"""The program that is meant where none is named."""
PROGRAM = re.compile(r"[a-z][a-z0-9-]{0,15}")
"""A program's name becomes a folder, a part of branches and refs, and the end of a tmux session's name."""
RESERVED = ("audit", "exp", "lost", "trunk")
"""Parts of git refs that `main` uses: no program's name."""


@dataclass(frozen=True)
class Home:
    """Paths of one session. `root` is the research repository; everything else lies under `org`."""

    root: Path
    program: str = MAIN

    @property
    def org(self) -> Path:
        return self.root / ".org" if self.program == MAIN else self.root / ".org" / "programs" / self.program

    @property
    def settings(self) -> Path:
        """The resolved design of this session (YAML) and its hash."""
        return self.org / "org.yaml"

    @property
    def ledger(self) -> Path:
        return self.org / "ledger.db"

    @property
    def requests(self) -> Path:
        """Requests to the controller; the answered ones move to `requests/done`."""
        return self.org / "requests"

    @property
    def runs(self) -> Path:
        return self.org / "runs"

    @property
    def worktrees(self) -> Path:
        return self.org / "worktrees"

    @property
    def comms(self) -> Path:
        return self.org / "comms"

    @property
    def agents(self) -> Path:
        return self.org / "agents"

    @property
    def locks(self) -> Path:
        return self.org / "locks"

    @property
    def data(self) -> Path:
        """What the task's `prepare` command built: corpus, tokenizer, manifest.json with their hashes."""
        return self.org / "data"

    @property
    def protected(self) -> Path:
        """The protected files as pinned at `up`; laid over every checkout, and alone on the scorer's import path."""
        return self.org / "protected"

    @property
    def task(self) -> Path:
        """The resolved task with the scale in use, as JSON (`tasks.spec.Task`)."""
        return self.org / "task.json"

    @property
    def next_task(self) -> Path:
        """The same task at the next scale of its ladder; missing at the last."""
        return self.org / "next.json"

    @property
    def next_data(self) -> Path:
        """What `prepare` built for the next scale, once something is carried there."""
        return self.org / "next-data"

    @property
    def controller(self) -> Path:
        """{pid, started, heartbeat} of the controller that serves this home."""
        return self.org / "controller.json"

    @property
    def until(self) -> Path:
        """{time} at which the controller stops by itself (`up --for`), in seconds since the epoch; usually missing."""
        return self.org / "until.json"

    @property
    def command(self) -> str:
        """How a person in the repository calls this session: `orgctl`, with the program's name where it is not main."""
        return "orgctl" if self.program == MAIN else f"orgctl --program {self.program}"

    @property
    def report(self) -> Path:
        return self.root / "report" if self.program == MAIN else self.root / "report" / self.program

    def others(self) -> list[Home]:
        """The other programs of this repository."""
        names = [MAIN, *sorted(folder.name for folder in (self.root / ".org" / "programs").glob("*"))]
        homes = [Home(self.root, name) for name in names if name != self.program]
        return [home for home in homes if home.settings.is_file()]

    def make(self) -> None:
        """Create the folders (mode 0700 on `.org`). Doing it twice is doing it once."""
        (self.root / ".org").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.org.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (
            self.requests / "done",
            self.runs,
            self.worktrees,
            self.comms,
            self.agents,
            self.locks,
            self.data,
        ):
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def find(cls, start: Path | None = None) -> Home:
        """The home of the session that `start` (default: the working directory) lies in.

        Raises UserError when ORGCTL_HOME names no session, or none is found on the way up, or the program is not there.
        """
        named, here = os.environ.get("ORGCTL_HOME"), (start or Path.cwd()).resolve()
        program = meant(here)
        if named:
            home = cls(Path(named).resolve(), program)
            if not home.settings.is_file():
                said = named if program == MAIN else f"{named} with ORGCTL_PROGRAM={program}"
                where = home.settings.relative_to(home.root)
                raise UserError(f"ORGCTL_HOME={said} holds no {where}: unset it, or run `orgctl up` there first")
            return home
        for folder in (here, *here.parents):
            home = cls(folder, program)
            if home.settings.is_file():
                return home
            if others := home.others():
                names = ", ".join(other.program for other in others)
                raise UserError(f"{folder} holds no program {program!r}: choose one of {names} (`orgctl --program NAME ...`)")
        raise UserError(f"no organisation found in {here} or above it: run `orgctl up` in an empty directory first")


def check_program(name: str) -> str:
    """The name, if a program can bear it. Raises UserError."""
    if not PROGRAM.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"--program {name[:40]!r}: write 1 to 16 small letters, digits and dashes, a letter first, and none of {', '.join(RESERVED)}"
        )
    return name


def meant(here: Path) -> str:
    """The program that is meant: $ORGCTL_PROGRAM, else the one whose folder `here` lies in, else main. Raises UserError."""
    if named := os.environ.get("ORGCTL_PROGRAM"):
        return check_program(named)
    parts = here.parts
    inside = [parts[i + 2] for i in range(len(parts) - 2) if parts[i : i + 2] == (".org", "programs")]
    return check_program(inside[0]) if inside else MAIN
