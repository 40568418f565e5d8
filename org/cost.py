"""What agents cost: tokens and dollars by agent, written to `.org/agents/<agent>/cost.json` by the controller, and their budgets.

The figures come from each backend's own records (`Backend.cost`). What is unknown stays unknown: a price that nobody knows is
None and never zero; the part that has a price is what it cost at least, and that is what budgets are held to. A budget first stops
politely (`limit` tells the agent to finish), then firmly (its process is ended).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from lab.files import read_json, write_json
from lab.home import Home
from org.agents import base
from org.agents.base import Cost, Seat
from org.agents.prices import added

KEYS = ("input_tokens", "cached_tokens", "written_tokens", "output_tokens")
FIRM = 1.1
"""At this part of its budget an agent's process is ended, whatever it is at."""
MOST = 1e15
"""No count of tokens and no sum of dollars is that large."""
GRACE = 180.0
"""Seconds after the polite word until the process is ended all the same."""


def write(home: Home, agent: str, cost: Cost) -> None:
    """Keep what an agent has used so far; nothing is written when nothing changed. Raises OSError."""
    before, now = read(home, agent), kept(cost)
    if before is None or any(before.get(key) != value for key, value in now.items()):
        write_json(home.agents / agent / "cost.json", {**now, "time": time.time()}, home.org)


def kept(cost: Cost) -> dict[str, Any]:
    """A cost as it is kept: {model, tokens, dollars (None: unknown), least (dollars at least), input_tokens, ...}."""
    found: dict[str, Any] = {"model": cost.model, "tokens": cost.tokens, "dollars": cost.dollars, "least": cost.least}
    return found | {key: getattr(cost, key) for key in KEYS}


def counted(body: Mapping[str, Any]) -> Cost | None:
    """The cost that is `kept` so; None where that is none."""
    dollars, part = body.get("dollars"), body.get("least")
    if not (all(_counted(body.get(key)) for key in KEYS) and (dollars is None or _priced(dollars)) and _priced(part)):
        return None
    figures = {key: body[key] for key in KEYS}
    return Cost(str(body.get("model") or ""), **figures, dollars=dollars, part=part if dollars is None else 0.0)


def read(home: Home, agent: str) -> dict[str, Any] | None:
    """What is `kept` of an agent, with the time; None where nothing is known."""
    found = read_json(home.agents / agent / "cost.json")
    if found is None or not _counted(found.get("tokens")):
        return None
    dollars, least = (float(value) if _priced(value) else None for value in (found.get("dollars"), found.get("least")))
    return {**found, "dollars": dollars, "least": least or 0.0 if dollars is None else dollars}


def _priced(dollars: object) -> TypeGuard[float]:
    return isinstance(dollars, int | float) and not isinstance(dollars, bool) and 0 <= dollars < MOST


def _counted(tokens: object) -> bool:
    return isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < MOST


def of(seat: Seat) -> Cost | None:
    """What an agent has used in all its lives, with whatever backend: one that was swapped does not begin anew. Raises what reading
    untrusted records may raise."""
    found: Cost | None = None
    for name in dict.fromkeys([*base.SHIPPED, seat.backend]):
        if name == seat.backend or (seat.folder / name).is_dir():
            one = base.load(name).cost(replace(seat, backend=name))
            if one is not None and not all(_counted(getattr(one, key)) for key in KEYS):
                raise ValueError(f"{name} tells of no count of tokens")
            if one is not None and not (_priced(one.part) and (one.dollars is None or _priced(one.dollars))):
                raise ValueError(f"{name} tells of no sum of dollars")
            found = added(found, one)
    return found


def grown(before: Cost | None, now: Cost) -> Cost:
    """The count from now on: what was counted once stays counted, in tokens and in dollars."""
    if before is None:
        return now
    most, least = now if now.tokens >= before.tokens else before, max(before.least, now.least)
    return most if most.least == least else replace(most, dollars=None, part=least)


def said(cost: dict[str, Any] | None) -> str:
    """12,300 tokens, $0.25; >= $0.25 where a part has no price; "" for who cost nothing."""
    if not cost or not cost["tokens"]:
        return ""
    return f"{cost['tokens']:,} tokens, {price(cost)}"


def price(cost: dict[str, Any]) -> str:
    if cost["dollars"] is not None:
        return f"${cost['dollars']:.2f}"
    return f">= ${least(cost):.2f}" if least(cost) else "price unknown"


def least(cost: dict[str, Any]) -> float:
    """Dollars that it was at least."""
    return float(cost.get("least") or 0.0) if cost["dollars"] is None else float(cost["dollars"])


@dataclass(frozen=True)
class Sum:
    """The cost of several agents."""

    tokens: int
    dollars: float
    """Of what has a known price."""
    unknown: list[str]
    """Agents of whose tokens some or all have a price that nobody knows."""

    def __str__(self) -> str:
        price = f"${self.dollars:.2f}"
        if self.unknown:
            others = f"the unknown price of {', '.join(self.unknown)}"
            price = f">= {price}, with {others}" if self.dollars else others
        return f"{self.tokens:,} tokens, {price}"


def total(costs: Mapping[str, dict[str, Any] | None]) -> Sum | None:
    """Sum over agents; None when none of them cost anything."""
    known = {name: cost for name, cost in costs.items() if cost and cost["tokens"]}
    if not known:
        return None
    return Sum(
        sum(cost["tokens"] for cost in known.values()),
        sum(map(least, known.values())),
        sorted(name for name, cost in known.items() if cost["dollars"] is None),
    )


@dataclass(frozen=True)
class Budget:
    """What may be spent; None: no limit."""

    dollars: float | None = None
    tokens: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Budget:
        """From an agent's settings `budget_dollars` and `budget_tokens`; what is no positive number is no limit."""
        dollars, tokens = settings.get("budget_dollars"), settings.get("budget_tokens")
        return cls(
            float(dollars) if isinstance(dollars, int | float) and dollars > 0 else None,
            int(tokens) if isinstance(tokens, int | float) and tokens > 0 else None,
        )

    def spent(self, costs: Iterable[dict[str, Any] | None]) -> float:
        """The part that is spent, 0 to above 1: the larger of dollars and tokens. What has no price counts nothing."""
        known = [cost for cost in costs if cost]
        parts = [0.0]
        if self.dollars:
            parts.append(sum(map(least, known)) / self.dollars)
        if self.tokens:
            parts.append(sum(cost["tokens"] for cost in known) / self.tokens)
        return max(parts)

    def __str__(self) -> str:
        limits = [f"${self.dollars:g}"] if self.dollars else []
        limits += [f"{self.tokens:,} tokens"] if self.tokens else []
        return " or ".join(limits) or "no limit"


def limit(part: float, told_at: float | None, now: float) -> str:
    """What to do at this part of a budget: "" (go on), "tell" (ask the agent to finish) or "end" (end its process)."""
    if part < 1:
        return ""
    if part >= FIRM or (told_at is not None and now - told_at > GRACE):
        return "end"
    return "tell" if told_at is None else ""
