"""Language models behind one small protocol, and what can go wrong with them. Called by `loop` and `summary`.

The providers are in `over_anthropic` and `over_openai`, and only the one that is used is imported: an SDK takes a second and tens of
megabytes. The SDKs' own retries are off: ours are shown to people and obey Esc. Whatever goes wrong becomes a `Trouble`
that says whether trying again can help.
"""

from __future__ import annotations

import email.utils
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lab.text import clean
from org.agents.chat.settings import Access
from org.agents.chat.transcript import CHARACTERS, Block, Call, Turn, Usage, size

Heard = Callable[[Literal["text", "thinking"], str], None]
"""Called with each piece as it arrives."""
PASSING = ("overloaded_error", "rate_limit_error", "api_error", "timeout_error", "server_error", "rate_limit_exceeded")
"""Types of errors within a stream that may pass."""
TOO_LONG = ("prompt is too long", "context_length_exceeded", "context length", "context window", "context size")
"""By this servers say that the conversation is over the window."""


@dataclass(frozen=True)
class Tool:
    """A tool as the model sees it. `schema`: JSON Schema of its arguments."""

    name: str
    about: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Request:
    """One question to the model. `who` keeps this agent's cache apart from others'."""

    system: str
    turns: Sequence[Turn]
    tools: Sequence[Tool]
    max_tokens: int
    who: str


@dataclass(frozen=True)
class Reply:
    """`stop`: why it ended, in the words of the API; `cut`: at the limit of its length."""

    blocks: tuple[Block, ...]
    stop: str
    cut: bool
    usage: Usage


@dataclass
class Trouble(Exception):
    """A request that failed. `kind`: passing (try again, not before `after` seconds), too_long, or lasting."""

    kind: Literal["passing", "too_long", "lasting"]
    text: str
    after: float | None = None
    limited: bool = False
    """Is it a limit of rate or load, and no fault?"""

    def __str__(self) -> str:
        return self.text


class Model(Protocol):
    async def stream(self, asked: Request, heard: Heard) -> Reply:
        """The answer, told piece by piece meanwhile. Raises Trouble. May be cancelled at any time."""
        ...


def connect(access: Access) -> Model:
    """The model that these settings choose."""
    if access.provider == "anthropic":
        from org.agents.chat.over_anthropic import Messages

        return Messages(access)
    from org.agents.chat.over_openai import Completions, Responses

    return Responses(access) if access.provider == "openai-responses" else Completions(access)


def estimated(asked: Request, blocks: Sequence[Block]) -> Usage:
    """For a server that does not count."""
    fed = len(asked.system) // CHARACTERS + sum(map(size, asked.turns))
    return Usage(input=fed, output=sum(len(one.model_dump_json()) // CHARACTERS for one in blocks), counted=False)


def call(id: str, name: str, arguments: object, before: Sequence[Block]) -> Call:
    """A call with an id of its own and arguments that are an object, or with the reason why they are not."""
    if not id or any(isinstance(one, Call) and one.id == id for one in before):
        id = f"call_{uuid.uuid4().hex[:20]}"
    broken = ""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            arguments, broken = {}, f"the arguments are no JSON ({error}): they may have been cut off"
    if not isinstance(arguments, dict):
        arguments, broken = {}, "the arguments are no object"
    return Call(id=id, name=name, arguments=arguments, broken=broken)


def whole(reply: Reply) -> tuple[Block, ...]:
    """The blocks of a reply. Of one that was cut off the last call is not to be done: half a command may be another command."""
    if not (reply.cut and reply.blocks and isinstance(reply.blocks[-1], Call)):
        return reply.blocks
    broken = "the answer was cut off at its longest length within this call: say it in smaller pieces"
    return (*reply.blocks[:-1], reply.blocks[-1].model_copy(update={"broken": broken}))


def trouble(error: Exception) -> Trouble:
    """What an SDK raised, as trouble. Both have the same classes (`APIError` and its kin) under different roofs."""
    if isinstance(error, Trouble):
        return error
    text = clean(getattr(error, "message", None) or error, 500)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "APIConnectionError" in kinds:
        return Trouble("passing", f"no connection: {text}")
    if type(error).__module__.startswith("httpx"):  # one SDK lets errors within a stream through
        return Trouble("passing", f"the connection broke: {text or type(error).__name__}")
    if "APIError" not in kinds:
        return Trouble("lasting", f"{type(error).__name__}: {text}")
    status, body = int(getattr(error, "status_code", 0)), json.dumps(getattr(error, "body", None), default=str)
    if status < 400:  # said within a stream that had begun well
        return within(body, text)
    if any(sign in text.lower() or sign in body.lower() for sign in TOO_LONG) or status == 413:
        return Trouble("too_long", text)
    if "insufficient_quota" in body:
        return Trouble("lasting", text)
    if status in (408, 409, 429) or status >= 500:
        response: Any = getattr(error, "response", None)
        return Trouble(
            "passing", f"{status}: {text}", _after(response.headers if response else {}), status in (429, 503, 529)
        )
    return Trouble("lasting", f"{status}: {text}")


def within(code: str, text: str) -> Trouble:
    """An error that came as an event of a stream."""
    if any(sign in code or sign in text.lower() for sign in TOO_LONG):
        return Trouble("too_long", clean(text, 500))
    limited = "overloaded" in code or "rate_limit" in code
    return Trouble("passing" if any(kind in code for kind in PASSING) else "lasting", clean(text, 500), None, limited)


def _after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, 10.2.3)."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        given = headers.get("retry-after", "")
        return max(0.0, float(given))
    except ValueError:
        moment = email.utils.parsedate_tz(given)
        return max(0.0, email.utils.mktime_tz(moment) - time.time()) if moment else None
