"""Which conversations of a CLI are an agent's: `.org/agents/<agent>/<backend>/session.json`. Written at launch and by the CLI's hooks.

Imports little, since every hook reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lab.files import read_json, write_json

LAUNCHED = "launched"
"""Under this name stands the hash of what the agent was told at its latest launch."""


@dataclass
class Conversations:
    """The conversations of one agent in one CLI."""

    path: Path
    current: str | None = None
    """The one its hooks were last heard from."""
    given: list[str] = field(default_factory=list)
    """All that are its own, oldest first: ids that we gave, and those that the CLI made and its hooks told."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Id -> hash of what the agent was told when the conversation began."""
    priced: bool = True
    """Do list prices hold? Not for a server on this machine."""

    @classmethod
    def of(cls, folder: Path, backend: str) -> Conversations:
        path = folder / backend / "session.json"
        found = read_json(path) or {}
        given = found.get("given")
        prompts = found.get("prompts")
        current = found.get("current")
        return cls(
            path,
            current if isinstance(current, str) and _safe(current) else None,
            [one for one in given if isinstance(one, str) and _safe(one)] if isinstance(given, list) else [],
            {str(key): str(value) for key, value in prompts.items()} if isinstance(prompts, dict) else {},
            found.get("priced") is not False,
        )

    def latest(self) -> list[str]:
        """Ids, the one to be gone on with first."""
        return [
            *([self.current] if self.current else []),
            *(one for one in reversed(self.given) if one != self.current),
        ]

    def add(self, id: str) -> None:
        if id not in self.given:
            self.given.append(id)

    def write(self) -> None:
        write_json(
            self.path, {"current": self.current, "given": self.given, "prompts": self.prompts, "priced": self.priced}
        )


def _safe(id: str) -> bool:
    """May this id stand in a path and on a command line?"""
    return re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z-]{0,80}", id) is not None
