"""Trunk without each of its ideas in turn: which still help, which are barnacles, and whether their effects add up. Pure.

The workflow asks what is missing and writes the table that comes of it as a fact; commands and report print that fact. The
choices that matter most: an idea is taken out of the present trunk with everything promoted after it left in, which answers
another question than the day it was promoted; and intervals come from all the runs in them, each counted once with its weight.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from lab import claims, verdict
from lab.records import Audit, Experiment, Run
from lab.state import State, bank_of
from tasks.spec import Task

FAILURES = 3
"""Runs of trunk without an idea that may fail before no more are asked for."""
SEEDS = 64
"""Most seeds an audit may ask for, for each idea."""


def due(state: State, every: int) -> bool:
    """Is it time for an audit: `every` promotions that stand since the last one, and none under way? 0: never."""
    if not every or any(one.result is None for one in state.audits.values()):
        return False
    last = max((one.steps for one in state.audits.values()), default=0)
    newest = state.experiments.get(state.trunks[-1].experiment) if state.trunks else None
    if newest is not None and newest.check is None:
        return False
    recent = {step.experiment for step in state.trunks[last:]}
    return sum(experiment.id in recent for experiment in state.promotions()) >= every


def latest(state: State) -> Audit | None:
    """What counts of the present trunk: its newest audit that came to an end. It is on more seeds than those before it, and on theirs."""
    done = (one for one in reversed(state.audits.values()) if one.result is not None and not one.result["why"])
    return next((one for one in done if state.same(one.trunk, state.trunk)), None)


def superseded(state: State) -> list[Experiment]:
    """Removals that an earlier audit of the present trunk suggested, and that are not on it."""
    newest = latest(state)
    earlier = {one.id for one in state.audits.values() if newest and one is not newest and state.same(one.trunk, newest.trunk)}
    removals = (one for one in state.experiments.values() if one.removes and one.params["audit"] in earlier)
    return [one for one in removals if one.promoted is None and one.withdrawn is None]


def refusal(state: State, seeds: int) -> str | None:
    """Why no audit of the present trunk on so many seeds can be ordered; None when it can."""
    if not state.promotions():
        return "trunk holds no promoted idea: there is nothing to leave out"
    if going := next((one.id for one in state.audits.values() if one.result is None), None):
        return f"{going} is under way: `orgctl exp audit --show`"
    done = latest(state)
    if done is not None and seeds <= done.seeds:
        return (
            f"{done.id} has audited this trunk on {done.seeds} seeds (`orgctl exp audit --show`): give more than that,"
            f" `orgctl exp audit --seeds {done.seeds + 1}` or up to {SEEDS}"
        )
    return None


def runs_of(state: State, idea: dict[str, Any]) -> list[Run]:
    """Runs of trunk without an idea."""
    runs = state.experiments[idea["experiment"]].runs
    return [run for run in runs if run.purpose == "audit" and idea["commit"] and run.commit == idea["commit"]]


def missing(state: State, audit: Audit, idea: dict[str, Any]) -> int:
    """Runs of trunk without this idea that must still be asked for."""
    found = runs_of(state, idea)
    if not idea["commit"] or sum(run.status in ("crashed", "invalid", "timeout") for run in found) >= FAILURES:
        return 0
    return max(0, audit.seeds - len(_good(state, found)) - sum(not run.over for run in found))


def table(state: State, audit: Audit, task: Task) -> dict[str, Any]:
    """Body of the fact `audit`: {rows, additive, why}. All its runs are over; effects are in the metric's unit.

    A row is {experiment, effect, low, high, n, m, margin, verdict, why, files}: `effect` of leaving the idea out, and
    `verdict` helps, barnacle or unclear; None where the idea cannot be taken out alone.
    """
    bank = bank_of(state, audit.trunk).values(state.split)
    minimize = task.metric.direction == "minimize"
    rows = [_row(state, bank, idea, minimize, task.min_effect) for idea in audit.ideas]
    return {"rows": rows, "additive": _additive(state, audit, bank, task), "why": ""}


def given_up(audit: Audit, why: str) -> dict[str, Any]:
    """Body of the fact `audit` of one that cannot be finished."""
    return {"rows": [_blank(idea, "unclear" if idea["commit"] else None, why) for idea in audit.ideas], "additive": {}, "why": why}


def _good(state: State, runs: Sequence[Run]) -> list[float]:
    return [
        run.metric[state.split] for run in runs
        if run.status == "ok" and run.environment == state.environment and state.split in run.metric
    ]  # fmt: skip


def _blank(idea: dict[str, Any], word: str | None, why: str) -> dict[str, Any]:
    figures = dict.fromkeys(("effect", "low", "high", "margin"))
    return {"experiment": idea["experiment"], **figures, "n": 0, "m": 0, "verdict": word, "why": idea["why"] or why,
            "files": idea["files"]}  # fmt: skip


def _row(state: State, bank: list[float], idea: dict[str, Any], minimize: bool, smallest: float) -> dict[str, Any]:
    found = runs_of(state, idea)
    values = _good(state, found)
    if not idea["commit"]:
        return _blank(idea, None, "")
    if len(values) < 2:
        failed = next((run for run in reversed(found) if run.status not in ("ok", "killed", "lost")), None)
        return _blank(idea, "unclear", f"trunk without it fails: {failed.status}: {failed.reason}" if failed else "too few runs")
    experiment = state.experiments[idea["experiment"]]
    margin = experiment.min_effect or smallest
    test = verdict.welch(values, bank, minimize=minimize)
    return {
        "experiment": experiment.id, "effect": test.effect, "low": test.low, "high": test.high, "n": len(values), "m": len(bank),
        "margin": margin, "verdict": _word(*((test.low, test.high) if minimize else (-test.high, -test.low)), margin),
        "why": "", "files": [],
    }  # fmt: skip


def _word(least: float, most: float, margin: float) -> str:
    """What the 95 % interval of the loss without an idea says: `least` to `most`, positive where the idea helps."""
    if most <= margin:
        return "barnacle"
    return "helps" if least > 0 else "unclear"


def _additive(state: State, audit: Audit, bank: list[float], task: Task) -> dict[str, Any]:
    """The whole gain beside sums over its ideas, each [estimate, low, high] with the sign of a change of the metric.

    `measured`: this trunk's bank against the first trunk's; `reported`: each idea's effect when it came in, by fresh runs
    where there are some; `alone`: what leaving each out would lose; `gap`: measured less alone. None where runs are missing.
    """
    minimize = task.metric.direction == "minimize"
    first = bank_of(state, state.trunks[0].commit).values(state.split)
    without = [_good(state, runs_of(state, idea)) for idea in audit.ideas]
    whole = [(1.0, bank), (-1.0, first)]
    count = float(len(without))
    alone = [(count, bank), *((-1.0, values) for values in without)]
    gap = [(1.0 - count, bank), (-1.0, first), *((1.0, values) for values in without)]
    ideas = [state.experiments[idea["experiment"]] for idea in audit.ideas]
    complete = all(idea["commit"] for idea in audit.ideas)
    found = {
        "measured": contrast(whole), "reported": _sum(state, ideas, minimize), "alone": contrast(alone) if complete else None,
        "gap": contrast(gap) if complete else None,
    }  # fmt: skip
    return {**found, "n": len(bank), "m": len(first), "said": _additivity(found["gap"], minimize)}


def _additivity(gap: Sequence[float] | None, minimize: bool) -> str:
    if gap is None:
        return "whether they add up cannot be told: an idea cannot be taken out alone, or runs are missing"
    _, low, high = gap if minimize else (gap[0], -gap[2], -gap[1])
    if high < 0:
        return "together they give more than the ideas left out one by one account for: they overlap"
    if low > 0:
        return "together they give less than the ideas left out one by one account for: they need each other"
    return "additive as far as these runs can tell"


def _sum(state: State, ideas: Sequence[Experiment], minimize: bool) -> list[float] | None:
    """Of the ideas' own effects, reported ones where they are measured, else their verdicts'; errors as independent."""
    total, squares = 0.0, 0.0
    for idea in ideas:
        fresh = claims.reported(state, idea, minimize, state.wanted)
        judged = next((one.verdict for one in reversed(idea.attempts) if one.verdict), None) or {}
        effect, low, high = (
            (fresh.effect, fresh.low, fresh.high) if fresh else (judged.get("effect"), judged.get("low"), judged.get("high"))
        )
        if effect is None or low is None or high is None:
            return None
        total, squares = total + effect, squares + ((high - low) / 2) ** 2
    return [total, total - math.sqrt(squares), total + math.sqrt(squares)]


def contrast(samples: Sequence[tuple[float, Sequence[float]]], confidence: float = 0.95) -> list[float] | None:
    """[estimate, low, high] of a weighted sum of means of independent samples, without assuming equal spreads.

    Student's t at Satterthwaite's degrees of freedom, as Welch's test has them for weights 1 and -1; None when a sample that
    counts has fewer than two values.
    """
    from scipy.special import stdtrit

    counted = [(weight, values) for weight, values in samples if weight]
    if any(len(values) < 2 for _, values in counted):
        return None
    estimate = math.fsum(weight * statistics.fmean(values) for weight, values in counted)
    parts = [(weight**2 * statistics.variance(values) / len(values), len(values) - 1) for weight, values in counted]
    variance = math.fsum(part for part, _ in parts)
    if not variance:
        return [estimate, estimate, estimate]
    df = variance**2 / math.fsum(part**2 / freedom for part, freedom in parts)
    reach = float(stdtrit(df, 0.5 + confidence / 2)) * math.sqrt(variance)
    return [estimate, estimate - reach, estimate + reach]


def removal_verdict(state: State, audit: Audit, row: dict[str, Any], number: int, unit: str) -> dict[str, Any]:
    """Body of the verdict on attempt `number` of the laboratory's proposal to take a barnacle out: no claim, so no p."""
    sigma = bank_of(state, audit.trunk).sigma(state.split)
    return {
        "attempt": number, "verdict": "neutral", "effect": row["effect"], "low": row["low"], "high": row["high"], "p": None,
        "n": row["n"], "m": row["m"], "sigma": sigma if math.isfinite(sigma) else None,
        "reasoning": [
            f"{audit.id}: without {row['experiment']} {row['effect']:+.4g} {unit} (95 % interval {row['low']:+.4g} to"
            f" {row['high']:+.4g}), n = {row['n']} fresh seeds",
            f"it no longer helps by more than {row['margin']:g} {unit}, the smallest effect of interest",
            f"compared with the bank of {audit.trunk[:8]} (n {row['m']}), split {state.split}",
        ],
    }  # fmt: skip


