"""The one cost on which a claim is decided, and what a candidate's runs spent of it. Pure functions of the ledger's runs.

Called by the workflow and `lab.frontier`. FLOPs decide where they are known, since they do not depend on the machine's mood;
seconds where a candidate's or the bank's are unknown. A budget of FLOPs, or of seconds that a feeder counts, makes the cost equal by
construction; without a feeder the clock is read, and who takes longer is charged. Whatever else the candidate spends more of is said
and never decides.
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
    """Of the deciding cost."""
    control: float | None
    """The budget, as a multiple of the bank's, with which trunk must be beaten too; None: no control is needed."""
    said: str
    """Which cost decided, and what else differs, for the reasoning."""
    kind: str = "flops"
    """What `ratio` is one of: flops or seconds."""


def cost(runs: Sequence[Run], bank: Bank, target: bool = False) -> Cost | None:
    """The cost of a candidate's finished runs against the bank's; None when one side's is known and cannot be compared.

    With a `target` the metric itself is a cost, and nothing is left to control.
    """
    mine, theirs = _finished(runs), _finished(bank.runs)
    if not mine or not theirs:
        return None
    kind = theirs[0].budget.get("kind")
    flops, seconds = ratio(mine, theirs, "flops"), ratio(mine, theirs, "seconds")
    if target:
        return Cost(flops, None, f"decided at the cost of reaching the target, which is the metric{_beside(mine, theirs)}")
    if kind == "time" and all(map(_fed, [*mine, *theirs])):
        said = f"decided at equal seconds, which the budget sees to{_beside(mine, theirs, 'seconds')}"
        return Cost(seconds, None, said, "seconds")
    if flops and kind == "flops":
        return Cost(flops, None, f"decided at equal FLOPs, which the budget sees to{_beside(mine, theirs, 'flops')}")
    if flops and kind != "time":
        said = f"decided at equal FLOPs: {flops:.6g}x the bank's{_beside(mine, theirs, 'flops')}"
        return Cost(flops, flops if needs_control(flops) else None, said)
    unknown = next((run.account["flops_unknown"] for run in [*mine, *theirs] if run.account.get("flops_unknown")), "")
    if seconds is None:
        if any(run.seconds or run.flops for run in [*mine, *theirs]):
            return None
        return Cost(None, None, "the cost is unknown on both sides: decided on the metric alone")
    why = f"FLOPs are unknown ({unknown})" if unknown else "FLOPs are unknown"
    why = "no feeder holds training to its budget" if kind == "time" else why
    needed = seconds if seconds > SECONDS_TOLERANCE else None
    said = f"decided at equal seconds of the device, since {why}: {seconds:.3f}x the bank's{_beside(mine, theirs, 'seconds')}"
    return Cost(seconds, needed, said, "seconds")


def control(runs: Sequence[Run], bank: Bank) -> float | None:
    """The multiple of the budget with which trunk must be beaten too, so far; None: none, or unknown."""
    known = cost(runs, bank)
    return known.control if known else None


def _fed(run: Run) -> bool:
    """Did a feeder count for it, and so end its budget? One has counted tokens at least."""
    return any(run.account.get(name) is not None for name in ("tokens", "startup_seconds"))


def _finished(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.status == "ok"]


def ratio(mine: Sequence[Run], theirs: Sequence[Run], kind: str) -> float | None:
    """What finished runs spent over what others did: mean `flops`, or median `seconds` of training, start-up apart. None when it
    is unknown: of FLOPs already when those of any run are."""
    spent = [[getattr(run, kind) for run in _finished(side)] for side in (mine, theirs)]
    known = [[value for value in side if value] for side in spent]
    if not all(known) or (kind == "flops" and known != spent):
        return None
    middle = statistics.fmean if kind == "flops" else statistics.median
    return float(middle(known[0]) / middle(known[1]))


def _beside(mine: list[Run], theirs: list[Run], decided: str = "") -> str:
    """The other costs, of which an increase is not charged; those that are unknown are left out."""
    found = [(name, ratio(mine, theirs, kind)) for name, kind in (("FLOPs", "flops"), ("seconds", "seconds")) if kind != decided]
    for name, key in (("tokens", "tokens"), ("parameters", "params")):
        sides = [[run.account[key] for run in side if run.account.get(key)] for side in (mine, theirs)]
        found.append((name, statistics.fmean(sides[0]) / statistics.fmean(sides[1]) if all(sides) else None))
    said = ", ".join(f"{name} {value:.3f}x" for name, value in found if value)
    return f"; not charged: {said}" if said else ""
