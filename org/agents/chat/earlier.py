"""The end of a conversation that is gone on with, shown again in a new process's pane: who comes back sees where it stands.

Called by `__main__` once at the start. What is shown is what the model is shown; it goes the same way to the screen as it went before.
"""

from __future__ import annotations

from collections.abc import Sequence

from lab.text import clean
from org.agents.chat.loop import Screen
from org.agents.chat.transcript import Assistant, Call, Results, Said, Turn, User

STEPS = 12
"""Turns that are shown."""


def show(screen: Screen, turns: Sequence[Turn]) -> None:
    """The last turns, with a line above them; nothing for a new conversation."""
    if not turns:
        return
    screen.note(f"goes on with its conversation; the last of its {len(turns)} steps:")
    calls = {call.id: call for entry in turns if isinstance(entry, Assistant) for call in entry.calls}
    for entry in turns[-STEPS:]:
        if isinstance(entry, User):
            if entry.origin == "person":
                screen.person(entry.text)
            else:
                screen.note(clean(entry.text, 300))
        elif isinstance(entry, Results):
            for result in entry.results:
                if result.id in calls:
                    screen.result(calls[result.id], result, 0.0)
        else:
            for block in entry.blocks:
                if isinstance(block, Said):
                    screen.said(block.text)
                elif isinstance(block, Call):
                    screen.flush()
                    screen.called(block)
            screen.flush()
