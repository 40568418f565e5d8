"""The statistics of belief: when one run nominates, when fresh seeds confirm, what the verdict says. Pure functions.

Called by the workflow (`lab.experiment`) on metric values alone. The choices that matter most: the nominating value is
thrown away; Welch's test, because a candidate's spread need not be the baseline's; and thresholds per stage simulated
with a bank of 4 shared by all ideas (`benchmarks/verdict.py`), so that at most 1 % of null ideas are accepted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

STAGES = (3, 6)
"""Fresh seeds after which a nominated idea is judged: first 3, then 3 more."""
ALPHAS = (0.005, 0.012)
"""One-sided p below which a stage accepts; benchmarks/verdict.py: equal spreads, bank of 4, nomination at 0.4 sigma."""
FUTILE = 0.25
"""One-sided p above which a stage that is not the last stops; benchmarks/verdict.py has its price in power."""
WORSE = 0.05
"""One-sided p below which the end says `worse` and not merely `inconclusive`."""
COST_TOLERANCE = 1.001
"""Cost ratio above which an idea must beat a control that spends as much."""


@dataclass(frozen=True)
class Judgement:
    """A verdict and its grounds. `effect` (candidate minus baseline) and its 95 % interval are in the metric's unit.

    `p` is one-sided for "better"; `n` fresh candidate runs, `m` baseline runs; `sigma` is the baseline's standard
    deviation.
    """

    verdict: str
    """improved, bought, neutral, worse, inconclusive or invalid"""
    effect: float
    low: float
    high: float
    p: float
    n: int
    m: int
    sigma: float
    reasoning: list[str]
    """Three lines: effect with interval against sigma; n and test; what was compared with what."""


class Welch(NamedTuple):
    """Welch's t test of two samples; `effect` = candidate mean - baseline mean, interval two-sided."""

    effect: float
    low: float
    high: float
    t: float
    df: float
    p_better: float
    """One-sided: how often a candidate that is no better would look at least this good."""


def welch(
    candidate: Sequence[float], baseline: Sequence[float], confidence: float = 0.95, minimize: bool = True
) -> Welch:
    """Compare two means without assuming equal spreads (Welch 1947, degrees of freedom after Satterthwaite).

    Raises ValueError for fewer than two values on a side, or a value that is not finite.
    """
    from scipy.special import stdtr, stdtrit  # half the start-up time of scipy.stats, and only where it is needed

    n, mean, variance = _moments(candidate, "candidate")
    m, base_mean, base_variance = _moments(baseline, "baseline")
    effect = mean - base_mean
    a, b = variance / n, base_variance / m
    if a + b == 0:  # no spread at all: the difference, if any, is exact
        t = math.copysign(math.inf, effect) if effect else 0.0
        better = effect < 0 if minimize else effect > 0
        return Welch(effect, effect, effect, t, float(n + m - 2), 0.5 if not effect else 0.0 if better else 1.0)
    error, share = math.sqrt(a + b), a / (a + b)
    df = 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (m - 1))
    t = effect / error
    reach = float(stdtrit(df, 0.5 + confidence / 2)) * error
    return Welch(effect, effect - reach, effect + reach, t, df, float(stdtr(df, t if minimize else -t)))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) after Student's t. Raises ValueError like `welch`."""
    from scipy.special import stdtrit

    n, mean, variance = _moments(values, "sample")
    reach = float(stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance / n)
    return mean, mean - reach, mean + reach


def nominate(
    value: float, bank: Sequence[float], minimize: bool, threshold_sigma: float = 0.4
) -> tuple[bool, float]:
    """Is one run worth confirming? Returns (yes or no, sigmas of the bank by which it is better; negative: worse).

    One run only nominates: its value is never used again. A bank without any spread gives an infinite number of sigmas.
    Raises ValueError for a bank of fewer than two values, or a value that is not finite.
    """
    _, mean, variance = _moments(bank, "bank")
    if not math.isfinite(value):
        raise ValueError(f"the metric is {value}: a run without a finite metric cannot be compared")
    gain = mean - value if minimize else value - mean
    sigma = math.sqrt(variance)
    sigmas = gain / sigma if sigma else math.copysign(math.inf, gain) if gain else 0.0
    return sigmas >= threshold_sigma, sigmas


def stage_alpha(n: int) -> float:
    """The threshold on p for a judgement on `n` fresh seeds."""
    return ALPHAS[1] if n >= STAGES[1] else ALPHAS[0]


def needs_control(cost_ratio: float | None) -> bool:
    """Does the idea spend so much more (candidate FLOPs / baseline FLOPs) that it must beat trunk given as much?"""
    return cost_ratio is not None and cost_ratio > COST_TOLERANCE


def beats(candidate: Sequence[float], baseline: Sequence[float], *, minimize: bool, alpha: float | None = None) -> bool:
    """Is the candidate better at this stage's threshold? False below the first stage's number of seeds.

    With `needs_control` it tells the workflow that a control is the next thing to run.
    """
    if len(candidate) < STAGES[0]:
        return False
    threshold = stage_alpha(len(candidate)) if alpha is None else alpha
    return welch(candidate, baseline, minimize=minimize).p_better < threshold


