"""Cells and tables of Markdown. Somebody's text is escaped here, so that what agents wrote can neither draw nor link.

Called by `lab.report`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lab.text import clean


def md(text: object, limit: int = 300) -> str:
    """Somebody's text as one harmless line of Markdown: no cells, links, images or HTML of its own making. It is read as it stands, too:
    a `_` within a word needs no escape."""
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", re.sub(r"([\\`*_\[\]<>|~#&!$@])", r"\\\1", clean(text, limit)))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; cells are escaped already."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def number(value: Any, digits: int, sign: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def between(low: Any, high: Any, digits: int, sign: bool = False) -> str:
    return f"{number(low, digits, sign)} to {number(high, digits, sign)}"
