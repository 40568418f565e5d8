"""The wire format of /v1/chat/completions: reading a request, writing an answer whole or in chunks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from tests.loopback.messages import cut
from tests.loopback.responses import plain
from tests.loopback.talk import Call, Conversation, Reply, Turn, shaped


def read(body: dict[str, Any], who: str) -> Conversation:
    system, turns = [], []
    for message in body.get("messages", []):
        role, text = str(message.get("role")), plain(message.get("content"))
        if role in ("system", "developer"):
            system.append(text)
            continue
        functions = [call["function"] for call in message.get("tool_calls") or []]
        calls = tuple(Call(str(one["name"]), json.loads(one.get("arguments") or "{}")) for one in functions)
        turns.append(Turn(role, text, calls, str(message.get("tool_call_id", ""))))
    tools = tuple(str(tool.get("function", {}).get("name")) for tool in body.get("tools") or [])
    return Conversation("chat", who, str(body.get("model")), "\n".join(system), tuple(turns), tools, body)


def usage(talk: Conversation, reply: Reply) -> dict[str, Any]:
    fed = reply.input if reply.input is not None else len(talk.text) // 4 + 1
    made = reply.output if reply.output is not None else len(reply.text) // 4 + 1
    given = fed + reply.cached + reply.written
    details = {"cached_tokens": reply.cached}
    return {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
        "prompt_tokens_details": details,
    }


def whole(talk: Conversation, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = _calls(talk, reply)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": "tool_calls" if reply.calls else "stop",
    }
    return {**_head(talk), "object": "chat.completion", "choices": [choice], "usage": usage(talk, reply)}


def _head(talk: Conversation) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex[:20]}", "created": 1, "model": talk.model}


def _calls(talk: Conversation, reply: Reply) -> list[dict[str, Any]]:
    found = []
    for call in reply.calls:
        call = shaped(call, talk.tools)
        function = {"name": call.name, "arguments": json.dumps(call.arguments)}
        found.append({"id": f"call_{uuid.uuid4().hex[:20]}", "type": "function", "function": function})
    return found


def stream(talk: Conversation, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    """Chunks without event names; the first two say that something has begun. Usage comes last where it was asked for."""
    head = {**_head(talk), "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> tuple[str, dict[str, Any]]:
        return "", {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in cut(reply.text, reply.pieces):
        yield chunk({"content": piece})
    for index, call in enumerate(_calls(talk, reply)):
        yield chunk({"tool_calls": [{"index": index, **call}]})
    yield chunk({}, "tool_calls" if reply.calls else "stop")
    if (talk.body.get("stream_options") or {}).get("include_usage"):
        yield "", {**head, "choices": [], "usage": usage(talk, reply)}
