"""A conversation in the shapes of the three APIs. Pure; called by `models`.

Consecutive words of the user become one message: some servers' chat templates demand that roles alternate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from org.agents.chat.transcript import Call, Kept, Results, Said, Turn, User

CACHED = {"type": "ephemeral"}
NO_TEXT = "(nothing)"
"""Stands for an empty text, which APIs refuse."""


def anthropic(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """For the messages API, with cache marks on the last two messages of the user: the second finds what the first left."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        content: list[dict[str, Any]] = []
        if isinstance(turn, User):
            content = [{"type": "text", "text": turn.text.strip() or NO_TEXT}]
        elif isinstance(turn, Results):
            for one in turn.results:
                result = {"type": "tool_result", "tool_use_id": one.id, "content": one.text or NO_TEXT}
                content.append({**result, "is_error": True} if one.failed else result)
        else:
            for block in turn.blocks:
                if isinstance(block, Said) and block.text.strip():
                    content.append({"type": "text", "text": block.text.rstrip()})
                elif isinstance(block, Call):
                    content.append({"type": "tool_use", "id": block.id, "name": block.name, "input": block.arguments})
                elif isinstance(block, Kept) and block.provider == "anthropic":
                    content.append(block.data)
        role = "user" if isinstance(turn, User | Results) else "assistant"
        if not content:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += content
        else:
            messages.append({"role": role, "content": content})
    for message in [message for message in messages if message["role"] == "user"][-2:]:
        message["content"][-1] = {**message["content"][-1], "cache_control": CACHED}
    return messages


def responses(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Input items of the responses API."""
    items: list[dict[str, Any]] = []
    for turn in turns:
        if isinstance(turn, User):
            items.append({"type": "message", "role": "user", "content": [{"type": "input_text", "text": turn.text}]})
        elif isinstance(turn, Results):
            for one in turn.results:
                items.append(
                    {"type": "function_call_output", "call_id": one.id, "output": _marked(one.text, one.failed)}
                )
        else:
            for block in turn.blocks:
                if isinstance(block, Said) and block.text.strip():
                    said = [{"type": "output_text", "text": block.text}]
                    items.append({"type": "message", "role": "assistant", "content": said})
                elif isinstance(block, Call):
                    call = {"call_id": block.id, "name": block.name, "arguments": json.dumps(block.arguments)}
                    items.append({"type": "function_call", **call})
                elif isinstance(block, Kept) and block.provider == "openai-responses":
                    items.append(block.data)
    return items


def chat(system: str, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Messages of the chat completions API."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    for turn in turns:
        if isinstance(turn, User):
            if messages[-1]["role"] == "user":
                messages[-1]["content"] += f"\n\n{turn.text}"
            else:
                messages.append({"role": "user", "content": turn.text})
        elif isinstance(turn, Results):
            for one in turn.results:
                messages.append({"role": "tool", "tool_call_id": one.id, "content": _marked(one.text, one.failed)})
        elif turn.text.strip() or turn.calls:
            message: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
            if turn.calls:
                message["tool_calls"] = [
                    {
                        "id": one.id,
                        "type": "function",
                        "function": {"name": one.name, "arguments": json.dumps(one.arguments)},
                    }
                    for one in turn.calls
                ]
            messages.append(message)
    return messages


def _marked(text: str, failed: bool) -> str:
    return f"Error: {text}" if failed else text or NO_TEXT
