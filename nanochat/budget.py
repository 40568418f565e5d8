"""What a run may spend, and what it has spent. The feeder holds the only one that counts, in a process of its own.

Notable choices: `tokens`, `steps` and `flops` give the same number alone and beside another run, `time` does not; FLOPs are
measured over a few steps and extrapolated by tokens, since measuring costs more than computing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np

KINDS = {"time": "seconds", "tokens": "tokens", "flops": "flops", "steps": "steps"}
"""Kinds of budgets, and which count they limit."""


@dataclass
class Compute:
    """FLOPs of a run from those of some of its steps."""

    steps: list[tuple[int, int, float]] = field(default_factory=list)
    """(tokens served before the step, tokens of the step, its FLOPs) of each step measured, in order."""
    after: float = 0.0
    """FLOPs after the last batch, when nothing was to be done any more."""

    def total(self, tokens: int) -> float | None:
        """FLOPs of the first `tokens` tokens; None as long as no step was measured.

        The integral of FLOPs a token over tokens: as measured within a measured step, linear between two of them, constant
        before the first and behind the last. Exact where the cost of a token does not change.
        """
        if not self.steps:
            return None
        start, size, flops = np.array(self.steps, dtype=np.float64).T
        x = np.stack([start, start + size], axis=1).ravel()
        y = np.repeat(flops / size, 2)
        return float(np.trapezoid([y[0], *y, y[-1]], [0.0, *x, float(tokens)])) + self.after


@dataclass
class Budget:
    """`amount` seconds (time), tokens, FLOPs or steps. A step is one batch served, a token one target position of a served row."""

    kind: str
    amount: float
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Of training, and of start-up beyond what is free. Kept by whoever holds the clock."""
    compute: Compute = field(default_factory=Compute)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From JSON: {"kind": "time", "tokens", "flops" or "steps", "amount": positive}. Raises ValueError with one line."""
        try:
            value = json.loads(text)
            kind, amount = value["kind"], value["amount"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'budget {text!r} is not JSON like {{"kind": "tokens", "amount": 409600}}') from error
        if kind not in list(KINDS):
            raise ValueError(f"budget {text!r}: kind must be one of {', '.join(KINDS)}")
        number = (
            isinstance(amount, int | float) and not isinstance(amount, bool) and math.isfinite(amount) and amount > 0
        )
        if not number or (kind in ("tokens", "steps") and amount != int(amount)):
            whole = " whole" if kind in ("tokens", "steps") else ""
            raise ValueError(f"budget {text!r}: amount must be a positive{whole} number")
        return cls(kind, int(amount) if kind in ("tokens", "steps") else amount)

    @property
    def flops(self) -> float | None:
        """Spent so far; None before anything was measured."""
        return self.compute.total(self.tokens)

    @property
    def spent(self) -> float:
        """In the budget's own unit."""
        return getattr(self, KINDS[self.kind]) or 0

    @property
    def progress(self) -> float:
        """Part of the budget that is spent, in [0, 1]."""
        return min(1.0, self.spent / self.amount)

    def grant(self, rows: int, context: int) -> int:
        """How many of `rows` rows of `context` tokens may still be served; 0 at the end.

        Tokens and FLOPs are never served beyond the amount; of time, the step that crosses the end is the last.
        """
        left = self.amount - self.spent
        if left <= 0:
            return 0
        if self.kind == "tokens":
            return min(rows, int(left) // context)
        if self.kind == "flops" and self.steps:
            # what nobody measured ends a budget of FLOPs: it would be endless else
            return min(rows, int(left / (self.spent / self.tokens * context))) if self.spent else 0
        return rows

    def take(self, rows: int, context: int) -> None:
        """Record one batch as served."""
        self.tokens += rows * context
        self.steps += 1
