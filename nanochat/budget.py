"""What a run may spend, and what it has spent. The feeder holds the only one that counts, in a process of its own.

Notable choice: the budget is compute, never seconds, so that a run gives the same number alone and beside another one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass
class Budget:
    """`amount` tokens or steps. A step is one batch served; a token is one target position of a served row."""

    kind: str
    amount: int
    tokens: int = 0
    steps: int = 0

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From JSON: {"kind": "tokens" or "steps", "amount": positive integer}. Raises ValueError with one line."""
        try:
            value = json.loads(text)
            kind, amount = value["kind"], value["amount"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'budget {text!r} is not JSON like {{"kind": "tokens", "amount": 409600}}') from error
        if kind not in ("tokens", "steps") or not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
            raise ValueError(f"budget {text!r}: kind must be tokens or steps, amount a positive integer")
        return cls(kind, amount)

    @property
    def spent(self) -> int:
        """In the budget's own unit."""
        return self.tokens if self.kind == "tokens" else self.steps

    def grant(self, rows: int, context: int) -> int:
        """How many of `rows` rows of `context` tokens may still be served; 0 at the end, and never more than the amount."""
        left = self.amount - self.spent
        return min(rows, left // context) if self.kind == "tokens" else (rows if left > 0 else 0)

    def take(self, rows: int, context: int) -> None:
        """Record one batch as served."""
        self.tokens += rows * context
        self.steps += 1
