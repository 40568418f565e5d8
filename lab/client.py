"""What an agent may ask of the laboratory: propose, amend, review, run, confirm, control, promote, withdraw. The `orgctl exp` commands
and the sweep agents both call these, so that every idea takes the same way.

Proposals, amendments and reviews are facts at once. Everything else is a request that the controller judges. An idea that was
proposed before is registered again only with a reason, which becomes part of the fact.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import areas, similar
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.records import FINDINGS, TEXTS
from lab.requests import ask, wait_answer
from lab.similar import Near
from lab.state import State, View
from tasks.spec import Task
from worktrees.repo import GitError, Repo

PERSON = areas.PERSON
DIRECTIONS = ("improves", "no-change")
FAMILIES = ("architecture", "optimiser", "schedule", "data", "systems", "initialisation", "regularisation", "other")
"""Kinds of ideas; a task's own areas of knobs are families there too, `a+b` is an idea of both, `a/word` one of a part (`lab.areas`)."""
FIELD_LIMIT = 4000
"""Characters of each free-text field; more is refused, not cut."""


def me(home: Home) -> str:
    """Who asks. Raises UserError for who may only read here."""
    return check_guest(reader(home))


def check_guest(name: str) -> str:
    """The name. Raises UserError for the one that the door gives to who has a seat in another program of the repository."""
    if "@" in name:
        raise UserError(f"this runs in {name}'s seat, which is in another program: it may read here, and is nobody who could ask or write")
    return name


def reader(home: Home) -> str:
    """Who looks: $ORGCTL_AGENT; else the agent in whose worktree the working directory lies (a person works there); else person."""
    if named := os.environ.get("ORGCTL_AGENT"):
        return named
    here, seats = Path.cwd().resolve(), home.worktrees.resolve()
    return here.relative_to(seats).parts[0] if seats in here.parents else PERSON


def based_on(home: Home, agent: str, trunk: str) -> str | None:
    """The commit of trunk's history that an agent's worktree is based on; None for who has none (a person)."""
    if not (home.worktrees / agent).is_dir():
        return None
    try:
        repo = Repo(home.root, home.program)
        return repo.fork_point(repo.branch(agent), trunk)
    except GitError:
        return None  # `exp run` says what is wrong with it


@contextmanager
def _view(home: Home, view: View | None) -> Iterator[View]:
    """The caller's view as it is, or one of our own: folding a long ledger takes seconds."""
    if view is not None:
        yield view
        return
    own = View(Ledger(home.ledger))
    try:
        own.refresh()
        yield own
    finally:
        own.ledger.close()


def propose(
    home: Home,
    agent: str,
    hypothesis: str,
    mechanism: str,
    family: str = "other",
    direction: str = "improves",
    min_effect: float | None = None,
    held_constant: str = "",
    params: dict[str, Any] | None = None,
    again: str = "",
    view: View | None = None,
) -> str:
    """Register an idea before anything of it runs; returns its id (E0001). `params` is for machines: the knobs that were set.

    `again`: why an idea like an earlier one is proposed all the same. `view`, up to date, saves folding the ledger anew. Raises UserError
    when a field is empty, too long or unknown, and when the idea was proposed before and `again` is empty.
    """
    text = {
        "hypothesis": hypothesis, "mechanism": mechanism, "family": family, "direction": direction,
        "min_effect": float(min_effect or 0.0), "held_constant": held_constant,
    }  # fmt: skip
    _check(home, text, again)
    with _view(home, view) as known:
        reason = repeated(known.state, similar.proposals(known.state, text, params or {}), again)
        reason = reason or _dead_end(known.state, agent, family, again)
        body = {**text, "agent": agent, "params": params or {}, "base": known.state.trunk, "again": reason}
        return known.ledger.append_new("proposal", "E", body, actor=agent).subject


