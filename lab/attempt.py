"""One attempt on its way to a verdict: nominated on one run, confirmed on fresh seeds beside baselines, held against its control. Pure.

The workflow (`lab.experiment`) calls `judge` for each attempt without a verdict; it names the runs that are missing or the fact that
follows. What decides is `lab.verdict` on runs that took no part in choosing the idea.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

from lab import controls, frontier, resized, verdict
from lab.controls import Control
from lab.cost import Cost, cost
from lab.records import NO_EVIDENCE, Attempt, Bank, Experiment, Run
from lab.state import State, bank_of
from lab.steps import BOTH, Policy, Queue, Rebase, Step, Write
from lab.text import deviations, figure
from tasks.spec import Task

BANK_LIMIT = 24
"""From the second stage of a confirmation on every candidate run has a baseline run beside it, until the bank has so many; then
one a stage goes on watching for drift. Ideas that share a bank share its errors, and interleaved baselines wear those off."""
LOST_RUNS = 1
"""Lost runs (their runner vanished, or was ended by a stranger) that an attempt may have of one purpose."""
FLAGS = 3
"""Flags of a candidate's runs that a verdict quotes; `orgctl exp show` has all."""


def bank_ready(state: State, commit: str, policy: Policy) -> Bank | None:
    """The bank of a commit when it has its runs, else None."""
    bank = bank_of(state, commit)
    return bank if len(bank.values("audit")) >= policy.bank and len(bank.values("search")) >= policy.bank else None


def judge(state: State, task: Task, policy: Policy, experiment: Experiment, attempt: Attempt) -> list[Step]:
    """Steps of an attempt that has no verdict yet."""
    bank = bank_ready(state, attempt.parent, policy)
    if asked := _ordered(bank, task, policy, experiment, attempt):
        return asked
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
    away = -sigmas if task.metric.direction == "minimize" else sigmas
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
            f"one run at {figure(effect, signed=True)} {task.metric.unit} "
            f"({deviations(away, signed=True)} sigma of the bank, {figure(sigma)}) against {figure(statistics.fmean(values))}",
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
    """Body of a verdict that rests on no comparison."""
    figures: dict[str, Any] = {"effect": None, "low": None, "high": None, "p": None, "n": 0, "m": 0, "sigma": None}
    figures |= frontier.Gain().facts()
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
    dear = charged.control if verdict.beats(values, baseline, minimize=minimize, stages=policy.stages) else None
    if dear and (factors := frontier.missing(state, task, attempt.parent, policy.bank)):
        return [Queue("frontier", attempt.parent, budget_factor=factor) for factor in factors]
    if dear and frontier.pending(state, task, attempt.parent):
        return []
    curve = frontier.measured(state, task, bank, charged.kind)
    beside = curve.beside(values, charged.ratio, minimize) if curve and charged.ratio else None
    bought = beside if dear and not attempt.control_ordered and frontier.bought(beside, minimize) else None
    control: list[float] = []
    if dear and not bought:
        beaten = controls.runs_of(experiment, task, Control(dear), charged.kind)
        control = controls.values(beaten, done[0])
        if len(control) < policy.bank:
            return _controls(policy, experiment, attempt, Control(dear), task, beaten)

    def judged(by_size: tuple[str, list[float]] | None) -> verdict.Judgement | None:
        return verdict.judge(
            values,
            baseline,
            minimize=minimize,
            min_effect=experiment.min_effect or task.min_effect,
            stages=policy.stages,
            compared_with=f"bank of {attempt.parent[:8]} (n {len(baseline)}), split audit",
            control=control or None,
            resized=by_size,
            cost_ratio=charged.control,
            bought=bought,
            ties=bool(task.scale.target),
        )

    judgement = judged(None)
    if judgement and judgement.verdict == "improved" and dear:
        found = _by_size(state, bank, task, policy, experiment, attempt, charged, done[0])
        if isinstance(found, list):
            return found
        judgement = judged(found)
    if judgement is None:
        fresh = policy.stages[policy.stages.index(stage) + 1] - len(runs)
        others = interleaved(sum(run.status == "ok" or not run.over for run in bank.runs), fresh)
        baselines: list[Step] = [Queue("bank", attempt.parent, splits=BOTH)] * others
        return [step for pair in itertools.zip_longest(baselines, [mine] * fresh) for step in pair if step]
    gain = frontier.unmeasured(state, task, bank, charged.kind) if dear else frontier.Gain()
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


def _controls(
    policy: Policy, experiment: Experiment, attempt: Attempt, wanted: Control, task: Task, runs: list[Run]
) -> list[Step]:
    """What an idea's control still lacks, where these are its runs; undecided where they fail."""
    if why := controls.broken(runs):
        return [_undecided(experiment, attempt, f"the control fails ({wanted.said(task)}): {why}")]
    asked = Queue("control", attempt.parent, experiment.id, attempt.number, budget_factor=wanted.factor, dial=wanted.dial)
    return [asked] * controls.missing(runs, policy.bank)


def _ordered(bank: Bank | None, task: Task, policy: Policy, experiment: Experiment, attempt: Attempt) -> list[Step]:
    """Runs of a control that somebody ordered by hand."""
    charged = controls.charged(experiment, bank, bool(task.scale.target)) if bank and attempt.control_ordered else None
    if charged is None or charged.control is None:
        return []
    runs = controls.runs_of(experiment, task, Control(charged.control), charged.kind)
    asked = _controls(policy, experiment, attempt, Control(charged.control), task, runs)
    return [step for step in asked if isinstance(step, Queue)]


def _by_size(
    state: State, bank: Bank, task: Task, policy: Policy, experiment: Experiment, attempt: Attempt, charged: Cost, beside: Run
) -> list[Step] | tuple[str, list[float]] | None:
    """Trunk at another size for the same cost: what it is and its metrics, or the steps to get there; None where there is none."""
    found = resized.wanted(state, task, bank, charged)
    if found.waits:
        return []
    if found.probe is not None:
        return [Queue("frontier", attempt.parent, budget_factor=resized.PROBE, dial=found.probe)]
    if found.control is None:
        return None
    runs = controls.runs_of(experiment, task, found.control)
    values = controls.values(runs, beside)
    if len(values) < policy.bank and not controls.broken(runs):
        return _controls(policy, experiment, attempt, found.control, task, runs)
    return (found.control.said(task), values) if len(values) > 1 else None


def interleaved(have: int, fresh: int) -> int:
    """Baseline runs among `fresh` runs of a candidate from the second stage on, when the bank has `have`."""
    return min(fresh, max(1, BANK_LIMIT - have))


def _flagged(runs: list[Run]) -> list[str]:
    """A line on what is odd about these runs, if anything is."""
    found = [f"{run.id}: {line}" for run in runs for line in run.flags]
    more = f"; and {len(found) - FLAGS} more" if len(found) > FLAGS else ""
    return [f"flagged: {'; '.join(found[:FLAGS])}{more}"] if found else []
