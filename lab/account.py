"""The account of a run: what it spent. Pure arithmetic over the feeder's counts, the scorer's findings and the clock.

The runner calls `account`; what nobody measured stays None, never 0. Training's own word is not among the inputs.
"""

from __future__ import annotations

import functools
import math
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def account(
    counts: Mapping[str, Any] | None,
    score: Mapping[str, Any] | None,
    *,
    train_seconds: float | None,
    score_seconds: float | None,
    wall_seconds: float,
    peak_memory_bytes: int | None,
    device: str,
    threads: int,
    host_load: float | None,
) -> dict[str, Any]:
    """The account as it goes into `result.json`.

    `counts` is the feeder's {"tokens", "steps", ...}; `score` the scorer's {"params", "flops_per_token", ...}. Times
    in seconds, memory in bytes (host memory of training), `flops` in training FLOPs (flops_per_token x tokens),
    `host_load` the one-minute load average when training ended. What is not a finite number >= 0 counts as unknown.
    """
    tokens = _number((counts or {}).get("tokens"))
    per_token = _number((score or {}).get("flops_per_token"))
    return {
        "tokens": _whole(tokens),
        "steps": _whole(_number((counts or {}).get("steps"))),
        "flops": per_token * tokens if per_token is not None and tokens is not None else None,
        "flops_per_token": per_token,
        "params": _whole(_number((score or {}).get("params"))),
        "train_seconds": train_seconds,
        "score_seconds": score_seconds,
        "wall_seconds": wall_seconds,
        "peak_memory_bytes": peak_memory_bytes,
        "tokens_per_second": tokens / train_seconds if tokens is not None and train_seconds else None,
        "device": device,
        "threads": threads,
        "host_load": host_load,
    }


def device_name(cuda: str = "") -> str:
    """The CPU's model, or with `cuda` (a run's CUDA_VISIBLE_DEVICES) the GPU's name; "unknown" at worst."""
    return _gpu_name(cuda) if cuda else _cpu_name()


@functools.cache
def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


@functools.cache
def _gpu_name(cuda: str) -> str:
    if not shutil.which("nvidia-smi"):
        return "unknown"
    command = ["nvidia-smi", f"--id={cuda}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def _number(value: Any) -> float | None:
    """A finite number >= 0, else None. Booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
