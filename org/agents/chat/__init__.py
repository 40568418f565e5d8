"""The `chat` backend: our own agent over the anthropic and openai SDKs, for people without the CLIs.

The pane's own process is `python -I -m org.agents.chat` (`__main__.py`); this file is what the controller asks. It imports no
SDK: both take about a second. The files: `settings` and credentials, `transcript` on disk, `models` behind three APIs,
`tools`, `loop` (turns, queue, retries, budget), `summary` (compaction), `spending`, `inbox` (mail, take-over), `screen` (the terminal).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.files import read_json, write_json
from org.agents import base
from org.agents.chat import settings as chosen


def folder(seat_folder: Path) -> Path:
    """Where this backend keeps its files of one agent: settings.json, transcript.jsonl, cost.json, shell.json."""
    return seat_folder / "chat"


class Chat(base.Backend):
    """An SDK, a key or a local server; nothing else to install."""

    name = "chat"
    spends_money = True
    sent_on = True

    def missing(self, settings: dict[str, Any]) -> str | None:
        try:
            chosen.access(settings, os.environ)
        except UserError as error:
            return str(error)
        return None

    def launch(self, seat: base.Seat) -> base.Launch:
        write_json(folder(seat.folder) / "settings.json", seat.settings)
        secrets = chosen.secrets(chosen.read(seat.settings), os.environ)
        cwd = seat.cwd if seat.cwd.is_dir() else seat.home.root
        return base.Launch([sys.executable, "-I", "-m", "org.agents.chat"], cwd, {}, secrets)

    def cost(self, seat: base.Seat) -> base.Cost | None:
        found = read_json(folder(seat.folder) / "cost.json")
        try:
            return base.Cost(**found) if found else None
        except TypeError:
            return None


BACKEND = Chat()
