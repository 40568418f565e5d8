"""What an agent may ask of the laboratory: propose, run, confirm, promote, withdraw. The `orgctl exp` commands and the sweep
agents both call these, so that every idea takes the same way.

Proposals are facts at once (registered before anything runs). Everything else is a request that the controller judges.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.records import View
from lab.requests import ask, wait_answer

PERSON = "person"
DIRECTIONS = ("improves", "no-change")
FIELD_LIMIT = 4000
"""Characters of each free-text field; more is refused, not cut."""


def me(home: Home) -> str:
    """Who asks: $ORGCTL_AGENT; else the agent in whose worktree the working directory lies (a person works there); else person."""
    if named := os.environ.get("ORGCTL_AGENT"):
        return named
    here, seats = Path.cwd().resolve(), home.worktrees.resolve()
    return here.relative_to(seats).parts[0] if seats in here.parents else PERSON


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
) -> str:
    """Register an idea before anything of it runs; returns its id (E0001). `params` is for machines: the knobs that were set.

    Raises UserError when a field is empty or too long.
    """
    texts = {"hypothesis": hypothesis, "mechanism": mechanism, "family": family, "held_constant": held_constant}
    for name, text in texts.items():
        if len(text) > FIELD_LIMIT:
            raise UserError(f"--{name.replace('_', '-')} is longer than {FIELD_LIMIT} characters: say it shorter")
    if direction not in DIRECTIONS:
        raise UserError(f"--direction {direction[:40]}: choose one of {', '.join(DIRECTIONS)}")
    if min_effect is not None and not (math.isfinite(min_effect) and min_effect >= 0):
        raise UserError(f"--min-effect {min_effect}: give a number from 0, in the metric's unit")
    if not hypothesis.strip() or not mechanism.strip():
        raise UserError("a proposal needs a hypothesis and a mechanism: what should change, and why would it")
    ledger = Ledger(home.ledger)
    try:
        view = View(ledger)
        view.refresh()
        body = {
            **texts,
            "agent": agent,
            "direction": direction,
            "min_effect": float(min_effect or 0.0),
            "params": params or {},
            "base": view.state.trunk,
        }
        return ledger.append_new("proposal", "E", body, actor=agent).subject
    finally:
        ledger.close()


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


def run(home: Home, agent: str, experiment: str, seconds: float = 15) -> dict[str, Any]:
    """Snapshot the agent's worktree as the experiment's attempt and queue its first (nominating) run.

    Answer: {"run": "R0007", "commit":..., "ignored": [...]}; refusals name the reason (protected file changed, nothing changed,
    two runs queued already).
    """
    return request(home, "run", agent, {"experiment": experiment}, seconds)


def confirm(home: Home, agent: str, experiment: str, seconds: float = 15) -> dict[str, Any]:
    """Order confirmation of a nominated experiment on fresh seeds; rebased first when trunk has moved."""
    return request(home, "confirm", agent, {"experiment": experiment}, seconds)


def promote(home: Home, agent: str, experiment: str, seconds: float = 15) -> dict[str, Any]:
    """Bring an experiment with the verdict `improved` on the present trunk to trunk. Answer: {"commit":...}."""
    return request(home, "promote", agent, {"experiment": experiment}, seconds)


def withdraw(home: Home, agent: str, experiment: str, why: str, seconds: float = 15) -> dict[str, Any]:
    """Give an experiment up before its verdict; its facts stay."""
    return request(home, "withdraw", agent, {"experiment": experiment, "why": why[:FIELD_LIMIT]}, seconds)
