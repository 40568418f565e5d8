"""Letters from the laboratory: what a new fact means for which agent, in words. Pure; the controller mails them.

The text is short, says what is now believed and what the useful next steps are.
"""

from __future__ import annotations

from lab import audit, carry, promotion
from lab.ledger import Fact
from lab.records import State
from tasks.spec import Task

Letter = tuple[str, str, str, str]
"""(agent, kind, about, text)"""


def letters(fact: Fact, state: State, agents: list[str], task: Task) -> list[Letter]:
    """Who has to hear of this fact. Empty for most."""
    experiment = state.experiments.get(fact.subject)
    if fact.kind == "trunk" and fact.body.get("experiment"):
        promoted = state.experiments.get(fact.body["experiment"])
        what = promoted.hypothesis.splitlines()[0][:200] if promoted else ""
        text = (
            f"Trunk is now {fact.body['commit'][:8]}: {fact.body['experiment']} was promoted ({what}).\n"
            "Base new ideas on it: `git reset --hard org/trunk` in your worktree."
        )
        return [(agent, "promotion", fact.body["experiment"], text) for agent in agents]
    if fact.kind == "trunk" and fact.body.get("reverts"):
        taken = state.experiments.get(fact.body["reverts"])
        grounds = "\n".join(f"- {line}" for line in promotion.said(taken, task.metric.unit)) if taken else ""
        text = (
            f"Trunk is now {fact.body['commit'][:8]}: {fact.body['why']}.\n\n{grounds}\n\n"
            "Base new ideas on it: `git reset --hard org/trunk` in your worktree."
        )
        return [(agent, "reverted", fact.body["reverts"], text) for agent in agents]
    if fact.kind == "audit" and (done := state.audits.get(fact.subject)):
        lines = "\n".join(f"- {line}" for line in audit.lines(state, done, task.metric.unit))
        text = f"Audit of trunk, each idea left out in turn:\n\n{lines}\n"
        return [(agent, "audit", fact.subject, text) for agent in agents]
    if fact.kind == "carry":
        text = f"At the next scale:\n\n- {carry.line(fact.body, fact.subject, task.metric.unit)}\n"
        return [(agent, "carry", fact.subject, text) for agent in agents]
    if experiment is None or experiment.agent not in agents:
        return []
    agent = experiment.agent
    if fact.kind == "nomination":
        body = fact.body
        text = (
            f"{experiment.id} is nominated: {body['value']:.4f} {task.metric.unit} on split search, "
            f"{body['sigmas']:+.1f} sigma against the bank "
            f"({body['bank_mean']:.4f}, sigma {body['bank_sigma']:.4f}).\nOne run only nominates and its value is thrown away. "
            "Next: fresh seeds decide. Go on with another idea."
        )
        return [(agent, "nomination", experiment.id, text)]
    if fact.kind == "verdict":
        lines = "\n".join(f"- {line}" for line in fact.body["reasoning"])
        return [(agent, "verdict", experiment.id, f"{experiment.id}: **{fact.body['verdict']}**\n\n{lines}\n")]
    if fact.kind == "review" and fact.actor != agent:
        found = f" ({fact.body['finding']})" if fact.body["finding"] else ""
        return [(agent, "review", experiment.id, f"{fact.actor} has reviewed {experiment.id}{found}:\n\n{fact.body['text']}\n")]
    return []
