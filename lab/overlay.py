"""The protected files, laid by content hash over a checkout or into an empty folder; and removal of what is in the way.

Called by the runner and by `prepare`. Links go first of all: one in a checkout must not lead the writing elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.errors import Unpinned
from lab.files import read_plain

LARGEST_BYTES = 1_000_000_000
"""A protected file larger than this was never ours: it is not read to find that out."""


def lay_protected(protected: Path, hashes: Mapping[str, str], destination: Path) -> None:
    """Lay the pinned files (path -> SHA-256) over `destination`. Raises Unpinned when one is not what was pinned."""
    for name, expected in sorted(hashes.items()):
        content, target = pinned(protected / name, expected), destination / name
        place = destination
        for part in Path(name).parts[:-1]:
            place = place / part
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                place.unlink()
            place.mkdir(exist_ok=True)
        remove(target)
        target.write_bytes(content)


def pinned(source: Path, expected: str) -> bytes:
    """The bytes of a protected file. Raises Unpinned when their SHA-256 (hex) is not `expected`, or there is no such plain file."""
    try:
        content = read_plain(source, LARGEST_BYTES)
    except (OSError, ValueError) as error:
        raise Unpinned(f"protected file {source} {error}: restore it from the trunk") from error
    if content is None:
        raise Unpinned(f"protected file {source} is missing: restore it from the trunk")
    if hashlib.sha256(content).hexdigest() != expected:
        raise Unpinned(f"protected file {source} is not what was pinned: restore it from the trunk")
    return content


def remove(path: Path) -> None:
    """Remove a file, link or tree, also one whose folders forbid it."""

    def retry(function: Callable[[str], Any], name: str, _error: Any) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(name), stat.S_IRWXU)
            os.chmod(name, stat.S_IRWXU, follow_symlinks=False) if not os.path.islink(name) else None
            function(name)

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=retry)
    else:
        path.unlink(missing_ok=True)
