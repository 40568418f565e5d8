"""An org design as typed objects: who works in the organisation, on which backend, and by which rules; and its hash.

`DesignFile` is what people write (`org/designs/*.yaml`); `load` resolves it for a number of slots to a `Design` with
every agent named. The resolved design carries the content hashes of its roles and skills, so one hash stands for the
whole "org code" and can be recomputed from `.org/org.yaml` alone. Called by `up` and, through `read`, by all commands.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from lab import verdict
from lab.errors import UserError
from lab.files import write_atomic
from lab.home import Home
from lab.records import BANK
from org import role
from org.agents import base

DESIGNS = Path(__file__).resolve().parent / "designs"
NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
"""An agent's name becomes a branch, a folder, a mailbox and a tmux option."""
RESERVED = ("all", "board", "lab", "person", "trunk")
"""No agent's name: everyone, the board's window, the ledger's actors that are no agents, the trunk branch."""
LATER = ("claude", "codex", "chat")
"""Backends that people will ask for and this version does not have."""

Policy = Literal["auto", "chief"]
M = TypeVar("M", bound="Model")


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Restart(Model):
    """How a dead agent is brought back: after `first_seconds`, doubling each time up to `longest_seconds`."""

    first_seconds: float = Field(default=1.0, gt=0)
    """Wait before the first restart, in seconds."""
    longest_seconds: float = Field(default=60.0, gt=0)
    """No wait is longer than this, in seconds."""
    attempts: int = Field(default=5, ge=0)
    """Restarts in a row after which the organisation gives the agent up and says so."""
    well_seconds: float = Field(default=120.0, gt=0)
    """An agent that lived this long counts as well again: its next death is a first one. In seconds."""

    def wait(self, restarts: int) -> float | None:
        """Seconds to wait before the next restart after `restarts` of them in a row; None: give the agent up."""
        if restarts >= self.attempts:
            return None
        return float(min(self.longest_seconds, self.first_seconds * 2 ** min(restarts, 30)))


class Process(Model):
    """The rules of work that a design may turn."""

    queue_ahead: int = Field(default=2, ge=1, le=20)
    """Runs that one agent may have waiting or running at a time."""
    bank: int = Field(default=BANK, ge=2, le=64)
    """Baseline runs of each new trunk commit, before anything is compared with it."""
    confirm_stages: list[int] = Field(default=list(verdict.STAGES), min_length=1)
    """Fresh-seed runs of a candidate in all after each stage of its confirmation; a clear stage ends it early. The error
    rates of a verdict are simulated for the default stages and bank; fewer runs find less."""
    audit_every: int = Field(default=0, ge=0)
    """Promotions after which each of trunk's ideas is left out in turn, to see whether it still helps; 0: only when ordered."""
    restart: Restart = Restart()
    """Back-off when an agent's process dies."""

    @field_validator("confirm_stages")
    @classmethod
    def _rising(cls, stages: list[int]) -> list[int]:
        if stages[0] < 2 or stages[-1] > 64 or any(b <= a for a, b in itertools.pairwise(stages)):
            raise ValueError("must be numbers of runs that rise, from 2 to 64 at most: two seeds are the least that can be judged")
        return stages


class Group(Model):
    """Agents of one kind, as written in a design file."""

    role: str
    """Name of the role file: `roles/<role>.md`."""
    count: int | Literal["slots"] = 1
    """How many; `slots`: one for each slot that is left."""
    backend: str = "sweep"
    """What the agents are: `sweep` (an optimiser) or `shell` (a person, or anything else that types)."""
    names: list[str] | None = None
    """Their names; otherwise chief, r1, r2, ..."""
    slot: bool = True
    """Does each hold a slot of its own to run experiments on first?"""
    settings: dict[str, JsonValue] = {}
    """Given to the backend as it is."""

    @field_validator("count", mode="before")
    @classmethod
    def _some(cls, count: object) -> object:
        if count != "slots" and not (type(count) is int and 1 <= count <= 64):
            raise ValueError("must be a number from 1 to 64, or `slots`")
        return count

    @field_validator("names")
    @classmethod
    def _names(cls, names: list[str] | None) -> list[str] | None:
        for name in names or []:
            _agent_name(name)
        return names

    @model_validator(mode="after")
    def _fits(self) -> Group:
        if self.count == "slots" and not self.slot:
            raise ValueError("`count: slots` needs `slot: true`")
        if self.names is not None and isinstance(self.count, int) and len(self.names) != self.count:
            raise ValueError(f"{len(self.names)} names for {self.count} agents")
        return self


