"""Trunk resized by its own dial, as a control of ideas that change the model's size. Pure functions of folded facts.

Called by the workflow. A task may declare a dial (nanochat's depth): one argument of its scale from which the baseline's size follows. The
choice that matters most: an idea is compared with the setting whose cost for as much of the budget is nearest to its own. Where
that is trunk's own setting, training longer is the only fair comparison, and there is no such control.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lab import cost
from lab.controls import Control
from lab.records import Bank, Run
from lab.state import State
from tasks.spec import Task

PROBE = 0.125
"""Of the budget: one run at a setting of the dial, which tells what it costs there. FLOPs need no full run to be counted."""
FAILURES = 2
"""Such runs that may fail before the setting counts as one that does not work."""
TURNS = 1.01
"""Ratio of costs from one setting to the next below which the dial turns nothing: trunk's code may have left it behind."""


@dataclass(frozen=True)
class Resized:
    """What is to be done about trunk's other sizes: `probe` this setting first, wait, or compare with `control`; else nothing."""

    control: Control | None = None
    probe: int | float | None = None
    waits: bool = False


def wanted(state: State, task: Task, bank: Bank, charged: cost.Cost) -> Resized:
    """The control by size of an idea that was charged so much."""
    if task.dial is None or charged.kind != "flops" or charged.ratio is None:
        return Resized()
    best, below = Control(charged.ratio), 1.0
    for setting in task.dial.settings[task.dial.settings.index(task.setting) + 1 :]:
        runs = _probes(state, bank.commit, setting)
        size = _size(runs, bank)
        if size is None:
            if any(not run.over for run in runs):
                return Resized(waits=True)
            if sum(run.failed for run in runs) >= FAILURES:
                continue
            return Resized(probe=setting)
        if size < below * TURNS:
            break
        below, this = size, Control(charged.ratio / size, setting, size)
        if _distance(this, charged.ratio) < _distance(best, charged.ratio):
            best = this
        if size >= charged.ratio:
            break
    return Resized(best if best.dial is not None else None)


def cost_of(state: State, task: Task, commit: str, dial: int | float | None) -> float | None:
    """What trunk costs at a setting of the dial, as a multiple of its own; None where nobody measured it."""
    if dial is None:
        return 1.0
    return _size(_probes(state, commit, dial), state.bank(commit))


def _distance(one: Control, ratio: float) -> float:
    return abs(math.log(one.size / ratio))


def _probes(state: State, commit: str, setting: int | float) -> list[Run]:
    """Runs of a trunk commit at a setting, less what ended well in another environment."""
    machine = state.environment[0] if state.environment else None
    return [
        run for run in state.runs.values()
        if run.purpose == "frontier" and run.dial == setting and run.commit == commit and (run.status != "ok" or run.machine == machine)
    ]  # fmt: skip


def _size(runs: list[Run], bank: Bank) -> float | None:
    """FLOPs for as much of the budget, over the bank's."""
    mine, theirs = (_rate([run for run in side if run.status == "ok"]) for side in (runs, bank.runs))
    return mine / theirs if mine and theirs else None


def _rate(runs: list[Run]) -> float | None:
    spent = [run.flops / run.budget["amount"] for run in runs if run.flops]
    return math.fsum(spent) / len(spent) if spent and len(spent) == len(runs) else None
