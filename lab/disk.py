"""How much of the disk a stage has taken, deleted files that are still open included; and of the memory by files without a disk.

Called by the runner, twice a second while an experiment's code runs. Counts blocks, not lengths: a sparse file takes
what it takes, and an empty one an inode, which counts as ENTRY_BYTES. Files that lie in memory alone (memfd_create: the scorer
shares a GiB of logits with each model host so) look like deleted ones, and are of another device.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK_BYTES, ENTRY_BYTES = 512, 1024


def taken(places: Iterable[Path], pids: Iterable[int], enough: int) -> int:
    """Bytes of disk below these folders, and in deleted files that these processes hold open.

    Looks no further once there are more than `enough`. What vanishes meanwhile is not counted; links are not followed.
    """
    held = (status for status in _held(pids) if status.st_dev != _memory())
    return _sum(itertools.chain(held, _below(places)), enough)


def in_memory(pids: Iterable[int]) -> int:
    """Bytes of memory in files of no disk that these processes hold open. No process's resident memory shows what of them
    it has not mapped."""
    return _sum(status for status in _held(pids) if status.st_dev == _memory())


@functools.cache
def _memory() -> int | None:
    """The device that files in memory are of; None where there are none (not Linux)."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("", os.MFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def _sum(files: Iterable[os.stat_result], enough: float = math.inf) -> int:
    total = 0
    seen: set[tuple[int, int]] = set()
    for status in files:
        if (status.st_dev, status.st_ino) not in seen:  # else a second name or descriptor of the same file
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * BLOCK_BYTES + ENTRY_BYTES
            if total > enough:
                break
    return total


def _held(pids: Iterable[int]) -> Iterator[os.stat_result]:
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended, or this system has no /proc
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{descriptor}")
                    if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                        yield status


def _below(places: Iterable[Path]) -> Iterator[os.stat_result]:
    folders = [os.fspath(place) for place in places]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(OSError):
            if not os.access(folder, os.R_OK | os.X_OK):
                os.chmod(folder, 0o700)
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        yield status
                        if stat.S_ISDIR(status.st_mode):
                            folders.append(entry.path)