def removal_of(state: State, audit: Audit, row: dict[str, Any]) -> Experiment | None:
    """The proposal of the laboratory to take out this row's idea."""
    wanted = {"removes": row["experiment"], "audit": audit.id}
    return next((one for one in state.experiments.values() if one.agent == "lab" and one.params == wanted), None)


def lines(state: State, audit: Audit, unit: str) -> list[str]:
    """The audit in words, a line each idea, then the sums."""
    head = f"{audit.id} of trunk {audit.trunk[:8]}, {audit.seeds} seeds for each of {len(audit.ideas)} ideas, ordered by {audit.by}"
    if audit.result is None:
        over = sum(len(_good(state, runs_of(state, idea))) for idea in audit.ideas)
        wanted = audit.seeds * sum(bool(idea["commit"]) for idea in audit.ideas)
        return [f"{head}: under way, {over} of {wanted} runs", *_stuck(audit.ideas)]
    found = [f"{head}{': ' + audit.result['why'] if audit.result['why'] else ''}"]
    for row in audit.result["rows"]:
        if row["effect"] is None:
            if not row["files"]:
                found.append(f"{row['experiment']}: {row['verdict'] or 'not audited'}: {row['why']}")
            continue
        taken = removal_of(state, audit, row)
        proposed = f"; {taken.id} would take it out ({taken.status})" if taken else ""
        found.append(
            f"{row['experiment']}: {row['verdict']}; leaving it out {row['effect']:+.4g} {unit} (95 % interval {row['low']:+.4g} to"
            f" {row['high']:+.4g}), n = {row['n']} against {row['m']}{proposed}"
        )
    return [*found, *_stuck(audit.ideas), *sums(audit, unit)]


def _stuck(ideas: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{idea['experiment']}: cannot be taken out alone: {idea['why']}" for idea in ideas if not idea["commit"]]


def sums(audit: Audit, unit: str) -> list[str]:
    """The answer to "additive?"."""
    found = (audit.result or {}).get("additive") or {}
    if not found:
        return []
    names = {
        "measured": f"whole gain, bank of {found['n']} against the first trunk's {found['m']}",
        "reported": "sum of their effects when they came in",
        "alone": "sum of what leaving each out would lose",
        "gap": "whole gain less that sum",
    }
    lines = [
        f"{name}: {found[key][0]:+.4g} {unit} (95 % interval {found[key][1]:+.4g} to {found[key][2]:+.4g})"
        if found[key] else f"{name}: not known"
        for key, name in names.items()
    ]  # fmt: skip
    return [*lines, found["said"]]
