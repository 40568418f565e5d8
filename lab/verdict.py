"""The statistics of belief: when one run nominates, when fresh seeds confirm, what the verdict says. Pure functions.

Called by the workflow (`lab.experiment`) on metric values alone, and by `benchmarks/verdict.py` on arrays of many simulated
ideas. The choices that matter most: the nominating value is thrown away; Welch's test, because a candidate's spread need not
be the baseline's; and a boundary that falls with the information, its three constants chosen by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

Numbers: TypeAlias = Any
"""A float, or a NumPy array of them: one value for each of many simulated ideas."""

STAGES = (2, 4, 8, 14)
"""Fresh seeds of a nominated idea, in all, after which it is judged."""
NOMINATE = 0.4
"""Sigmas of the bank by which one run must be better. At 0 a null idea costs 3.3 runs and not 2.75, at 1 power at 2 sigma is .80
and not .90 (benchmarks/verdict.py)."""
BOUNDARY = 2.88
"""Normal quantile from which the last stage accepts; an earlier one needs this times sqrt(last information / its own).
benchmarks/verdict.py: .0009 to .0013 false accepts a null idea; at 2.76 a third more, at 3.0 power at 1.5 sigma is .65 and not .67."""
FUTILITY = 3.0
"""A stage stops below this t times (its information / the last)^1.5. At 2 a null idea costs 3.3 runs, at 4 it costs 2.4 and power
at 2 sigma is .85."""
LEAST = 4
"""Fresh seeds below which nothing is accepted (or as many as a shorter last stage has)."""
WORSE = 0.05
"""One-sided p below which the end says `worse` and not merely `inconclusive`."""
COST_TOLERANCE = 1 + 1e-6
"""Cost ratio above which an idea must beat a control that spends as much: rounding of counts that are exact, no allowance."""


@dataclass(frozen=True)
class Judgement:
    """A verdict and its grounds. `effect` (candidate minus baseline) and its 95 % interval are in the metric's unit.

    `p` is one-sided for "better" (the larger of two where a control was run too); `n` fresh candidate runs, `m` baseline
    runs; `sigma` is the baseline's standard deviation.
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


class Moments(NamedTuple):
    """Of one sample, or of many of the same size."""

    n: Numbers
    mean: Numbers
    variance: Numbers
    """Of the sample: sum of squares over n - 1."""


class Look(NamedTuple):
    """What a stage says of an idea: a bool each, or an array of them."""

    accepted: Numbers
    hopeless: Numbers
    """Further seeds are not worth their runs."""


class Welch(NamedTuple):
    """Welch's t test of two samples; `effect` = candidate mean - baseline mean, interval two-sided."""

    effect: float
    low: float
    high: float
    t: float
    df: float
    p_better: float
    """One-sided: how often a candidate that is no better would look at least this good."""


class Beside(NamedTuple):
    """An idea against what trunk reaches at the cost `spent`, a multiple of the bank's (`lab.frontier`)."""

    spent: float
    test: Welch


def welch(
    candidate: Sequence[float], baseline: Sequence[float], confidence: float = 0.95, minimize: bool = True
) -> Welch:
    """Compare two means without assuming equal spreads (Welch 1947, degrees of freedom after Satterthwaite).

    Raises ValueError for fewer than two values on a side, or a value that is not finite.
    """
    from scipy.special import stdtr, stdtrit  # half the start-up time of scipy.stats, and only where it is needed

    mine, theirs = moments(candidate, "candidate"), moments(baseline, "baseline")
    effect = mine.mean - theirs.mean
    if mine.variance + theirs.variance == 0:  # no spread at all: the difference, if any, is exact
        t = math.copysign(math.inf, effect) if effect else 0.0
        better = effect < 0 if minimize else effect > 0
        p = 0.5 if not effect else 0.0 if better else 1.0
        return Welch(effect, effect, effect, t, float(mine.n + theirs.n - 2), p)
    t, df = statistic(mine, theirs)
    reach = float(stdtrit(df, 0.5 + confidence / 2)) * (mine.variance / mine.n + theirs.variance / theirs.n) ** 0.5
    return Welch(effect, effect - reach, effect + reach, t, df, float(stdtr(df, t if minimize else -t)))


