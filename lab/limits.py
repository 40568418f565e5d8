"""What a candidate's run may take beside its budget: at most twice what the baseline took. Pure functions of accounts.

The controller writes the baseline's largest values into a run's spec; the runner checks them. Without these limits a
checkpoint could carry text, source could carry weights, and evaluation could train.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lab.records import Run

FACTOR = 2
SLACK: dict[str, float] = {
    "source_bytes": 4 << 10, "checkpoint_bytes": 64 << 10, "overtime_seconds": 2, "score_seconds": 5,
    "score_memory_bytes": 256 << 20, "host_memory_bytes": 256 << 20,
}  # fmt: skip
"""Names of the limited entries of an account, and what each may have on top: files of a few lines, noisy machines."""
NAMES = {
    "source_bytes": "the editable files take", "checkpoint_bytes": "what training left takes",
    "overtime_seconds": "after its budget training went on for", "score_seconds": "scoring took",
    "score_memory_bytes": "scoring used", "host_memory_bytes": "the model host used",
}  # fmt: skip


def baseline(bank: Iterable[Run]) -> dict[str, float] | None:
    """The largest of each limited value over the runs that ended well; None when there is none."""
    accounts = [run.account for run in bank if run.status == "ok"]
    largest = {
        name: max(values)
        for name in SLACK
        if (values := [account[name] for account in accounts if isinstance(account.get(name), int | float)])
    }
    return largest if accounts else None


def allowed(limits: Mapping[str, float] | None, name: str) -> float | None:
    """How much of this a run may take; None: as much as it likes."""
    value = (limits or {}).get(name)
    return None if value is None else FACTOR * value + SLACK[name]


def exceeded(limits: Mapping[str, float] | None, name: str, value: Any) -> str:
    """Why `value` is too much, in a line with both numbers; "" when it is not, or nobody measured it."""
    most = allowed(limits, name)
    if limits is None or most is None or not isinstance(value, int | float) or value <= most:
        return ""
    return (
        f"{NAMES[name]} {amount(name, value)}: the baseline {amount(name, limits[name])},"
        f" and {FACTOR} times that and {amount(name, SLACK[name])} are allowed"
    )


def amount(name: str, value: float) -> str:
    """Seconds as such, bytes in a unit of their size."""
    if name.endswith("seconds"):
        return f"{value:.1f} s"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"
