"""The conversation on disk: one JSON line an entry, only ever appended, fsynced; and what of it the model is shown.

The choice that matters most: the file says what happened, valid or not (a process may die at any byte), and `conversation` makes
a valid conversation of it whenever it is needed. So a crash, an interrupt and a torn line need no repair of the file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

LOST = "No answer: the process ended while this ran. Look whether it took effect before you do it again."
"""Stands for the result of a call that never got one."""
CHARACTERS = 4
"""Of one token, about; only where nobody counted."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Said(_Part):
    """Text of the model's."""

    kind: Literal["said"] = "said"
    text: str


class Call(_Part):
    """A tool call. `broken`: why its arguments could not be read, "" when they could."""

    kind: Literal["call"] = "call"
    id: str
    name: str
    arguments: dict[str, Any]
    broken: str = ""


class Kept(_Part):
    """A block that only its provider understands (thinking and its signature), handed back to it as it came."""

    kind: Literal["kept"] = "kept"
    provider: str
    data: dict[str, Any]


Block = Annotated[Said | Call | Kept, Field(discriminator="kind")]


class Usage(_Part):
    """Tokens of one request, as in `org.agents.prices`. `counted` False: the server did not say, these are characters / 4."""

    input: int = 0
    cached: int = 0
    written: int = 0
    output: int = 0
    counted: bool = True

    @property
    def prompt(self) -> int:
        return self.input + self.cached + self.written


class _Entry(_Part):
    time: float = Field(default_factory=time.time)


class User(_Entry):
    """What the model is told. `mail`: ids of the messages in it, which is how they are known to have arrived."""

    kind: Literal["user"] = "user"
    text: str
    origin: Literal["process", "person", "mail", "interrupt", "budget"] = "process"
    mail: tuple[str, ...] = ()


class Assistant(_Entry):
    kind: Literal["assistant"] = "assistant"
    blocks: tuple[Block, ...]
    model: str = ""
    stop: str = ""
    usage: Usage | None = None

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Call))

    @property
    def text(self) -> str:
        return "\n".join(block.text for block in self.blocks if isinstance(block, Said))


class Result(_Part):
    id: str
    text: str
    failed: bool = False


class Results(_Entry):
    kind: Literal["results"] = "results"
    results: tuple[Result, ...]


class Compacted(_Entry):
    """From here on `summary` stands for all entries before number `first`."""

    kind: Literal["compacted"] = "compacted"
    summary: str
    first: int
    model: str = ""
    usage: Usage | None = None


Entry = Annotated[User | Assistant | Results | Compacted, Field(discriminator="kind")]
Turn = User | Assistant | Results
ENTRY: TypeAdapter[User | Assistant | Results | Compacted] = TypeAdapter(Entry)


class Transcript:
    """An open transcript. Reading passes over lines that are torn or strange; numbers count what could be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[User | Assistant | Results | Compacted] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = path.read_bytes() if path.exists() else b""
        for line in raw.decode("utf-8", "replace").split("\n"):
            try:
                self.entries.append(ENTRY.validate_json(line))
            except ValidationError:
                continue
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if raw and not raw.endswith(b"\n"):
            os.write(self._file, b"\n")  # ends a torn line, so that the next one is whole

    def append(self, entry: User | Assistant | Results | Compacted) -> None:
        """On disk when this returns."""
        data = (json.dumps(entry.model_dump(mode="json"), ensure_ascii=True) + "\n").encode()
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)
        self.entries.append(entry)

    def close(self) -> None:
        os.close(self._file)

    @property
    def mail(self) -> set[str]:
        """Ids of all messages that are in it."""
        return {id for entry in self.entries if isinstance(entry, User) for id in entry.mail}


def conversation(entries: Sequence[User | Assistant | Results | Compacted]) -> list[Turn]:
    """What the model is shown: the last summary and what follows it, every call with exactly one result right behind it."""
    shown: list[Turn] = []
    start = 0
    for entry in entries:
        if isinstance(entry, Compacted):
            shown, start = [User(text=f"Summary of our work so far:\n\n{entry.summary}", time=entry.time)], entry.first
    open_: dict[str, Call] = {}
    found: dict[str, Result] = {}

    def close() -> None:
        if open_:
            shown.append(Results(results=tuple(found.get(id, Result(id=id, text=LOST, failed=True)) for id in open_)))
        open_.clear()
        found.clear()

    for entry in entries[start:]:
        if isinstance(entry, Compacted):
            continue
        if isinstance(entry, Results):
            found |= {one.id: one for one in entry.results if one.id in open_ and one.id not in found}
            continue
        close()
        if isinstance(entry, User) or any(not isinstance(block, Said) or block.text.strip() for block in entry.blocks):
            shown.append(entry)
        open_ |= {call.id: call for call in entry.calls} if isinstance(entry, Assistant) else {}
    close()
    return shown


def due(turns: Sequence[Turn]) -> bool:
    """Does this conversation wait for the model?"""
    if not turns:
        return False
    last = turns[-1]
    return isinstance(last, Results) or (isinstance(last, User) and last.origin != "interrupt")


def size(turn: Turn) -> int:
    """Tokens of a turn, estimated."""
    if isinstance(turn, User):
        return len(turn.text) // CHARACTERS + 4
    if isinstance(turn, Results):
        return sum(len(one.text) // CHARACTERS + 8 for one in turn.results)
    return sum(len(block.model_dump_json()) // CHARACTERS for block in turn.blocks)
