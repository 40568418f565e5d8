"""Letters from the laboratory: what a new fact means for which agent, in words. Pure; the controller mails them.

The text is short, says what is now believed and what the useful next steps are.
"""

from __future__ import annotations

from lab import audit, carry, direction, gate, promotion, replication, verify
from lab.areas import PERSON
from lab.ledger import Fact
from lab.records import Experiment
from lab.shown import next_step, nominated, unmerged
from lab.state import State
from org import notices
from tasks.spec import Task
from worktrees.repo import trunk_branch

Letter = tuple[str, str, str, str]
"""(agent, kind, about, text)"""


def letters(fact: Fact, state: State, agents: list[str], task: Task) -> list[Letter]:
    """Who has to hear of this fact. Empty for most, and for what the fold has passed over."""
    if not state.believes(fact):
        return []
    if fact.kind in direction.KINDS or fact.kind == "proposal":
        return notices.letters(fact, state, agents)
    experiment, trunk = state.experiments.get(fact.subject), trunk_branch(str(state.session.get("program") or "main"))
    if fact.kind == "trunk" and fact.body.get("experiment"):
        promoted = state.experiments.get(fact.body["experiment"])
        what = promoted.hypothesis.splitlines()[0][:200] if promoted else ""
        text = (
            f"Trunk is now {fact.body['commit'][:8]}: {fact.body['experiment']} was promoted ({what}).\n"
            f"Base new ideas on it: `git reset --hard {trunk}` in your worktree."
        )
        return [(agent, "promotion", fact.body["experiment"], text) for agent in agents]
    if fact.kind == "trunk" and fact.body.get("reverts"):
        taken = state.experiments.get(fact.body["reverts"])
        grounds = "\n".join(f"- {line}" for line in promotion.said(taken, task.metric.unit)) if taken else ""
        text = (
            f"Trunk is now {fact.body['commit'][:8]}: {fact.body['why']}.\n\n{grounds}\n\n"
            f"Base new ideas on it: `git reset --hard {trunk}` in your worktree."
        )
        return [(agent, "reverted", fact.body["reverts"], text) for agent in agents]
    if fact.kind == "audit" and (done := state.audits.get(fact.subject)):
        lines = "\n".join(f"- {line}" for line in audit.lines(state, done, task.metric.unit))
        text = f"Audit of trunk, each idea left out in turn:\n\n{lines}\n"
        return [(agent, "audit", fact.subject, text) for agent in agents]
    if fact.kind == "carry":
        text = f"At the next scale:\n\n- {carry.line(fact.body, fact.subject, task.metric.unit)}\n"
        return [(agent, "carry", fact.subject, text) for agent in agents]
    if experiment is not None and fact.kind == "replication":
        text = f"{experiment.id}: {replication.said(fact.body, task.metric.unit)}.\n"
        hint = f"\nSay what you make of it: `orgctl exp review {experiment.id} --finding ok --text \"...\"` (or doubt, or leak).\n"
        told = {experiment.agent: text, str(fact.body["by"]): text + hint}
        return [(one, "replication", experiment.id, said) for one, said in told.items() if one in agents]
    found: list[Letter] = []
    if experiment is not None and fact.kind == "verdict" and fact.body["verdict"] == "improved":
        found = _wanted(experiment, state, agents)
    if experiment is None or experiment.agent not in agents:
        return found
    agent = experiment.agent
    if fact.kind == "nomination":
        text = f"{experiment.id} is nominated: {nominated(fact.body)}.\nNext: fresh seeds decide. Go on with another idea."
        return [(agent, "nomination", experiment.id, text)]
    if fact.kind == "control":
        text = f"{fact.actor} has ordered the control of {experiment.id}: it has to beat runs of its parent that are given as much."
        return [(agent, "control", experiment.id, text)]
    if fact.kind == "verdict":
        lines = "\n".join(f"- {line}" for line in fact.body["reasoning"])
        text = f"{experiment.id}: **{fact.body['verdict']}**\n\n{lines}\n"
        if experiment.versions[0].actor == PERSON:
            found.append((PERSON, "verdict", experiment.id, f"What came of your idea, tried by {agent}. {text}"))
        hint = f"\nNext: {step}.\n" if (step := next_step(experiment)) else ""
        return [*found, (agent, "verdict", experiment.id, text + hint)]
    if fact.kind == "unmerged" and (last := experiment.attempt) and last.number == fact.body["attempt"] and last.unmerged:
        said = f"{experiment.id} was `improved` and {unmerged(last)}.\nNext: {next_step(experiment)}.\n"
        return [(agent, "unmerged", experiment.id, said)]
    if fact.kind == "review" and fact.actor != agent:
        what = f" ({fact.body['finding']})" if fact.body["finding"] else ""
        return [(agent, "review", experiment.id, f"{fact.actor} has reviewed {experiment.id}{what}:\n\n{fact.body['text']}\n")]
    return []


def _wanted(experiment: Experiment, state: State, agents: list[str]) -> list[Letter]:
    """To those whose review the promotion of what was just found `improved` waits for."""
    rules, name = verify.policy(state), experiment.id
    if gate.waits(rules.promotion, rules.reviewers, experiment) is None:
        return []
    text = (
        f"{name} by {experiment.agent} is `improved` and reaches trunk only after your review.\n"
        f"Read `orgctl exp show {name}` and `orgctl exp diff {name}`; order fresh runs: `orgctl exp replicate {name}`; then\n"
        f"`orgctl exp review {name} --finding ok --text \"...\"` (or doubt, or leak).\n"
    )
    return [(one, "review-wanted", name, text) for one in rules.reviewers.get(experiment.agent, []) if one in agents]
