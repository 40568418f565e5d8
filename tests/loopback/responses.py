"""The wire format of /v1/responses: reading a request, writing an answer whole or as server-sent events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from tests.loopback.messages import cut
from tests.loopback.talk import Call, Conversation, Failure, Reply, Turn, shaped


def plain(content: Any) -> str:
    """Text of a content field: a string, or parts."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content or [] if isinstance(part, dict))


def read(body: dict[str, Any], who: str) -> Conversation:
    """Developer messages before all others count as system prompt. An assistant's text and the calls after it are one turn."""
    system, turns = [str(body.get("instructions") or "")], []
    given = body.get("input")
    for item in given if isinstance(given, list) else [{"type": "message", "role": "user", "content": given}]:
        kind = item.get("type", "message")
        if kind in ("function_call", "custom_tool_call"):
            call = Call(str(item.get("name")), _arguments(item))
            before = turns.pop() if turns and turns[-1].role == "assistant" else Turn("assistant", "")
            turns.append(Turn("assistant", before.text, (*before.calls, call)))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            turns.append(Turn("tool", plain(item.get("output")), call=str(item.get("call_id", ""))))
        elif kind == "message" and item.get("role") in ("developer", "system"):
            text = plain(item.get("content"))
            if turns:
                turns.append(Turn("system", text))
            else:
                system.append(text)
        elif kind == "message":
            turns.append(Turn(str(item.get("role")), plain(item.get("content"))))
    tools = tuple(name for tool in body.get("tools") or [] for name in _names(tool))
    return Conversation("responses", who, str(body.get("model")), "\n".join(system), tuple(turns), tools, body)


def _names(tool: dict[str, Any]) -> list[str]:
    """What a tool is called; those of a namespace are `namespace.tool`."""
    name = str(tool.get("name") or tool.get("type"))
    return [f"{name}.{one.get('name')}" for one in tool["tools"]] if tool.get("type") == "namespace" else [name]


def _arguments(item: dict[str, Any]) -> dict[str, Any]:
    try:
        value = json.loads(item.get("arguments") or "{}")
    except ValueError:
        value = item.get("arguments")
    return value if isinstance(value, dict) else {"input": item.get("input", value)}


def items(talk: Conversation, reply: Reply) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if reply.text or not reply.calls:
        part = {"type": "output_text", "text": reply.text, "annotations": []}
        name = f"msg_{uuid.uuid4().hex[:20]}"
        found.append({"type": "message", "id": name, "role": "assistant", "status": "completed", "content": [part]})
    for call in reply.calls:
        call = shaped(call, talk.tools)
        name = uuid.uuid4().hex[:20]
        space, _, tool = call.name.rpartition(".")
        found.append({
            "type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}", "name": tool,
            "arguments": json.dumps(call.arguments), "status": "completed", **({"namespace": space} if space else {}),
        })  # fmt: skip
    return found


def usage(talk: Conversation, reply: Reply) -> dict[str, Any]:
    fed = reply.input if reply.input is not None else len(talk.text) // 4 + 1
    made = reply.output if reply.output is not None else len(reply.text) // 4 + 1
    given = fed + reply.cached + reply.written  # this API counts cached tokens as input
    return {
        "input_tokens": given, "input_tokens_details": {"cached_tokens": reply.cached, "cache_write_tokens": reply.written},
        "output_tokens": made, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": given + made,
    }  # fmt: skip


def whole(talk: Conversation, reply: Reply) -> dict[str, Any]:
    return {
        "id": f"resp_{uuid.uuid4().hex[:20]}", "object": "response", "created_at": 1, "status": "completed",
        "model": talk.model, "output": items(talk, reply), "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "usage": usage(talk, reply),
    }  # fmt: skip


def stream(talk: Conversation, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    """(event, data) in order; the first two say that something has begun."""
    for number, (event, data) in enumerate(_stream(talk, reply)):
        yield event, {"type": event, "sequence_number": number, **data}


def _stream(talk: Conversation, reply: Reply) -> Iterator[tuple[str, dict[str, Any]]]:
    response = whole(talk, reply)
    head = {**response, "status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"response": head}
    yield "response.in_progress", {"response": head}
    for index, item in enumerate(response["output"]):
        place = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "message":
            part = item["content"][0]
            place_of_part = {**place, "content_index": 0}
            yield (
                "response.output_item.added",
                {"output_index": index, "item": {**item, "status": "in_progress", "content": []}},
            )
            yield "response.content_part.added", {**place_of_part, "part": {**part, "text": ""}}
            for piece in cut(part["text"], reply.pieces):
                yield "response.output_text.delta", {**place_of_part, "delta": piece, "logprobs": []}
            yield "response.output_text.done", {**place_of_part, "text": part["text"], "logprobs": []}
            yield "response.content_part.done", {**place_of_part, "part": part}
        else:
            empty = {**item, "status": "in_progress", "arguments": ""}
            yield "response.output_item.added", {"output_index": index, "item": empty}
            yield "response.function_call_arguments.delta", {**place, "delta": item["arguments"]}
            yield (
                "response.function_call_arguments.done",
                {**place, "arguments": item["arguments"], "name": item["name"]},
            )
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield "response.completed", {"response": response}


def error(failure: Failure) -> dict[str, Any]:
    return {"error": {"type": failure.kind, "code": failure.kind, "message": failure.message, "param": None, **failure.details}}
