"""The account of a run: what it spent. Pure arithmetic over the feeder's counts, the scorer's findings and the clock.

The runner calls `account`; what nobody measured stays None, never 0. Training's own word is not among the inputs.
"""

from __future__ import annotations

import functools
import math
import platform
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab.gpus import gpu_name
from lab.text import clean
from tasks.spec import Budget

UNIT_KEYS = {"time": "seconds", "tokens": "tokens", "flops": "flops", "steps": "steps"}
"""Where a feeder's counts keep what was spent of each kind of budget."""


def spent(counts: Mapping[str, Any] | None, kind: str) -> float | None:
    """What these counts of a feeder say was spent, in the unit of this kind of budget; None: unknown."""
    return number((counts or {}).get(UNIT_KEYS.get(kind, kind)))


def account(
    counts: Mapping[str, Any] | None,
    score: Mapping[str, Any] | None,
    *,
    budget: Budget,
    train_seconds: float | None,
    score_seconds: float | None,
    wall_seconds: float,
    peak_memory_bytes: int | None,
    device: str,
    threads: int,
    host_load: float | None,
    clock_mhz: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The account as it goes into `result.json`.

    `counts` is the feeder's {"tokens", "steps", ...}; one that meters gives the training's `flops`, or null and in
    `flops_unknown` the operators that it has no formula for. Where it does not, the scorer's "flops_per_token" times the
    tokens is taken. Times in seconds, memory in bytes (host memory of training), `host_load` the one-minute load average
    when training ended, `clock_mhz` the median of the device's clock while it went on; `more` (sizes, peaks) goes in as it
    is. What is not a finite number >= 0 counts as unknown.
    """
    counts, score = counts or {}, score or {}
    tokens, startup = number(counts.get("tokens")), number(counts.get("startup_seconds"))
    metered = "flops" in counts
    per_token = number((counts if metered else score).get("flops_per_token"))
    flops = number(counts["flops"]) if metered else _product(per_token, tokens)
    unknown = "" if flops is not None else clean(counts.get("flops_unknown") or "", 200)
    return {
        "tokens": _whole(tokens),
        "steps": _whole(number(counts.get("steps"))),
        "flops": flops,
        "flops_per_token": per_token,
        "flops_unknown": unknown or ("nothing was metered" if metered and flops is None else ""),
        "params": _whole(number(score.get("params"))),
        "train_seconds": train_seconds,
        "startup_seconds": startup,
        "data_wait_seconds": number(counts.get("data_wait")),
        "overtime_seconds": overtime(budget, counts, train_seconds),
        "score_seconds": score_seconds,
        "wall_seconds": wall_seconds,
        "peak_memory_bytes": peak_memory_bytes,
        "host_memory_bytes": _whole(number(score.get("host_memory_bytes"))),
        "tokens_per_second": tokens / train_seconds if tokens is not None and train_seconds else None,
        "device": device,
        "threads": threads,
        "host_load": host_load,
        "clock_mhz": number(clock_mhz),
        **{name: score[name] for name in ("position_loss", "parts", "agreement") if score.get(name)},
        **more,
    }


def overtime(budget: Budget, counts: Mapping[str, Any] | None, train_seconds: float | None) -> float | None:
    """Seconds that training went on for after a budget of seconds was spent, or after it had hung up on the feeder; None
    for other budgets, or unknown."""
    counts = counts or {}
    startup, fed = number(counts.get("startup_seconds")), number(counts.get("seconds"))
    if budget.kind != "time" or startup is None or train_seconds is None:
        return None
    return max(0.0, train_seconds - startup - (budget.amount if fed is None else fed))


def device_name(cuda: str = "") -> str:
    """The CPU's model, or with `cuda` (a run's CUDA_VISIBLE_DEVICES) the GPU's name; "unknown" at worst."""
    return gpu_name(cuda) if cuda else _cpu_name()


@functools.cache
def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def cpu_clock(cpus: Iterable[int], folder: Path = Path("/sys/devices/system/cpu")) -> float | None:
    """MHz at which these cores run now, on average, as the kernel's frequency scaling says; None where it says nothing (most
    virtual machines)."""
    found = []
    for cpu in cpus:
        try:
            found.append(int((folder / f"cpu{cpu}" / "cpufreq" / "scaling_cur_freq").read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return statistics.fmean(found) if found else None


def number(value: Any) -> float | None:
    """A finite number >= 0, else None. Booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b
