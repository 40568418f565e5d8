"""Files of mailboxes as the kernel gives them: folders, safe reading, whole writing, setting aside, and locks between processes.

Called by `comms.mailbox`, `comms.sent` and `comms.acks`. Whatever lies in a mailbox may have been put there by anybody, so links,
pipes, devices and what is too large are never followed or read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from comms.message import LIMIT_BYTES, MailError, shown

LENGTH = len("20260131T120000-000000-0123abcd.md")
LOCK_SECONDS = 20.0
"""How long a writer waits for another one of the same sender or channel."""


def folders(box: Path, names: tuple[str, ...] = ()) -> None:
    """Make a box; MailError when one of its folders is a link or file, since mail would then go elsewhere."""
    try:
        for place in (box, *(box / name for name in names)):
            try:
                facts = place.lstat()
            except FileNotFoundError:
                place.mkdir(parents=True, exist_ok=True)
                facts = place.lstat()
            if not stat.S_ISDIR(facts.st_mode):
                raise MailError(f"{place} is no folder: move it away, mail belongs there")
    except OSError as error:
        raise MailError(f"no mail can be kept in {box}: {error.strerror}") from error


def names(folder: Path, after: str = "") -> list[str]:
    """File names in a folder, sorted; without hidden ones, editors' backups, and the folders of a channel.

    `after`: of the names that are as long as a message's only those that sort behind this one.
    """
    try:
        found = os.listdir(folder)
    except OSError as error:
        raise MailError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(
        name for name in found
        if (name > after or len(name) != LENGTH) and name[0] not in ".#" and name[-1] != "~" and name not in ("tmp", "bad")
    )  # fmt: skip


def content(path: Path) -> bytes:
    """Bytes of a plain file, never more than the limit plus one. MailError for links, devices and large files."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise MailError("a symbolic link") from error
        raise
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise MailError("no plain file")
        if facts.st_size > LIMIT_BYTES:
            raise MailError(f"larger than {LIMIT_BYTES} bytes ({facts.st_size})")
        with open(descriptor, "rb", closefd=False) as handle:
            return handle.read(LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)


def deliver(data: bytes, draft: Path, folder: Path) -> None:
    """Write a draft, fsync it, rename it into `folder`, fsync that: there whole or not at all. Raises OSError; no draft is left."""
    try:
        with open(draft, "xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(draft, folder / draft.name)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(folder)


def reject(path: Path, bad: Path, why: str) -> None:
    """Move a file to bad/ beside a note. Another reader may have done it; what cannot be moved is left."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:100]
    place = bad / f"{time.time_ns()}-{os.getpid()}-{readable}"
    with suppress(OSError):
        os.rename(path, place)
        place.with_name(place.name + ".why").write_text(f"{shown(path.name, 255)}: {why}\n", encoding="utf-8")


def sync(folder: Path) -> None:
    """Make a rename in this folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, what: str, seconds: float | None = None) -> Iterator[None]:
    """A lock between processes that the kernel gives back when its holder dies. Raises MailError naming the holder.

    `seconds`: how long to wait; LOCK_SECONDS without it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MailError(f"{what} cannot be locked with {path}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
                    raise MailError(f"{what} is held by process {shown(holder)}: end it, then try again") from error
                time.sleep(0.005)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
