"""The board: readable at every size, honest when it cannot look, harmless to what agents write, and nearly free."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.cells import cell_len
from rich.console import Console

from lab.files import write_json
from lab.home import Home
from lab.process import Identity
from org import chart
from org.board import Watch, frame
from org.grid import Grid
from org.panes import PaneSpec
from tests.conftest import until
from tests.org.sample import SECOND, Story, tell

BOARD = [sys.executable, "-I", "-m", "org.board"]


def drawn(watch: Watch, columns: int, rows: int) -> list[str]:
    """One frame as lines of plain text."""
    now = time.time()
    console = Console(file=io.StringIO(), width=columns, height=rows, highlight=False, legacy_windows=False)
    console.print(frame(watch, watch.look(now), columns, rows, now), height=rows)
    return str(console.file.getvalue()).rstrip("\n").split("\n")  # type: ignore[attr-defined]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.org.mkdir()
    found.settings.write_text("name: demo\n")
    return found


@pytest.fixture
def grid(home: Home) -> Iterator[Grid]:
    one = Grid(f"t{uuid.uuid4().hex[:10]}", home)
    yield one
    one.kill()


def on_board(grid: Grid, home: Home, size: tuple[int, int] = (220, 50)) -> int:
    """Start a board in window 0 of a real grid; returns its pid."""
    board = PaneSpec("board", "board", BOARD, home.root, {"ORGCTL_HOME": str(home.root)})
    grid.ensure(board, [PaneSpec("r2", "researcher", ["sleep", "1000"], home.root, {})], size)
    until(lambda: "standing" in grid.capture("board"), "the first frame", 20)
    return (grid.observe() or {})["board"].pid


def test_a_large_screen_shows_standing_slots_agents_experiments_and_news(home: Home) -> None:
    tell(home)
    for name in ("chief", "r1", "r2"):
        (home.agents / name).mkdir()
    lines = drawn(Watch(home, None), 220, 50)
    assert len(lines) == 50 and {cell_len(line) for line in lines} == {220}
    text = "\n".join(lines)
    for words in (
        "demo  ·  no controller: `orgctl up`  ·  Pretrain a small GPT  ·  scale cpu",
        "val_bpb (bits per byte, lower is better)  ·  trunk bbbbbbb",
        "baseline  2.4500 ± 0.0016 (n 4)  on audit",
        "2.4315  -0.76 %, 11.3 sigma  E0001 r1  MATRIX_LR=0.031",
        "1 promoted  1 neutral  1 crashed  1 running",
        " 25% R0015 E0004 r2 nominate seed 1015 · training",
        "● chief unknown",
        "-0.0190 (11.6 sd)  promoted     larger steps settle faster",
        "E0001 promoted: trunk is now bbbbbbb",
    ):
        assert words in text, words


def test_80_by_24_shows_all_of_it_shorter(home: Home) -> None:
    tell(home)
    lines = drawn(Watch(home, None), 80, 24)
    assert len(lines) == 24 and all(cell_len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    for words in ("baseline  2.4500", "best      2.4315", "R0015 E0004 r2", "E0001  r1", "promoted", "── news"):
        assert words in text, words


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (20, 5), (60, 12), (139, 29), (140, 30), (160, 30), (400, 120)])
def test_no_size_breaks_it(home: Home, columns: int, rows: int) -> None:
    story = tell(home)
    for number in range(20):
        (home.agents / f"r{number}").mkdir()
    story.ledger.append("session", {"slots": 16})
    watch = Watch(home, None)
    lines = drawn(watch, columns, rows)
    assert len(lines) <= rows and all(cell_len(line) <= columns for line in lines)
    if columns >= 140:
        assert sum("more" in line for line in lines) >= (1 if rows == 30 else 0), "what was cut is counted"


def test_a_session_that_has_done_nothing_yet_is_drawn(home: Home) -> None:
    Story(home)
    text = "\n".join(drawn(Watch(home, None), 220, 50))
    for words in ("not measured yet", "nothing confirmed yet", "no idea has been proposed yet", "idle"):
        assert words in text, words


def test_what_agents_write_is_shown_as_written_and_cannot_draw(home: Home) -> None:
    story = tell(home)
    story.propose("r1", "[bold red]loud[/] \x1b[2J\x1b]0;mine\x07 \u202eevil \n│ box │ 字字")
    lines = drawn(Watch(home, None), 220, 50)
    text = "\n".join(lines)
    assert "[bold red]loud[/] evil │ box │ 字字" in text
    assert "\x1b" not in text and "\u202e" not in text and {cell_len(line) for line in lines} == {220}


def test_a_missing_ledger_is_said_and_found_when_it_comes(home: Home) -> None:
    watch = Watch(home, None)
    assert "no ledger" in "\n".join(drawn(watch, 120, 40))
    tell(home)
    assert "no ledger" not in "\n".join(drawn(watch, 120, 40)) and watch.state.trunk == SECOND


def test_a_locked_ledger_leaves_the_last_picture_and_does_not_freeze(home: Home) -> None:
    story = tell(home)
    watch = Watch(home, None)
    drawn(watch, 120, 40)
    story.ledger.close()
    assert watch.view is not None
    watch.view.ledger.close()
    blocker = sqlite3.connect(home.ledger, isolation_level=None)
    blocker.execute("PRAGMA locking_mode=EXCLUSIVE")
    blocker.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    text = "\n".join(drawn(watch, 120, 40))
    assert time.monotonic() - began < 2
    assert "cannot be read now" in text and "2.4500" in text
    blocker.close()
    assert "cannot be read now" not in "\n".join(drawn(watch, 120, 40)) and watch.state.trunk == SECOND


def test_a_ledger_put_back_from_a_backup_is_read_anew(home: Home) -> None:
    story = tell(home)
    watch = Watch(home, None)
    drawn(watch, 120, 40)
    story.ledger.close()
    for path in home.org.glob("ledger.db*"):
        path.unlink()
    Story(home)
    assert "R0015" not in "\n".join(drawn(watch, 120, 40)) and not watch.state.experiments


def test_the_board_needs_none_of_the_heavy_libraries() -> None:
    heavy = {"torch", "optuna", "scipy", "numpy", "matplotlib", "git"}
    program = f"import org.board, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_without_a_terminal_it_prints_one_frame_and_ends(home: Home) -> None:
    tell(home)
    env = {**os.environ, "ORGCTL_HOME": str(home.root), "COLUMNS": "150", "LINES": "40"}
    env.pop("TMUX", None)
    done = subprocess.run(BOARD, env=env, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0 and "R0015 E0004 r2 nominate" in done.stdout and "\x1b" not in done.stdout
    env["ORGCTL_HOME"] = "/nowhere"
    done = subprocess.run(BOARD, env=env, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 2 and "orgctl up" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_in_window_0_it_follows_the_ledger_and_ignores_keys(home: Home, grid: Grid) -> None:
    story = tell(home)
    pid = on_board(grid, home)
    until(lambda: "● r2 starting" in grid.capture("board"), "the agents as tmux shows them", 10)
    before = grid.capture("board")
    pane = (grid.observe() or {})["board"].pane_id
    tty = ["tmux", "-L", grid.socket, "display-message", "-p", "-t", pane, "#{pane_tty}"]
    terminal = subprocess.run(tty, capture_output=True, text=True).stdout.strip()
    settings = subprocess.run(["stty", "-F", terminal, "-a"], capture_output=True, text=True).stdout
    assert " -echo " in settings, "what is typed is not drawn into the board"
    subprocess.run(["tmux", "-L", grid.socket, "send-keys", "-t", pane, "QQQQ", "C-c"], check=True)
    story.ledger.append("alarm", {"text": "org/trunk was moved"}, "org/trunk")
    until(lambda: "ALARM org/trunk: org/trunk was moved" in grid.capture("board"), "the new fact", 10)
    assert "QQQQ" not in grid.capture("board") and before != grid.capture("board")
    assert (grid.observe() or {})["board"].pid == pid


@pytest.mark.slow
def test_it_costs_next_to_nothing_while_a_run_goes_on(home: Home, grid: Grid) -> None:
    tell(home)
    me = Identity.of(os.getpid())
    assert me
    process = psutil.Process(on_board(grid, home))
    assert process.memory_info().rss < 100e6
    before, began = sum(process.cpu_times()[:4]), time.monotonic()
    for step in range(10):
        write_json(home.runs / "R0015" / "counts.json", {"tokens": 300 + 20 * step, "done": False})
        write_json(home.controller, {"pid": me.pid, "started": me.started, "heartbeat": time.time()})
        until(lambda step=step: f" {30 + 2 * step}% R0015" in grid.capture("board"), "the bar", 10)
    share = (sum(process.cpu_times()[:4]) - before) / (time.monotonic() - began)
    assert share < 0.03, f"{share:.1%} of a core"


def test_the_staircase_goes_down_with_every_promotion() -> None:
    lines = chart.staircase([(0.0, 2.45), (50.0, 2.43), (75.0, 2.42)], 100.0, 47, 4)
    assert [len(line) for line in lines] == [47] * 4
    assert lines[0].startswith("2.4500 ") and lines[-1].startswith("2.4200 ")
    heights = [sum(chart.EIGHTHS.index(line[column]) for line in lines) for column in range(7, 47)]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3
    assert heights[0] == 32 and heights[-1] == 1
    assert chart.staircase([(0.0, 2.45)], 100.0, 47, 4) == [], "a flat line tells nothing"
    assert chart.staircase([(0.0, 2.45), (1.0, float("nan"))], 100.0, 47, 4) == []
