"""Facts as news: one line of plain English for each fact of the ledger that people want to hear of.

Printed by `orgctl up` in the foreground and shown on the board. Everything in a fact may have been written by an
agent, so every piece of text goes through `clean`, and a fact with missing or odd fields still gives a line instead
of an error.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from lab.ledger import Fact
from lab.records import Experiment, Run, State
from lab.text import clean


def figure(value: object, signed: bool = False) -> str:
    """A metric's value as people read it: four decimals, fewer for large numbers, "?" for what is no finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "?"
    sign = "+" if signed else ""
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign}.5g}"


def subject_of(experiment: Experiment, limit: int = 60) -> str:
    """What an experiment tries, in a few words: the knobs that a machine set, else the hypothesis."""
    knobs = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in experiment.params.items()
        if isinstance(value, int | float | str)
    ]
    return clean(", ".join(knobs) or experiment.hypothesis, limit)


def describe(fact: Fact, state: State) -> str | None:
    """One line about a fact, without its time; None when people need not hear of it. `state` may be ahead of the
    fact."""
    tell = _TELL.get(fact.kind)
    if tell is None:
        return None
    try:
        line = tell(fact, state)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        line = f"{fact.kind} {fact.subject}: written in a form that this version does not know"
    return clean(line, 400) if line else None


def _session(fact: Fact, state: State) -> str | None:
    body = fact.body
    if "stopped" in body:
        return "the organisation stopped" + ("; runs that were going on may finish" if body.get("kept_runs") else "")
    if "up" in body:
        return "the organisation is up"
    if "task" not in body:
        return "the task's data is ready" if body.get("hashes") else None
    design = f"design {body.get('design', '?')} ({str(body.get('org_hash', ''))[:8]})"
    slots = f", {body['slots']} slots on {body.get('device', '?')}" if body.get("slots") else ""
    task = f"task {body['task']}, scale {body.get('scale', '?')}"
    return f"session {body.get('name', '')} begins: {task}, {design}{slots}"


def _trunk(fact: Fact, state: State) -> str:
    commit = str(fact.body["commit"])[:7]
    if fact.body.get("experiment"):
        return f"{fact.body['experiment']} promoted: trunk is now {commit}"
    if fact.body.get("reverts"):
        return f"{fact.body['why']}: trunk is now {commit}"
    return f"trunk begins at {commit}: {fact.body.get('why', '')}"


def _checked(fact: Fact, state: State) -> str:
    body = fact.body
    interval = f"[{figure(body['low'], signed=True)}, {figure(body['high'], signed=True)}]"
    outcome = "it stands" if body["holds"] else "it does not stand"
    return f"{fact.subject}'s own bank {figure(body['effect'], signed=True)} {interval} against its parent's: {outcome}"


def _audit_order(fact: Fact, state: State) -> str:
    body = fact.body
    return f"{fact.subject}: {body['by']} orders an audit of trunk {str(body['trunk'])[:7]}, {len(body['ideas'])} ideas"


def _audit(fact: Fact, state: State) -> str:
    found = ", ".join(f"{row['experiment']} {row['verdict'] or 'not by itself'}" for row in fact.body["rows"])
    return f"{fact.subject}: left out in turn: {found}"


def _carry_order(fact: Fact, state: State) -> str:
    return f"{fact.subject}: {fact.body['by']} carries {', '.join(fact.body['ideas'])} to scale {fact.body['scale']}"


def _carry(fact: Fact, state: State) -> str:
    body, ratio = fact.body, fact.body.get("ratio")
    arrives = f", {ratio[0]:.2f} of what it is here" if ratio and ratio[0] is not None else ""
    return f"{fact.subject} at scale {body['scale']}: {figure(body['effect'], signed=True)}{arrives}"


def _proposal(fact: Fact, state: State) -> str:
    experiment = state.experiments.get(fact.subject)
    what = f" {subject_of(experiment, 60)}" if experiment and experiment.params else ""
    again = " again" if fact.body.get("again") else ""
    return f"{fact.subject} {fact.body.get('agent', '?')} proposes{again}{what}: {clean(fact.body['hypothesis'], 160)}"


def _amendment(fact: Fact, state: State) -> str:
    said = [f"{key.replace('_', ' ')}: {clean(value, 100)}" for key, value in fact.body.items() if key != "again"]
    return f"{fact.subject} amended by {fact.actor} before its first run: {'; '.join(said)}"


def _review(fact: Fact, state: State) -> str:
    found = f" ({fact.body['finding']})" if fact.body.get("finding") else ""
    return f"{fact.subject} reviewed by {fact.actor}{found}: {clean(fact.body['text'], 160)}"


def _attempt(fact: Fact, state: State) -> str:
    body = fact.body
    changed = [str(path) for path in body.get("changed") or []]
    files = f" ({changed[0]}{f' and {len(changed) - 1} more' if len(changed) > 1 else ''})" if changed else ""
    if body["number"] > 1:
        parent, commit = str(body["parent"])[:7], str(body["commit"])[:7]
        return f"{fact.subject} carried to trunk {parent} as {commit}: confirmed anew there"
    return f"{fact.subject} submitted as {str(body['commit'])[:7]}{files}"