def amend(
    home: Home, agent: str, experiment: str, changes: Mapping[str, Any], again: str = "", view: View | None = None
) -> list[str]:
    """Say anew what a proposal says (keys of `lab.records.TEXTS`), before its first run; returns the names of what changed.

    What it said before stays in the ledger. Raises UserError for somebody else's idea, one that was run, and like `propose`.
    """
    with _view(home, view) as known:
        idea = known.state.experiments.get(experiment)
        if idea is None:
            raise UserError(f"there is no experiment {experiment[:40]!r}: `orgctl exp list` shows them")
        if agent not in (idea.agent, PERSON):
            raise UserError(f"{experiment} belongs to {idea.agent}: `orgctl exp review {experiment}` is for everybody")
        if idea.withdrawn is not None:
            raise UserError(f"{experiment} was withdrawn: propose it anew")
        new = {key: value for key, value in changes.items() if key in TEXTS and value != getattr(idea, key)}
        if not new:
            raise UserError(f"nothing of {experiment} would change: name what to say anew, such as --hypothesis")
        text = {**{key: getattr(idea, key) for key in TEXTS}, **new}
        _check(home, text, again)
        near = similar.proposals(known.state, text, idea.params, but=experiment)
        near = [one for one in near if one.experiment not in acknowledged(idea.again)]
        reason = repeated(known.state, near, again)
        if text["family"] != idea.family:
            reason = reason or _dead_end(known.state, agent, text["family"], again)
        body = {**new, "again": joined(idea.again, reason)}
        if known.ledger.append_unless("attempt", "amendment", body, experiment, agent) is None:
            raise UserError(f"{experiment} was run: what is predicted after that is no prediction; a changed idea is a new proposal")
        return list(new)


def review(home: Home, agent: str, experiment: str, text: str, finding: str = "", view: View | None = None) -> None:
    """Anybody's opinion of an experiment, as a fact; it changes no verdict. `finding`: ok, doubt, leak, or "".

    Raises UserError for an experiment that is not there, an unknown finding, and a text that is empty or too long.
    """
    if finding and finding not in FINDINGS:
        raise UserError(f"--finding {finding[:40]}: choose one of {', '.join(FINDINGS)}")
    if not text.strip() or len(text) > FIELD_LIMIT:
        raise UserError(f"--text: say what you found, in up to {FIELD_LIMIT} characters")
    with _view(home, view) as known:
        if experiment not in known.state.experiments:
            raise UserError(f"there is no experiment {experiment[:40]!r}: `orgctl exp list` shows them")
        known.ledger.append("review", {"finding": finding, "text": text}, experiment, agent)


def _check(home: Home, text: Mapping[str, Any], again: str) -> None:
    """Raises UserError for a proposal that cannot be registered."""
    for name, value in {**text, "again": again}.items():
        if isinstance(value, str) and len(value) > FIELD_LIMIT:
            raise UserError(f"--{name.replace('_', '-')} is longer than {FIELD_LIMIT} characters: say it shorter")
    if text["direction"] not in DIRECTIONS:
        raise UserError(f"--direction {text['direction'][:40]}: choose one of {', '.join(DIRECTIONS)}")
    if not (math.isfinite(text["min_effect"]) and text["min_effect"] >= 0):
        raise UserError(f"--min-effect {text['min_effect']}: give a number from 0, in the metric's unit")
    if not text["hypothesis"].strip() or not text["mechanism"].strip():
        raise UserError("a proposal needs a hypothesis and a mechanism: what should change, and why would it")
    known = list(dict.fromkeys([*FAMILIES, *Task.model_validate_json(home.task.read_text()).areas()]))
    parts = {part for name in known for part in name.split("+")}
    named = text["family"].split("+")
    unknown = [part for part in named if part not in parts and not (areas.AREA.fullmatch(part) and part.partition("/")[0] in parts)]
    if unknown:
        raise UserError(f"--family {unknown[0][:40]}: choose one of {', '.join(known)}, or a part of one, such as {known[0]}/word")


def _dead_end(state: State, agent: str, family: str, again: str) -> dict[str, Any] | None:
    """The stated reason for going into a retired area, as it goes into the fact; None where none is needed.

    Raises UserError, with the area's evidence, when there is no reason.
    """
    gone = areas.dead_end(state, family)
    if gone is None or areas.may_enter(state, agent, gone, time.time()):
        return None
    if not again.strip():
        raise UserError(
            f"{areas.told(gone)}. Read `orgctl exp show {gone.evidence[0]}`; to try there all the same give a reason: --again \"why\","
            " or be assigned to it"
        )
    return {"why": again, "near": list(gone.evidence)}


