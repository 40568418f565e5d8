"""An org design as typed objects: who works in the organisation, on which backend, and by which rules; and its hash.

`DesignFile` is what people write (`org/designs/*.yaml`); `load` resolves it for a number of slots to a `Design` with
every agent named. The resolved design carries the content hashes of its roles and skills, so one hash stands for the
whole "org code" and can be recomputed from `.org/org.yaml` alone. Called by `up` and, through `read`, by all commands.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from lab.errors import UserError
from lab.files import write_atomic
from lab.home import Home
from lab.names import NAME, RESERVED
from org import reviewers, role
from org.agents import base
from org.process import Process
from org.written import Model, at, complaints, mapping, validated

DESIGNS = Path(__file__).resolve().parent / "designs"
EXAMPLE = DESIGNS / "chief.yaml"

Confirmation = Literal["auto", "chief"]
Promotion = Literal["auto", "chief", "skeptic", "partner"]


class Group(Model):
    """Agents of one kind, as written in a design file."""

    role: str
    """Name of the role file: `roles/<role>.md`."""
    count: int | Literal["slots"] = 1
    """How many; `slots`: one for each slot that is left."""
    backend: str = "sweep"
    """What the agents are: `sweep` (an optimiser), `shell` (a person, or anything else that types), `claude`, `codex`, `chat`, one of
    another package, or `auto`: the best that can start on this machine."""
    names: list[str] | None = None
    """Their names; otherwise chief, r1, r2, ..."""
    slot: bool = True
    """Does each hold a slot of its own to run experiments on first?"""
    settings: dict[str, JsonValue] = Field(default={})
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
    promotion: Promotion = "auto"
    """What a confirmed improvement waits for before it is trunk: `auto` nothing; `chief` the chief's order; `skeptic` a review
    that says ok, by an agent of that role; `partner` that of the partner with whom its author is paired, and a replication that
    holds. Under all but `chief` the laboratory then promotes by itself."""
    confirmation: Confirmation = "auto"
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
    settings: dict[str, JsonValue] = Field(default={})
    """Given to the backend as it is."""


class Design(Model):
    """An org design resolved for one machine: every agent named, every rule set."""

    name: str
    """The design's name."""
    about: str
    """What this organisation tests."""
    agents: list[Agent]
    """Who works here; chief first, if there is one."""
    promotion: Promotion
    """What a confirmed improvement waits for before it is trunk."""
    confirmation: Confirmation
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
    def researchers(self) -> list[str]:
        """Those whom a chief assigns: all with a slot but skeptics, who answer to findings, and people."""
        return [one.name for one in self.agents if one.slot is not None and one.role not in (role.SKEPTIC, role.HUMAN)]

    def reviewers(self) -> dict[str, list[str]]:
        """Agent -> those whose review its ideas need before they can be trunk."""
        return reviewers.reviewers(self.promotion, self.agents)

    @property
    def names(self) -> list[str]:
        return [agent.name for agent in self.agents]

    def seats(self, home: Home) -> list[base.Seat]:
        """Each agent in its place in a session, in the design's order."""
        return [base.Seat(home, one.name, one.role, one.backend, one.slot, dict(one.settings)) for one in self.agents]

    def shape(self) -> dict[str, Any]:
        """Everything but what may be swapped in a session: backends, their settings, the texts of roles, and the budget of all."""
        kept = self.model_dump(mode="json", exclude={"code": True, "process": {"budget"}})
        for one in kept["agents"]:
            del one["backend"], one["settings"]
        return kept

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
    first: int = Field(default=0, ge=0)
    """The machine's slots before its own: those of other programs of the repository."""
    created: float
    """Seconds since the epoch."""
    hash: str
    """`Design.hash()` of the design below."""
    design: Design
    """The resolved design."""
    library: list[str] = Field(default=[])
    """Folders of papers and Markdown that the memory reads (`orgctl search`); no part of the hash, and may be changed."""

    @classmethod
    def begin(cls, design: Design, name: str, task: str, scale: str, slots: int, library: list[str] | None = None) -> Session:
        """A session that begins now."""
        digest = design.hash()
        return cls(
            name=name, task=task, scale=scale, slots=slots, created=time.time(), hash=digest, design=design, library=library or []
        )


