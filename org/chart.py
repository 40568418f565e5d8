"""Small pictures and figures for the board, in text: the staircase of trunk, and how an experiment measured up.
Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lab.records import Experiment
from lab.state import State
from lab.text import deviations, figure

EIGHTHS = " ▁▂▃▄▅▆▇█"


def staircase(steps: Sequence[tuple[float, float]], now: float, width: int, height: int) -> list[str]:
    """The confirmed level over time as an area of block characters, `height` lines of at most `width` columns.

    `steps`: (time in seconds since the epoch, value of the metric from then on), in order of time. The axis on the
    left names the highest and the lowest value. Empty without at least two different steps: a flat line tells
    nothing.
    """
    values = [value for _, value in steps if math.isfinite(value)]
    if len(values) < 2 or len(values) != len(steps) or max(values) <= min(values):
        return []
    low, high = min(values), max(values)
    labels = [figure(high), figure(low)]
    margin = max(map(len, labels)) + 1
    columns = width - margin
    if columns < 8 or height < 2:
        return []
    begin, end = steps[0][0], max(now, steps[-1][0])
    levels = []
    for column in range(columns):
        moment = begin + (end - begin) * (column + 1) / columns
        value = next((value for when, value in reversed(steps) if when <= moment), values[0])
        # an eighth at least, so that the lowest step is still seen
        levels.append(1 + round((value - low) / (high - low) * (8 * height - 1)))
    lines = []
    for row in range(height):
        base = 8 * (height - 1 - row)
        label = labels[0] if row == 0 else labels[1] if row == height - 1 else ""
        lines.append(f"{label:>{margin - 1}} " + "".join(EIGHTHS[max(0, min(8, level - base))] for level in levels))
    return lines


def measured(experiment: Experiment, state: State) -> tuple[str, str]:
    """(value, distance from the bank of its parent) of the latest attempt as text: of its confirmation where that was
    run, else of its first run; empty where nothing is known. "-0.0187 (9.4 sd)" counts in standard deviations of that
    bank."""
    attempt = experiment.attempt
    if attempt is None:
        return "", ""
    bank = state.bank(attempt.parent)
    for purpose, split in (("confirm", "audit"), ("nominate", "search")):
        runs = [run for run in experiment.runs_for(purpose) if run.status == "ok"]
        found = [run.metric[split] for run in runs if split in run.metric]
        if found:
            value = statistics.fmean(found)
            mean, sigma = bank.mean(split), bank.sigma(split)
            gap = "" if math.isnan(mean) else figure(value - mean, signed=True)
            if gap and sigma > 0:
                gap += f" ({deviations(abs(value - mean) / sigma)} sd)"
            return figure(value), gap
    return "", ""