def statistic(candidate: Moments, baseline: Moments) -> tuple[Numbers, Numbers]:
    """Welch's (t, degrees of freedom) of candidate minus baseline. Both samples without spread divide by zero."""
    a, b = candidate.variance / candidate.n, baseline.variance / baseline.n
    share = a / (a + b)
    df = 1 / (share**2 / (candidate.n - 1) + (1 - share) ** 2 / (baseline.n - 1))
    return (candidate.mean - baseline.mean) / (a + b) ** 0.5, df


def information(n: Numbers, m: Numbers) -> Numbers:
    """What n runs against m tell of a difference, in runs: 1 / (1/n + 1/m), sigma squared over the variance of the effect."""
    return n * m / (n + m)


def accepts_below(n: Numbers, m: Numbers, stages: Sequence[int] = STAGES) -> Numbers:
    """The one-sided p below which n fresh seeds against m baseline runs are believed; 0: nothing is, so early."""
    from scipy.special import ndtr

    share = information(n, m) / information(stages[-1], m)
    return ndtr(-BOUNDARY / share**0.5) * (n >= min(LEAST, stages[-1]))


def hopeless_below(n: Numbers, m: Numbers, stages: Sequence[int] = STAGES) -> Numbers:
    """The t below which n fresh seeds against m baseline runs are the last."""
    return FUTILITY * (information(n, m) / information(stages[-1], m)) ** 1.5


def look(
    p: Numbers, t: Numbers, plain: Numbers, n: Numbers, m: Numbers, stages: Sequence[int] = STAGES
) -> Look:
    """The decision of a stage, of one idea or of many at once. `t`: Welch's, positive for better; `p`: its one-sided p;
    `plain`: the same gain over its error if the candidate's spread were the bank's.

    A few runs that happen to lie close together make a large t, so that there is hope only where both are large enough.
    """
    least = hopeless_below(n, m, stages)
    return Look(p < accepts_below(n, m, stages), (t < least) | (plain < least))


def looks(candidate: Moments, baseline: Moments, stages: Sequence[int] = STAGES) -> Look:
    """`look` at many ideas whose lower metric is better; their samples have some spread."""
    from scipy.special import stdtr

    t, df = statistic(candidate, baseline)
    error = (baseline.variance / information(candidate.n, baseline.n)) ** 0.5
    plain = (baseline.mean - candidate.mean) / error
    return look(stdtr(df, t), -t, plain, candidate.n, baseline.n, stages)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) after Student's t. Raises ValueError like `welch`."""
    from scipy.special import stdtrit

    n, mean, variance = moments(values, "sample")
    reach = float(stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance / n)
    return mean, mean - reach, mean + reach


def sigma_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """(standard deviation, low, high): (n - 1) s^2 / sigma^2 is chi-squared. Raises ValueError like `welch`."""
    from scipy.special import chdtri

    n, _, variance = moments(values, "sample")
    low, high = (
        math.sqrt((n - 1) * variance / float(chdtri(n - 1, 0.5 + side * confidence / 2))) for side in (-1, 1)
    )
    return math.sqrt(variance), low, high


def nominate(
    value: float, bank: Sequence[float], minimize: bool, threshold_sigma: float = NOMINATE
) -> tuple[bool, float]:
    """Is one run worth confirming? Returns (yes or no, sigmas of the bank by which it is better; negative: worse).

    One run only nominates: its value is never used again. A bank without any spread gives an infinite number of sigmas.
    Raises ValueError for a bank of fewer than two values, or a value that is not finite.
    """
    _, mean, variance = moments(bank, "bank")
    if not math.isfinite(value):
        raise ValueError(f"the metric is {value}: a run without a finite metric cannot be compared")
    gain = mean - value if minimize else value - mean
    sigma = math.sqrt(variance)
    sigmas = gain / sigma if sigma else math.copysign(math.inf, gain) if gain else 0.0
    return sigmas >= threshold_sigma, sigmas


