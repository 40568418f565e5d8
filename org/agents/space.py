"""The space of a task's knobs: where values lie, what is beside them, which values a knob may take.

Called by `study.py` and `belief.py`. Every ordered knob is measured in steps, a quarter of its range each, so that
one step means as much for a learning rate as for a share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tasks.spec import Knob

Value = float | int | bool | str

STEPS = 4
"""Steps into which a knob's range is cut: a quarter is a factor of two for a range of sixteen."""


def rounded(value: Value) -> Value:
    """A value as it compares after a round trip through source code and JSON."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def ordered(knob: Knob) -> bool:
    """Do the knob's values have an order: a range, or choices that are all numbers?"""
    return knob.choices is None or all(
        isinstance(choice, int | float) and not isinstance(choice, bool) for choice in knob.choices
    )


def place(knob: Knob, value: Value) -> float:
    """Where a value of an ordered knob lies, in steps from the low end (of choices: its index among them, sorted)."""
    assert not isinstance(value, str)
    if knob.choices is not None:
        choices = sorted(float(choice) for choice in knob.choices)
        return float(min(range(len(choices)), key=lambda index: abs(choices[index] - value)))
    assert knob.low is not None and knob.high is not None
    if knob.log:
        return STEPS * math.log(max(value, 1e-300) / knob.low) / math.log(knob.high / knob.low)
    return STEPS * (value - knob.low) / (knob.high - knob.low)


def whole(knob: Knob, now: Value) -> bool:
    """Is this a range of whole numbers? Told by what stands in the source, and a range that has whole numbers in it."""
    if knob.low is None or knob.high is None or not isinstance(now, int) or isinstance(now, bool):
        return False
    return float(knob.low).is_integer() and float(knob.high).is_integer() and knob.high - knob.low >= 2


def settle(knob: Knob, now: Value, value: Value) -> Value:
    """The nearest value that the knob may take, ranges to three significant digits."""
    if knob.choices is not None:
        if ordered(knob) and not isinstance(value, str):
            return sorted(knob.choices, key=lambda choice: float(choice))[round(place(knob, value))]
        return value if value in knob.choices else knob.choices[0]
    assert knob.low is not None and knob.high is not None and not isinstance(value, str)
    if whole(knob, now):
        return min(max(round(value), math.ceil(knob.low)), math.floor(knob.high))
    return min(max(float(f"{value:.3g}"), knob.low), knob.high)


def neighbours(knob: Knob, value: Value, up_first: bool, size: float = 1.0) -> list[Value]:
    """Values `size` steps to either side, within the range; of choices the next ones, of names all others."""
    if not ordered(knob):
        return [choice for choice in knob.choices or [] if choice != value]
    return list(_beside(knob, value, up_first, size))


def _beside(knob: Knob, value: Value, up_first: bool, size: float) -> Iterator[Value]:
    here = place(knob, value)
    for side in (1, -1) if up_first else (-1, 1):
        if knob.choices is not None:
            if 0 <= here + side < len(knob.choices):
                yield sorted(knob.choices, key=lambda choice: float(choice))[round(here) + side]
            continue
        there = min(max(here + side * size, 0.0), float(STEPS))
        option = settle(knob, value, _value_at(knob, there))
        if side * (there - here) >= 0.25 * size and rounded(option) != rounded(value):  # else at the edge already
            yield option


def _value_at(knob: Knob, steps: float) -> float:
    assert knob.low is not None and knob.high is not None
    share = steps / STEPS
    return float(knob.low * (knob.high / knob.low) ** share if knob.log else knob.low + (knob.high - knob.low) * share)


def distance(knob: Knob, a: Value, b: Value) -> float:
    """How far apart two values are, in steps; STEPS for different names."""
    return abs(place(knob, a) - place(knob, b)) if ordered(knob) else STEPS * float(a != b)


def distribution(knob: Knob, now: Value) -> Any:
    """The knob as an Optuna distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if knob.choices is not None:
        return CategoricalDistribution(tuple(knob.choices))
    assert knob.low is not None and knob.high is not None
    if whole(knob, now):
        return IntDistribution(math.ceil(knob.low), math.floor(knob.high), log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)
