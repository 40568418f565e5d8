"""What each sender has sent: a line `id recipient` for each message, and with it the order of that sender's messages.

Called by `comms.mailbox` before a message is delivered. A message's id must come after every earlier one of its sender, also when
the clock was set back or two processes send within one microsecond: so the next id is chosen under a lock of the sender, after
the last line here, and the lock is held until the message is delivered. `tail` also tells a sender what became of the words.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comms.files import folders, locked
from comms.message import IDENTITY, MailError, check_name

LINE = re.compile(rf"({IDENTITY.pattern}) (#?[a-z0-9][a-z0-9_-]{{0,63}})")


class Sent:
    """The file of one sender. Others may have written into it: what is no such line is passed over."""

    def __init__(self, root: Path, sender: str) -> None:
        self.folder, self.sender = root / "sent", check_name(sender, "a sender")
        self.path = self.folder / sender

    @contextmanager
    def turn(self, seconds: float | None = None) -> Iterator[str]:
        """The sender's turn: no other message of it gets an id meanwhile. Yields the id of its last message, "" before the first.

        Raises MailError when another process has the turn for longer than `seconds` (LOCK_SECONDS without it).
        """
        folders(self.folder)
        with locked(self.folder / f".{self.sender}.lock", f"the mail of {self.sender}", seconds):
            last = self.tail(1)
            yield last[0][0] if last else ""

    def note(self, identity: str, to: str) -> None:
        """Remember that this message is about to be delivered. Raises MailError when it cannot be written."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags, 0o600)
            try:
                os.write(descriptor, f"{identity} {to}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise MailError(f"mail of {self.sender} cannot be noted in {self.path}: {error.strerror}") from error

    def tail(self, count: int) -> list[tuple[str, str]]:
        """(id, recipient) of the last messages, newest first; also of one whose sender was killed before it was delivered."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise MailError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise MailError(f"{self.path} is no plain file: move it away, it holds what {self.sender} has sent")
            size = 100 * (count + 1)  # a line has at most 98 bytes
            lines = os.pread(descriptor, size, max(0, facts.st_size - size)).decode("ascii", "replace").splitlines()
        finally:
            os.close(descriptor)
        found = [match for line in reversed(lines) if (match := LINE.fullmatch(line))]
        return [(match[1], match[2]) for match in found[:count]]
