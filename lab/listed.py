"""Experiments as a table for people, a line each (`orgctl exp list`)."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from lab.records import Experiment
from lab.shown import brief
from lab.text import clean, figure


def listed(found: Iterable[Experiment]) -> Table:
    """A line each. Where the line is too short for all of it, the hypothesis alone gives way, with an ellipsis."""
    table = Table(box=None)
    for title in ("experiment", "agent", "status", "effect"):
        table.add_column(title, no_wrap=True)
    table.add_column("hypothesis")  # not no_wrap: rich narrows columns that may wrap before all others; the cells below don't wrap
    for item in found:
        effect = brief(item)["effect"]
        cells = (item.id, clean(item.agent, 30), item.status, "" if effect is None else figure(effect, signed=True))
        table.add_row(*map(Text, cells), Text(clean(item.hypothesis), no_wrap=True, overflow="ellipsis"))
    return table
