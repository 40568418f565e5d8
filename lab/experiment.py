"""The workflow: the bank comes first, ideas are judged, promoted, checked, audited, carried and replicated. Pure: facts in, steps out.

`decide` looks at the folded ledger and names the next steps; `lab.laboratory` carries them out. Calling it again after a crash
gives the steps that are still missing, so nothing about the workflow is remembered anywhere but in the ledger. How one attempt gets its
verdict is in `lab.attempt`.
"""

from __future__ import annotations

import itertools

from lab import audit, carry, claims, promotion, replication
from lab.attempt import bank_ready, interleaved, judge
from lab.flags import drift
from lab.records import Audit, Experiment
from lab.state import State, bank_of
from lab.steps import (
    BOTH,
    Policy,
    Promote,
    ProposeRemoval,
    Queue,
    Rebase,
    Revert,
    StartAudit,
    Step,
    Write,
)
from tasks.spec import Task


def decide(state: State, task: Task, policy: Policy) -> list[Step]:
    """The steps that the facts call for now. Empty when everything waits for runs or for somebody's order."""
    if checked := _check(state, task, policy):
        return checked  # nothing is built on a promotion that does not stand
    steps: list[Step] = [*_bank(state, policy), *_drift(state, policy), *_parents(state, task, policy)]
    steps += [*_audits(state, task, policy), *_carries(state, task), *_replications(state, task)]
    for experiment in state.experiments.values():
        attempt = experiment.attempt
        if attempt is None or (attempt.verdict and attempt.verdict["verdict"] != "improved"):
            continue
        if attempt.apart or experiment.promoted or experiment.withdrawn is not None or experiment.removes:
            continue
        if attempt.verdict is None:
            mine = judge(state, task, policy, experiment, attempt)
            steps += [step for step in mine if not (_shared(step) and step in steps)]
        elif policy.promotes(experiment) and _not_after(state, experiment):
            steps.append(Rebase(experiment.id) if attempt.parent != state.trunk else Promote(experiment.id))
    return steps


def _shared(step: Step) -> bool:
    """Is it asked for once, however many ideas wait for it?"""
    return isinstance(step, Queue) and step.purpose == "frontier"


def _check(state: State, task: Task, policy: Policy) -> list[Step]:
    """What was promoted last is compared with its parent when its bank is full, and taken back if it is no better."""
    newest = state.trunks[-1] if state.trunks else None
    experiment = state.experiments.get(newest.experiment) if newest else None
    if newest is None or experiment is None:
        return []
    if experiment.check is None:
        body = promotion.check(state, newest, task.metric.direction == "minimize", policy.bank)
        return [Write("checked", experiment.id, body)] if body else []
    return [] if experiment.check["holds"] else [Revert(experiment.id)]


def _audits(state: State, task: Task, policy: Policy) -> list[Step]:
    """Runs and tables of audits under way, removals that the last one suggests, and the next one when it is due."""
    steps: list[Step] = [StartAudit()] if audit.due(state, policy.audit_every) else []
    newest = audit.latest(state)
    if newest:
        late = f"{newest.id} has audited this trunk again, on {newest.seeds} seeds"
        steps += [Write("withdrawn", removal.id, {"why": late}) for removal in audit.superseded(state)]
    for one in state.audits.values():
        if one.result is None:
            steps += _audit(state, task, policy, one)
        elif one is newest:
            for row in (row for row in one.result["rows"] if row["verdict"] == "barnacle"):
                proposed = audit.removal_of(state, one, row)
                attempt = proposed.attempt if proposed else None
                if proposed is None or attempt is None:
                    steps.append(ProposeRemoval(row["experiment"], one.id))
                elif attempt.verdict is None:
                    body = audit.removal_verdict(state, one, row, attempt.number, task.metric.unit)
                    steps.append(Write("verdict", proposed.id, body))
    return steps


def _audit(state: State, task: Task, policy: Policy, one: Audit) -> list[Step]:
    if any(idea["experiment"] not in state.experiments for idea in one.ideas):
        return []  # somebody looks at one experiment alone (`lab.verify`)
    if bank_ready(state, one.trunk, policy) is None:
        late = "its trunk's bank is out of date"
        return [] if state.same(one.trunk, state.trunk) else [Write("audit", one.id, audit.given_up(one, late))]
    steps: list[Step] = []
    for idea in one.ideas:
        steps += [Queue("audit", idea["commit"], idea["experiment"])] * audit.missing(state, one, idea)
    if steps or any(not run.over for idea in one.ideas for run in audit.runs_of(state, idea)):
        return steps
    return [Write("audit", one.id, audit.table(state, one, task))]