def needs_control(cost_ratio: float | None) -> bool:
    """Does the idea spend so much more (candidate FLOPs / baseline FLOPs) that it must beat trunk given as much?"""
    return cost_ratio is not None and cost_ratio > COST_TOLERANCE


def beats(
    candidate: Sequence[float], baseline: Sequence[float], *, minimize: bool, stages: Sequence[int] = STAGES
) -> bool:
    """Is the candidate believed to be better, on so many seeds? With `needs_control` it tells the workflow that a control
    is the next thing to run. Raises ValueError like `welch`."""
    test = welch(candidate, baseline, minimize=minimize)
    return bool(_look(test, candidate, baseline, minimize, stages).accepted)


def judge(
    candidate: Sequence[float],
    baseline: Sequence[float],
    *,
    minimize: bool,
    min_effect: float,
    compared_with: str,
    stages: Sequence[int] = STAGES,
    control: Sequence[float] | None = None,
    resized: tuple[str, Sequence[float]] | None = None,
    cost_ratio: float | None = None,
    bought: Beside | None = None,
    ties: bool = False,
) -> Judgement | None:
    """Judge fresh candidate runs against the baseline bank. `stages`: numbers of seeds at which there is a judgement, the
    last of which ends it; `ties`: different seeds may well give the same value (the cost of a target, when training ends
    at a set part of its budget); `control`: trunk on `cost_ratio` times the budget; `resized`: another one that must be beaten too, and
    what it is; `bought`: what trunk reaches at that cost or less, where that is so much better that a control
    is not worth its runs.

    None means "not decided": more seeds are wanted, or (the only meaning on the last stage's seeds) the control at equal
    cost is, because the candidate beats the bank, `needs_control(cost_ratio)` and no control was given.
    Raises ValueError for a value that is not finite, and when there are fewer than two to compare in the end.
    """
    final = len(candidate) >= stages[-1]
    if not final and len(candidate) < 2 and all(map(math.isfinite, candidate)):
        return None
    test = welch(candidate, baseline, minimize=minimize)
    found = _look(test, candidate, baseline, minimize, stages)
    n, m = len(candidate), len(baseline)
    sigma, low, high = sigma_interval(baseline)
    lines = _lines(test, n, m, (sigma, low, high), stages, minimize, compared_with)

    def verdict(word: str, because: str = "", p: float = test.p_better) -> Judgement:
        grounds = [*lines[:2], lines[2] + (f"; {because}" if because else "")]
        return Judgement(word, test.effect, test.low, test.high, p, n, m, sigma, grounds)

    if not ties and _repeats(candidate, baseline):
        return verdict("invalid", "same metric for different seeds: the seed never reaches the training")
    if found.accepted:
        if not needs_control(cost_ratio):
            return verdict("improved")
        if bought:
            curve = f"against trunk's frontier at {bought.spent:.6g}x the cost {_interval(bought.test)}"
            return verdict("bought", curve + ": worse than what that buys", max(test.p_better, bought.test.p_better))
        if control is None:
            return None
        p, against, beside, missed = test.p_better, [], [], []
        for what, values in ((f"trunk with {cost_ratio:.6g}x the budget", control), *([resized] if resized else [])):
            equal = welch(candidate, values, minimize=minimize)
            against.append(f"against {what} (m = {len(values)}) {_interval(equal)}")
            beside.append(_look(equal, candidate, values, minimize, stages))
            p = max(p, equal.p_better)  # the claim is that it beats all of them
            if not beside[-1].accepted:
                missed.append((equal.effect, accepts_below(n, len(values), stages)))
        if not missed:
            return verdict("improved", "; ".join(against), p)
        if final or any(one.hopeless for one in beside):
            return verdict("bought", f"{'; '.join(against)}: {_missed(missed, minimize)} what the same cost buys", p)
        return None
    if not final and not found.hopeless:
        return None
    if 1 - test.p_better < WORSE:
        return verdict("worse")
    margin = max(min_effect, sigma)
    if -margin < test.low and test.high < margin:
        return verdict("neutral", f"the whole interval lies within {margin:.4g} of no effect")
    return verdict("inconclusive", "" if final else f"stopped early: below t = {hopeless_below(n, m, stages):.2f}")


