"""Mailboxes and channels: folders of message files that many processes write and read at once.

Called by the organisation's commands, agents and controller. A message is written under `tmp/`, fsynced and renamed
into `new/`; reading it is one rename to `cur/`, which exactly one reader wins. What cannot be read as a message (too
large, binary, a link, hostile YAML, a wrong name) is moved to `bad/` with a note why, so that it stops nobody.

    inbox/<agent>/{tmp,new,cur,bad}/    channels/<name>/<id>.md, channels/<name>/{tmp,bad}/
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

from comms.message import (
    FUTURE,
    LIMIT_BYTES,
    MailError,
    Message,
    check_id,
    check_name,
    compose,
    microseconds,
    parse,
    render,
    shown,
)

LOCK_SECONDS = 20.0
"""How long a post waits for another post to the same channel."""

__all__ = ["Mail", "MailError", "Message"]


class Mail:
    """All mailboxes and channels below one folder."""

    def __init__(self, root: Path) -> None:
        """`root` need not exist yet."""
        self.root = root

    # ------------------------------------------------------------------ from one to one

    def send(self, sender: str, to: str, body: str, kind: str = "note", thread: str = "", about: str = "") -> Message:
        """Put a message into the inbox of `to`. Raises MailError for bad names, an empty or too long body, no space."""
        message = compose(sender, check_name(to, "a recipient"), body, kind, thread, about)
        box = self._box(to)
        self._deliver(message, box / "tmp", box / "new")
        return message

    def inbox(self, agent: str) -> list[Message]:
        """New messages, oldest first. Moves nothing but what is bad."""
        box = self._box(agent)
        return [message for name in _names(box / "new") if (message := self._open(box, "new", name, agent))]

    def read(self, agent: str, id: str) -> Message:
        """One message, new or seen; a new one counts as seen from now on. Raises MailError when there is none."""
        box, name = self._box(agent), f"{check_id(id)}.md"
        message = self._open(box, "new", name, agent)
        if message is not None:
            self._claim(box, name)
            return message
        message = self._open(box, "cur", name, agent)
        if message is None:
            raise MailError(f"{agent} has no message {id}: list them with `orgctl mail inbox`")
        return message

    def take(self, agent: str) -> list[Message]:
        """All new messages, oldest first, each handed to exactly one taker and seen from now on."""
        box = self._box(agent)
        taken = []
        for name in _names(box / "new"):
            message = self._open(box, "new", name, agent)
            if message is not None and self._claim(box, name):
                taken.append(message)
        return taken

    # ------------------------------------------------------------------ from one to all

    def post(
        self, sender: str, channel: str, body: str, kind: str = "note", thread: str = "", about: str = ""
    ) -> Message:
        """Put a message into a channel. Ids there appear in their order, so that `channel(after=...)` misses none.

        Raises MailError as `send` does, and when another post holds the channel for over 20 seconds.
        """
        place = self._channel(channel)
        with _locked(place / ".lock", f"channel {channel}"):
            last = max((name.removesuffix(".md") for name in _names(place) if _is_ours(name)), default="")
            message = compose(sender, f"#{channel}", body, kind, thread, about, after=last)
            self._deliver(message, place / "tmp", place)
        return message

    def channel(self, name: str, after: str = "") -> list[Message]:
        """Messages of a channel, oldest first; with `after` (an id) only later ones."""
        place = self._channel(name)
        if after:
            check_id(after)
        found = []
        for file in _names(place):
            if not after or file.removesuffix(".md") > after:
                message = self._open(place, "", file, f"#{name}")
                if message is not None:
                    found.append(message)
        return found

    def find(self, id: str) -> Message:
        """A message by its id, wherever it lies. Raises MailError when it is nowhere."""
        name = f"{check_id(id)}.md"
        for kind in ("inbox", "channels"):
            for box in sorted((self.root / kind).glob("*")):
                to = box.name if kind == "inbox" else f"#{box.name}"
                for folder in ("new", "cur") if kind == "inbox" else ("",):
                    message = self._open(box, folder, name, to)
                    if message is not None:
                        return message
        raise MailError(f"no message {id} in {self.root}")

    # ------------------------------------------------------------------ files

    def _box(self, agent: str) -> Path:
        box = self.root / "inbox" / check_name(agent, "an agent")
        _folders(box, ("tmp", "new", "cur", "bad"))
        return box

    def _channel(self, name: str) -> Path:
        place = self.root / "channels" / check_name(name, "a channel")
        _folders(place, ("tmp", "bad"))
        return place

    @staticmethod
    def _deliver(message: Message, drafts: Path, folder: Path) -> None:
        data = render(message)
        draft = drafts / f"{message.id}.md"
        try:
            try:
                with open(draft, "xb") as handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.rename(draft, folder / draft.name)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _sync(folder)
        except OSError as error:
            raise MailError(f"mail for {message.to} cannot be written in {folder}: {error.strerror}") from error

    @staticmethod
    def _claim(box: Path, name: str) -> bool:
        """Move a message from new to cur; False when another reader was first."""
        try:
            os.rename(box / "new" / name, box / "cur" / name)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise MailError(f"{box / 'new' / name} cannot be moved to cur: {error.strerror}") from error
        return True

    @staticmethod
    def _open(box: Path, folder: str, name: str, to: str) -> Message | None:
        """The message in a file; None when it is gone by now, or is none and was moved to bad/."""
        path = box / folder / name if folder else box / name
        try:
            if folder == "new" and os.path.lexists(box / "cur" / name):
                raise MailError("a message of this id was read before")
            if not name.endswith(".md"):
                raise MailError("its name does not end in .md: send messages with `orgctl mail send`")
            message = parse(_content(path), name.removesuffix(".md"))
            if message.to != to:
                raise MailError(f"it is addressed to {message.to}, and this is the mail of {to}")
            return message
        except FileNotFoundError:
            return None
        except MailError as error:
            _reject(path, box / "bad", str(error))
            return None
        except OSError as error:
            # Out of descriptors or a failing disk says nothing about the message: it stays for the next look.
            if error.errno in (errno.EACCES, errno.EPERM, errno.ENXIO):
                _reject(path, box / "bad", f"cannot be read: {error.strerror}")
            return None


def _folders(box: Path, names: tuple[str, ...]) -> None:
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


def _names(folder: Path) -> list[str]:
    """File names in a folder, sorted; without hidden ones and the folders that belong to a channel."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise MailError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(name for name in names if not name.startswith(".") and name not in ("tmp", "bad"))


def _is_ours(name: str) -> bool:
    """May this file name set the time of the next post? Not a forged one from the far future."""
    try:
        return microseconds(name.removesuffix(".md")) <= time.time_ns() // 1000 + FUTURE
    except MailError:
        return False


def _content(path: Path) -> bytes:
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


def _reject(path: Path, bad: Path, why: str) -> None:
    """Move a file to bad/ beside a note. Another reader may have done it; what cannot be moved is left."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:100]
    place = bad / f"{time.time_ns()}-{os.getpid()}-{readable}"
    with suppress(OSError):
        os.rename(path, place)
        place.with_name(place.name + ".why").write_text(f"{shown(path.name, 255)}: {why}\n", encoding="utf-8")


def _sync(folder: Path) -> None:
    """Make a rename in this folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """A lock between processes that the kernel gives back when its holder dies. Raises MailError naming the holder."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MailError(f"{what} cannot be locked with {path}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + LOCK_SECONDS
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
