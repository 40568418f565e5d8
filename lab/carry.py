"""Promoted ideas at the next scale of the task's ladder: what is still to be run there, and how much of an effect arrives. Pure.

The workflow asks what is missing and writes what came of it as a fact for each idea; commands and report print that. An idea
is carried as the stack it came with: trunk as it was promoted, against the first trunk, at either scale, each on fresh seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from lab import verdict
from lab.errors import UserError
from lab.records import Carry, Experiment, Run
from lab.state import State, bank_of
from tasks.spec import Task

FAILURES = 3
"""Runs of one commit that may fail at the next scale before no more are asked for."""
SEEDS = 64
"""Most seeds that may be asked for, for each commit."""
WHAT = "carry ideas to the next scale"


def refusal(task: Task, following: Task | None) -> str | None:
    """Why nothing can be carried from a session's scale to the next one on the same slots; None when it can."""
    if following is None:
        return f"scale {task.scale.name} has no next one: `next:` in its file names it, and `orgctl up` reads that"
    here, there = task.scale, following.scale
    if here.device != there.device or here.gpus != there.gpus:
        wanted = f"{there.gpus} GPU{'s' if there.gpus > 1 else ''}" if there.device == "cuda" else "the CPU"
        return f"scale {there.name} runs on {wanted} and the slots of this session do not: begin a session at that scale"
    if task.metric != following.metric:
        return f"scale {there.name} measures {following.metric.name} and this one {task.metric.name}: they have no ratio"
    return None


def missing(state: State, order: Carry, commit: str) -> int:
    """Runs of a commit at the next scale that must still be asked for."""
    found = _runs(state, commit)
    if sum(run.status in ("crashed", "invalid", "timeout") for run in found) >= FAILURES:
        return 0
    return max(0, order.seeds - len(_good(state, found)) - sum(not run.over for run in found))


def wanted(state: State, named: object) -> list[str]:
    """The ideas of an order that names these (none: all). Raises UserError for what is no promoted idea, or where there is none."""
    standing = {one.id for one in state.promotions()}
    named = named or sorted(standing)
    ideas = list(dict.fromkeys(str(name) for name in named)) if isinstance(named, list) else []
    if other := next((name for name in ideas if name not in standing), None):
        raise UserError(f"{other[:40]!r} is no promoted idea of this trunk: `orgctl exp list --status promoted` shows them")
    if not ideas:
        raise UserError("trunk holds no promoted idea: there is nothing to carry")
    return ideas


def known(state: State, scale: str, ideas: list[str], seeds: int) -> str | None:
    """Why one more order of these ideas would ask for nothing: they were run on as many seeds, or are about to be. None for a new one."""
    wanted = Carry("", scale, seeds, "", ideas)
    commits = [state.trunks[0].commit, *(str(state.experiments[name].promoted) for name in ideas)]
    if any(missing(state, wanted, commit) for commit in commits):
        return None
    named = ", ".join(ideas)
    return f"{named} at scale {scale} on {seeds} seeds: asked for already, `orgctl exp carry --show`; more seeds: --seeds N"


def waits(state: State, commit: str) -> bool:
    return any(not run.over for run in _runs(state, commit))


def outcome(state: State, order: Carry, experiment: Experiment, minimize: bool) -> dict[str, Any]:
    """Body of the fact `carry` about a promoted idea, when its runs and the first trunk's are over.

    {order, scale, effect, low, high, n, m, here, ratio, why}: effect at the next scale in the metric's unit; `here` is
    [effect, low, high] at this one; `ratio` [estimate, low, high] of both relative to their baseline's mean, its interval None
    where the effect here is not clear. None for what could not be measured, and why.
    """
    commit, first = str(experiment.promoted), state.trunks[0].commit
    there = [_good(state, _runs(state, one)) for one in (commit, first)]
    here = [bank_of(state, one).values(state.split) for one in (commit, first)]
    body: dict[str, Any] = {
        "order": order.id, "scale": order.scale, "n": len(there[0]), "m": len(there[1]),
        **dict.fromkeys(("effect", "low", "high", "here", "ratio")), "why": "",
    }  # fmt: skip
    if min(map(len, there)) < 2:
        failed = [run for one in (commit, first) for run in _runs(state, one) if run.status in ("crashed", "invalid", "timeout")]
        why = f"{failed[-1].id} ended {failed[-1].status}: {failed[-1].reason}" if failed else "too few runs"
        return {**body, "why": f"not measured at scale {order.scale}: {why}"}
    test = verdict.welch(there[0], there[1], minimize=minimize)
    body |= {"effect": test.effect, "low": test.low, "high": test.high}
    if min(map(len, here)) < 2:
        return {**body, "why": "its bank or the first trunk's was measured in another environment: no ratio"}
    before = verdict.welch(here[0], here[1], minimize=minimize)
    return body | {"here": [before.effect, before.low, before.high], "ratio": transfer(there, here)}


