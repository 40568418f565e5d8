"""What is known about keeping one agent going. Written by `org.team`, `org.spending` and `org.words`; lost with the controller
without harm, but for what is read off the ledger again: who was ended, and who was told that its budget is spent.
"""

from __future__ import annotations

from dataclasses import dataclass

from org import wake


@dataclass
class Attendance:
    """One agent's life so far."""

    restarts: int = 0
    born: float = 0.0
    next_try: float = 0.0
    hindered: str = ""
    """Why it cannot be started, as long as that is so; and how often that was tried in a row."""
    tries: int = 0
    given_up: bool = False
    starved: bool = False
    """Was its process killed when memory ran out?"""
    waking: wake.Try = wake.IDLE
    idle_since: float | None = None
    """When it was first seen idle with nothing under way; None while it is not."""
    proposals: int = 0
    words: int = 0
    """Words of the process (`org.nudge`) that it heard since it last did something."""
    budget_told: float | None = None
    """When it was told that its budget is spent, in seconds since the epoch."""
    budget_letter: str = ""
    """Id of the message that says so: it is woken for this one alone, until it was handed over."""