def judge(
    candidate: Sequence[float],
    baseline: Sequence[float],
    *,
    minimize: bool,
    min_effect: float,
    final: bool,
    compared_with: str,
    alpha: float | None = None,
    control: Sequence[float] | None = None,
    cost_ratio: float | None = None,
    ties: bool = False,
) -> Judgement | None:
    """Judge fresh candidate runs against the baseline bank. `alpha` defaults to this stage's; `ties`: different seeds may
    well give the same value (the cost of a target, when training ends at a set part of its budget).

    None means "not decided": more seeds are wanted, or (the only meaning when `final`) the control at equal cost is,
    because the candidate beats the bank, `needs_control(cost_ratio)` and no control was given.
    Raises ValueError for a value that is not finite, and when there are fewer than two to compare in the end.
    """
    if not final and len(candidate) < 2 and all(map(math.isfinite, candidate)):
        return None
    test = welch(candidate, baseline, minimize=minimize)
    n, m, sigma = len(candidate), len(baseline), math.sqrt(_moments(baseline, "baseline")[2])
    threshold = stage_alpha(n) if alpha is None else alpha
    lines = _lines(test, n, m, sigma, threshold, minimize, compared_with)

    def verdict(word: str, because: str = "") -> Judgement:
        grounds = [*lines[:2], lines[2] + (f"; {because}" if because else "")]
        return Judgement(word, test.effect, test.low, test.high, test.p_better, n, m, sigma, grounds)

    if not ties and _repeats(candidate, baseline):
        return verdict("invalid", "same metric for different seeds: the seed never reaches the training")
    if n >= STAGES[0] and test.p_better < threshold:
        if not needs_control(cost_ratio):
            return verdict("improved")
        if control is None:
            return None
        equal = welch(candidate, control, minimize=minimize)
        against = (
            f"against trunk with {cost_ratio:.3f}x the budget (m = {len(control)}) effect {equal.effect:+.4g}"
            f" (95 % interval {equal.low:+.4g} to {equal.high:+.4g}), p = {equal.p_better:.2g}"
        )
        if equal.p_better < threshold:
            return verdict("improved", against)
        if final or equal.p_better > FUTILE:
            return verdict("bought", against + ": no better than what the same cost buys")
        return None
    if not final and (n < STAGES[0] or test.p_better <= FUTILE):
        return None
    if n < STAGES[0]:
        return verdict("inconclusive", f"fewer than {STAGES[0]} finished runs")
    if 1 - test.p_better < WORSE:
        return verdict("worse")
    margin = max(min_effect, sigma)
    if -margin < test.low and test.high < margin:
        return verdict("neutral", f"the whole interval lies within {margin:.4g} of no effect")
    return verdict("inconclusive", "" if final else f"stopped early: p above {FUTILE}")


def _lines(
    test: Welch, n: int, m: int, sigma: float, threshold: float, minimize: bool, compared_with: str
) -> list[str]:
    gain = -test.effect if minimize else test.effect
    size = f"{abs(gain) / sigma:.2f} sigma {'better' if gain > 0 else 'worse'}" if sigma and gain else "no difference"
    if gain and not sigma:
        size = "the baseline has no spread to measure it by"
    return [
        f"effect {test.effect:+.4g} (95 % interval {test.low:+.4g} to {test.high:+.4g}, n = {n}): {size},"
        f" sigma {sigma:.3g}",
        f"n = {n} fresh seeds against m = {m}, one-sided Welch t = {test.t:.2f}, df = {test.df:.1f},"
        f" p = {test.p_better:.2g} (accepted below {threshold:g})",
        f"compared with {compared_with}; {'lower' if minimize else 'higher'} is better",
    ]


def _repeats(candidate: Sequence[float], baseline: Sequence[float]) -> bool:
    """Did different seeds give bit-identical values? Some ties are honest for a metric of few digits (an accuracy)."""
    if len(set(candidate)) == 1:
        return True
    few_digits = all(round(value, 4) == value for value in (*candidate, *baseline))
    return len(set(candidate)) < len(candidate) and not few_digits


def _moments(values: Sequence[float], what: str) -> tuple[int, float, float]:
    """(n, mean, sample variance)."""
    n = len(values)
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{what}: the metric is {value}: a run without a finite metric cannot be compared")
    if n < 2:
        raise ValueError(f"{what}: {n} value{'' if n == 1 else 's'}; a comparison needs at least two runs")
    if len(set(values)) == 1:
        return n, float(values[0]), 0.0  # else rounding of the mean leaves a spread of 1e-17
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) * (value - mean) for value in values) / (n - 1)
    if not math.isfinite(variance):
        raise ValueError(f"{what}: values of {max(map(abs, values)):.3g} are too large to compare")
    return n, mean, variance
