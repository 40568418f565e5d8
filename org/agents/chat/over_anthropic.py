"""Anthropic's messages API, streamed. Called by `models.connect`."""

from __future__ import annotations

from typing import Any, cast

import anthropic

from org.agents.chat import messages
from org.agents.chat.models import Heard, Reply, Request, call, trouble
from org.agents.chat.settings import Access
from org.agents.chat.transcript import Block, Kept, Said, Usage


class Messages:
    """Anthropic's messages API."""

    def __init__(self, access: Access) -> None:
        self.access = access
        url = access.url or "https://api.anthropic.com"
        self.client = anthropic.AsyncAnthropic(api_key=access.key, base_url=url, max_retries=0)

    async def stream(self, asked: Request, heard: Heard) -> Reply:
        more: dict[str, Any] = {}
        if asked.tools:
            more["tools"] = [
                {"name": one.name, "description": one.about, "input_schema": one.schema} for one in asked.tools
            ]
        effort = self.access.settings.effort
        if effort is not None:
            thinks = effort not in ("none", "minimal")
            more |= (
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
                if thinks
                else {"thinking": {"type": "disabled"}}
            )
        system = [{"type": "text", "text": asked.system, "cache_control": messages.CACHED}]
        try:
            async with self.client.messages.stream(
                model=self.access.model, max_tokens=asked.max_tokens, system=cast(Any, system),
                messages=cast(Any, messages.anthropic(asked.turns)), **more,
            ) as stream:  # fmt: skip
                async for event in stream:
                    if event.type == "text":
                        heard("text", event.text)
                    elif event.type == "thinking":
                        heard("thinking", event.thinking)
                final = await stream.get_final_message()
        except Exception as error:
            raise trouble(error) from error
        blocks: list[Block] = []
        for one in final.content:
            if one.type == "text":
                blocks.append(Said(text=one.text))
            elif one.type == "tool_use":
                blocks.append(call(one.id, one.name, one.input, blocks))
            elif one.type in ("thinking", "redacted_thinking"):
                blocks.append(Kept(provider="anthropic", data=one.model_dump(exclude_none=True)))
        used = final.usage
        usage = Usage(
            input=used.input_tokens, cached=used.cache_read_input_tokens or 0,
            written=used.cache_creation_input_tokens or 0, output=used.output_tokens,
        )  # fmt: skip
        return Reply(
            tuple(blocks),
            final.stop_reason or "",
            final.stop_reason in ("max_tokens", "model_context_window_exceeded"),
            usage,
        )