class DesignFile(Model):
    """An org design as people write it."""

    name: str = Field(pattern=f"^{NAME.pattern}$")
    """What it is called on the command line and in comparisons."""
    about: str
    """What this organisation tests, in a sentence or two."""
    agents: list[Group] = Field(min_length=1)
    """Who works here."""
    promotion: Policy = "auto"
    """Who brings a confirmed improvement to trunk: the laboratory at once, or the chief."""
    confirmation: Policy = "auto"
    """Who orders the confirmation of a nominated experiment: the laboratory at once, or the chief."""
    process: Process = Process()
    """The rules of work."""


class Agent(Model):
    """One agent of a resolved design."""

    name: str
    """Its name everywhere: branch, mailbox, pane, ledger."""
    role: str
    """Name of its role file."""
    backend: str
    """What it is."""
    slot: int | None
    """The index of its home slot, from 0; None: it has none."""
    settings: dict[str, JsonValue] = {}
    """Given to the backend as it is."""


class Design(Model):
    """An org design resolved for one machine: every agent named, every rule set."""

    name: str
    """The design's name."""
    about: str
    """What this organisation tests."""
    agents: list[Agent]
    """Who works here; chief first, if there is one."""
    promotion: Policy
    """Who brings a confirmed improvement to trunk."""
    confirmation: Policy
    """Who orders the confirmation of a nominated experiment."""
    process: Process
    """The rules of work."""
    code: dict[str, str]
    """SHA-256 of each role and skill file that the agents use, by path."""

    @property
    def chief(self) -> str | None:
        """The chief's name; None in a design without one."""
        return next((agent.name for agent in self.agents if agent.role == role.CHIEF), None)

    @property
    def names(self) -> list[str]:
        return [agent.name for agent in self.agents]

    def seats(self, home: Home) -> list[base.Seat]:
        """Each agent in its place in a session, in the design's order."""
        return [base.Seat(home, one.name, one.role, one.backend, one.slot, dict(one.settings)) for one in self.agents]

    def hash(self) -> str:
        """SHA-256 (hex) of the org code: this design with the content hashes of its roles and skills."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Session(Model):
    """What `.org/org.yaml` holds: one life of one org on one task."""

    name: str
    """The session's name, also of its tmux socket."""
    task: str
    """Name or folder of the task."""
    scale: str
    """The size at which the task is run."""
    slots: int = Field(ge=1)
    """Slots that the session was set up for."""
    created: float
    """Seconds since the epoch."""
    hash: str
    """`Design.hash()` of the design below."""
    design: Design
    """The resolved design."""

    @classmethod
    def begin(cls, design: Design, name: str, task: str, scale: str, slots: int) -> Session:
        """A session that begins now."""
        return cls(
            name=name, task=task, scale=scale, slots=slots, created=time.time(), hash=design.hash(), design=design
        )


def write(home: Home, session: Session) -> None:
    """Write `.org/org.yaml`, atomically. `read` gives back an equal object."""
    # Plain ASCII: PyYAML writes some Unicode line breaks (U+0085) in a way that it does not read back.
    text = yaml.safe_dump(session.model_dump(mode="json"), sort_keys=False, width=120)
    write_atomic(home.settings, text)


def read(home: Home) -> Session:
    """The session of a home. Raises UserError when the file is missing, malformed, or changed since it was written."""
    session = _validated(Session, home.settings)
    if session.hash != session.design.hash():
        raise UserError(
            f"{home.settings}: the design was changed after `up` (its hash is no longer {session.hash[:12]}): "
            "undo the change; another design needs a session of its own"
        )
    return session


def shipped() -> list[str]:
    """Names of the designs that come with orgctl."""
    return sorted(path.stem for path in DESIGNS.glob("*.yaml"))


def load(
    name_or_path: str, slots: int, backend: str | None = None, roles: dict[str, Path] | None = None
) -> Design:
    """Read, validate and resolve a design by shipped name or by path of a YAML file.

    `slots`: how many the machine offers. `backend`: takes the place of every agent's backend, except that a human stays
    on `shell`. `roles`: role name -> file (default: the shipped ones). Raises UserError in one line.
    """
    path = _find(name_or_path)
    written = _validated(DesignFile, path)
    known = roles if roles is not None else role.find()
    code: dict[str, str] = {}
    if backend is not None and (problem := _backend_problem(backend)):
        raise UserError(f"--backend: {problem}")
    for number, group in enumerate(written.agents):
        if group.role not in known:
            where, choice = _at(path, "agents", number, "role"), ", ".join(sorted(known))
            raise UserError(f"{where}: unknown role {group.role!r}: choose one of {choice}")
        human = group.role == role.HUMAN
        if (human or backend is None) and (problem := _backend_problem(group.backend)):
            raise UserError(f"{_at(path, 'agents', number, 'backend')}: {problem}")
        if human and group.backend != "shell":
            raise UserError(f"{_at(path, 'agents', number, 'backend')}: a human sits at a shell: write backend: shell")
        code.update(role.load(group.role, known[group.role]).hashes())
    agents = _seated(written, path, slots, backend)
    design = Design(
        agents=agents, code=dict(sorted(code.items())),
        **written.model_dump(include={"name", "about", "promotion", "confirmation"}), process=written.process,
    )
    for field in ("promotion", "confirmation"):
        if getattr(design, field) == "chief" and design.chief is None:
            raise UserError(f"{_at(path, field)}: `chief`, but no agent is a {role.CHIEF}: add one, or write `auto`")
    return design


