"""Files that others read: written to a temporary name, fsynced and renamed, so that nobody ever sees half of one.

Reading trusts nobody either: links, pipes, devices and files too large or too deep to be ours are no files.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

LIMIT_BYTES = 16_000_000


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` to `path` so that a reader sees the old content or the new, never a part. Creates parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp")
    raw = data.encode() if isinstance(data, str) else data
    try:
        with open(temporary, "wb") as handle:
            handle.write(raw)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")


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
