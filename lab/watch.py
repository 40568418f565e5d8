"""What the runner looks at while an experiment's code runs: memory, disk, the feeder's counts, forged files.

Each look raises Stopped when the run must not go on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab import child as stages
from lab import limits
from lab.account import overtime
from lab.child import Child
from lab.disk import taken
from lab.errors import Stopped
from lab.files import read_json, write_json
from lab.overlay import remove
from lab.runspec import RunSpec

OVERTIME_SECONDS = 30.0
"""After a budget of seconds is spent training gets this long to write its checkpoint."""


class Watch:
    """Looks after the run in `folder`; `spare` holds the pids of ours that do not count (feeder, nvidia-smi)."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self.folder, self.spec, self.scale = folder, spec, spec.task.scale
        self.spare: list[int] = []
        self.counts: dict[str, Any] | None = None
        """The feeder's counts as last read."""
        self.counts_path: Path | None = None
        self._mirror: tuple[int, int] | None = None
        self._overwritten = False
        """Somebody else wrote `counts.json`."""

    def training(self, train: Child, places: list[Path]) -> None:
        """All looks while training runs."""
        used = self._memory(train)
        if used > self.scale.memory_gib * 2**30:
            raise Stopped("crashed", f"out of memory: {self._of(used)}")
        self.disk(places)
        self.forgery()
        self.read_counts()
        over = overtime(self.spec.budget, self.counts, train.seconds)
        if over is not None and over > OVERTIME_SECONDS:
            raise Stopped("timeout", f"training went on for {over:.0f} s after its budget of {self.spec.budget}")

    def scoring(self, scorer: Child, places: list[Path]) -> None:
        """All looks while the scorer runs."""
        if scorer.seconds > self.scale.score_seconds:
            raise Stopped("timeout", f"scoring ran over its limit of {self.scale.score_seconds:g} s", scorer.log)
        used = self._memory(scorer)
        if used > self.scale.memory_gib * 2**30:
            raise Stopped("invalid", f"out of memory while scoring: {self._of(used)}", scorer.log)
        self.limit("score_seconds", scorer.seconds, scorer.log)
        self.limit("score_memory_bytes", used, scorer.log)
        self.disk(places)

    def limit(self, name: str, value: Any, log: Path | None = None) -> None:
        """Raises Stopped when this is more than the baseline's own runs make allowance for (`lab.limits`)."""
        if why := limits.exceeded(self.spec.limits, name, value):
            raise Stopped("invalid", why, log)

    def _memory(self, stage: Child) -> int:
        """Resident memory in bytes of all that runs below us, but `spare`."""
        return stage.memory(self.spare)

    def _of(self, used: int) -> str:
        return f"used {used / 2**30:.2f} GiB of {self.scale.memory_gib:g}"

    def disk(self, places: list[Path]) -> None:
        """Raises Stopped when more than the scale allows is written below `places`, or held open by what runs."""
        most = self.scale.disk_gib * 2**30
        written = taken(places, stages.below(os.getpid(), set(self.spare)), int(most))
        if written > most:
            raise Stopped(
                "invalid", f"the disk fills: {written / 2**30:.2f} GiB written, of {self.scale.disk_gib:g} allowed"
            )

    def forgery(self) -> None:
        """Training may not write what only the laboratory writes. Raises Stopped when it did."""
        for name in ("result.json", "score.json"):
            if os.path.lexists(self.folder / name):
                remove(self.folder / name)
                raise Stopped("invalid", f"forged: the experiment's code wrote {name} into the run's folder")
        if self._overwritten or _written(self.folder / "counts.json") != self._mirror:
            self._show()
            raise Stopped("invalid", "forged: the experiment's code wrote counts.json into the run's folder")

    def read_counts(self) -> None:
        """Take over the feeder's counts, and show them to people in `counts.json`."""
        counts = read_json(self.counts_path) if self.counts_path else None
        if counts is None or counts == self.counts:
            return
        self.counts = counts
        self._show()

    def _show(self) -> None:
        """Put the counts where people see them. Somebody else's file that lay there, or came while this one was written, is noticed:
        the old one is moved away before it is compared, and the new one is linked, which replaces nothing."""
        mirror, draft, old = (self.folder / name for name in ("counts.json", f".{secrets.token_hex(8)}", f".{secrets.token_hex(8)}"))
        ours = None
        if self.counts is not None:
            write_json(draft, self.counts)
            ours = _written(draft)
        with contextlib.suppress(FileNotFoundError):
            mirror.rename(old)
        self._overwritten |= _written(old) != self._mirror
        remove(old)
        self._mirror = ours
        if ours:
            try:
                os.link(draft, mirror)
            except FileExistsError:
                self._overwritten = True
            except OSError:  # a file system without links
                draft.rename(mirror)
            draft.unlink(missing_ok=True)


def size(places: Iterable[Path]) -> int:
    """Bytes of these files and of all below these folders, names included: those carry text too. Raises OSError for a
    folder that cannot be listed."""

    def refuse(error: OSError) -> None:
        raise error

    total = 0
    for place in places:
        for folder, folders, files in os.walk(place, onerror=refuse if place.is_dir() else None):
            total += sum(len(os.fsencode(name)) for name in (*folders, *files))
            total += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
        if place.is_file() and not place.is_symlink():
            total += place.stat().st_size
    return total


def _written(path: Path) -> tuple[int, int] | None:
    """Which writing of a file this is: (inode, mtime in ns), None when there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
