"""One message: Markdown with YAML front matter (id, from, to, kind, thread, time, about); writing and reading it.

Called by the other files here. Files may come from anybody, so reading is strict: the front matter is a flat mapping of
plain scalars, read from the YAML event stream; anchors, aliases, tags and nesting are refused before anything is built.
"""

from __future__ import annotations

import os
import re
import threading
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import yaml

LIMIT_BYTES = 256 * 1024
"""Of a whole message file."""
HEADER_LIMIT = 8 * 1024
"""Bytes of front matter."""
FUTURE = 86_400_000_000
"""Microseconds that an id may lie ahead of the clock here (clocks get set back; a forged year 9999 is refused)."""
LINE_LIMIT = 500
"""Characters of `about` and `thread`."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML brings it: 48 us a message instead of 268 (benchmarks/messages.py)."""
FIELDS = ("id", "from", "to", "kind", "thread", "time", "about")

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
IDENTITY = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9]{6}-[0-9a-f]{8}")
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class MailError(ValueError):
    """A message, name or mailbox that cannot be used. `str(error)` is one printable line: what, where, what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text, limit=2000))


@dataclass(frozen=True)
class Message:
    """`to` is an agent, or `#channel`; `time` in seconds since the epoch; `body` is Markdown, safe to print."""

    id: str
    sender: str
    to: str
    kind: str
    thread: str
    time: float
    about: str
    body: str


_lock = threading.Lock()
_last = 0


def new_id(after: str = "") -> str:
    """An id that sorts by time (UTC, microseconds), after `after` and after every other made by this process."""
    global _last
    with _lock:
        stamp = max(clock.time_ns() // 1000, _last + 1)
        if after and microseconds(after) <= stamp + FUTURE:
            stamp = max(stamp, microseconds(after) + 1)
        _last = stamp
    moment = datetime.fromtimestamp(stamp // 1_000_000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}-{stamp % 1_000_000:06d}-{os.urandom(4).hex()}"


def microseconds(identity: str) -> int:
    """The time in an id, in microseconds since the epoch. Raises MailError when it is none."""
    check_id(identity)
    try:
        moment = datetime.strptime(identity[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise MailError(f"'{shown(identity)}' is no message id: its date does not exist") from error
    return int(moment.timestamp()) * 1_000_000 + int(identity[16:22])


def check_id(identity: str) -> str:
    """The id itself. Raises MailError when it is none."""
    if not IDENTITY.fullmatch(identity):
        raise MailError(f"'{shown(identity)}' is no message id: ids look like 20260131T120000-000000-0123abcd")
    return identity


def check_name(name: str, what: str) -> str:
    """The name itself. Raises MailError when it could not be one of an agent or channel (it becomes a folder)."""
    if not NAME.fullmatch(name):
        raise MailError(f"'{shown(name)}' cannot be {what}: use 1 to 64 of a-z, 0-9, - and _, not starting with - or _")
    return name


def shown(text: str, limit: int = 80) -> str:
    """Untrusted text as it may stand in a one-line error."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:limit])


def clean(text: str) -> str:
    """Text without terminal escapes, other control characters or halves of surrogate pairs; lines end in \\n."""
    text = ESCAPES.sub("", text.replace("\r\n", "\n"))
    return CONTROLS.sub("", text.replace("\r", "\n")).strip("\n")


def compose(
    sender: str, to: str, body: str, kind: str = "note", thread: str = "", about: str = "", after: str = "",
    identity: str = "",
) -> Message:
    """A new message, later than `after` (or of id `identity`). Raises MailError for a bad name, no body, a field too long."""
    check_name(sender, "a sender")
    check_name(to.removeprefix("#"), "a channel" if to.startswith("#") else "a recipient")
    check_name(kind, "a kind of message")
    words = clean(body)
    if not words.strip():
        raise MailError(f"a message from {sender} to {to} needs a body: it is empty")
    lines = {"thread": " ".join(clean(thread).split()), "about": " ".join(clean(about).split())}
    for field, text in lines.items():
        if len(text) > LINE_LIMIT:
            raise MailError(f"{field} of a message has {len(text)} characters, more than {LINE_LIMIT}: shorten it")
    identity = identity or new_id(after)
    return Message(identity, sender, to, kind, lines["thread"], microseconds(identity) / 1e6, lines["about"], words)


