"""The wire format of /v1/messages: reading a request, writing an answer whole or as server-sent events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from tests.loopback.talk import Call, Conversation, Failure, Reply, Turn, shaped


def plain(content: Any) -> str:
    """Text of a content field: a string, or blocks."""
    if isinstance(content, str):
        return content
    texts = []
    for block in content or []:
        kind = block.get("type")
        if kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_result":
            texts.append(plain(block.get("content")))
    return "\n".join(texts)


def read(body: dict[str, Any], who: str) -> Conversation:
    turns: list[Turn] = []
    for message in body.get("messages", []):
        content = message.get("content")
        if message.get("role") == "assistant":
            blocks = content if isinstance(content, list) else []
            calls = tuple(
                Call(str(b["name"]), dict(b.get("input") or {})) for b in blocks if b.get("type") == "tool_use"
            )
            turns.append(Turn("assistant", plain(content), calls))
            continue
        if message.get("role") == "system":
            turns.append(Turn("system", plain(content)))
            continue
        said = []
        for block in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if block.get("type") == "tool_result":
                turns.append(Turn("tool", plain(block.get("content")), call=str(block.get("tool_use_id", ""))))
            elif block.get("type") == "text":
                said.append(str(block.get("text", "")))
        if said:
            last = turns[-1] if turns else None
            turns.append(
                Turn("tool" if last and last.role == "tool" and _only_reminders(said) else "user", "\n".join(said))
            )
    tools = tuple(str(tool.get("name")) for tool in body.get("tools") or [])
    return Conversation("messages", who, str(body.get("model")), plain(body.get("system")), tuple(turns), tools, body)


def _only_reminders(said: list[str]) -> bool:
    """Beside a tool's result a client puts reminders of its own, which nobody said."""
    return all(text.strip().startswith("<system-reminder>") for text in said)


def blocks(talk: Conversation, reply: Reply) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text or not reply.calls else []
    for call in reply.calls:
        call = shaped(call, talk.tools)
        found.append(
            {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:20]}", "name": call.name, "input": call.arguments}
        )
    return found


def usage(talk: Conversation, reply: Reply) -> dict[str, Any]:
    fed = reply.input if reply.input is not None else len(talk.text) // 4 + 1
    made = reply.output if reply.output is not None else len(reply.text) // 4 + 1
    return {
        "input_tokens": fed, "cache_read_input_tokens": reply.cached, "cache_creation_input_tokens": reply.written,
        "output_tokens": made,
    }  # fmt: skip


def whole(talk: Conversation, reply: Reply) -> dict[str, Any]:
    return {
        "id": f"msg_{uuid.uuid4().hex[:20]}", "type": "message", "role": "assistant", "model": talk.model,
        "content": blocks(talk, reply), "stop_reason": "tool_use" if reply.calls else "end_turn", "stop_sequence": None,
        "usage": usage(talk, reply),
    }  # fmt: skip


def stream(talk: Conversation, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    """(event, data) in order; the first two say that something has begun."""
    message = whole(talk, reply)
    counted = message["usage"]
    head = {**message, "content": [], "stop_reason": None, "usage": {**counted, "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": head}
    for index, block in enumerate(message["content"]):
        empty = {**block, **({"text": ""} if block["type"] == "text" else {"input": {}})}
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": empty}
        if block["type"] == "text":
            deltas = [{"type": "text_delta", "text": piece} for piece in cut(block["text"], reply.pieces)]
        else:
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield "message_delta", {"type": "message_delta", "delta": delta, "usage": counted}
    yield "message_stop", {"type": "message_stop"}


def error(failure: Failure) -> dict[str, Any]:
    return {"type": "error", "error": {"type": failure.kind, "message": failure.message}}


def cut(text: str, pieces: int) -> list[str]:
    """The text in so many pieces, or in fewer where it is short."""
    size = max(1, -(-len(text) // max(1, pieces)))
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]
