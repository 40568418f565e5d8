"""Slots: GPUs, groups of them, or shares of the CPU, on which runs happen, one run at a time each.

The controller asks `discover` once at start and `free` whenever it schedules. A lease is no object: a run that runs on
a slot holds it, so who holds what follows from the ledger.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lab.errors import UserError
from lab.records import Run

NVIDIA_SMI_SECONDS = 30


@dataclass(frozen=True)
class Slot:
    """A place for one run. `cuda` is its CUDA_VISIBLE_DEVICES ("" on CPU, "0,1" of two); `cpus` the cores it is pinned to."""

    index: int
    device: Literal["cpu", "cuda"]
    cpus: list[int] | None
    cuda: str


def discover(device: Literal["cpu", "cuda"], wanted: int | None = None, gpus: int = 1) -> list[Slot]:
    """The slots of this machine, `wanted` of them at most on CUDA and exactly on CPU.

    CPU: without `wanted` as many as there are usable cores, but 2 to 4; each pinned to a core of its own when there are
    as many cores as slots. CUDA: one for each `gpus` GPUs, of those in CUDA_VISIBLE_DEVICES; a rest that is too few for
    a run stays idle. Raises UserError when there is none.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"slots: {wanted} is too few: ask for at least 1")
    if device == "cuda":
        found = _gpus()
        if len(found) < gpus:
            there = "1 GPU is" if len(found) == 1 else f"{len(found)} GPUs are"
            raise UserError(f"a run of this scale needs {gpus} GPUs and {there} here: choose a smaller scale (--scale)")
        groups = [found[first : first + gpus] for first in range(0, len(found) - gpus + 1, gpus)][:wanted]
        return [Slot(index, "cuda", None, ",".join(group)) for index, group in enumerate(groups)]
    cores = usable_cores()
    count = wanted if wanted is not None else min(max(len(cores), 2), 4)
    return [Slot(index, "cpu", [cores[index]] if count <= len(cores) else None, "") for index in range(count)]


def free(slots: Iterable[Slot], running_runs: Iterable[Run]) -> list[Slot]:
    """The slots on which none of these runs is running, in order."""
    taken = {run.slot for run in running_runs if run.status == "running"}
    return [slot for slot in slots if slot.index not in taken]


def usable_cores() -> list[int]:
    """Numbers of the cores this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
    """What to put into CUDA_VISIBLE_DEVICES, one string a GPU."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not shutil.which("nvidia-smi"):
        raise UserError("no GPU found: nvidia-smi is missing; install the NVIDIA driver or choose a cpu scale")
    command = ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"no GPU found: nvidia-smi does not answer ({error}); choose a scale for cpu") from error
    present = [line.split(",")[0].strip() for line in done.stdout.splitlines() if "," in line]
    if done.returncode != 0 or not present:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"no GPU found: nvidia-smi says {said[-1] if said else 'nothing'!r}; choose a scale for cpu")
    if allowed is None:
        return present
    named = visible(allowed, present)
    if not named:
        raise UserError(f"no GPU found: CUDA_VISIBLE_DEVICES={allowed!r} hides all {len(present)}; unset it")
    return named


def visible(allowed: str, present: list[str]) -> list[str]:
    """The entries of CUDA_VISIBLE_DEVICES that count, as CUDA does it: those before the first that names no GPU."""
    kept: list[str] = []
    for entry in (part.strip() for part in allowed.split(",")):
        if not (entry in present or entry.startswith(("GPU-", "MIG-"))) or entry in kept:
            break
        kept.append(entry)
    return kept
