"""What is for people alone. A rule and no lock, which the controller and the commands that act where none serves both hold to."""

from __future__ import annotations

from lab.errors import UserError
from org.agents.base import Seat


def check(seat: Seat | None, taken: bool, what: str) -> None:
    """Raises UserError for who sits in an agent's seat, unless a person sits there: at a shell, or since it was `taken` over."""
    if seat is not None and seat.backend != "shell" and not taken:
        raise UserError(f"{seat.agent} is an agent: to {what} is for people, ask one")
