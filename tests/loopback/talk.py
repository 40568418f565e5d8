"""What a script sees and says, whatever the wire format."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SHELLS = {"Bash": "command", "exec_command": "cmd", "shell": "command", "bash": "command"}
"""Tools that run a shell command, and the argument that holds it."""


@dataclass(frozen=True)
class Call:
    """A tool call. The name "shell" with an argument `command` means whatever shell tool the agent offers; of a namespace of the API of
    responses it is `namespace.tool`."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """`role`: user, assistant, tool (a result), or system for what a client adds in the course of a conversation.
    `calls` of an assistant; `call` is the id that a result answers."""

    role: str
    text: str
    calls: tuple[Call, ...] = ()
    call: str = ""


@dataclass(frozen=True)
class Conversation:
    """One request: `api` is messages, responses or chat; `who` the agent by its base URL or key; `tools` the names it offers."""

    api: str
    who: str
    model: str
    system: str
    turns: tuple[Turn, ...]
    tools: tuple[str, ...]
    body: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def last(self) -> str:
        """Text of all that came after the assistant's last word: results, or what the user said."""
        texts = []
        for turn in reversed(self.turns):
            if turn.role == "assistant":
                break
            texts.append(turn.text)
        return "\n".join(reversed(texts))

    @property
    def answers(self) -> int:
        """How often the assistant has spoken in it."""
        return sum(turn.role == "assistant" for turn in self.turns)

    @property
    def text(self) -> str:
        """All of it but the system prompt."""
        return "\n".join(turn.text for turn in self.turns)


@dataclass(frozen=True)
class Reply:
    """An answer. Text may be followed by calls. Times in seconds."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    delay: float = 0.0
    """Before the first byte."""
    hold: threading.Event | None = None
    """Once the stream has begun it goes on only when this is set (or the client is gone)."""
    pieces: int = 1
    """In how many deltas the text comes."""
    input: int | None = None
    """Tokens; by default a quarter of the characters."""
    cached: int = 0
    written: int = 0
    output: int | None = None


@dataclass(frozen=True)
class Failure:
    """An error instead of an answer, `times` times in a row. `midway`: as an event after the stream has begun."""

    status: int
    kind: str = "api_error"
    message: str = "the script says so"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    midway: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    """More fields of the error, where the API of responses has them."""


Answer = Reply | Failure
Script = Callable[[Conversation], Answer]


def shaped(call: Call, tools: tuple[str, ...]) -> Call:
    """The call as the agent's own tools name it. Raises ValueError when it offers no shell."""
    if call.name != "shell":
        return call
    name = next((tool for tool in tools if tool in SHELLS), None)
    if name is None:
        raise ValueError(f"no shell among the tools {tools}")
    arguments = {SHELLS[name]: call.arguments["command"]}
    if name == "Bash":
        arguments["description"] = "a step of the script"
    return Call(name, arguments)