def transfer(there: Sequence[Sequence[float]], here: Sequence[Sequence[float]], confidence: float = 0.95) -> list[float | None]:
    """[ratio, low, high] of two effects, each of (candidate, baseline) samples and relative to its baseline's mean.

    Fieller (1954) for the interval, with Student's t at Satterthwaite's degrees of freedom; low and high are None where the
    effect below the line may as well be zero, so that no interval bounds their ratio.
    """
    from scipy.special import stdtrit

    (a, parts_a), (b, parts_b) = _relative(*there), _relative(*here)
    if not b:
        return [None, None, None]
    ratio = a / b
    parts = [*parts_a, *((ratio**2 * part, freedom) for part, freedom in parts_b)]
    squares = math.fsum(part**2 / freedom for part, freedom in parts)
    if not squares:
        return [ratio, ratio, ratio]
    quantile = float(stdtrit(math.fsum(part for part, _ in parts) ** 2 / squares, 0.5 + confidence / 2))
    over, under = (math.fsum(part for part, _ in side) for side in (parts_a, parts_b))
    g = quantile**2 * under / b**2
    if g >= 1:
        return [ratio, None, None]
    reach = quantile / abs(b) * math.sqrt((1 - g) * over + ratio**2 * under)
    return [ratio, (ratio - reach) / (1 - g), (ratio + reach) / (1 - g)]


def _relative(candidate: Sequence[float], baseline: Sequence[float]) -> tuple[float, list[tuple[float, int]]]:
    """(effect over the baseline's mean, its variance in parts with their degrees of freedom), by the delta method."""
    mine, theirs = statistics.fmean(candidate), statistics.fmean(baseline)
    return mine / theirs - 1, [
        (statistics.variance(candidate) / len(candidate) / theirs**2, len(candidate) - 1),
        (statistics.variance(baseline) / len(baseline) * mine**2 / theirs**4, len(baseline) - 1),
    ]


def _runs(state: State, commit: str) -> list[Run]:
    return [run for run in state.runs.values() if run.purpose == "carry" and run.commit == commit]


def _good(state: State, runs: Sequence[Run]) -> list[float]:
    """Values of the runs in the environment of the newest run at that scale."""
    newest = next((run for run in reversed(state.runs.values()) if run.purpose == "carry" and run.status == "ok"), None)
    return [
        run.metric[state.split] for run in runs
        if newest and run.status == "ok" and run.environment == newest.environment and state.split in run.metric
    ]  # fmt: skip


def said(state: State, order: Carry, unit: str) -> list[str]:
    """A line on the order, and one on each idea."""
    head = f"{order.id}: to scale {order.scale} on {order.seeds} seeds, ordered by {order.by}"
    return [head, *(line(order.results[name], name, unit) if name in order.results else f"{name}: under way" for name in order.ideas)]


def line(body: dict[str, Any], name: str, unit: str) -> str:
    """What came of one idea."""
    if body["effect"] is None:
        return f"{name}: {body['why']}"
    found = (
        f"{name}: trunk with it against the first trunk at scale {body['scale']} {body['effect']:+.4g} {unit} (95 % interval"
        f" {body['low']:+.4g} to {body['high']:+.4g}), n = {body['n']} against m = {body['m']}"
    )
    if body["ratio"] is None or body["ratio"][0] is None:
        return f"{found}; {body['why'] or 'no effect here to compare with'}"
    ratio, low, high = body["ratio"]
    bounds = f"95 % interval {low:.2f} to {high:.2f}" if low is not None else "no interval bounds it: the effect here is not clear"
    return f"{found}; here {body['here'][0]:+.4g}; transfer ratio {ratio:.2f} ({bounds})"
