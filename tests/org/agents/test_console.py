"""The panes of the sweep agents: pages that fit, keys from a real terminal, text of strangers that stays text."""

from __future__ import annotations

import os
import pty
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.text import Text

from org.agents.console import Keys, Section, bar, headline, outcome_line, page, standing_section
from tests.org.agents.paper import Paper

HOSTILE = "\x1b[2J\x1b]0;owned\x07 evil\r\n\u202e name " + "x" * 500


@pytest.mark.parametrize(("width", "height"), [(100, 24), (70, 16), (40, 8), (20, 3)])
def test_a_page_fits_its_pane_and_keeps_the_most_important_lines(width: int, height: int) -> None:
    sections = [
        headline("r1", "researcher", HOSTILE, "working", HOSTILE, ""),
        Section("E0001", [Text("the run")], rank=0),
        Section("results", [Text(f"result {number} " + "y" * 200) for number in range(50)], least=2, rank=2),
        Section("log", [Text("old news")], rank=5),
    ]
    lines = page(sections, width, height)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    text = "\n".join(line.plain for line in lines)
    assert "r1" in text
    assert not any(ord(char) < 32 and char != "\n" for char in text) and "\u202e" not in text
    if height >= 8:
        assert "the run" in text and "result 0" in text
    if height >= 16:
        assert len(lines) == height, "spare lines are used"


def test_hostile_hypotheses_and_knobs_are_shown_as_plain_text(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    name = paper.tried({HOSTILE: HOSTILE}, 0.9)
    line = outcome_line(paper.state.experiments[name], minimize=True)
    assert "\x1b" not in line.plain and "\n" not in line.plain


def test_the_standing_says_how_far_the_bank_is(tmp_path: Path) -> None:
    paper = Paper(tmp_path, (1.0, 1.01))
    text = "\n".join(line.plain for line in standing_section(paper.state, 4).lines)
    assert "2 of 4" in text and "t0" in text


def test_a_bar_is_as_long_as_the_share() -> None:
    def done(share: float | None) -> int:
        return sum(span.end - span.start for span in bar(share, 10).spans if span.style == "green")

    assert [done(share) for share in (None, 0.0, 0.5, 1.0, 7.0)] == [0, 0, 5, 10, 10]
    assert {bar(share, 10).cell_len for share in (None, 0.3, 2.0)} == {10}


def test_keys_come_one_by_one_from_a_terminal_and_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "r", closefd=True) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(terminal.fileno())
        with Keys() as keys:
            assert keys.read(0.01) == ""
            os.write(master, b"ps")
            assert [keys.read(5), keys.read(5)] == ["p", "s"], "without Enter"
            assert termios.tcgetattr(terminal.fileno()) != before
        assert termios.tcgetattr(terminal.fileno()) == before
    os.close(master)


def test_a_terminal_that_goes_away_does_not_make_the_loop_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "r", closefd=True) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        keys = Keys()
        os.close(master)
        assert keys.read(5) == "" and keys.descriptor is None
        began = time.monotonic()
        assert keys.read(0.2) == ""
        assert time.monotonic() - began >= 0.15


def test_without_a_terminal_there_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with Keys() as keys:
            assert keys.read(0.01) == ""
