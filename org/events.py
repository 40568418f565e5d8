"""Facts as news: one line of plain English for each fact of the ledger that people want to hear of.

Printed by `orgctl up` in the foreground and shown on the board. Everything in a fact may have been written by an
agent, so every piece of text goes through `clean`, and a fact with missing or odd fields still gives a line instead
of an error.
"""

from __future__ import annotations

import statistics
from typing import Any

from lab.ledger import Fact
from lab.records import Experiment, Run
from lab.state import State
from lab.text import clean, deviations, figure, interval


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
    if tell is None or not state.believes(fact):  # the fold has an alarm instead
        return None
    try:
        line = tell(fact, state)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        line = f"{fact.kind} {fact.subject}: written in a form that this version does not know"
    return clean(line, 400) if line else None


def _session(fact: Fact, state: State) -> str | None:
    body = fact.body
    if "swapped_from" in body:
        return f"the organisation's code is now {str(body['org_hash'])[:8]} (it was {str(body['swapped_from'])[:8]})"
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
    found = f"{figure(body['effect'], signed=True)} {interval(body['low'], body['high'])}"
    return f"{fact.subject}'s own bank {found} against its parent's: {'it stands' if body['holds'] else 'it does not stand'}"


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


def _replication_order(fact: Fact, state: State) -> str:
    return f"{fact.subject} is replicated on {fact.body['seeds']} fresh seeds (ordered by {fact.actor})"


def _replication(fact: Fact, state: State) -> str:
    body = fact.body
    word = "holds" if body["holds"] else "does not hold"
    if body["effect"] is None:
        return f"{fact.subject}'s replication {word}: {clean(body['why'], 160)}"
    found = f"{figure(body['effect'], signed=True)} {interval(body['low'], body['high'])}"
    return f"{fact.subject}'s replication {word}: {found} against {body['against']}"


def _attempt(fact: Fact, state: State) -> str:
    body = fact.body
    changed = [str(path) for path in body.get("changed") or []]
    files = f" ({changed[0]}{f' and {len(changed) - 1} more' if len(changed) > 1 else ''})" if changed else ""
    if body.get("resubmitted"):
        return f"{fact.subject} put on trunk {str(body['parent'])[:7]} by hand as {str(body['commit'])[:7]}{files}"
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
    ahead = f", {deviations(sigmas)} sigma better" if isinstance(sigmas, int | float) else ""
    return f"{fact.subject} nominated: {figure(body.get('value'))} on search{ahead} ({bank}); one run only nominates"


def _confirm(fact: Fact, state: State) -> str:
    return f"{fact.subject} goes to confirmation on fresh seeds (ordered by {fact.actor})"


def _control(fact: Fact, state: State) -> str:
    return f"{fact.subject} gets its control, its parent on {figure(fact.body['factor'])}x the budget (ordered by {fact.actor})"


def _verdict(fact: Fact, state: State) -> str:
    body = fact.body
    reasons = body.get("reasoning") or [""]
    if not isinstance(body.get("effect"), int | float):
        return f"{fact.subject} {body['verdict']}: {clean(reasons[0], 240)}"
    line = f"{fact.subject} {body['verdict']}: {figure(body['effect'], signed=True)}"
    if isinstance(body.get("low"), int | float) and isinstance(body.get("high"), int | float):
        line += f" {interval(body['low'], body['high'])}"
    return f"{line} against its parent's bank ({body.get('n', '?')} runs against {body.get('m', '?')})"


def _unmerged(fact: Fact, state: State) -> str:
    return f"{fact.subject} cannot be carried to trunk {str(fact.body['trunk'])[:7]}: {clean(fact.body['why'], 160)}"


def _withdrawn(fact: Fact, state: State) -> str:
    return f"{fact.subject} withdrawn by {fact.actor}: {clean(fact.body.get('why', ''), 160) or 'no reason given'}"


