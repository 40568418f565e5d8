"""What is odd about a run that ended well, against the bank of its parent. Pure functions; a flag decides nothing.

Called when a result is written down. People, verdicts and the report show the flags: a model that has seen held-out text
or looks ahead often gives itself away by where it is good, before anybody knows how it was done.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lab.records import Run

RUNS = 3
"""A bank of fewer runs flags nothing."""
CHANCE = 0.01
"""How often a run like the bank's is flagged for one split's profile, for its gap or its speed, by chance."""
DRIFT = 0.002
"""How often the newest runs of a baseline that stays as it is are taken for drift, at one look."""
NEWEST = 8
"""At most so many of the newest baseline runs are held against those before them."""
PARTS = 8
"""Positions are looked at by eighths of the context."""


def flags(metric: Mapping[str, float], account: Mapping[str, Any], bank: Iterable[Run]) -> list[str]:
    """A line for each oddity of a run with this metric and account; `bank`: runs of its parent, of its environment.

    Compared with the band of `band` are the gap search minus audit, the FLOPs a second, and for each split the eight mean
    losses by position, each less the mean of all eight: a better model is better everywhere, an odd one in odd places.
    """
    runs = [run for run in bank if run.status == "ok"]
    found = []
    if "search" in metric and "audit" in metric:
        gaps = [run.metric["search"] - run.metric["audit"] for run in runs if {"search", "audit"} <= set(run.metric)]
        found += _outside("search minus audit", metric["search"] - metric["audit"], gaps, 1)
    for split, profile in sorted(_profiles(account).items()):
        others = [theirs[split] for run in runs if split in (theirs := _profiles(run.account))]
        for part, value in enumerate(profile):
            name = f"{split}: loss in eighth {part + 1} of the context, against the mean of all,"
            found += _outside(name, value, [other[part] for other in others], PARTS)
    speeds = [speed for run in runs if (speed := _speed(run.account)) is not None]
    if len(speeds) >= RUNS and (mine := _speed(account)) is not None and mine < (low := band(speeds)[0]):
        found.append(f"{mine:.3g} FLOP/s while training are below the bank's {low:.3g}: slow, or work that was not counted")
    left = account.get("outlived") or 0
    if runs and left > max(run.account.get("outlived") or 0 for run in runs):
        found.append(f"{left} process{'es' if left > 1 else ''} outlived training and had to be ended")
    if account.get("contended"):
        found.append("somebody else used the GPU")
    return found


def band(
    values: Sequence[float], tests: int = 1, more: int = 1, chance: float = CHANCE
) -> tuple[float, float]:
    """Where the mean of `more` further values of the same kind falls: mean ± t s sqrt(1/more + 1/n), a prediction interval.

    t is Student's quantile with n - 1 degrees of freedom at 1 - chance / (2 tests), so that `tests` values together are
    outside once in 1 / chance. Raises statistics.StatisticsError below two values.
    """
    from scipy.special import stdtrit

    n, mean, spread = len(values), statistics.fmean(values), statistics.stdev(values)
    reach = float(stdtrit(n - 1, 1 - chance / (2 * tests))) * spread * math.sqrt(1 / more + 1 / n)
    return mean - reach, mean + reach


def drift(values: Sequence[float], first: int) -> str:
    """What is wrong with the newest baseline runs (metric values in the order in which they ended): their mean lies outside of
    where those before them, `first` at least, put it. "" when nothing is, there is nothing new, or all before are the same
    (the cost of a target may well be): no spread, no band."""
    begin = max(first, len(values) - NEWEST)
    old, new = values[:begin], values[begin:]
    if not new or len(set(old)) < 2:
        return ""
    low, high = band(old, more=len(new), chance=DRIFT)
    mean = statistics.fmean(new)
    if low <= mean <= high:
        return ""
    return f"the mean of the newest {len(new)}, {mean:.5g}, is outside of the {low:.5g} to {high:.5g} that {len(old)} before them put it in"


def _outside(name: str, value: float, values: Sequence[float], tests: int) -> list[str]:
    if len(values) < RUNS:
        return []
    low, high = band(values, tests)
    if low <= value <= high:
        return []
    return [f"{name} {value:+.4g} is outside of the bank's {low:+.4g} to {high:+.4g} (n = {len(values)})"]


def _speed(account: Mapping[str, Any]) -> float | None:
    """Counted FLOPs a second of training, start-up apart."""
    flops, whole, startup = (account.get(name) for name in ("flops", "train_seconds", "startup_seconds"))
    return flops / seconds if flops and whole and (seconds := whole - (startup or 0.0)) > 0 else None


def _profiles(account: Mapping[str, Any]) -> dict[str, list[float]]:
    """Each split's losses by position, less their mean; of a malformed one nothing."""
    given = account.get("position_loss")
    found = {}
    for split, losses in given.items() if isinstance(given, dict) else ():
        if (
            isinstance(losses, list)
            and len(losses) == PARTS
            and all(isinstance(loss, int | float) and math.isfinite(loss) for loss in losses)
        ):
            mean = statistics.fmean(losses)
            found[str(split)] = [loss - mean for loss in losses]
    return found
