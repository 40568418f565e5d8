"""What an agent has used in all its lives, and its budget. Called by `loop`; kept in cost.json for the controller.

Derived from the transcript, where every answer has its usage. Dollars are by list prices, request by request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from lab.files import write_json
from org.agents import prices
from org.agents.base import Cost
from org.agents.chat.settings import Access, priced
from org.agents.chat.transcript import Assistant, Compacted, Results, User

WARN = 0.9
"""Part of a budget at which the model is told to finish."""


class Spending:
    """Grows with each request. `cost` None: nothing was used yet."""

    def __init__(self, access: Access, entries: Iterable[User | Assistant | Results | Compacted], file: Path) -> None:
        self.settings, self.file = access.settings, file
        self.priced = priced(access.model, access.url)
        self.cost: Cost | None = None
        self._add(requests(entries))

    def count(self, entry: Assistant | Compacted) -> None:
        self._add(requests([entry]))

    def _add(self, used: list[prices.Usage]) -> None:
        self.cost = prices.added(self.cost, prices.total(used, priced=self.priced))
        if self.cost is not None:
            write_json(self.file, asdict(self.cost))

    @property
    def share(self) -> float:
        """The part of its budget that it has used, of dollars what has a price."""
        limit, used = self.settings, self.cost
        tokens = used.tokens / limit.budget_tokens if used and limit.budget_tokens else 0.0
        return max(tokens, used.least / limit.budget_dollars if used and limit.budget_dollars else 0.0)

    @property
    def budget(self) -> str:
        tokens = f"{self.settings.budget_tokens:,} tokens" if self.settings.budget_tokens else ""
        money = f"${self.settings.budget_dollars:g}" if self.settings.budget_dollars else ""
        return " or ".join(part for part in (tokens, money) if part)

    @property
    def warning(self) -> str:
        """What the model is told when its budget nears the end; "" before."""
        if self.share < WARN:
            return ""
        return (
            f"You have used {WARN:.0%} of your budget of {self.budget}. Finish what you are at in few steps: leave your worktree in "
            "order and tell whoever goes on, by mail, what is done and what is not. At 100 % you are stopped."
        )

    @property
    def told(self) -> str:
        """For /cost."""
        if self.cost is None:
            return "nothing used yet"
        least = f"${self.cost.least:.4f}"
        money = least if self.cost.dollars is not None else f">= {least}" if self.cost.least else "price unknown"
        return (
            f"{money} · {self.cost.input_tokens:,} tokens read, {self.cost.cached_tokens:,} from the cache, "
            f"{self.cost.written_tokens:,} into it, {self.cost.output_tokens:,} written"
        )


def requests(entries: Iterable[User | Assistant | Results | Compacted]) -> list[prices.Usage]:
    """Usage of every request, in order."""
    return [
        prices.Usage(entry.model, entry.usage.input, entry.usage.cached, entry.usage.written, output=entry.usage.output)
        for entry in entries
        if isinstance(entry, Assistant | Compacted) and entry.usage
    ]
