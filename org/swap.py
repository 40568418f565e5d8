"""Another role text, backend, setting or budget for a living organisation: a change of the org code, recorded with both hashes.

`apply` is called by the controller where one serves, else by `orgctl up` before it starts one. Who is changed is started anew;
runs begun afterwards carry the new hash. What is cut short there is made good by `resume`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.state import State
from org import design as designs
from org import prompt, role
from org.agents import base
from org.process import Budget
from tasks.spec import Task


@dataclass(frozen=True)
class Swap:
    """What is wanted, by agent's name or, for all who have it, by role."""

    roles: dict[str, str] = field(default_factory=dict)
    """Name -> path of a role file."""
    backends: dict[str, str] = field(default_factory=dict)
    """Name -> backend."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Agent -> the settings of its backend from now on."""
    written: dict[str, str] = field(default_factory=dict)
    """Agent -> the backend that these were written for; where it is not named, whichever it has then."""
    budget: dict[str, Any] | None = None
    """Of all agents together from now on (`process.Budget`); None: as it is."""

    @classmethod
    def of(cls, body: dict[str, Any]) -> Swap:
        """From a request's body. Raises UserError when it is no such thing."""
        try:
            known = {key: body[key] for key in cls.__dataclass_fields__ if key in body}
            return TypeAdapter(cls).validate_json(json.dumps(known), strict=True)
        except ValidationError as error:
            raise UserError("the request to swap is not valid: use `orgctl up --role` or `orgctl restart AGENT --role FILE`") from error


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """`NAME=VALUE` words of an option. Raises UserError for one without a name or value."""
    found = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise UserError(f"{option} {item}: write NAME=VALUE, with the name of an agent or a role")
        found[name] = value
    return found


def seated(agents: list[designs.Agent], name: str) -> list[designs.Agent]:
    """The agents meant by a name: the one that is called so, else all of that role. Raises UserError when there is none."""
    found = [one for one in agents if one.name == name] or [one for one in agents if one.role == name]
    if not found:
        known = [*(one.name for one in agents), *dict.fromkeys(one.role for one in agents)]
        raise UserError(f"no agent and no role here is called {name[:40]!r}: choose one of {', '.join(known)}")
    return found


def asked(agents: list[designs.Agent], backends: dict[str, str]) -> dict[str, str]:
    """Agent -> the backend asked for it, by its name or its role; what is named later holds. Raises UserError for who is not there."""
    return {one.name: backend for name, backend in backends.items() for one in seated(agents, name)}


def rebacked(
    design: designs.Design, backends: dict[str, str], say: Callable[[str], None] = lambda line: None,
    written: Mapping[str, str] = MappingProxyType({}),
) -> designs.Design:  # fmt: skip
    """The design with other backends for some agents. `say` hears what `auto` has chosen, who may spend money, and which settings do not go
    with the backend that an agent has then. `written`: agent -> the backend its settings were written for, if not for its present one.
    Raises UserError for a backend that is unknown or cannot start."""
    agents, wanted = [], asked(design.agents, backends)
    for one in design.agents:
        backend, meant_for = wanted.get(one.name, one.backend), written.get(one.name, one.backend)
        if backend != one.backend:
            backend, words = resolve(backend, dict(one.settings), meant_for)
            if words:
                say(f"backend auto for {one.name}: {words}")
            elif base.load(backend).spends_money:
                say(f"{one.name}: {backend} may spend money")
            if one.role == role.HUMAN and backend != "shell":
                raise UserError(f"{one.name} is a human's seat: it has the backend shell")
        settings, left = base.suiting(dict(one.settings), meant_for, backend)
        if left:
            say(f"{one.name}: {left}")
        agents.append(one.model_copy(update={"backend": backend, "settings": settings}))
    return design.model_copy(update={"agents": agents})


def resettled(design: designs.Design, settings: dict[str, dict[str, Any]], budget: dict[str, Any] | None) -> designs.Design:
    """The design with other settings for some agents, and another budget for all. Raises UserError for what is no budget."""
    try:
        agents = [one.model_copy(update={"settings": settings.get(one.name, one.settings)}) for one in design.agents]
        spend = design.process.budget if budget is None else Budget.model_validate(budget)
    except ValidationError as error:
        raise UserError(f"the budget of all: {error.errors()[0]['msg']}") from error
    return design.model_copy(update={"agents": agents, "process": design.process.model_copy(update={"budget": spend})})


