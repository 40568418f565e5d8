"""Files that others read: written to a temporary name, fsynced and renamed, so that nobody ever sees half of one.

Reading trusts nobody either: links, pipes, devices and files too large or too deep to be ours are no files.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from worktrees.aside import set_aside

log = logging.getLogger("orgctl")
LIMIT_BYTES = 16_000_000


def write_atomic(path: Path, data: str | bytes, own: Path | None = None) -> None:
    """Write `data` to `path` so that a reader sees the old content or the new, never a part. Creates parent folders.

    `own`: a folder below which only the organisation has something to write: what lies there in the way of `path` is moved aside.
    """
    if own is not None:
        make_way(path, own)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # neither foreseen, nor too long where the file's own name just fits
    raw = data.encode() if isinstance(data, str) else data
    try:
        with open(temporary, "xb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, own: Path | None = None) -> None:
    """`write_atomic` of indented JSON."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n", own)


def make_way(path: Path, own: Path, folder: bool = False) -> None:
    """Rename what makes a file at `path` (or a folder) impossible, to `<name>.kept`: a folder in its place, or something else in the
    place of a folder between it and `own`, such as a link, which leads out of there. Under one user id anybody can lay that there, and
    nobody's work may wait for ever."""
    if own not in path.parents:
        return
    between = [one for one in reversed(path.parents) if own in one.parents]
    blocking = [one for one in [*between, *([path] if folder else [])] if one.is_symlink() or (one.exists() and not one.is_dir())]
    if not folder and path.is_dir() and not path.is_symlink():
        blocking.append(path)
    for one in blocking:
        log.warning("%s was in the way: it is %s now", one, set_aside(one).name)


def remove(path: Path, own: Path) -> None:
    """Take a file of the organisation away; a folder that lies in its place is moved aside."""
    make_way(path, own)
    path.unlink(missing_ok=True)


def make_folder(path: Path, own: Path) -> None:
    """A folder of the organisation, whatever lies in its way. Doing it twice is doing it once."""
    make_way(path, own, folder=True)
    path.mkdir(parents=True, exist_ok=True)


def read_plain(path: Path, limit: int = LIMIT_BYTES) -> bytes | None:
    """The bytes of a plain file; None when there is none. Raises ValueError with the reason for a link, a pipe, a folder, or more than
    `limit` bytes: none of them is opened for longer than it takes to see that.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError("is no plain file" if path.is_symlink() else f"cannot be read: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is no plain file")
        if found.st_size > limit:
            raise ValueError(f"has {found.st_size:,} bytes, and {limit:,} are read")
        with open(descriptor, "rb", closefd=False) as handle:
            return handle.read(limit)
    finally:
        os.close(descriptor)


def read_json(path: Path, limit: int = LIMIT_BYTES) -> dict[str, Any] | None:
    """The JSON object in `path`; None when it is missing, no regular file, larger than `limit` bytes, or no JSON object."""
    try:
        return as_object(read_plain(path, limit) or b"")
    except (OSError, ValueError):
        return None


def as_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that these bytes are; None when they are none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
