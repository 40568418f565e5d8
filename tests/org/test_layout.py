"""How panes share windows: nobody gets a pane too small to read, whatever the terminal."""

from __future__ import annotations

import pytest

from org.layout import MIN_COLUMNS, MIN_ROWS, MOST, arrange, capacity, split, tiled_shape


@pytest.mark.parametrize(("columns", "rows"), [(220, 50), (80, 24), (200, 24), (130, 50), (80, 60), (400, 120)])
def test_no_pane_is_below_60_by_12_and_no_window_has_more_than_eight(columns: int, rows: int) -> None:
    most = capacity(columns, rows)
    assert 1 <= most <= MOST
    for panes in range(2, most + 1):
        found = arrange(panes, columns, rows)
        if found is not None:
            assert found.columns >= MIN_COLUMNS and found.rows >= MIN_ROWS
    assert arrange(most, columns, rows) is not None


def test_a_small_terminal_gets_one_agent_a_window() -> None:
    assert capacity(80, 23) == 1
    assert split(["chief", "r1", "r2"], 80, 23) == [["chief"], ["r1"], ["r2"]]
    assert capacity(30, 5) == 1


def test_a_large_terminal_holds_eight_and_ten_agents_are_five_and_five() -> None:
    assert capacity(220, 49) == 8
    agents = [f"r{number}" for number in range(10)]
    assert split(agents, 220, 49) == [agents[:5], agents[5:]]
    assert split([], 220, 49) == []


def test_three_agents_stand_side_by_side_on_a_wide_terminal() -> None:
    found = arrange(3, 220, 49)
    assert found is not None and found.preset == "even-horizontal"


def test_tiles_grow_as_tmux_grows_them() -> None:
    assert [tiled_shape(panes) for panes in (1, 2, 3, 4, 5, 6, 7, 8, 9)] == [
        (1, 1), (2, 1), (2, 2), (2, 2), (3, 2), (3, 2), (3, 3), (3, 3), (3, 3),
    ]  # fmt: skip
