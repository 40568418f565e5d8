"""The protocol that every backend fulfils, and the seat an agent sits in.

A backend answers: what to start in the pane, whether it can start here, what its own records say of its state and cost, and
whether a wake line may be typed into its pane. What an agent says of itself is in its events (`org.agents.event`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lab.home import Home

SHIPPED = ("claude", "codex", "chat", "sweep", "shell")
"""Modules of this package that hold a `BACKEND`."""
ENTRY_POINTS = "orgctl.backends"
"""Group under which another package offers a backend: name -> an object that fulfils `Backend`."""
ESCAPES = re.compile(r"\x1b(?:\[[0-9;:?]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9])")
OF_ONE = ("model", "command", "flags", "base_url", "provider", "max_tokens", "context_tokens")
"""Settings that name something of one backend or its vendor."""
AUTO = ("claude", "codex", "chat", "sweep")
"""What `--backend auto` tries, best first."""


@dataclass(frozen=True)
class Seat:
    """One agent's place: who, where, on which slot. `settings` come from the design and are the backend's own."""

    home: Home
    agent: str
    role: str
    backend: str
    slot: int | None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def worktree(self) -> Path:
        return self.home.worktrees / self.agent

    @property
    def folder(self) -> Path:
        """Everything about this agent that is no experiment: events, settings of its CLI, transcript, cost."""
        return self.home.agents / self.agent

    @property
    def cwd(self) -> Path:
        """Where it works: its worktree, or the research repository for an agent without a slot."""
        return self.worktree if self.slot is not None else self.home.root

    @property
    def prompt(self) -> Path:
        """All that the agent is told at its start (`org.prompt`), laid down before every launch."""
        return self.folder / "prompt.md"

    @property
    def skills(self) -> Path:
        """A folder with one `<skill>.md` for each skill of its role, laid down before every launch."""
        return self.folder / "skills"


@dataclass(frozen=True)
class Launch:
    """What the pane runs as its own process, in a scrubbed environment to which `env` and `secrets` are added. `secrets` are
    never shown or written down."""

    argv: list[str]
    cwd: Path
    env: dict[str, str]
    secrets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """A state (one of `org.agents.event.STATES`) as a backend's own records tell it. `since`, `until`: seconds since the epoch."""

    state: str
    since: float | None
    text: str
    until: float | None = None
    """When a rate limit ends, where that is known."""


@dataclass(frozen=True)
class Retry:
    """An error of its provider after which an agent that works tries again by itself."""

    error: str
    """As it is shown."""
    attempt: int
    most: int
    """Attempts before it gives up."""
    wait: float | None = None
    """Seconds until it tries again, where that is known."""


@dataclass(frozen=True)
class Cost:
    """What an agent has used in all its lives of this session. `dollars` None: the price is not known."""

    model: str
    input_tokens: int
    """Not from a cache."""
    cached_tokens: int
    """Input read from a cache."""
    written_tokens: int
    """Input written to a cache."""
    output_tokens: int
    dollars: float | None
    part: float = 0.0
    """Dollars of those requests whose price is known, where that of others is not."""

    @property
    def least(self) -> float:
        """Dollars that all of it cost at least."""
        return self.part if self.dollars is None else self.dollars

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.cached_tokens + self.written_tokens + self.output_tokens


class Backend(Protocol):
    """One kind of agent. Inherit from it: what is not overridden is as for an agent that needs nothing."""

    name: str
    spends_money: bool = False
    typed: bool = False
    """May a wake line be typed into its pane? Then its hooks hand over the mail. Otherwise it looks into its mailbox itself."""

    sent_on: bool = False
    """Idle with nothing under way, does it go on only when somebody says so? Then the process does (`org.nudge`)."""

    def missing(self, settings: dict[str, Any]) -> str | None:
        """Why it cannot start on this machine with these settings (one line with the remedy), or None."""
        return None

    def launch(self, seat: Seat) -> Launch:
        """What to start; an earlier conversation is gone on with. Files it needs are written under `seat.folder`, never into
        the worktree."""
        ...

    def told(self, seat: Seat, pid: int) -> Told | None:
        """What its own records say, for the process `pid` in its pane; None: its events are all there is."""
        return None

    def box(self, screen: str) -> str | None:
        """The text that stands in the input box of this screen ("" for an empty one); None when there is no box to type into, as
        with a dialog open. Asked before and after every typed line. `screen` is as captured with its colours, by which a grey
        suggestion in an empty box is told from text; `plain` takes them off."""
        return None

    def retry(self, screen: str) -> Retry | None:
        """The error after which it tries again, as the screen of one that works shows it; None: it shows none. Asked of those that are
        `typed`. It is for what no record tells: a state is read off a screen last."""
        return None

    def cost(self, seat: Seat) -> Cost | None:
        """What it has used so far; None where it uses nothing or nothing is known."""
        return None


def plain(screen: str) -> str:
    """A captured screen without its escape sequences."""
    return ESCAPES.sub("", screen)


def names() -> list[str]:
    """Every backend there is: the shipped ones, then those of other packages."""
    others = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return [*SHIPPED, *sorted(others - set(SHIPPED))]


def load(name: str) -> Backend:
    """The backend of that name. Raises KeyError for an unknown one."""
    if name in SHIPPED:
        backend: Backend = importlib.import_module(f"org.agents.{name}").BACKEND
        return backend
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name == name:
            found: Backend = point.load()
            return found
    raise KeyError(name)


def suiting(settings: dict[str, Any], backend: str, other: str) -> tuple[dict[str, Any], str]:
    """(settings written for one backend, or for any with "auto", as they go with another; in words what does not, "" where all does)."""
    left = [] if backend in ("auto", other) else [key for key in OF_ONE if key in settings]
    kept = {key: value for key, value in settings.items() if key not in left}
    return kept, f"its settings for {backend} do not go with {other} and are left out: {', '.join(left)}" if left else ""


def choose(settings: dict[str, Any], backend: str = "auto") -> tuple[str, str]:
    """(the first of AUTO that can start on this machine with these settings, and the choice in words: which, what it may cost and
    why none of those before it). `backend`: as in `suiting`."""
    passed: list[str] = []
    for name in AUTO:
        why = load(name).missing(suiting(settings, backend, name)[0])
        if why is None:
            break
        passed.append(f"{name}: {why}")
    money = "it may spend money" if load(name).spends_money else "spends nobody's money"
    return name, f"{name}, the best that can start here; {money}" + (f" ({'; '.join(passed)})" if passed else "")


def path() -> str:
    """PATH that starts with the folder of this interpreter, so that the `orgctl` an agent calls is the one that runs it."""
    here = str(Path(sys.executable).parent)
    others = (part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part and part != here)
    return os.pathsep.join([here, *others])


def seat_env(seat: Seat) -> dict[str, str]:
    """What every agent's process gets: where `orgctl` is, who it is and where its organisation lives."""
    return {
        "PATH": path(),
        "ORGCTL_HOME": str(seat.home.root),
        "ORGCTL_PROGRAM": seat.home.program,
        "ORGCTL_AGENT": seat.agent,
        "ORGCTL_ROLE": seat.role,
        "ORGCTL_SLOT": "" if seat.slot is None else str(seat.slot),
    }