def resolve(name: str, settings: dict[str, Any], backend: str) -> tuple[str, str]:
    """A backend that can start here; `auto` is the best of them, with the choice in words. `backend`: the one that the settings were made
    for. Raises UserError with the reason and the remedy."""
    if name == "auto":
        return base.choose(settings, backend)
    if name not in base.names():
        raise UserError(f"unknown backend {name!r}: choose one of {', '.join(base.names())}, or auto")
    if why := base.load(name).missing(base.suiting(settings, backend, name)[0]):
        raise UserError(f"backend {name} cannot start: {why}")
    return name, ""


def told(design: designs.Design, names: list[str]) -> str:
    """Who was changed, each with the backend that it has now."""
    return ", ".join(f"{one.name} ({one.backend})" for one in design.agents if one.name in names)


def apply(
    home: Home,
    session: designs.Session,
    wanted: Swap,
    ledger: Ledger,
    actor: str,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[designs.Session, list[str]]:
    """Change the session's design, write it down, and return it with the names of the agents that are to be started anew.

    Raises UserError, with nothing changed, when a name, a file or a backend is wrong.
    """
    before = session.design
    for name in wanted.settings:
        seated(before.agents, name)
    written = {name: wanted.written.get(name, "auto") for name in wanted.settings}
    after = rebacked(resettled(before, wanted.settings, wanted.budget), wanted.backends, say, written)
    new = {one.name: one for one in after.agents}
    for one in after.agents:
        if one.name in wanted.settings and (why := base.load(one.backend).missing(dict(one.settings))):
            raise UserError(f"{one.name}: backend {one.backend} cannot start: {why}")
    changed = {one.name for one in before.agents if new[one.name] != one}
    read = {}
    for name, file in wanted.roles.items():
        meant = seated(after.agents, name)
        alone = meant[0].name if meant[0].name == name else None
        read[name] = (role.load(meant[0].role, Path(file).expanduser().resolve()), alone, meant)
    code = dict(before.code)
    for text, alone, meant in read.values():
        hashes = prompt.pin(home, text, alone)
        if any(code.get(path) != value for path, value in hashes.items()):
            changed |= {one.name for one in meant}
        code |= hashes
    after = after.model_copy(update={"code": dict(sorted(code.items()))})
    if after.hash() == session.hash:
        return session, []
    swapped = session.model_copy(update={"design": after, "hash": after.hash()})
    designs.write(home, swapped)
    facts: list[tuple[str, str, dict[str, Any]]] = [("session", "", {"org_hash": swapped.hash, "swapped_from": session.hash})]
    old = {one.name: one for one in before.agents}
    for name in sorted(changed):
        body = {
            "what": "swapped", "by": actor, "backend": [old[name].backend, new[name].backend],
            "role": [_hash(before, old[name]), _hash(after, new[name])],
            "settings": [dict(old[name].settings), dict(new[name].settings)],
        }  # fmt: skip
        facts.append(("agent", name, body))
    ledger.append_all(facts)
    return swapped, [one.name for one in after.agents if one.name in changed]


def resume(home: Home, session: designs.Session, task: Task, ledger: Ledger, state: State) -> list[str]:
    """Write down the swap that somebody died in between writing org.yaml and its facts. Returns the agents that are to be started anew: who
    was started last with another prompt, backend or settings than the design has."""
    before = str(state.session.get("org_hash", ""))
    if session.hash == before:
        return []
    facts: list[tuple[str, str, dict[str, Any]]] = [("session", "", {"org_hash": session.hash, "swapped_from": before})]
    begun: dict[str, dict[str, Any]] = {}
    for fact in filter(state.believes, ledger.each("agent")):
        if fact.body.get("what") in ("started", "restarted"):
            begun[fact.subject] = fact.body
    for seat in session.design.seats(home):
        try:
            text = prompt.digest(prompt.compose(session.design, task, seat, prompt.role_of(home, session.design, seat)))
        except UserError:  # said when it is started
            text = ""
        now, then = {"prompt": text, "backend": seat.backend, "settings": seat.settings}, begun.get(seat.agent, {})
        if changed := {key: [then[key], value] for key, value in now.items() if key in then and then[key] != value}:
            facts.append(("agent", seat.agent, {"what": "swapped", **changed}))
    ledger.append_all(facts)
    return [name for kind, name, _ in facts if kind == "agent"]


def _hash(design: designs.Design, agent: designs.Agent) -> str:
    """SHA-256 of the role file that an agent follows."""
    own = f"agents/{agent.name}/roles/{agent.role}.md"
    return design.code.get(own) or design.code.get(f"roles/{agent.role}.md", "")
