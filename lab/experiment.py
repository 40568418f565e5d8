"""The workflow of an idea: nominate on one run, confirm on fresh seeds, control its cost, judge, promote, audit. Pure: facts in,
steps out.

`decide` looks at the folded ledger and names the next steps; `lab.laboratory` carries them out. Calling it again after a crash
gives the steps that are still missing, so nothing about the workflow is remembered anywhere but in the ledger.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import Any

from lab import audit, carry, claims, frontier, promotion, verdict
from lab.cost import cost
from lab.flags import drift
from lab.records import BANK, NO_EVIDENCE, Attempt, Audit, Bank, Experiment, Run, State, bank_of
from tasks.spec import Task

BANK_LIMIT = 24
"""From the second stage of a confirmation on every candidate run has a baseline run beside it, until the bank has so many; then
one a stage goes on watching for drift. Ideas that share a bank share its errors, and interleaved baselines wear those off."""
LOST_RUNS = 1
"""Lost runs (their runner vanished, or was ended by a stranger) that an attempt may have of one purpose."""
FLAGS = 3
"""Flags of a candidate's runs that a verdict quotes; `orgctl exp show` has all."""
BOTH = ("search", "audit")
"""Banks and confirmations read both splits: the gap between them is looked at, and scoring is cheap beside training."""
BANK_FAILURES = 3
"""Baseline runs that may fail before the laboratory stops asking for more and raises an alarm."""


@dataclass(frozen=True)
class Policy:
    """How rigid this organisation's laboratory is; comes from the org design."""

    bank: int = BANK
    stages: tuple[int, ...] = verdict.STAGES
    queue_ahead: int = 2
    confirmation: str = "chief"
    promotion: str = "chief"
    audit_every: int = 0
    """Promotions after which the laboratory audits trunk by itself; 0: never."""


@dataclass(frozen=True)
class Queue:
    """Ask for one more run."""

    purpose: str
    commit: str
    experiment: str = ""
    attempt: int = 0
    agent: str = "lab"
    budget_factor: float = 1.0
    splits: tuple[str, ...] = ("audit",)


@dataclass(frozen=True)
class Write:
    """Write a fact about an experiment (or an alarm)."""

    kind: str
    subject: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Rebase:
    """Carry the experiment's latest attempt to the present trunk as a new attempt, and confirm it there."""

    experiment: str


@dataclass(frozen=True)
class Promote:
    """Bring the latest attempt to trunk."""

    experiment: str


@dataclass(frozen=True)
class Revert:
    """Take back the promotion that trunk ends with."""

    experiment: str


@dataclass(frozen=True)
class StartAudit:
    """Take each promoted idea out of the present trunk, as a commit of its own, and order the audit of them."""


@dataclass(frozen=True)
class ProposeRemoval:
    """Propose to take an idea out of trunk, as an audit suggests."""

    experiment: str
    audit: str


Step = Queue | Write | Rebase | Promote | Revert | StartAudit | ProposeRemoval


def decide(state: State, task: Task, policy: Policy) -> list[Step]:
    """The steps that the facts call for now. Empty when everything waits for runs or for somebody's order."""
    if checked := _check(state, task, policy):
        return checked  # nothing is built on a promotion that does not stand
    steps: list[Step] = [*_bank(state, policy), *_drift(state, policy), *_parents(state, task, policy)]
    steps += [*_audits(state, task, policy), *_carries(state, task)]
    for experiment in state.experiments.values():
        attempt = experiment.attempt
        if attempt is None or experiment.promoted or experiment.withdrawn is not None or experiment.removes:
            continue
        if attempt.verdict is None:
            mine = _judge(state, task, policy, experiment, attempt)
            steps += [step for step in mine if not (_shared(step) and step in steps)]
        elif attempt.verdict["verdict"] == "improved" and policy.promotion == "auto" and _not_after(state, experiment):
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
    for one in state.audits.values():
        if one.result is None:
            steps += _audit(state, task, policy, one)
        elif state.same(one.trunk, state.trunk):
            for row in (row for row in one.result["rows"] if row["verdict"] == "barnacle"):
                removal = audit.removal_of(state, one, row)
                attempt = removal.attempt if removal else None
                if removal is None or attempt is None:
                    steps.append(ProposeRemoval(row["experiment"], one.id))
                elif attempt.verdict is None:
                    body = audit.removal_verdict(state, one, row, attempt.number, task.metric.unit)
                    steps.append(Write("verdict", removal.id, body))
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
    failed = [run for run in bank.runs if run.status in ("crashed", "invalid", "timeout")]
    if len(failed) >= BANK_FAILURES and len(failed) > len(good):
        text = f"the baseline {state.trunk[:8]} itself fails ({failed[-1].status}: {failed[-1].reason}): no verdict is possible on it"
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


def bank_ready(state: State, commit: str, policy: Policy) -> Bank | None:
    """The bank of a commit when it has its runs, else None."""
    bank = bank_of(state, commit)
    return bank if len(bank.values("audit")) >= policy.bank and len(bank.values("search")) >= policy.bank else None