def _missed(effects: Sequence[tuple[float, float]], minimize: bool) -> str:
    """How the controls that were not beaten, each with its effect and the p that it takes, are to be read: an interval of 95 % beyond
    zero is no acceptance yet."""
    if any(effect >= 0 if minimize else effect <= 0 for effect, _ in effects):
        return "no better than"
    least = min(bound for _, bound in effects)
    return f"not shown ({f'accepted below p = {least:.2g}' if least else 'too few seeds to accept'}) to be better than"


def _look(
    test: Welch, candidate: Sequence[float], baseline: Sequence[float], minimize: bool, stages: Sequence[int]
) -> Look:
    n, m = len(candidate), len(baseline)
    better = -1.0 if minimize else 1.0
    error = math.sqrt(moments(baseline, "baseline").variance / information(n, m))
    plain = better * (test.effect / error if error else test.t)
    return look(test.p_better, better * test.t, plain, n, m, stages)


def _lines(
    test: Welch, n: int, m: int, noise: tuple[float, float, float], stages: Sequence[int], minimize: bool, compared_with: str
) -> list[str]:
    sigma, low, high = noise
    gain = -test.effect if minimize else test.effect
    size = f"{abs(gain) / sigma:.2f} sigma {'better' if gain > 0 else 'worse'}" if sigma and gain else "no difference"
    if gain and not sigma:
        size = "the baseline has no spread to measure it by"
    bound = accepts_below(n, m, stages)
    accepted = f"accepted below {bound:.2g}" if bound else "too few to accept"
    return [
        f"effect {test.effect:+.4g} (95 % interval {test.low:+.4g} to {test.high:+.4g}, n = {n}): {size},"
        f" sigma {sigma:.3g} ({low:.3g} to {high:.3g})",
        f"n = {n} fresh seeds against m = {m}, one-sided Welch t = {test.t:.2f}, df = {test.df:.1f},"
        f" p = {test.p_better:.2g} ({accepted})",
        f"compared with {compared_with}; {'lower' if minimize else 'higher'} is better",
    ]


def _interval(test: Welch) -> str:
    return f"effect {test.effect:+.4g} (95 % interval {test.low:+.4g} to {test.high:+.4g}), p = {test.p_better:.2g}"


def _repeats(candidate: Sequence[float], baseline: Sequence[float]) -> bool:
    """Did different seeds give bit-identical values? Some ties are honest for a metric of few digits (an accuracy)."""
    if len(set(candidate)) == 1:
        return True
    few_digits = all(round(value, 4) == value for value in (*candidate, *baseline))
    return len(set(candidate)) < len(candidate) and not few_digits


def moments(values: Sequence[float], what: str) -> Moments:
    """Of one sample; a ValueError of fewer than two values, or of one that is not finite, names it `what`."""
    n = len(values)
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{what}: the metric is {value}: a run without a finite metric cannot be compared")
    if n < 2:
        raise ValueError(f"{what}: {n} value{'' if n == 1 else 's'}; a comparison needs at least two runs")
    if len(set(values)) == 1:
        return Moments(n, float(values[0]), 0.0)  # else rounding of the mean leaves a spread of 1e-17
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) * (value - mean) for value in values) / (n - 1)
    if not math.isfinite(variance):
        raise ValueError(f"{what}: values of {max(map(abs, values)):.3g} are too large to compare")
    return Moments(n, mean, variance)
