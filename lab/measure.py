"""From the scorer's word to a run's metric: one finite number for each split asked for, or a reason why there is none.

Called by the runner. With a target the metric is the cost of reaching it, counted by the laboratory, and the scorer's
value only says whether it was reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lab.child import clean, last_line
from lab.errors import Stopped
from tasks.spec import Target, Task

BY_SPLIT = ("metric", "position_loss", "parts")
"""Entries of the scorer's result that have a value for each split."""


def splits_to_score(task: Task, splits: Sequence[str]) -> list[str]:
    """What the scorer is asked for: the run's splits, and the one on which a target must be reached."""
    target = task.scale.target
    return list(dict.fromkeys([*splits, *([target.split] if target else [])]))


def shown(score: Mapping[str, Any], splits: Sequence[str]) -> dict[str, Any]:
    """The scorer's result without the splits that the run was not to be told of."""
    found = dict(score)
    for name, value in score.items():
        if isinstance(value, dict) and name in BY_SPLIT:
            found[name] = {split: one for split, one in value.items() if split in splits}
    return found


def measure(task: Task, splits: Sequence[str], score: Mapping[str, Any], account: Mapping[str, Any]) -> dict[str, float]:
    """The metric of a run by split. Raises Stopped (invalid) when the scorer says so, a value is none, or the target was
    missed."""
    if score.get("status") != "ok":
        said = last_line(clean(str(score.get("reason", ""))))
        raise Stopped("invalid", said or "the scorer gave no reason")
    given = score.get("metric")
    values = given if isinstance(given, dict) else {}
    scored = task.reach or task.metric
    found: dict[str, float] = {}
    for split in splits_to_score(task, splits):
        value = values.get(split)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Stopped("invalid", f"no {scored.name} for the split {split}")
        if not math.isfinite(value):
            raise Stopped("invalid", f"{scored.name} on the split {split} is {value}")
        found[split] = float(value)
    target = task.scale.target
    if target is None:
        return found
    least = target.split == "core" or scored.direction == "maximize"
    reached = found[target.split] >= target.value if least else found[target.split] <= target.value
    if not reached:
        # The value stays unsaid where the run was not to be told of that split.
        had = f" {found[target.split]:.5g}," if target.split in splits else ""
        name = "CORE" if target.split == "core" else f"{scored.name} on {target.split}"
        order = "at least" if least else "at most"
        raise Stopped("invalid", f"missed the target: {name}{had} was to be {order} {target.value:g}")
    return dict.fromkeys(splits, spent(target, account))


def spent(target: Target, account: Mapping[str, Any]) -> float:
    """What the run spent in the target's unit. Raises Stopped (invalid) when nobody knows."""
    if target.cost == "seconds":
        whole, startup = account.get("train_seconds"), account.get("startup_seconds")
        value = None if whole is None else max(0.0, whole - (startup or 0.0))
    else:
        value = account.get(target.cost)
    if not isinstance(value, int | float):
        why = f": {account['flops_unknown']}" if target.cost == "flops" and account.get("flops_unknown") else ""
        raise Stopped("invalid", f"the {target.cost} that it took to the target are unknown{why}")
    return float(value)
