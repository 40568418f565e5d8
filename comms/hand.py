"""A message that a person writes with an editor into a mailbox: what such a file may look like. Pure.

Called by `comms.mailbox`, which gives the message its id and time when it takes the file. The form is lenient (a plain text is a
message), what it can do is not: the sender is `person`, whoever the file says it is from.

    inbox/r1/new/idea.md         Try a longer warm-up.
    channels/all/friday.md       ---
                                 about: E0007
                                 kind: question
                                 ---
                                 Who has looked at the diff?
"""

from __future__ import annotations

import os
import re
import stat
import time
import unicodedata
from dataclasses import dataclass

from comms.message import HEADER_LIMIT, LIMIT_BYTES, MailError, Message, compose, flat, shown

PERSON = "person"
NAMED = re.compile(r"\w[\w .,@+-]{0,200}\.(?:md|markdown|txt)")
QUIET = 2.0
"""Seconds since its last change after which a file is finished: editors write in place, or twice."""
KNOWN = {"from", "to", "kind", "thread", "about"}


@dataclass(frozen=True)
class Draft:
    """What a person wrote; "" where nothing was said."""

    to: str
    kind: str
    thread: str
    about: str
    body: str


def unfinished(facts: os.stat_result) -> bool:
    """May somebody still be writing this file? One from the future is finished (the clock was set back)."""
    return stat.S_ISREG(facts.st_mode) and facts.st_size <= LIMIT_BYTES and abs(time.time() - facts.st_mtime) < QUIET


def read(data: bytes, name: str) -> Draft:
    """The draft in a file. Raises MailError for what is no text, and for a file that claims an id or another sender."""
    letters = "".join(letter for letter in name if not unicodedata.category(letter).startswith("M"))  # marks: of "ü" on a Mac, say
    if not NAMED.fullmatch(letters):
        raise MailError("its name is no plain one that ends in .md or .txt: send messages with `orgctl mail send`")
    if b"\0" in data:
        raise MailError("binary: it holds NUL bytes")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise MailError(f"no UTF-8 text (byte {error.start})") from error
    fields, body = _parts(text)
    if "id" in fields:
        raise MailError("it claims an id, and its name is another: what is written by hand gets its id when it is taken")
    if fields.get("from", PERSON) != PERSON:
        raise MailError(f"what is written by hand is from {PERSON}, and it says from {shown(fields['from'])}")
    said = {name: fields.get(name, "") for name in ("to", "kind", "thread", "about")}
    return Draft(**said, body=body)


def message(draft: Draft, to: str, identity: str = "") -> Message:
    """The draft as a message to an agent or #channel, with this id or a new one. Raises MailError as `compose` does."""
    if draft.to not in ("", to):
        raise MailError(f"it is addressed to {shown(draft.to)}, and this is the mail of {to}")
    return compose(PERSON, to, draft.body, draft.kind or "note", draft.thread, draft.about, identity=identity)


def _parts(text: str) -> tuple[dict[str, str], str]:
    """Fields and body. Front matter that is none of ours (a rule at the top, other fields, YAML that is no flat list) is text."""
    end = text.find("\n---\n", 3) if text.startswith("---\n") else -1
    if not 0 <= end <= HEADER_LIMIT:
        return {}, text
    try:
        fields = dict(flat(text[4 : end + 1]))
    except MailError:
        return {}, text
    known = {key.strip().lower(): value for key, value in fields.items()}
    return (known, text[end + 5 :]) if known.keys() <= KNOWN | {"id", "time"} else ({}, text)
