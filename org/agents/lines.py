"""Growing files of JSON lines, as CLIs write them: what is new since the last look, and the last lines. Nothing is trusted."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

TAIL = 512 * 1024
"""Bytes from the end in which the last lines are looked for."""
LINE = 16 * 1024 * 1024
"""Bytes of one record; a longer line is passed over."""


def opened(path: Path) -> IO[bytes]:
    """A plain file for reading. Raises OSError for all else: a pipe that an agent laid there would hold up who opens it for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return open(descriptor, "rb")


class Grown:
    """The records of a file, each given once. A line that is not complete yet is left for the next look; a file that has shrunk is
    read anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0

    def new(self) -> Iterator[dict[str, Any]]:
        try:
            with opened(self.path) as handle:
                if os.fstat(handle.fileno()).st_size < self.offset:
                    self.offset = 0
                handle.seek(self.offset)
                while line := handle.readline(LINE):
                    if not line.endswith(b"\n") and len(line) < LINE:
                        break
                    self.offset += len(line)
                    if (record := parsed(line)) is not None:
                        yield record
        except OSError:
            return


def backwards(path: Path, holding: bytes = b"") -> Iterator[dict[str, Any]]:
    """The last records, newest first; only those whose line holds these bytes: most of a file is what was said, and to parse
    that too is most of the work."""
    try:
        with opened(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            handle.seek(max(0, size - TAIL))
            lines = handle.read(TAIL).split(b"\n")
    except OSError:
        return
    for line in reversed(lines[1:] if size > TAIL else lines):
        if holding in line and (record := parsed(line)) is not None:
            yield record


def parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
