"""Mailboxes and channels: folders of message files that many processes write and read at once.

Called by the organisation's commands, agents and controller. A message is written under `tmp/`, fsynced and renamed
into `new/`; reading it is one rename to `cur/`, which exactly one reader wins. What cannot be read as a message (too
large, binary, a link, hostile YAML, a wrong name) is moved to `bad/` with a note why, so that it stops nobody.

    inbox/<agent>/{tmp,new,cur,bad}/    channels/<name>/<id>.md, channels/<name>/{tmp,bad}/    sent/<agent>    acks/<id>/<agent>

Messages of one sender are read in the order in which they were sent; `comms.sent` sees to that when they are written, and
`_arrived` when they are read. A file that a person wrote by hand (`comms.hand`) becomes a message when somebody looks.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from comms import hand
from comms.acks import acknowledge, acknowledged
from comms.files import content, deliver, folders, locked, names, reject
from comms.message import (
    FUTURE,
    HEADER_LIMIT,
    IDENTITY,
    NAME,
    MailError,
    Message,
    check_id,
    check_name,
    compose,
    microseconds,
    new_id,
    parse,
    render,
)
from comms.sent import Sent

HELD = ".hand"
"""Folder of a box in which a file written by hand waits, under its id, while it becomes a message."""

HOPELESS = (errno.EACCES, errno.EPERM, errno.ENXIO)

__all__ = ["Letter", "Mail", "MailError", "Message"]


@dataclass(frozen=True)
class Letter:
    """A message that somebody sent, and what became of it. `acknowledged`: agent -> when, in seconds since the epoch."""

    message: Message
    read: bool | None
    """Has its recipient read it? None on a channel."""
    acknowledged: dict[str, float]


class Mail:
    """All mailboxes and channels below one folder."""

    def __init__(self, root: Path) -> None:
        """`root` need not exist yet."""
        self.root = root

    # ------------------------------------------------------------------ from one to one

    def send(self, sender: str, to: str, body: str, kind: str = "note", thread: str = "", about: str = "") -> Message:
        """Put a message into the inbox of `to`. Raises MailError for bad names, an empty or too long body, no space, and when
        another process sends for the same sender for over 20 seconds.
        """
        box = self._box(check_name(to, "a recipient"))
        sent = Sent(self.root, sender)
        with sent.turn() as last:
            message = compose(sender, to, body, kind, thread, about, after=last)
            self._deliver(sent, message, box, "new")
        return message

    def waiting(self, agent: str) -> int:
        """How many new messages there are, by counting files: nothing is read, moved or made. 0 for who has no inbox, or has locked it:
        whoever looks after many must not stop at one."""
        return len(self._new(agent))

    def oldest(self, agent: str) -> str:
        """File name of the oldest new message, "" when there is none: nothing is read, moved or made."""
        return next(iter(self._new(agent)), "")

    def _new(self, agent: str) -> list[str]:
        place = self.root / "inbox" / check_name(agent, "an agent") / "new"
        try:
            return names(place) if place.is_dir() else []
        except (MailError, OSError):
            return []

    def peek(self, agent: str, limit: int = 20) -> list[Message]:
        """The oldest `limit` new messages as they lie: nothing is moved, made or set aside. Empty for who has no inbox."""
        new = (self.look(agent, name.removesuffix(".md")) for name in self._new(agent) if _is_message(name))
        return list(islice(filter(None, new), limit))

    def inbox(self, agent: str) -> list[Message]:
        """New messages, oldest first. Moves nothing but what is bad or written by hand."""
        box = self._box(agent)
        return [message for name in self._arrived(box, "new", agent) if (message := self._open(box, "new", name, agent))]

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
        return list(self.each(agent))

    def each(self, agent: str) -> Iterator[Message]:
        """The same one by one: a message is seen when it is handed out, so whoever dies meanwhile had one in hand at most.

        That one lies in `cur/` and is never new again.
        """
        box = self._box(agent)
        for name in self._arrived(box, "new", agent):
            message = self._open(box, "new", name, agent)
            if message is not None and self._claim(box, name):
                yield message

    # ------------------------------------------------------------------ from one to all

    def post(
        self, sender: str, channel: str, body: str, kind: str = "note", thread: str = "", about: str = ""
    ) -> Message:
        """Put a message into a channel. Ids there appear in their order, so that `channel(after=...)` misses none.

        Raises MailError as `send` does, and when another post holds the channel for over 20 seconds.
        """
        place = self._channel(channel)
        sent = Sent(self.root, sender)
        with sent.turn() as last, self._open_channel(place) as newest:
            message = compose(sender, f"#{channel}", body, kind, thread, about, after=max(last, newest))
            self._deliver(sent, message, place, "")
        return message

    def channel(self, name: str, after: str = "") -> list[Message]:
        """Messages of a channel, oldest first; with `after` (an id) only later ones."""
        place = self._channel(name)
        if after:
            check_id(after)
        files = self._arrived(place, "", f"#{name}", f"{after}.md" if after else "")
        return [message for file in files if (message := self._open(place, "", file, f"#{name}"))]

    # ------------------------------------------------------------------ what was said before

    def find(self, id: str) -> Message:
        """A message by its id, wherever it lies. Raises MailError when it is nowhere."""
        for to in self.places():
            if message := self.look(to, check_id(id)):
                return message
        raise MailError(f"no message {id[:40]} in {self.root}")

    def places(self) -> list[str]:
        """All recipients: agents, and channels as `#name`."""
        found = [(kind, box.name) for kind in ("inbox", "channels") for box in sorted((self.root / kind).glob("*"))]
        return [name if kind == "inbox" else f"#{name}" for kind, name in found if NAME.fullmatch(name)]

    def look(self, to: str, id: str) -> Message | None:
        """The message of this id to an agent or #channel, new or seen, or None. Moves nothing, whatever it finds."""
        for folder in self.folders(to):
            with suppress(OSError, MailError):
                message = parse(content(folder / f"{check_id(id)}.md"), id)
                return message if message.to == to else None
        return None

    def folders(self, to: str) -> list[Path]:
        """Where the messages to an agent or #channel lie."""
        name = check_name(to.removeprefix("#"), "a recipient")
        if to.startswith("#"):
            return [self.root / "channels" / name]
        return [self.root / "inbox" / name / folder for folder in ("new", "cur")]

    def thread(self, name: str, reader: str | None = None) -> list[Message]:
        """A message (or the name of a thread) and all that answer it, oldest first, wherever they lie. Moves nothing.

        `reader`: only what this agent may see, which is its own mail, what it sent, and the channels.
        """
        if not name.strip():
            raise MailError("a conversation without a name is none: give the id of a message in it, or the name that its `thread` has")
        first = name if IDENTITY.fullmatch(name) else ""
        found: dict[str, Message] = {}
        if first and (root := self._seen(first, reader)) and root.thread:
            name, first = root.thread, root.thread if IDENTITY.fullmatch(root.thread) else ""
        for to in self.places():
            for place in self.folders(to):
                for file in _messages(place) if place.is_dir() else []:
                    id = file.removesuffix(".md")
                    if id >= first and (not first or id == first or _mentions(place / file, first)):
                        message = self.look(to, id)
                        if message and (message.thread == name or id == first) and _may_see(message, reader):
                            found[id] = message
        if not found:
            raise MailError(f"no thread {name[:80]!r}: give a message's id, or the name that its `thread` has")
        return [found[id] for id in sorted(found)]

    def _seen(self, id: str, reader: str | None) -> Message | None:
        found = (self.look(to, id) for to in self.places())
        return next((message for message in found if message and _may_see(message, reader)), None)

    def reply(self, id: str, reader: str | None = None) -> tuple[str, str]:
        """(thread, about) of an answer to this message, which `reader` must be able to see. Raises MailError when there is none."""
        message = self._seen(check_id(id), reader)
        if message is None:
            raise MailError(f"no message {id}: it cannot be answered")
        return message.thread or message.id, message.about

    def acknowledge(self, agent: str, id: str) -> Message:
        """Say that `agent` has taken note of a message of its own, or on a channel; it counts as read. Raises MailError if it has none."""
        message = next((found for to in self.places() if to[0] == "#" and (found := self.look(to, check_id(id)))), None)
        message = message or self.read(agent, id)
        acknowledge(self.root, id, agent)
        return message

    def sent(self, sender: str, count: int = 20) -> list[Letter]:
        """The last messages of a sender, newest first, and what became of them."""
        found = []
        for id, to in Sent(self.root, sender).tail(count):
            if message := self.look(to, id):
                read = None if to.startswith("#") else not os.path.lexists(self.folders(to)[0] / f"{id}.md")
                found.append(Letter(message, read, acknowledged(self.root, id)))
        return found

    # ------------------------------------------------------------------ files

    def _box(self, agent: str) -> Path:
        box = self.root / "inbox" / check_name(agent, "an agent")
        folders(box, ("tmp", "new", "cur", "bad"))
        return box

    def _channel(self, name: str) -> Path:
        place = self.root / "channels" / check_name(name, "a channel")
        folders(place, ("tmp", "bad"))
        return place

    @contextmanager
    def _open_channel(self, place: Path) -> Iterator[str]:
        """Nobody else posts here meanwhile. Yields the newest id, "" before the first."""
        with locked(place / ".lock", f"channel {place.name}"):
            found = names(place)
            while found and not _is_ours(found[-1]):
                found.pop()
            yield found[-1].removesuffix(".md") if found else ""

    @staticmethod
    def _deliver(sent: Sent, message: Message, box: Path, folder: str) -> None:
        data = render(message)
        sent.note(message.id, message.to)
        try:
            deliver(data, box / "tmp" / f"{message.id}.md", box / folder)
        except OSError as error:
            raise MailError(f"mail for {message.to} cannot be written in {box / folder}: {error.strerror}") from error

    def _arrived(self, box: Path, folder: str, to: str, after: str = "") -> list[str]:
        """Names of the messages here that sort behind `after`, sorted; none is named whose sender's earlier one lies here unnamed.

        While a folder is listed, a file that is renamed into it may be missed and a later one be seen. So it is listed again, and
        what came late is named too if its sender has a later one in the first list.
        """
        first = names(box / folder, after)
        if not all(map(_is_message, first)) or (box / HELD).is_dir():
            self._adopt(box, folder, to)
            first = _messages(box / folder, after)
        if not first:
            return []
        known = set(first)
        late = [name for name in _messages(box / folder, after) if name < first[-1] and name not in known]
        if not late:
            return first
        heads: dict[str, str] = {}
        for name in first:
            if name > late[0] and (message := self._open(box, folder, name, to)):
                heads[message.sender] = name
        early = [name for name in late if (found := self._open(box, folder, name, to)) and name < heads.get(found.sender, "")]
        return sorted(first + early)

    def _adopt(self, box: Path, folder: str, to: str) -> None:
        """Make messages of the files that a person wrote here by hand, in one process at a time: who comes meanwhile goes on.

        The rename to `.hand/<id>` decides on the id: whoever is killed after it, the next one finishes the same message.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(box / ".hand.lock", f"what is written by hand in {box}", seconds=0))
                folders(box / HELD)
            except MailError:
                return
            sent = Sent(self.root, hand.PERSON)
            for id in os.listdir(box / HELD):
                self._finish(sent, box, folder, id, to)
            for name in names(box / folder):
                if not _is_message(name) and self._draft(box / folder / name, box, to):
                    with suppress(MailError, FileNotFoundError), sent.turn(seconds=1) as last, self._newest(box, to) as newest:
                        id = new_id(max(last, newest))
                        os.rename(box / folder / name, box / HELD / id)
                        self._finish(sent, box, folder, id, to)
            with suppress(OSError):
                os.rmdir(box / HELD)

    def _newest(self, box: Path, to: str) -> AbstractContextManager[str]:
        return self._open_channel(box) if to.startswith("#") else nullcontext("")

    @staticmethod
    def _draft(path: Path, box: Path, to: str) -> bool:
        """Is this file a finished message? What can be none is moved to bad/."""
        try:
            if hand.unfinished(path.lstat()):
                return False
            render(hand.message(hand.read(content(path), path.name), to))
        except MailError as error:
            reject(path, box / "bad", str(error))
        except OSError as error:
            if error.errno in HOPELESS:
                reject(path, box / "bad", f"cannot be read: {error.strerror}")
        else:
            return True
        return False

    def _finish(self, sent: Sent, box: Path, folder: str, id: str, to: str) -> None:
        """Deliver the held file under its id, unless that was done before its last reader died."""
        held = box / HELD / id
        try:
            message = hand.message(hand.read(content(held), "held.md"), to, check_id(id))
        except MailError as error:
            return reject(held, box / "bad", str(error))
        except OSError:
            return
        with suppress(MailError, OSError):  # no space: it stays held for the next look
            if not any(os.path.lexists(place / f"{id}.md") for place in self.folders(to)):
                (box / "tmp" / f"{id}.md").unlink(missing_ok=True)
                self._deliver(sent, message, box, folder)
            held.unlink()

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
        path = box / folder / name
        try:
            if folder == "new" and os.path.lexists(box / "cur" / name):
                raise MailError("a message of this id was read before")
            message = parse(content(path), name.removesuffix(".md"))
            if message.to != to:
                raise MailError(f"it is addressed to {message.to}, and this is the mail of {to}")
            return message
        except FileNotFoundError:
            return None
        except MailError as error:
            reject(path, box / "bad", str(error))
            return None
        except OSError as error:
            # Out of descriptors or a failing disk says nothing about the message: it stays for the next look.
            if error.errno in HOPELESS:
                reject(path, box / "bad", f"cannot be read: {error.strerror}")
            return None


def _messages(folder: Path, after: str = "") -> list[str]:
    return [name for name in names(folder, after) if _is_message(name)]


def _is_message(name: str) -> bool:
    return name.endswith(".md") and IDENTITY.fullmatch(name.removesuffix(".md")) is not None


def _is_ours(name: str) -> bool:
    """May this file name set the time of the next post? Not a forged one from the far future."""
    try:
        return microseconds(name.removesuffix(".md")) <= time.time_ns() // 1000 + FUTURE
    except MailError:
        return False


def _may_see(message: Message, reader: str | None) -> bool:
    return reader is None or message.to.startswith("#") or reader in (message.to, message.sender)


def _mentions(path: Path, id: str) -> bool:
    """Can this file be of the thread `id`? A look at its bytes, ten times cheaper than reading it as a message."""
    with suppress(OSError, MailError):
        return id.encode() in content(path)[:HEADER_LIMIT]
    return False