def _judge(state: State, task: Task, policy: Policy, experiment: Experiment, attempt: Attempt) -> list[Step]:
    """Steps of an attempt that has no verdict yet."""
    bank = bank_ready(state, attempt.parent, policy)
    if bank is None and attempt.parent != state.trunk:  # the environment changed: that old trunk gets no bank any more
        late = "its parent's bank is out of date"
        return [Rebase(experiment.id) if attempt.confirm_ordered else _undecided(experiment, attempt, late)]
    if attempt.nomination is None and not attempt.confirm_ordered:
        return _nominate(bank, task, experiment, attempt)
    if not attempt.confirm_ordered:
        return [Write("confirm", experiment.id, {"attempt": attempt.number})] if policy.confirmation == "auto" else []
    if attempt.parent != state.trunk and not experiment.runs_for("confirm"):
        return [Rebase(experiment.id)]
    return _confirm(state, bank, task, policy, experiment, attempt) if bank else []


def _nominate(bank: Bank | None, task: Task, experiment: Experiment, attempt: Attempt) -> list[Step]:
    runs = experiment.runs_for("nominate")
    counted, lost = _evidence(runs)
    if lost:
        return [_failed(experiment, attempt, lost)]
    done = [run for run in counted if run.over]
    if not done:
        if counted:
            return []
        return [Queue("nominate", attempt.commit, experiment.id, attempt.number, experiment.agent, splits=("search",))]
    run = done[0]
    if run.status != "ok":
        return [_failed(experiment, attempt, run)]
    if bank is None:
        return []
    values = bank.values("search")
    nominated, sigmas = verdict.nominate(run.metric["search"], values, minimize=task.metric.direction == "minimize")
    sigma = statistics.stdev(values)
    if nominated:
        body = {
            "attempt": attempt.number,
            "nominated": True,
            "value": run.metric["search"],
            "sigmas": sigmas,
            "bank_mean": statistics.fmean(values),
            "bank_sigma": sigma,
            "run": run.id,
        }
        return [Write("nomination", experiment.id, body)]
    effect = run.metric["search"] - statistics.fmean(values)
    body = {
        "attempt": attempt.number,
        "verdict": "worse" if sigmas < -3 else "inconclusive",
        "effect": effect,
        "low": None,
        "high": None,
        "p": None,
        "n": 1,
        "m": len(values),
        "sigma": sigma,
        **frontier.Gain().facts(),
        "reasoning": [
            f"one run at {effect:+.4f} {task.metric.unit} ({-sigmas:+.1f} sigma of the bank, {sigma:.4f}) "
            f"against {statistics.fmean(values):.4f}",
            "one run only nominates, and this one did not: no interval, no confirmation",
            f"compared on split search with the bank of {attempt.parent[:8]} (n {len(values)})",
        ],
    }
    return [Write("verdict", experiment.id, body)]


def _failed(experiment: Experiment, attempt: Attempt, run: Run) -> Step:
    """A run of the candidate that did not end well decides the attempt."""
    reasoning = [
        f"{run.id} ({run.purpose}, seed {run.seed}) ended {run.status}: {run.reason}",
        "no comparison was made",
        f"log: orgctl exp show {experiment.id}",
    ]
    word = "invalid" if run.status == "invalid" else "crashed"
    return Write("verdict", experiment.id, without_comparison(attempt, word, reasoning))


def without_comparison(attempt: Attempt, word: str, reasoning: list[str]) -> dict[str, Any]:
    """Body of a verdict that rests on no comparison; figures of an earlier verdict on the same attempt are kept."""
    figures: dict[str, Any] = {"effect": None, "low": None, "high": None, "p": None, "n": 0, "m": 0, "sigma": None}
    figures |= frontier.Gain().facts()
    if attempt.verdict:
        figures = {key: attempt.verdict.get(key) for key in figures}
        reasoning = [*reasoning, f"before that, on {attempt.parent[:8]}: {attempt.verdict['verdict']}"]
    return {"attempt": attempt.number, "verdict": word, **figures, "reasoning": reasoning}


def _undecided(experiment: Experiment, attempt: Attempt, why: str) -> Step:
    """The laboratory cannot decide: said so, with the reason."""
    reasoning = [why, "no comparison at equal cost is possible", "propose it again once that is mended"]
    return Write("verdict", experiment.id, without_comparison(attempt, "inconclusive", reasoning))


def _evidence(runs: list[Run]) -> tuple[list[Run], Run | None]:
    """Runs that count, and one that was lost once too often: a candidate that ends its own runner does not get new seeds."""
    lost = [run for run in runs if run.status == "lost"]
    return [run for run in runs if run.status not in NO_EVIDENCE], lost[-1] if len(lost) > LOST_RUNS else None