def render(message: Message) -> bytes:
    """The message as a file's content. Raises MailError when it exceeds LIMIT_BYTES."""
    moment = datetime.fromtimestamp(message.time, UTC).isoformat(timespec="microseconds")
    values = (message.id, message.sender, message.to, message.kind, message.thread, moment, message.about)
    fields = dict(zip(FIELDS, values, strict=True))
    header = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1_000_000)
    data = f"---\n{header}---\n\n{message.body}\n".encode()
    if len(data) > LIMIT_BYTES:
        raise MailError(f"a message is larger than {LIMIT_BYTES} bytes: put the long part into a file")
    return data


def parse(data: bytes, identity: str) -> Message:
    """A message from a file's content; `identity` comes from the file's name. Raises MailError saying what is wrong."""
    if microseconds(identity) > clock.time_ns() // 1000 + FUTURE:
        raise MailError("its id lies more than a day in the future")
    if len(data) > LIMIT_BYTES:
        raise MailError(f"larger than {LIMIT_BYTES} bytes")
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise MailError(f"no UTF-8 text (byte {error.start})") from error
    if "\0" in text:
        raise MailError("binary: it holds NUL bytes")
    if not text.startswith("---\n") or (end := text.find("\n---\n", 3)) < 0:
        raise MailError("no front matter: the file must begin with --- lines around id, from, to, kind and time")
    if end > HEADER_LIMIT:
        raise MailError(f"front matter larger than {HEADER_LIMIT} bytes")
    fields = flat(text[4 : end + 1])
    missing = [name for name in ("id", "from", "to", "kind", "time") if not fields.get(name)]
    if missing:
        raise MailError(f"front matter without {', '.join(missing)}")
    if fields["id"] != identity:
        raise MailError(f"its id {shown(fields['id'])} is not its file name {identity}")
    sender, to, kind = fields["from"], fields["to"], fields["kind"]
    check_name(sender, "a sender")
    check_name(to.removeprefix("#"), "a recipient")
    check_name(kind, "a kind of message")
    about, thread = (" ".join(clean(fields.get(name, "")).split())[:LINE_LIMIT] for name in ("about", "thread"))
    time = microseconds(identity) / 1e6
    if abs(_moment(fields["time"]) - time) > 1:
        raise MailError(f"its time {shown(fields['time'])} is not the time in its id")
    return Message(identity, sender, to, kind, thread, time, about, clean(text[end + 5 :]))


def flat(header: str) -> Mapping[str, str]:
    """A flat YAML mapping as strings, from events: nothing is constructed, so nothing can be made to grow."""
    values: list[str] = []
    depth = 0
    try:
        for event in yaml.parse(header, Loader=LOADER):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise MailError("front matter with YAML anchors or aliases")
            if getattr(event, "tag", None) is not None:
                raise MailError("front matter with YAML tags")
            if isinstance(event, yaml.ScalarEvent) and depth == 1:
                values.append(str(event.value))
            elif isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > 1 or not isinstance(event, yaml.MappingStartEvent):
                    raise MailError("front matter that is no flat list of `name: value` lines")
            elif isinstance(event, yaml.ScalarEvent):
                raise MailError("front matter that is no flat list of `name: value` lines")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark else ""
        raise MailError(f"malformed YAML{where}: {shown(str(getattr(error, 'problem', error)))}") from error
    keys = values[::2]
    if len(set(keys)) != len(keys):
        raise MailError("front matter that names a field twice")
    return dict(zip(keys, values[1::2], strict=True))


def _moment(text: str) -> float:
    """ISO 8601 (UTC where it names no zone) as seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise MailError(f"time '{shown(text)}' is no ISO 8601 time") from error