def _carries(state: State, task: Task) -> list[Step]:
    """Runs of promoted ideas and of the first trunk at the next scale, and what came of them."""
    steps: list[Step] = []
    for order in state.carries.values():
        left = [state.experiments[name] for name in order.ideas if name not in order.results and name in state.experiments]
        commits = {state.trunks[0].commit: "", **{str(one.promoted): one.id for one in left}} if left else {}
        asked: list[Step] = []
        for commit, name in commits.items():
            asked += [Queue("carry", commit, name)] * carry.missing(state, order, commit)
        if asked or any(carry.waits(state, commit) for commit in commits):
            return [*steps, *asked]  # one order at a time: the next may find its runs made already
        minimize = task.metric.direction == "minimize"
        steps += [Write("carry", one.id, carry.outcome(state, order, one, minimize)) for one in left]
    return steps


def _replications(state: State, task: Task) -> list[Step]:
    """Runs of what is being replicated, with baselines of its parent between; and what came of it."""
    steps: list[Step] = []
    for experiment in state.experiments.values():
        if not experiment.replications:
            continue
        order = replication.ordered(experiment)
        attempt = next((one for one in experiment.attempts if order and one.number == order.attempt), None)
        if order is None or attempt is None:
            continue
        count, bank = replication.missing(state, experiment, order), bank_of(state, attempt.parent)
        if count:
            mine: Step = Queue("replicate", attempt.commit, experiment.id, attempt.number, order.by, splits=BOTH)
            others = interleaved(len(bank.runs), count) if bank.runs and not replication.runs_of(experiment, order) else 0
            baselines: list[Step] = [Queue("bank", attempt.parent, splits=BOTH)] * others
            steps += [step for pair in itertools.zip_longest(baselines, [mine] * count) for step in pair if step]
        elif body := replication.outcome(state, experiment, order, attempt, task.metric.direction == "minimize"):
            steps.append(Write("replication", experiment.id, body))
    return steps


def _not_after(state: State, experiment: Experiment) -> bool:
    """Only one automatic promotion or rebase at a time: the earliest improved experiment goes first."""
    return not any(
        other.id != experiment.id and other.status == "confirming" and other.attempts[-1].number > 1
        for other in state.experiments.values()
    )


def _bank(state: State, policy: Policy) -> list[Step]:
    if not state.trunk:
        return []
    bank = bank_of(state, state.trunk)
    good = [run for run in bank.runs if run.status == "ok"]
    pending = [run for run in bank.runs if not run.over]
    if failed := bank.failure:
        why = f"{failed.status}: {failed.reason}"
        text = f"the baseline {state.trunk[:8]} itself fails ({why}): no verdict is possible on it, and no idea is run"
        return [] if text in state.alarms else [Write("alarm", "bank", {"text": text})]
    missing = policy.bank - len(good) - len(pending)
    return [Queue("bank", state.trunk, splits=BOTH) for _ in range(missing)]


def _drift(state: State, policy: Policy) -> list[Step]:
    """An alarm, once for each bank, when new baseline runs of the last two trunks leave the band of the earlier ones."""
    for step in state.trunks[-2:]:
        text = f"the baseline {step.commit[:8]} drifts: "
        if any(alarm.startswith(text) for alarm in state.alarms):
            continue
        parents = [
            run for one in state.promotions() for run in one.runs if (run.purpose, run.commit) == ("parent", step.commit)
        ]
        runs = [
            run for run in (*bank_of(state, step.commit).runs, *parents)
            if run.status == "ok" and run.environment == state.environment and state.split in run.metric
        ]  # fmt: skip
        runs.sort(key=lambda run: run.ended or 0.0)
        if wrong := drift([run.metric[state.split] for run in runs], policy.bank):
            return [Write("alarm", "bank", {"text": f"{text}{wrong}; look for what changed on the machine"})]
    return []


def _parents(state: State, task: Task, policy: Policy) -> list[Step]:
    """Fresh runs of the parents of what was promoted, for the effects that are reported."""
    steps: list[Step] = []
    for experiment in state.promotions():
        missing = claims.parents_missing(state, experiment, task.metric.direction == "minimize", policy.bank)
        attempt = experiment.attempts[-1] if experiment.attempts else None
        if attempt and missing:
            steps += [Queue("parent", attempt.parent, experiment.id, attempt.number)] * missing
    return steps
