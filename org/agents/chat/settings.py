"""Settings of the `chat` backend and its credentials. Read by the controller (`missing`, `launch`) and by the agent's process.

Settings come from the design. Credentials come from four environment variables and nowhere else: no file, no profile, no other
variable that an SDK would pick up by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lab.errors import UserError
from lab.text import clean
from org.agents import prices
from org.agents.chosen import validated

Provider = Literal["anthropic", "openai-responses", "openai-chat"]
KEYS: dict[Provider, str] = {
    "anthropic": "ANTHROPIC_API_KEY", "openai-responses": "OPENAI_API_KEY", "openai-chat": "OPENAI_API_KEY",
}  # fmt: skip
URLS: dict[Provider, str] = {
    "anthropic": "ANTHROPIC_BASE_URL", "openai-responses": "OPENAI_BASE_URL", "openai-chat": "OPENAI_BASE_URL",
}  # fmt: skip
MODELS: dict[Provider, str] = {"anthropic": "claude-sonnet-5-5", "openai-responses": "gpt-6.1-sol"}
"""What is taken where the design names none. Chat completions are mostly for servers of one's own, so there is no such model."""
WINDOWS: dict[Provider, int] = {"anthropic": 200_000, "openai-responses": 128_000, "openai-chat": 32_000}
"""Tokens; on the safe side, since the APIs do not tell."""


class Settings(BaseModel):
    """What a design may set under `settings` of an agent with this backend."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    provider: Provider | None = Field(None, description="Which API. Default: by the key that is in the environment.")
    model: str | None = Field(None, min_length=1, description="The model's name at that API.")
    base_url: str | None = Field(
        None, pattern=r"^https?://", description="Of a compatible server, as its SDK takes it."
    )
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="How hard the model thinks. Default: the model's own."
    )
    max_tokens: int = Field(16_000, ge=16, description="Most tokens of one answer.")
    context_tokens: int | None = Field(
        None, ge=1000, description="The model's window; older turns are summarised at 80 % of it."
    )
    budget_tokens: int | None = Field(None, ge=1, description="Tokens of any kind, in all lives of the agent.")
    budget_dollars: float | None = Field(None, gt=0, description="The same in dollars, by list prices.")


@dataclass(frozen=True)
class Access:
    """Settings with everything chosen. `key` is a secret; `url` None means the vendor's own."""

    provider: Provider
    model: str
    key: str
    url: str | None
    window: int
    settings: Settings


def read(given: dict[str, Any]) -> Settings:
    """Raises UserError with the setting and what may stand there."""
    return validated(Settings, "chat", given)


def provider_of(settings: Settings, environment: Mapping[str, str]) -> Provider | None:
    """The provider that is set, else the one whose key is there."""
    if settings.provider is not None:
        return settings.provider
    found: tuple[Provider, ...] = ("anthropic", "openai-responses")
    return next((one for one in found if environment.get(KEYS[one])), None)


def secrets(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Of the environment what the agent's process needs: the key and the base URL of its provider."""
    provider = provider_of(settings, environment)
    names = (KEYS[provider], URLS[provider]) if provider else ()
    return {name: environment[name] for name in names if environment.get(name)}


def access(given: dict[str, Any], environment: Mapping[str, str]) -> Access:
    """Everything chosen. Raises UserError saying what is missing and how to give it."""
    settings = read(given)
    provider = provider_of(settings, environment)
    if provider is None:
        raise UserError(
            "no key: set ANTHROPIC_API_KEY or OPENAI_API_KEY, or provider and base_url of a server of yours"
        )
    url = settings.base_url or environment.get(URLS[provider]) or None
    key = environment.get(KEYS[provider], "")
    if not key and not (url and provider != "anthropic"):
        more = "" if provider == "anthropic" else ", or base_url of a server that asks for none"
        raise UserError(f"no key for provider {provider}: set {KEYS[provider]}{more}")
    model = settings.model or MODELS.get(provider)
    if model is None or (settings.model is None and url and provider != "anthropic"):
        raise UserError(
            f"provider {provider} at {url or 'the vendor'} needs the setting `model`: the name it is served under"
        )
    if settings.budget_dollars is not None and not priced(model, url):
        raise UserError(
            f"the price of {clean(model, 60)} is not known, so budget_dollars cannot be kept: set budget_tokens"
        )
    window = settings.context_tokens or WINDOWS[provider]
    return Access(provider, model, key or "none", url, window, settings)


def priced(model: str, url: str | None) -> bool:
    """Do list prices hold for that model there?"""
    return not prices.at_home(url) and prices.price_of(model) is not None
