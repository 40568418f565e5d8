"""Who has an agent's pane, by the facts that count. Asked by the door, the controller, and the hooks, which must load little."""

from __future__ import annotations

from lab.disowned import counted
from lab.ledger import Ledger


def taker(ledger: Ledger, agent: str) -> str:
    """Who said last that a person has this agent's pane: a person, or its own process, which opened a shell for one. "": nobody has it."""
    moves = [fact for fact in counted(ledger, "intervention", agent) if fact.body.get("what") in ("taken_over", "released")]
    return moves[-1].actor if moves and moves[-1].body["what"] == "taken_over" else ""
