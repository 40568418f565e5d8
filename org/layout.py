"""How panes share windows: pure arithmetic on numbers of panes, columns and rows. `org.grid` carries it out with tmux.

Only preset layouts of tmux are used (on tmux 3.3 an invalid layout name kills the server), so this file predicts the
cell sizes that those presets give and chooses how many panes a window may hold.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_COLUMNS = 60
MIN_ROWS = 12
MOST = 8
"""Panes a window may hold, whatever its size."""


@dataclass(frozen=True)
class Arrangement:
    """A preset layout of tmux, with the size of its smallest cell (border excluded)."""

    preset: str
    columns: int
    rows: int


def tiled_shape(panes: int) -> tuple[int, int]:
    """(rows, columns) of tmux's `tiled` preset: both grow in turn, rows first, until all panes have a cell."""
    rows = columns = 1
    while rows * columns < panes:
        rows += 1
        if rows * columns < panes:
            columns += 1
    return rows, columns


def _cell(preset: str, panes: int, columns: int, rows: int) -> Arrangement:
    """Smallest cell when each pane has a border line above it and panes side by side have one column between them."""
    down, across = {"tiled": tiled_shape(panes), "even-horizontal": (1, panes), "even-vertical": (panes, 1)}[preset]
    return Arrangement(preset, (columns - (across - 1)) // across, (rows - down) // down)


def arrange(panes: int, columns: int, rows: int) -> Arrangement | None:
    """The preset that suits `panes` panes in a window of that size (status line excluded).

    None when some pane would be smaller than 60x12. Two or three panes stand side by side where they fit, since agents
    print what is tall rather than wide.
    """
    if panes == 1:
        return _cell("tiled", 1, columns, rows)
    order = ["tiled", "even-vertical", "even-horizontal"]
    if panes <= 3:
        order = ["even-horizontal", "tiled", "even-vertical"]
    for preset in order:
        found = _cell(preset, panes, columns, rows)
        if found.columns >= MIN_COLUMNS and found.rows >= MIN_ROWS:
            return found
    return None


def capacity(columns: int, rows: int) -> int:
    """How many panes a window of that size holds: 1 (even when that one is small) to 8."""
    return max(panes for panes in range(1, MOST + 1) if panes == 1 or arrange(panes, columns, rows))


def split(agents: list[str], columns: int, rows: int) -> list[list[str]]:
    """Agents in windows, in order, as evenly as they go: ten agents become five and five, not eight and two."""
    if not agents:
        return []
    windows = -(-len(agents) // capacity(columns, rows))
    size, more = divmod(len(agents), windows)
    groups, start = [], 0
    for number in range(windows):
        end = start + size + (1 if number < more else 0)
        groups.append(agents[start:end])
        start = end
    return groups
