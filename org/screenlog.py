"""The writer behind `Grid.log_to`: copies a pane's output from standard input to a file of bounded size.

tmux starts it by path with `python -I -S`, so it imports only the standard library. A file at its limit becomes
`<file>.1` (replacing the older one) and a new one begins: the last LIMIT bytes at least are always there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LIMIT = 4_000_000
"""Bytes of one file; two are kept."""


def copy(source: int, path: Path, limit: int = LIMIT) -> None:
    """Copy from a file descriptor to `path` until it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    size = os.fstat(target).st_size
    while data := os.read(source, 65536):
        if size + len(data) > limit and size:
            os.close(target)
            os.replace(path, path.with_name(path.name + ".1"))
            target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            size = 0
        view = memoryview(data)
        while view:
            written = os.write(target, view)
            view = view[written:]
            size += written


if __name__ == "__main__":
    copy(0, Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else LIMIT)
