"""Other people's text made harmless: what agents wrote, as it may be shown on a terminal, in a table or in a plot."""

from __future__ import annotations

import re
import unicodedata

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|.)", re.DOTALL)
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that a terminal acts upon or cannot show."""


def clean(text: object, limit: int = 200) -> str:
    """One harmless line: no terminal escapes, control or direction characters, cut at `limit` characters."""
    kept = ESCAPE.sub("", str(text)[: 20 * limit])
    kept = "".join(" " if unicodedata.category(char) in UNSEEN else char for char in kept)
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def printable(text: object) -> str:
    """The same for text of many lines, uncut: line ends and tabs stay."""
    kept = ESCAPE.sub("", str(text).replace("\r\n", "\n"))
    return "".join(" " if char not in "\n\t" and unicodedata.category(char) in UNSEEN else char for char in kept)