def write(home: Home, session: Session) -> None:
    """Write `.org/org.yaml`, atomically. `read` gives back an equal object."""
    # Plain ASCII: PyYAML writes some Unicode line breaks (U+0085) in a way that it does not read back.
    text = yaml.safe_dump(session.model_dump(mode="json"), sort_keys=False, width=120)
    write_atomic(home.settings, text)


def read(home: Home) -> Session:
    """The session of a home. Raises UserError when the file is missing, malformed, or changed since it was written."""
    session = validated(Session, home.settings, EXAMPLE)
    if session.hash != session.design.hash():
        raise UserError(
            f"{home.settings}: the design was changed after `up` (its hash is no longer {session.hash[:12]}): "
            "undo the change; another design needs a session of its own"
        )
    return session


def shipped() -> list[str]:
    """Names of the designs that come with orgctl."""
    return sorted(path.stem for path in DESIGNS.glob("*.yaml"))


def read_file(name_or_path: str) -> DesignFile:
    """A design as people wrote it, by shipped name or by path. Raises UserError in one line."""
    return validated(DesignFile, _find(name_or_path), EXAMPLE)


def load(
    name_or_path: str,
    slots: int,
    backend: str | None = None,
    roles: dict[str, Path] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Design:
    """Read, validate and resolve a design by shipped name or by path of a YAML file.

    `slots`: how many the machine offers. `backend`: takes the place of every agent's backend, except that a human stays
    on `shell`. `roles`: role name -> file (default: the shipped ones). `say` hears what `auto` has chosen, and what is
    allowed and unwise. Raises UserError in one line.
    """
    path, written = _find(name_or_path), read_file(name_or_path)
    known = roles if roles is not None else role.find()
    code: dict[str, str] = {}
    if backend is not None and (problem := _backend_problem(backend)):
        raise UserError(f"--backend: {problem}")
    groups = dict(enumerate(written.agents))
    for problem in objections(path, groups, {"promotion": written.promotion, "confirmation": written.confirmation}, slots, backend, known):
        raise UserError(problem)
    for group in written.agents:
        code.update(role.load(group.role, known[group.role]).hashes())
    design = Design(
        agents=_seated(written, path, slots, backend, say), code=dict(sorted(code.items())),
        **written.model_dump(include={"name", "about", "promotion", "confirmation"}), process=written.process,
    )
    if design.process.caution:
        say(f"warning: {path}: {design.process.caution}")
    return design


def wrong(name_or_path: str, slots: int, roles: dict[str, Path] | None = None) -> list[str]:
    """Everything that is wrong with a design, a line each; empty when it can be used on so many slots. Of entries that are not well-formed
    only the roles are looked at, and then nobody is counted."""
    known, lines = roles if roles is not None else role.find(), []
    try:
        path = _find(name_or_path)
        written = mapping(path, EXAMPLE)
        try:
            DesignFile.model_validate(written)
        except ValidationError as error:
            lines = complaints(path, error)
        entries = written.get("agents")
        if isinstance(entries, list):
            groups = {number: group for number, one in enumerate(entries) if (group := _as_far(one)) is not None}
            rules = {field: str(written.get(field, "auto")) for field in ("promotion", "confirmation")}
            lines += objections(path, groups, rules, slots, None, known, whole=not lines)
        if not lines:
            load(name_or_path, slots, roles=known)
    except UserError as error:
        return [str(error)]
    return list(dict.fromkeys(lines))


def _as_far(written: object) -> Group | None:
    """An entry of `agents` as far as it is one: the whole, or of another its role; None where it names none."""
    try:
        return Group.model_validate(written)
    except ValidationError:
        named = written.get("role") if isinstance(written, dict) else None
        return Group.model_construct(role=named, backend="shell") if isinstance(named, str) else None


def objections(
    path: Path, groups: Mapping[int, Group], rules: Mapping[str, str], slots: int, backend: str | None, known: Collection[str],
    whole: bool = True,
) -> Iterator[str]:  # fmt: skip
    """What is wrong with a design whose fields are well-formed, a line each with file, line and field. `groups`: entries of `agents` by
    number; `rules`: promotion and confirmation; not `whole`: entries are missing, so nobody is counted."""
    for number, group in groups.items():
        if group.role not in known:
            yield f"{at(path, 'agents', number, 'role')}: unknown role {group.role!r}: choose one of {', '.join(sorted(known))}"
        human = group.role == role.HUMAN
        if (human or backend is None) and (problem := _backend_problem(group.backend)):
            yield f"{at(path, 'agents', number, 'backend')}: {problem}"
        elif human and group.backend != "shell":
            yield f"{at(path, 'agents', number, 'backend')}: a human sits at a shell: write backend: shell"
    fixed = sum(group.count for group in groups.values() if group.slot and isinstance(group.count, int))
    rest = [number for number, group in groups.items() if group.count == "slots"]
    if len(rest) > 1:
        yield f"{at(path, 'agents', rest[1], 'count')}: only one entry may say `count: slots`"
    elif whole and fixed + len(rest) > slots:
        wanted = f"{fixed + len(rest)} agents want a slot of their own and there are {slots}"
        yield f"{at(path, 'agents')}: {wanted}: lower `count`, or write `count: slots`"
    counts = {number: group.count if isinstance(group.count, int) else max(0, slots - fixed) for number, group in groups.items()}
    chiefs = [number for number, group in groups.items() for _ in range(counts[number]) if group.role == role.CHIEF]
    if len(chiefs) > 1:
        yield f"{at(path, 'agents', chiefs[1], 'role')}: two chiefs: only one agent may have the role {role.CHIEF}"
    members = [
        Agent(name="", role=group.role, backend="", slot=0 if group.slot else None)
        for number, group in groups.items() for _ in range(counts[number])
    ]  # fmt: skip
    for field, rule in rules.items():
        if (whole or rule != "partner") and (problem := reviewers.lacking(rule, members)):
            yield f"{at(path, field)}: `{rule}`, but {problem}"


def _seated(written: DesignFile, path: Path, slots: int, backend: str | None, say: Callable[[str], None]) -> list[Agent]:
    """Agents with names and home slots, the chief first."""
    automatic: dict[str, list[str]] = {}
    fixed = sum(group.count for group in written.agents if group.slot and isinstance(group.count, int))
    agents: list[Agent] = []
    taken: dict[str, int] = {}
    for number, group in enumerate(written.agents):
        count = group.count if isinstance(group.count, int) else slots - fixed
        if group.names is not None and len(group.names) != count:
            raise UserError(f"{at(path, 'agents', number, 'names')}: {len(group.names)} names for {count} agents")
        for index in range(count):
            name = group.names[index] if group.names is not None else _given_name(group.role, taken)
            home_slot = sum(agent.slot is not None for agent in agents) if group.slot else None
            chosen = backend if backend is not None and group.role != role.HUMAN else group.backend
            if chosen == "auto":
                chosen, words = base.choose(group.settings, group.backend)
                automatic.setdefault(words, []).append(name)
            settings, left = base.suiting(group.settings, group.backend, chosen)
            if left:
                say(f"{name}: {left}")
            if chosen == "sweep" and home_slot is None and group.role not in (role.CHIEF, role.SKEPTIC):
                where = at(path, "agents", number)
                raise UserError(f"{where}: a sweep turns knobs and needs a slot for that: write `slot: true`, or another backend")
            agents.append(Agent(name=name, role=group.role, backend=chosen, slot=home_slot, settings=settings))
    names = [agent.name for agent in agents]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{at(path, 'agents')}: two agents are called {twice!r}: names must differ")
    for words, whose in automatic.items():
        say(f"backend auto for {', '.join(whose)}: {words}")
    return sorted(agents, key=lambda agent: agent.role != role.CHIEF)


def _given_name(role_name: str, taken: dict[str, int]) -> str:
    """chief, r1, r2, ...; of other roles human, human2, ..."""
    kind = "r" if role_name in role.RESEARCHERS else role_name
    taken[kind] = number = taken.get(kind, 0) + 1
    if kind == "r":
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
    if backend == "auto" or backend in base.names():
        return None
    return f"unknown backend {backend!r}: choose one of {', '.join(base.names())}, or auto"


def _find(name_or_path: str) -> Path:
    shipped_file = DESIGNS / f"{name_or_path}.yaml"
    if NAME.fullmatch(name_or_path) and shipped_file.is_file():
        return shipped_file
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    raise UserError(f"unknown design {name_or_path!r}: not one of {', '.join(shipped())}, and no such YAML file")