def _seated(written: DesignFile, path: Path, slots: int, backend: str | None) -> list[Agent]:
    """Agents with names and home slots, the chief first."""
    fixed = sum(group.count for group in written.agents if group.slot and isinstance(group.count, int))
    open_groups = sum(group.count == "slots" for group in written.agents)
    if open_groups > 1:
        raise UserError(f"{path}: agents: only one entry may say `count: slots`")
    if fixed + open_groups > slots:
        raise UserError(
            f"{path}: agents: {fixed + open_groups} agents want a slot of their own and there are {slots}: "
            "lower `count`, or write `count: slots`"
        )
    agents: list[Agent] = []
    taken: dict[str, int] = {}
    for number, group in enumerate(written.agents):
        count = group.count if isinstance(group.count, int) else slots - fixed
        if group.names is not None and len(group.names) != count:
            raise UserError(f"{path}: agents.{number}.names: {len(group.names)} names for {count} agents")
        for index in range(count):
            name = group.names[index] if group.names is not None else _given_name(group.role, taken)
            home_slot = sum(agent.slot is not None for agent in agents) if group.slot else None
            chosen = backend if backend is not None and group.role != role.HUMAN else group.backend
            agents.append(Agent(name=name, role=group.role, backend=chosen, slot=home_slot, settings=group.settings))
    names = [agent.name for agent in agents]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{path}: agents: two agents are called {twice!r}: names must differ")
    if sum(agent.role == role.CHIEF for agent in agents) > 1:
        raise UserError(f"{path}: agents: two chiefs: only one agent may have the role {role.CHIEF}")
    return sorted(agents, key=lambda agent: agent.role != role.CHIEF)


def _given_name(role_name: str, taken: dict[str, int]) -> str:
    """chief, r1, r2, ...; of other roles human, human2, ..."""
    taken[role_name] = number = taken.get(role_name, 0) + 1
    if role_name == "researcher":
        return f"r{number}"
    stem = "chief" if role_name == role.CHIEF else role_name[:20]
    return stem if number == 1 else f"{stem}{number}"


def check_name(name: str) -> str:
    """The name, if a session or an agent can bear it. Raises ValueError saying what is wrong with it."""
    if not NAME.fullmatch(name):
        raise ValueError(f"bad name {name!r}: 1 to 24 small letters, digits and dashes, a letter first")
    return name


def _agent_name(name: str) -> str:
    if check_name(name) in RESERVED:
        raise ValueError(f"{name!r} is a reserved name: choose another")
    return name


def _backend_problem(backend: str) -> str | None:
    if backend in base.BACKENDS:
        return None
    later = ", ".join(name for name in LATER if name not in base.BACKENDS)
    return f"unknown backend {backend!r}: choose {' or '.join(base.BACKENDS)} ({later} are not part of this version)"


def _find(name_or_path: str) -> Path:
    shipped_file = DESIGNS / f"{name_or_path}.yaml"
    if NAME.fullmatch(name_or_path) and shipped_file.is_file():
        return shipped_file
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    raise UserError(f"unknown design {name_or_path!r}: not one of {', '.join(shipped())}, and no such YAML file")


def _validated(model: type[M], path: Path) -> M:
    """The file as that model. Raises UserError with file, line and field."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path}: {line}malformed YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be a mapping of fields, as in {DESIGNS / 'chief.yaml'}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        plain = {"missing": "is missing", "extra_forbidden": "no such field"}
        message = plain.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise UserError(f"{_at(path, *first['loc'])}: {message}") from error


def _at(path: Path, *location: int | str) -> str:
    """File, line and field of a place in a YAML file that parsed."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return ": ".join([f"{path}: line {_line(node, location)}", *([".".join(map(str, location))] if location else [])])


def _line(node: Any, location: tuple[int | str, ...]) -> int:
    """Line (from 1) of a field; where it is missing, of the mapping that lacks it."""
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)