def _agent(fact: Fact, state: State) -> str | None:
    body, what = fact.body, fact.body["what"]
    if what == "counted":
        return None  # status shows what everybody has used
    if what == "started":
        kind = ", ".join(str(body[key]) for key in ("role", "backend") if body.get(key))
        return f"{fact.subject} started{f' ({kind})' if kind else ''}"
    if what == "swapped":
        (old, new) = body.get("backend") or ("", "")
        parts = [f"backend {old} gives way to {new}"] if old != new else []
        for key, text in (("role", "role text"), ("prompt", "prompt")):
            was, now = body.get(key) or ("", "")
            parts += [f"{text} {was[:8]} gives way to {now[:8]}"] if was != now else []
        before, after = body.get("settings") or ({}, {})
        other = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        parts += [f"{key} {before.get(key)} gives way to {after.get(key)}" for key in other]
        by = f" by {body['by']}" if body.get("by") else ""  # not known where the swap was cut short
        return f"{fact.subject} swapped{by}: {', '.join(parts)}"
    if what == "undelivered":
        letters = "1 unread message" if body["unread"] == 1 else f"{body['unread']} unread messages"
        return f"{fact.subject} has {letters} and could not be woken: {body['why']}"
    if what == "touched":
        who = f"; at work then: {', '.join(body['at_work'])}" if body.get("at_work") else ""
        return (
            f"{fact.subject} did nothing and its worktree was changed ({', '.join(body['paths'])}): by a person, another agent or what it "
            f"left running{who}"
        )
    if what == "budget_raised":
        return f"{fact.subject} may go on: of its budget, now {body['budget']}, {float(body['part']):.0%} is spent"
    if what in ("budget_told", "budget_spent"):
        done = "was told to finish" if what == "budget_told" else "was ended"
        return f"{fact.subject} {done}: budget of {body['budget']}, {float(body['part']):.0%} spent"
    if body.get("signal"):
        end = f"was killed by {body['signal']}" + (" when memory ran out" if body.get("memory") else "")
    else:
        end = f"had exited with status {body['exit']}" if body.get("exit") is not None else ""
    if what == "gave_up" and body.get("hindered"):
        why = clean(body["hindered"], 300)
        return f"{fact.subject} given up, it cannot be started: {why}: put that right, then `orgctl restart {fact.subject}`"
    if what == "gave_up":
        screen = [line for line in str(body.get("screen") or "").split("\n") if line.strip()]
        words = next((line for line in screen if "error" in line.lower()), screen[-1] if screen else "")
        return (
            f"{fact.subject} given up after {body.get('restarts', '?')} restarts{f', it {end}' if end else ''}"
            f"{f', saying: {clean(words, 160)}' if words else ''}: "
            f"`orgctl logs {fact.subject} --screen`, then `orgctl restart {fact.subject}`"
        )
    return f"{fact.subject} {what}" + (f" (it {end})" if end else f" ({body['why']})" if body.get("why") else "")


def _intervention(fact: Fact, state: State) -> str | None:
    if fact.body["what"] == "taken_over":
        return f"{fact.subject} taken over by {fact.actor}"
    if fact.body["what"] == "typed":
        if fact.subject in state.taken_over:
            return None  # that is known already
        return f"{fact.subject}: a person typed into its pane; what is begun in that turn is assisted"
    if fact.body["what"] == "typed_end":
        return None
    return f"{fact.subject} {str(fact.body['what']).replace('_', ' ')} by {fact.actor}"


def _alarm(fact: Fact, state: State) -> str:
    return f"ALARM {fact.subject}: {fact.body['text']}"


def _standup(fact: Fact, state: State) -> str:
    body = fact.body
    if body["what"] == "opened":
        return f"{fact.subject}: standup {body['number']} is open ({body['why']}): {', '.join(body['agents'])} are asked"
    gone = f", missing: {', '.join(body['missing'])}" if body["missing"] else ""
    found = f"of {body['claims']} sentences that claim something {body['flagged']} flagged"
    return f"{fact.subject}: {', '.join(body['reported']) or 'nobody'} reported{gone}; {found}: orgctl standup show"


def _assignment(fact: Fact, state: State) -> str:
    body = fact.body
    what = ", ".join([*body["areas"], *filter(None, [body["idea"], clean(body["hypothesis"], 100)])])
    return f"{fact.subject}: {fact.actor} assigns {body['agent']} to {what}: {clean(body['why'], 120)}"


def _refused(fact: Fact, state: State) -> str:
    return f"what was handed in for {fact.subject} is refused: {clean(fact.body['why'], 200)}"


def _lever(fact: Fact, state: State) -> str:
    body, subject, actor = fact.body, fact.subject, fact.actor
    if fact.kind == "retired":
        return f"{actor} retires {subject} as a dead end ({', '.join(body['evidence'])}): {clean(body['why'], 120)}"
    if fact.kind == "budget":
        return f"{actor} gives {subject} " + ("no limit" if body["gpu_hours"] is None else f"{body['gpu_hours']:g} GPU-hours")
    if fact.kind == "priority":
        return f"{actor} moves {subject} to the {'front' if body['first'] else 'end'} of the queue"
    if fact.kind == "answer":
        return f"{actor} answers the idea {subject}: {clean(body['text'], 160)}"
    what = "ends the assignment of" if fact.kind == "dismissal" else "takes up again"
    return f"{actor} {what} {subject}: {clean(body['why'], 160)}"


_TELL: dict[str, Any] = {
    "session": _session, "trunk": _trunk, "proposal": _proposal, "attempt": _attempt, "start": _start,
    "result": _result, "nomination": _nomination, "confirm": _confirm, "control": _control, "verdict": _verdict, "withdrawn": _withdrawn,
    "unmerged": _unmerged,
    "amendment": _amendment, "review": _review, "checked": _checked, "audit_order": _audit_order, "audit": _audit,
    "carry_order": _carry_order, "carry": _carry, "agent": _agent, "intervention": _intervention, "alarm": _alarm,
    "refused": _refused, "replication_order": _replication_order, "replication": _replication,
    "standup": _standup, "assignment": _assignment, "dismissal": _lever, "retired": _lever, "reopened": _lever, "budget": _lever,
    "priority": _lever, "answer": _lever,
}  # fmt: skip
