"""Other people's text made harmless, and figures made short: as they may be shown on a terminal, in a table or in a plot."""

from __future__ import annotations

import math
import re
import textwrap
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


def wrapped(text: str, width: int, hang: int | None = None) -> str:
    """The text with its longer lines broken at words, but never within `code`, which is there to be copied. What goes on is indented by
    `hang` columns, or else as the line is, under the words of a point of a list."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip(" "))] + ("  " if line.lstrip(" ").startswith("- ") else "")
        whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), line)
        after = indent if hang is None else " " * hang
        broken = textwrap.wrap(whole, width, subsequent_indent=after, break_long_words=False, break_on_hyphens=False)
        lines += [part.replace("\0", " ") for part in broken] if len(line) > width else [line]
    return "\n".join(lines)


def figure(value: object, signed: bool = False) -> str:
    """A metric's value as people read it: four decimals, more where that leaves fewer than two digits, fewer for large numbers, "?" for
    what is no finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "?"
    sign, size = "+" if signed else "", abs(value)
    if size >= 1000:
        return f"{value:{sign}.5g}"
    if 0 < size < 1e-6:
        return f"{value:{sign}.1e}"
    return f"{value:{sign}.{4 if size >= 0.001 or not size else 1 - math.floor(math.log10(size))}f}"


def interval(low: object, high: object) -> str:
    """[-0.0150, -0.0090]"""
    return f"[{figure(low, signed=True)}, {figure(high, signed=True)}]"


def deviations(value: float, signed: bool = False) -> str:
    """A number of standard deviations: one decimal, three digits from a thousand on; a run that diverges may have 10^290."""
    return f"{value:{'+' if signed else ''}{'.3g' if abs(value) >= 1000 else '.1f'}}"
