"""Trunk's frontier: its metric on half its budget, its own and twice that, and what an idea's gain is worth in compute.

Called by the workflow for ideas that cost more than their parent, and by benchmarks/frontier.py. Pure functions of folded facts.
The choice that matters most: the frontier accepts nothing. It is a model of three points, so it only turns down what is plainly
bought and says what a gain is worth; an idea that costs more is accepted on runs of trunk that were given as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab import cost
from lab.records import Bank, Run
from lab.state import State
from lab.verdict import Beside, Moments, Welch, moments
from tasks.spec import Task

FACTORS = (0.5, 2.0)
"""Multiples of the budget that trunk is run on; the bank is the point at 1. Schedules follow the budget's progress."""
RUNS = 4
"""Runs at each of them, 10 runs' worth of compute a trunk commit. With 4 runs of the idea and a bank of 8 the two ends hold 0.2 %
of the variance of a difference at 1.05x, 16 % at 1.5x: 8 runs there make that interval 4 % narrower (tests/lab/test_frontier.py)."""
FAILURES = 3
"""Runs at one factor that may fail before the laboratory goes on without a frontier."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """The compute-equivalent gain (CEG) of an idea: the cost at which trunk reaches the idea's metric, over the idea's own.

    All three are None where it is undefined, and `why` says so. The interval has 95 %.
    """

    ceg: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""

    def facts(self) -> dict[str, float | None]:
        """As it goes into a verdict."""
        return {"ceg": self.ceg, "ceg_low": self.low, "ceg_high": self.high}


@dataclass(frozen=True)
class Frontier:
    """Three points (cost as a multiple of the bank's, moments of the metric), by cost, and the parabola through them: the metric
    as a quadratic function of log cost. A straight line from 1x to 2x would lie above a curve that flattens out."""

    points: tuple[tuple[float, Moments], ...]

    @property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest cost that were measured."""
        return self.points[0][0], self.points[-1][0]

    def beside(self, values: Sequence[float], spent: float, minimize: bool) -> Beside | None:
        """The idea's mean minus what trunk reaches at the cost `spent`, or at the largest that was measured if that is less, with
        its 95 % interval (degrees of freedom after Satterthwaite); None below the smallest. Raises ValueError like `welch`."""
        least = min(spent, self.reach[1])
        if least < self.reach[0]:
            return None
        weights, _ = self._weights(math.log(least))
        effect, error, df = _combine([(1.0, moments(values, "candidate")), *self._parts(weights, -1.0)])
        return Beside(least, _test(effect, error, df, minimize))

    def gain(self, values: Sequence[float], spent: float, minimize: bool) -> Gain:
        """The CEG of an idea with these values at the cost `spent`, its interval by the delta method on log cost.

        Undefined where the slope of the frontier cannot be told from none, and beyond what was measured. Raises ValueError
        like `welch`.
        """
        mine, sign = moments(values, "candidate"), -1.0 if minimize else 1.0
        helped, doubt, df = _combine(self._parts([-1.0, 0.0, 1.0]))
        if sign * helped <= _quantile(df) * doubt:
            return Gain(why=f"more compute does not visibly help trunk: {helped:+.3g} ± {_quantile(df) * doubt:.3g} {self._range}")
        place = self._place(mine.mean, sign)
        if place is None or not math.log(self.reach[0]) <= place <= math.log(self.reach[1]):
            return Gain(why=f"{mine.mean:.4g} lies outside of what trunk reaches {self._range}")
        weights, slopes = self._weights(place)
        slope, doubt, df = _combine(self._parts(slopes))
        if sign * slope <= _quantile(df) * doubt:
            return Gain(why=f"there the curve may be flat: slope {slope:+.3g} ± {_quantile(df) * doubt:.3g} an e-fold of cost")
        _, error, df = _combine([(1.0, mine), *self._parts(weights, -1.0)])
        log_ceg, reach = place - math.log(spent), _quantile(df) * error / abs(slope)
        return Gain(math.exp(log_ceg), math.exp(log_ceg - reach), math.exp(log_ceg + reach))

    @property
    def _range(self) -> str:
        return f"from {self.reach[0]:.3g}x to {self.reach[1]:.3g}x of its cost"

    def said(self) -> str:
        """Costs and numbers of runs."""
        return f"{', '.join(f'{x:.3g}x' for x, _ in self.points)}; n = {', '.join(str(found.n) for _, found in self.points)}"

    def _parts(self, weights: Sequence[float], sign: float = 1.0) -> list[tuple[float, Moments]]:
        return [(sign * weight, found) for weight, (_, found) in zip(weights, self.points, strict=True)]

    def _weights(self, x: float) -> tuple[list[float], list[float]]:
        """What each point's mean counts in the parabola's value at log cost x, and in its slope there (Lagrange)."""
        at = [math.log(spent) for spent, _ in self.points]
        values, slopes = [], []
        for own in at:
            a, b = (other for other in at if other != own)
            values.append((x - a) * (x - b) / ((own - a) * (own - b)))
            slopes.append((2 * x - a - b) / ((own - a) * (own - b)))
        return values, slopes

    def _place(self, y: float, sign: float) -> float | None:
        """Log cost at which the parabola has the value y while it gets better; None where it never does."""
        (x0, x1, x2), (m0, m1, m2) = (math.log(c) for c, _ in self.points), (float(m.mean) for _, m in self.points)
        first = (m1 - m0) / (x1 - x0)
        bend = ((m2 - m1) / (x2 - x1) - first) / (x2 - x0)
        begin = first - bend * (x1 - x0)  # the slope at x0
        square = begin**2 - 4 * bend * (m0 - y)
        if sign * begin <= 0 or square < 0:
            return None
        return x0 + 2 * (y - m0) / (begin + sign * math.sqrt(square))


def missing(state: State, task: Task, commit: str, bank: int) -> list[float]:
    """Multiples of the budget of the runs that must still be asked for, where a full bank has `bank` runs; none when the frontier
    is being measured, is there, or will never be (`broken`)."""
    if broken(state, task, commit):
        return []
    found = []
    for factor in FACTORS:
        have = sum(run.status == "ok" or not run.over for run in _runs(state, task, commit, factor))
        found += [factor] * (min(RUNS, bank) - have)
    return found


def price(state: State, commit: str, bank: int) -> float:
    """What the frontier of a commit costs before anything of it was asked for, in runs on the usual budget; afterwards 0."""
    asked = any(run.purpose == "frontier" and run.commit == commit for run in state.runs.values())
    return 0.0 if asked else min(RUNS, bank) * sum(FACTORS)


def pending(state: State, task: Task, commit: str) -> bool:
    """Are runs of it queued or running?"""
    return any(not run.over for factor in FACTORS for run in _runs(state, task, commit, factor))


def broken(state: State, task: Task, commit: str) -> str:
    """Why there will be no frontier of this commit; "" when there may be."""
    for factor in FACTORS:
        failed = [run for run in _runs(state, task, commit, factor) if run.status in ("crashed", "invalid", "timeout")]
        if len(failed) >= FAILURES:
            return f"trunk fails at {factor:g}x its budget ({failed[-1].reason})"
    return ""


def unmeasured(state: State, task: Task, bank: Bank, kind: str) -> Gain:
    """The gain of an idea that costs more where there is no frontier to measure it by."""
    if why := broken(state, task, bank.commit):
        return Gain(why=why)
    spent = [cost.ratio(_runs(state, task, bank.commit, factor), bank.runs, kind) for factor in FACTORS]
    if not all(spent):
        return Gain(why="what the runs of trunk's frontier cost is unknown")
    said = " and ".join(f"{ratio:.3g}x" for ratio in spent)
    return Gain(why=f"trunk costs {said} in {'FLOPs' if kind == 'flops' else kind} on half and twice its budget, which it does not follow")


def measured(state: State, task: Task, bank: Bank, kind: str) -> Frontier | None:
    """The frontier of a bank's commit over the cost `kind` (flops or seconds) on split audit; None while it has no three points."""
    points = []
    for factor in FACTORS:
        runs = [run for run in _runs(state, task, bank.commit, factor) if run.status == "ok"]
        ratio = cost.ratio(runs, bank.runs, kind)
        if ratio and len(runs) > 1:
            points.append((ratio, moments([run.metric["audit"] for run in runs], "frontier")))
    values = bank.values("audit")
    if len(points) < len(FACTORS) or len(values) < 2 or not points[0][0] < 1 < points[1][0]:
        return None
    return Frontier((points[0], (1.0, moments(values, "bank")), points[1]))


def bought(found: Beside | None, minimize: bool) -> bool:
    """Is the idea worse than what trunk reaches for no more, by more than the interval of that?"""
    return found is not None and (found.test.low > 0 if minimize else found.test.high < 0)


def _runs(state: State, task: Task, commit: str, factor: float) -> list[Run]:
    """Runs of a commit's frontier at one factor, less what ended well in another environment."""
    amount = task.scale.budget.times(factor).amount
    machine = state.environment[0] if state.environment else None
    return [
        run for run in state.runs.values()
        if run.purpose == "frontier" and run.dial is None and run.commit == commit and run.budget.get("amount") == amount
        and (run.status != "ok" or (run.machine == machine and "audit" in run.metric))
    ]  # fmt: skip


def _combine(parts: Sequence[tuple[float, Moments]]) -> tuple[float, float, float]:
    """(value, standard error, degrees of freedom) of a weighted sum of means, after Satterthwaite (1946)."""
    value = math.fsum(weight * found.mean for weight, found in parts)
    shares = [(weight**2 * found.variance / found.n, found.n - 1) for weight, found in parts]
    whole = math.fsum(share for share, _ in shares)
    freedom = whole**2 / math.fsum(share**2 / df for share, df in shares) if whole else math.inf
    return value, math.sqrt(whole), freedom


def _quantile(df: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(min(df, 1e9), 0.5 + CONFIDENCE / 2))


def _test(effect: float, error: float, df: float, minimize: bool) -> Welch:
    from scipy.special import stdtr

    if not error:
        better = effect < 0 if minimize else effect > 0
        return Welch(effect, effect, effect, math.copysign(math.inf, effect), df, 0.5 if not effect else 0.0 if better else 1.0)
    t, reach = effect / error, _quantile(df) * error
    return Welch(effect, effect - reach, effect + reach, t, df, float(stdtr(df, t if minimize else -t)))


def lines(found: Frontier | None, gain: Gain, spent: float | None, equal: Welch | None, against: str) -> list[str]:
    """What a verdict's reasoning says of the gain: a line, or none where nothing asks for one. `equal`: the difference at equal
    cost, `against` what."""
    if gain.ceg is not None and found and spent:
        return [
            f"CEG {gain.ceg:.3g} (95 % interval {gain.low:.3g} to {gain.high:.3g}): trunk reaches that at {gain.ceg * spent:.3g}x the"
            f" bank's cost by its frontier ({found.said()}), the idea at {spent:.6g}x"
        ]
    if not gain.why:
        return []
    size = f"; against {against} effect {equal.effect:+.4g} (95 % interval {equal.low:+.4g} to {equal.high:+.4g})" if equal else ""
    return [f"CEG undefined: {gain.why}{size}"]


def brief(judged: dict[str, Any] | None) -> str:
    """The CEG of a verdict in a few words; "" where it is undefined."""
    values = [(judged or {}).get(name) for name in ("ceg", "ceg_low", "ceg_high")]
    if not all(isinstance(value, int | float) for value in values):
        return ""
    ceg, low, high = values
    return f"{ceg:.3g} ({low:.3g} to {high:.3g})"