def repeated(state: State, near: list[Near], again: str) -> dict[str, Any] | None:
    """The stated reason for something that was there before, as it goes into the fact: {why, near}; None for something new.

    Raises UserError, naming the nearest with their outcome, when there is no reason.
    """
    same = [one for one in near if one.same]
    if not same:
        return None
    if not again.strip():
        told = "; ".join(similar.named(state, same[: similar.SHOWN]))
        more = f"; and {len(same) - similar.SHOWN} more" if len(same) > similar.SHOWN else ""
        raise UserError(
            f"this was there before: {told}{more}. Read `orgctl exp show {same[0].experiment}`: if yours is another idea, say what "
            'differs; if it is the same, it needs a reason: --again "why"'
        )
    return {"why": again, "near": [one.experiment for one in same]}


def acknowledged(again: dict[str, Any] | None) -> list[str]:
    """The experiments that a stated reason was given for."""
    near = again.get("near") if isinstance(again, dict) else None
    return [str(name) for name in near] if isinstance(near, list) else []


def joined(before: dict[str, Any] | None, now: dict[str, Any] | None) -> dict[str, Any] | None:
    """Two reasons as one."""
    if not (before and now):
        return now or before
    why = now["why"] if before.get("why") == now["why"] else f"{before.get('why')}; {now['why']}"
    return {"why": why, "near": [*acknowledged(before), *acknowledged(now)]}


def request(home: Home, kind: str, agent: str, body: dict[str, Any], seconds: float = 15) -> dict[str, Any]:
    """Ask the controller and wait for its answer. Raises UserError when it refuses.

    Returns the answer's body, or {"waiting": id} when no controller answered in time: the request stays on the pile.
    """
    identity = ask(home, kind, agent, body)
    answer = wait_answer(home, identity, seconds)
    if answer is None:
        return {"waiting": identity}
    if not answer.get("ok"):
        raise UserError(str(answer.get("error", "refused without a reason")))
    return answer


def run(home: Home, agent: str, experiment: str, seconds: float = 15, again: str = "") -> dict[str, Any]:
    """Snapshot the agent's worktree as the experiment's attempt and queue its first (nominating) run.

    Answer: {"run": "R0007", "commit":..., "ignored": [...], "similar": [...]}; refusals name the reason (protected file changed,
    nothing changed, two runs queued already, a change like an earlier one and no `again` that says why).
    """
    return request(home, "run", agent, {"experiment": experiment, "again": again[:FIELD_LIMIT]}, seconds)


def confirm(home: Home, agent: str, experiment: str, seconds: float = 15) -> dict[str, Any]:
    """Order confirmation of a nominated experiment on fresh seeds; rebased first when trunk has moved."""
    return request(home, "confirm", agent, {"experiment": experiment}, seconds)


def control(home: Home, agent: str, experiment: str, seconds: float = 15) -> dict[str, Any]:
    """Order the control at equal cost of an idea that costs more. Answer: {"attempt": 1, "factor": 1.62, "runs": ["R0012", ...]}."""
    return request(home, "control", agent, {"experiment": experiment}, seconds)


def promote(home: Home, agent: str, experiment: str, seconds: float = 15) -> dict[str, Any]:
    """Bring an experiment with the verdict `improved` on the present trunk to trunk. Answer: {"commit":...}."""
    return request(home, "promote", agent, {"experiment": experiment}, seconds)


def replicate(home: Home, agent: str, experiment: str, seeds: int | None = None, seconds: float = 15) -> dict[str, Any]:
    """Order a replication of what is `improved`, on `seeds` fresh runs (default 4). Answer: {"seeds": 4}."""
    return request(home, "replicate", agent, {"experiment": experiment, "seeds": seeds}, seconds)


def audit(home: Home, agent: str, seeds: int | None = None, seconds: float = 15) -> dict[str, Any]:
    """Order an audit of trunk: each promoted idea left out in turn. Answer: {"audit": "A0001", "ideas": [...], "seeds":...}."""
    return request(home, "audit", agent, {"seeds": seeds}, seconds)


def carry(
    home: Home, agent: str, experiments: list[str], seeds: int | None = None, seconds: float = 15
) -> dict[str, Any]:
    """Order runs of promoted ideas (none named: all) at the next scale, whose data are prepared. Answer: {"carry": "C0001", ...}."""
    return request(home, "carry", agent, {"experiments": experiments, "seeds": seeds}, seconds)


def withdraw(home: Home, agent: str, experiment: str, why: str, seconds: float = 15) -> dict[str, Any]:
    """Give an experiment up before its verdict; its facts stay."""
    return request(home, "withdraw", agent, {"experiment": experiment, "why": why[:FIELD_LIMIT]}, seconds)
