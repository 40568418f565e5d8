"""How much of the disk a stage has taken, deleted files that are still open included.

Called by the runner, twice a second while an experiment's code runs. Counts blocks, not lengths: a sparse file takes
what it takes, and an empty one an inode, which counts as ENTRY_BYTES.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK_BYTES, ENTRY_BYTES = 512, 1024


def taken(places: Iterable[Path], pids: Iterable[int], enough: int) -> int:
    """Bytes of disk below these folders, and in deleted files that these processes hold open.

    Looks no further once there are more than `enough`. What vanishes meanwhile is not counted; links are not followed.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    for status in _all(places, pids):
        if (status.st_dev, status.st_ino) not in seen:  # else a second name or descriptor of the same file
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * BLOCK_BYTES + ENTRY_BYTES
            if total > enough:
                break
    return total


def _all(places: Iterable[Path], pids: Iterable[int]) -> Iterator[os.stat_result]:
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended, or this system has no /proc
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{descriptor}")
                    if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                        yield status
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
