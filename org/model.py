"""One question to a language model, for `orgctl ask`: only where the environment names one, with a key that was given for this.

ORGCTL_ASK_MODEL   anthropic:NAME or openai:NAME (or any server that speaks the same, with ORGCTL_ASK_URL)
ORGCTL_ASK_KEY     its key; keys that lie about in the environment for other programs are never used
ORGCTL_ASK_URL     the server's base URL; the provider's own without it
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from lab.errors import UserError
from lab.text import clean

SECONDS = 60.0
"""Longest wait for an answer."""
TOKENS = 1_000
"""Longest answer."""


@dataclass(frozen=True)
class Model:
    """A model that was asked for by name. `url` is "" for the provider's own server."""

    provider: str
    name: str
    key: str
    url: str

    def ask(self, system: str, user: str) -> str:
        """Its answer as text. Raises UserError, in one line, when there is none."""
        try:
            text = _anthropic(self, system, user) if self.provider == "anthropic" else _openai(self, system, user)
        except Exception as error:  # the SDKs raise many kinds; none of them may cost the brief
            raise UserError(f"{self.name} gave no answer ({clean(f'{type(error).__name__}: {error}', 160)})") from error
        if not text.strip():
            raise UserError(f"{self.name} gave an empty answer")
        return text


def configured() -> Model | None:
    """The model that the environment names; None when it names none. Raises UserError when it does so wrongly."""
    wanted = os.environ.get("ORGCTL_ASK_MODEL", "")
    if not wanted:
        return None
    provider, _, name = wanted.partition(":")
    if provider not in ("anthropic", "openai") or not name:
        raise UserError(f"ORGCTL_ASK_MODEL={clean(wanted, 60)}: write anthropic:NAME or openai:NAME")
    key = os.environ.get("ORGCTL_ASK_KEY", "")
    if not key:
        raise UserError("ORGCTL_ASK_MODEL is set and ORGCTL_ASK_KEY is not: give the key that may be used for this")
    return Model(provider, name, key, os.environ.get("ORGCTL_ASK_URL", ""))


def _anthropic(model: Model, system: str, user: str) -> str:
    import anthropic

    url = model.url or "https://api.anthropic.com"
    client = anthropic.Anthropic(api_key=model.key, base_url=url, timeout=SECONDS, max_retries=1)
    client.auth_token = None  # else a token of the user's other programs, from the environment, would go along
    answer = client.messages.create(
        model=model.name, max_tokens=TOKENS, system=system, messages=[{"role": "user", "content": user}]
    )
    return "".join(part.text for part in answer.content if part.type == "text")


def _openai(model: Model, system: str, user: str) -> str:
    import openai

    url = model.url or "https://api.openai.com/v1"
    client = openai.OpenAI(api_key=model.key, base_url=url, timeout=SECONDS, max_retries=1)
    client.organization = client.project = None  # of the environment's own, as above
    answer = client.chat.completions.create(
        model=model.name, max_completion_tokens=TOKENS,
        messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
    )  # fmt: skip
    return answer.choices[0].message.content or ""