def _confirm(
    state: State, bank: Bank, task: Task, policy: Policy, experiment: Experiment, attempt: Attempt
) -> list[Step]:
    runs, lost = _evidence(experiment.runs_for("confirm"))
    if lost:
        return [_failed(experiment, attempt, lost)]
    runs = [run for run in runs if run.status != "ok" or run.environment == state.environment]
    for run in runs:
        if run.over and run.status != "ok":
            return [_failed(experiment, attempt, run)]
    done = [run for run in runs if run.status == "ok"]
    stage = next((size for size in policy.stages if size >= len(runs)), policy.stages[-1])
    mine: Step = Queue("confirm", attempt.commit, experiment.id, attempt.number, experiment.agent, splits=BOTH)
    if len(runs) < stage:  # the first stage, or runs that were no evidence
        return [mine] * (stage - len(runs))
    asked = max(run.queued for run in runs)  # what others have asked for since is not waited for, or nobody would come to an end
    if len(done) < len(runs) or any(not run.over and run.queued <= asked for run in bank.runs):
        return []
    charged = cost(done, bank, bool(task.scale.target))
    if charged is None:
        return [_undecided(experiment, attempt, "neither its FLOPs nor its seconds can be compared with the bank's")]
    minimize = task.metric.direction == "minimize"
    values, baseline = [run.metric["audit"] for run in done], bank.values("audit")
    control = [run.metric["audit"] for run in experiment.runs_for("control") if run.status == "ok" and run.machine == done[0].machine]
    dear = charged.control if verdict.beats(values, baseline, minimize=minimize, stages=policy.stages) else None
    if dear and (factors := frontier.missing(state, task, attempt.parent, policy.bank)):
        return [Queue("frontier", attempt.parent, budget_factor=factor) for factor in factors]
    if dear and frontier.pending(state, task, attempt.parent):
        return []
    curve = frontier.measured(state, task, bank, charged.kind)
    beside = curve.beside(values, charged.ratio, minimize) if curve and charged.ratio else None
    bought = beside if dear and frontier.bought(beside, minimize) else None
    if dear and not bought and len(control) < policy.bank:
        return _controls(policy, experiment, attempt, dear)
    judgement = verdict.judge(
        values,
        baseline,
        minimize=minimize,
        min_effect=experiment.min_effect or task.min_effect,
        stages=policy.stages,
        compared_with=f"bank of {attempt.parent[:8]} (n {len(baseline)}), split audit",
        control=control or None,
        cost_ratio=charged.control,
        bought=bought,
        ties=bool(task.scale.target),
    )
    if judgement is None:
        fresh = policy.stages[policy.stages.index(stage) + 1] - len(runs)
        others = interleaved(sum(run.status == "ok" or not run.over for run in bank.runs), fresh)
        baselines: list[Step] = [Queue("bank", attempt.parent, splits=BOTH)] * others
        return [step for pair in itertools.zip_longest(baselines, [mine] * fresh) for step in pair if step]
    gain = frontier.unmeasured(state, task, attempt.parent) if dear else frontier.Gain()
    if curve and charged.ratio:
        gain = curve.gain(values, charged.ratio, minimize)
    equal, by = (beside.test, f"trunk at {beside.spent:.6g}x the cost, by its frontier,") if beside else (None, "")
    if len(control) > 1:
        equal, by = verdict.welch(values, control, minimize=minimize), "its control"
    body = {
        "attempt": attempt.number,
        "verdict": judgement.verdict,
        "effect": judgement.effect,
        "low": judgement.low,
        "high": judgement.high,
        "p": judgement.p,
        "n": judgement.n,
        "m": judgement.m,
        "sigma": judgement.sigma,
        **gain.facts(),
        "reasoning": [
            *judgement.reasoning, charged.said, *frontier.lines(curve, gain, charged.ratio, equal, by), *_flagged(done)
        ],
        "cost_ratio": charged.ratio,
    }
    return [Write("verdict", experiment.id, body)]


def _controls(policy: Policy, experiment: Experiment, attempt: Attempt, factor: float) -> list[Step]:
    """The runs of its parent on `factor` times the budget that an idea's control still lacks; undecided where they fail."""
    runs = experiment.runs_for("control")
    broken = [run for run in runs if run.status in ("crashed", "invalid", "timeout")]
    if len(broken) >= BANK_FAILURES:
        return [_undecided(experiment, attempt, f"the control at {factor:.6g}x the budget fails: {broken[-1].reason}")]
    missing = policy.bank - len([run for run in runs if run.status in ("ok", "queued", "running")])
    return [Queue("control", attempt.parent, experiment.id, attempt.number, "lab", budget_factor=factor)] * missing


def interleaved(have: int, fresh: int) -> int:
    """Baseline runs among `fresh` runs of a candidate from the second stage on, when the bank has `have`."""
    return min(fresh, max(1, BANK_LIMIT - have))


def _flagged(runs: list[Run]) -> list[str]:
    """A line on what is odd about these runs, if anything is."""
    found = [f"{run.id}: {line}" for run in runs for line in run.flags]
    more = f"; and {len(found) - FLAGS} more" if len(found) > FLAGS else ""
    return [f"flagged: {'; '.join(found[:FLAGS])}{more}"] if found else []