def _title(run: Run) -> str:
    who = f"{run.experiment} {run.agent} " if run.experiment else ""
    return f"{run.id} {who}{run.purpose} seed {run.seed}"


def _start(fact: Fact, state: State) -> str | None:
    run = state.runs.get(fact.subject)
    return f"{_title(run)}: started on slot {fact.body.get('slot', '?')}" if run else None


def _result(fact: Fact, state: State) -> str | None:
    run = state.runs.get(fact.subject)
    if run is None:
        return None
    if fact.body["status"] != "ok":
        return f"{_title(run)} {fact.body['status']}: {clean(fact.body.get('reason', ''), 160)}"
    metric = fact.body["metric"]
    split = "audit" if "audit" in metric else next(iter(metric), "")
    return f"{_title(run)}: {figure(metric.get(split))} on {split}{_beside(run, split, state)}"


def _beside(run: Run, split: str, state: State) -> str:
    """The bank that a run of an experiment is compared with, in brackets."""
    experiment = state.experiments.get(run.experiment)
    parent = next((one.parent for one in experiment.attempts if one.number == run.attempt), "") if experiment else ""
    values = state.bank(parent).values(split) if parent else []
    if not values:
        return ""
    spread = f" ± {figure(statistics.stdev(values))}" if len(values) > 1 else ""
    return f" (bank {figure(statistics.fmean(values))}{spread}, n {len(values)})"


def _nomination(fact: Fact, state: State) -> str:
    body = fact.body
    bank = f"bank {figure(body.get('bank_mean'))} ± {figure(body.get('bank_sigma'))}"
    if not body.get("nominated", True):
        return f"{fact.subject} not nominated: {figure(body.get('value'))} on search ({bank})"
    sigmas = body.get("sigmas")
    ahead = f", {sigmas:.1f} sigma better" if isinstance(sigmas, int | float) else ""
    return f"{fact.subject} nominated: {figure(body.get('value'))} on search{ahead} ({bank}); one run only nominates"


def _confirm(fact: Fact, state: State) -> str:
    return f"{fact.subject} goes to confirmation on fresh seeds (ordered by {fact.actor})"


def _verdict(fact: Fact, state: State) -> str:
    body = fact.body
    reasons = body.get("reasoning") or [""]
    if not isinstance(body.get("effect"), int | float):
        return f"{fact.subject} {body['verdict']}: {clean(reasons[0], 240)}"
    line = f"{fact.subject} {body['verdict']}: {figure(body['effect'], signed=True)}"
    if isinstance(body.get("low"), int | float) and isinstance(body.get("high"), int | float):
        line += f" [{figure(body['low'], signed=True)}, {figure(body['high'], signed=True)}]"
    return f"{line} against its parent's bank ({body.get('n', '?')} runs against {body.get('m', '?')})"


def _withdrawn(fact: Fact, state: State) -> str:
    return f"{fact.subject} withdrawn by {fact.actor}: {clean(fact.body.get('why', ''), 160) or 'no reason given'}"


def _agent(fact: Fact, state: State) -> str:
    body, what = fact.body, fact.body["what"]
    if what == "started":
        kind = ", ".join(str(body[key]) for key in ("role", "backend") if body.get(key))
        return f"{fact.subject} started{f' ({kind})' if kind else ''}"
    if body.get("signal"):
        end = f"was killed by {body['signal']}"
    else:
        end = f"had exited with status {body['exit']}" if body.get("exit") is not None else ""
    if what == "gave_up":
        return (
            f"{fact.subject} given up after {body.get('restarts', '?')} restarts{f', it {end}' if end else ''}: "
            f"`orgctl logs {fact.subject}`, then `orgctl restart {fact.subject}`"
        )
    return f"{fact.subject} {what}" + (f" (it {end})" if end else f" ({body['why']})" if body.get("why") else "")


def _intervention(fact: Fact, state: State) -> str:
    if fact.body["what"] == "taken_over":
        return f"{fact.subject} taken over by {fact.actor}"
    return f"{fact.subject} {str(fact.body['what']).replace('_', ' ')} by {fact.actor}"


def _alarm(fact: Fact, state: State) -> str:
    return f"ALARM {fact.subject}: {fact.body['text']}"


_TELL: dict[str, Any] = {
    "session": _session, "trunk": _trunk, "proposal": _proposal, "attempt": _attempt, "start": _start,
    "result": _result, "nomination": _nomination, "confirm": _confirm, "verdict": _verdict, "withdrawn": _withdrawn,
    "amendment": _amendment, "review": _review, "checked": _checked, "audit_order": _audit_order, "audit": _audit,
    "carry_order": _carry_order, "carry": _carry, "agent": _agent, "intervention": _intervention, "alarm": _alarm,
}  # fmt: skip
