"""OpenAI's two APIs, streamed: responses, and chat completions as vLLM, llama.cpp, Ollama and others speak it.

Called by `models.connect`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import openai

from org.agents.chat import messages
from org.agents.chat.models import Heard, Reply, Request, Trouble, call, estimated, trouble, within
from org.agents.chat.settings import Access
from org.agents.chat.transcript import Block, Kept, Said, Usage


class Responses:
    """OpenAI's responses API. Nothing is stored there: reasoning comes encrypted and is handed back."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.client = _openai(access)

    async def stream(self, asked: Request, heard: Heard) -> Reply:
        more: dict[str, Any] = (
            {"reasoning": {"effort": self.access.settings.effort}} if self.access.settings.effort else {}
        )
        if asked.tools:
            more["tools"] = [
                {
                    "type": "function",
                    "name": one.name,
                    "description": one.about,
                    "parameters": one.schema,
                    "strict": False,
                }
                for one in asked.tools
            ]
        items: list[Any] = []
        end: Any = None
        try:
            async with await self.client.responses.create(
                model=self.access.model, instructions=asked.system, input=cast(Any, messages.responses(asked.turns)),
                max_output_tokens=asked.max_tokens, prompt_cache_key=asked.who, store=False, stream=True, **more,
            ) as stream:  # fmt: skip
                async for event in stream:
                    if event.type in ("response.output_text.delta", "response.refusal.delta"):
                        heard("text", event.delta)
                    elif event.type in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
                        heard("thinking", event.delta)
                    elif event.type == "response.output_item.done":
                        items.append(event.item)
                    elif event.type in ("response.completed", "response.incomplete"):
                        end = event.response
                    elif event.type == "response.failed":
                        fault = event.response.error
                        raise within(fault.code if fault else "", fault.message if fault else "the response failed")
                    elif event.type == "error":
                        raise within(event.code or "", event.message)
        except Exception as error:
            raise trouble(error) from error
        if end is None:
            raise Trouble("passing", "the stream ended before the answer did")
        blocks: list[Block] = []
        for item in items:
            if item.type == "message":
                text = "".join(
                    str(getattr(part, "text", None) or getattr(part, "refusal", "")) for part in item.content
                )
                blocks.append(Said(text=text))
            elif item.type == "function_call":
                blocks.append(call(item.call_id, item.name, item.arguments, blocks))
            elif item.type == "reasoning" and item.encrypted_content:
                blocks.append(
                    Kept(provider="openai-responses", data=item.model_dump(exclude_none=True, exclude={"status"}))
                )
        why = getattr(getattr(end, "incomplete_details", None), "reason", None) or getattr(end, "status", None) or ""
        used = getattr(end, "usage", None)
        usage = estimated(asked, blocks)
        if used is not None:
            usage = _counted(used.input_tokens, used.output_tokens, used.input_tokens_details)
        return Reply(tuple(blocks), why, why == "max_output_tokens", usage)


@dataclass
class _Call:
    """A tool call as its pieces arrive."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class _Pieces:
    text: str = ""
    calls: list[_Call] = field(default_factory=list)
    at: dict[int, _Call] = field(default_factory=dict)

    def add(self, index: int, id: str, name: str, arguments: str) -> None:
        """Some servers give every call the same index, or the name again with each piece."""
        one = self.at.get(index)
        if one is None or (id and one.id and id != one.id):
            one = self.at[index] = _Call()
            self.calls.append(one)
        one.id, one.name = one.id or id, one.name or name
        one.arguments += arguments


class Completions:
    """Chat completions: vLLM, llama.cpp, Ollama and whatever else speaks it."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.client = _openai(access)

    async def stream(self, asked: Request, heard: Heard) -> Reply:
        length = "max_tokens" if self.access.url else "max_completion_tokens"  # local servers know the old name
        more: dict[str, Any] = {length: asked.max_tokens}
        if self.access.settings.effort:
            more["reasoning_effort"] = self.access.settings.effort
        if asked.tools:
            more["tools"] = [
                {"type": "function", "function": {"name": one.name, "description": one.about, "parameters": one.schema}}
                for one in asked.tools
            ]
        pieces, stop, used = _Pieces(), "", None
        try:
            async with await self.client.chat.completions.create(
                model=self.access.model, messages=cast(Any, messages.chat(asked.system, asked.turns)),
                stream=True, stream_options={"include_usage": True}, **more,
            ) as stream:  # fmt: skip
                async for chunk in stream:
                    used = chunk.usage or used
                    for choice in chunk.choices[:1]:
                        delta = choice.delta
                        if delta and delta.content:
                            pieces.text += delta.content
                            heard("text", delta.content)
                        thought = (delta.model_extra or {}).get("reasoning_content") if delta else None
                        if isinstance(thought, str):
                            heard("thinking", thought)
                        for one in (delta.tool_calls if delta else None) or []:
                            function = one.function
                            given = (function.name or "", function.arguments or "") if function else ("", "")
                            pieces.add(one.index or 0, one.id or "", *given)
                        stop = choice.finish_reason or stop
        except Exception as error:
            raise trouble(error) from error
        if not stop:
            raise Trouble("passing", "the stream ended before the answer did")
        blocks: list[Block] = [Said(text=pieces.text)] if pieces.text.strip() else []
        for one_call in pieces.calls:
            blocks.append(call(one_call.id, one_call.name, one_call.arguments, blocks))
        usage = estimated(asked, blocks)
        if used is not None:
            usage = _counted(used.prompt_tokens, used.completion_tokens, used.prompt_tokens_details)
        return Reply(tuple(blocks), stop, stop == "length", usage)


def _openai(access: Access) -> openai.AsyncOpenAI:
    url = access.url or "https://api.openai.com/v1"
    return openai.AsyncOpenAI(api_key=access.key, base_url=url, max_retries=0)


def _counted(prompt: int, output: int, details: Any) -> Usage:
    """OpenAI counts what is cached and written (in `details`, where a server tells) within the prompt; here each token is counted
    once."""
    cached, written = (getattr(details, name, 0) or 0 for name in ("cached_tokens", "cache_write_tokens"))
    return Usage(input=max(0, prompt - cached - written), cached=cached, written=written, output=output)
