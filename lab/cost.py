"""The cost on which a claim is decided, and what a candidate's runs spent of it. Pure functions of the ledger's runs.

Called by the workflow. FLOPs decide where they are known, since they do not depend on the machine's mood; seconds where
a candidate's or the bank's are unknown. A budget of seconds or FLOPs makes the cost equal by construction.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lab.records import Bank, Run
from lab.verdict import needs_control

SECONDS_TOLERANCE = 1.05
"""Ratio of seconds up to which two costs count as equal: clocks of one machine differ by that much from run to run."""


@dataclass(frozen=True)
class Cost:
    """What the candidate spent, over what the bank spent; None where that plays no part."""

    ratio: float | None
    control: float | None
    """The budget, as a multiple of the bank's, with which trunk must be beaten too; None: no control is needed."""
    said: str
    """Which cost decided, for the reasoning."""


def cost(runs: Sequence[Run], bank: Bank, target: bool = False) -> Cost | None:
    """The cost of a candidate's finished runs against the bank's; None when one side's is known and cannot be compared.

    With a `target` the metric itself is a cost, and nothing is left to control.
    """
    mine, theirs = _finished(runs), _finished(bank.runs)
    if not mine or not theirs:
        return None
    ratio = _flops(mine, theirs)
    of_flops = f"; FLOPs {ratio:.3f}x the bank's" if ratio else ""
    kind = theirs[0].budget.get("kind")
    if target:
        return Cost(ratio, None, f"decided at the cost of reaching the target, which is the metric{of_flops}")
    if kind == "time":
        return Cost(ratio, None, f"decided at equal seconds, which the budget sees to{of_flops}")
    if ratio and kind == "flops":
        return Cost(ratio, None, "decided at equal FLOPs, which the budget sees to")
    if ratio:
        return Cost(ratio, ratio if needs_control(ratio) else None, f"decided at equal FLOPs: {ratio:.3f}x the bank's")
    unknown = next((run.account["flops_unknown"] for run in [*mine, *theirs] if run.account.get("flops_unknown")), "")
    ratio = _seconds(mine, theirs)
    if ratio is None:
        if any(run.seconds or run.flops for run in [*mine, *theirs]):
            return None
        return Cost(None, None, "the cost is unknown on both sides: decided on the metric alone")
    why = f"FLOPs are unknown ({unknown})" if unknown else "FLOPs are unknown"
    needed = ratio if ratio > SECONDS_TOLERANCE else None
    return Cost(ratio, needed, f"decided at equal seconds of the device, since {why}: {ratio:.3f}x the bank's")


def control(runs: Sequence[Run], bank: Bank) -> float | None:
    """The multiple of the budget with which trunk must be beaten too, so far; None: none, or unknown."""
    known = cost(runs, bank)
    return known.control if known else None


def _finished(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.status == "ok"]


def _flops(mine: list[Run], theirs: list[Run]) -> float | None:
    """Mean FLOPs over mean FLOPs; None when those of any run are unknown."""
    spent = [run.flops for run in mine], [run.flops for run in theirs]
    known = [value for value in spent[0] if value], [value for value in spent[1] if value]
    complete = len(known[0]) == len(mine) and len(known[1]) == len(theirs)
    return statistics.fmean(known[0]) / statistics.fmean(known[1]) if complete else None


def _seconds(mine: list[Run], theirs: list[Run]) -> float | None:
    """Median seconds of training, start-up apart, over the other median; None when unknown."""
    known = [run.seconds for run in mine if run.seconds], [run.seconds for run in theirs if run.seconds]
    return statistics.median(known[0]) / statistics.median(known[1]) if all(known) else None
