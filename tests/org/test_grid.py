"""The grid on a real tmux server: agents are their panes' own processes, and looking twice changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import libtmux
import psutil
import pytest

import org.tmux
from lab.errors import UserError
from lab.home import Home
from lab.process import Identity
from org import screenlog
from org.grid import Grid, tmux_version
from org.panes import PaneSpec, PaneState
from tests.conftest import until

WAIT = ["sleep", "1000"]


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    """A grid for `tmp_path` with a name nobody else has; its server is killed afterwards."""
    one = Grid(f"t{uuid.uuid4().hex[:10]}", Home(tmp_path))
    yield one
    where = tmux(one, "display-message", "-p", "#{socket_path}").strip()
    tmux(one, "kill-server")
    if where:
        Path(where).unlink(missing_ok=True)  # tmux leaves it behind


def spec(grid: Grid, agent: str, argv: list[str] | None = None, **env: str) -> PaneSpec:
    return PaneSpec(agent, "board" if agent == "board" else "researcher", argv or WAIT, grid.home.root, env)


def up(grid: Grid, *agents: str, size: tuple[int, int] = (220, 50)) -> list[str]:
    return grid.ensure(spec(grid, "board"), [spec(grid, agent) for agent in agents], size)


def tmux(grid: Grid, *words: str) -> str:
    return subprocess.run(["tmux", "-L", grid.socket, *words], capture_output=True, text=True).stdout


def panes(grid: Grid) -> dict[str, tuple[str, int]]:
    return {name: (pane.pane_id, pane.pid) for name, pane in (grid.observe() or {}).items()}


def readable(grid: Grid, columns: int) -> bool:
    """Does every pane have 60x12 while a client of that width looks at its window?"""
    width = f"{columns}\n"
    for window in tmux(grid, "list-windows", "-F", "#{window_id}").split():
        tmux(grid, "select-window", "-t", window)
        until(lambda: tmux(grid, "display-message", "-p", "#{window_width}") == width, "the client's width", 10)
        for row in tmux(grid, "list-panes", "-F", "#{pane_width} #{pane_height}").splitlines():
            if int(row.split()[0]) < 60 or int(row.split()[1]) < 12:
                return False
    return True


@contextlib.contextmanager
def attached(argv: list[str], columns: int, rows: int) -> Iterator[int]:
    """A person's terminal of that size running `argv`; gives the descriptor to read and type on."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "TMUX": "/tmp/another,1,0"}  # people sit in a tmux of their own
    client = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True)
    os.close(theirs)
    os.set_blocking(mine, False)
    try:
        yield mine
    finally:
        client.kill()
        client.wait()
        os.close(mine)


def drain(descriptor: int) -> bytes:
    data = b""
    while select.select([descriptor], [], [], 0)[0]:
        with contextlib.suppress(BlockingIOError, OSError):
            more = os.read(descriptor, 65536)
            data += more
            if more:
                continue
        break
    return data


def test_every_agent_is_its_panes_own_process_and_window_0_is_the_board(grid: Grid) -> None:
    assert not grid.running() and grid.observe() == {}
    assert up(grid, "chief", "r1", "r2") == ["board", "chief", "r1", "r2"]
    seen = grid.observe()
    assert seen is not None and list(seen) == ["board", "chief", "r1", "r2"] and grid.running()
    for pane in seen.values():
        command = Path(f"/proc/{pane.pid}/cmdline").read_bytes().split(b"\0")[:-1]
        assert command == [word.encode() for word in WAIT] and not pane.dead and pane.started is not None
    # libtmux as an independent witness
    session = libtmux.Server(socket_name=grid.socket).sessions[0]
    windows = [(window.window_index, window.window_name) for window in session.windows]
    assert windows == [("0", "board"), ("1", "grid-1")]
    assert [pane.show_option("@role") for pane in session.windows[1].panes] == ["researcher"] * 3


def test_doing_it_twice_is_doing_it_once(grid: Grid) -> None:
    up(grid, "r1", "r2")
    before = panes(grid)
    assert up(grid, "r1", "r2") == []
    assert panes(grid) == before


def ended(grid: Grid, agent: str, kill: bool) -> PaneState:
    """The agent's pane once it is dead and tmux says how it ended; started (and killed) again where tmux does not.

    tmux 3.3a never learns how a pane's process ended in about one case in seven (9 of 60 plain `kill -9`).
    """
    for attempt in range(12):
        if attempt:
            grid.respawn(spec(grid, agent, WAIT if kill else ["sh", "-c", "exit 7"]))
        if kill:
            os.kill(until(lambda: (grid.observe() or {})[agent], "the pane", 10).pid, signal.SIGKILL)
        until(lambda: (grid.observe() or {})[agent].dead, "the pane is dead", 10)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            pane = (grid.observe() or {})[agent]
            if pane.exit_status is not None or pane.exit_signal is not None or (tmux_version() or (0, 0)) < (3, 3):
                return pane
    pytest.fail("tmux never said how the agent ended")


def test_an_agent_killed_comes_back_in_its_pane_and_the_others_are_left_alone(grid: Grid) -> None:
    up(grid, "r1", "r2")
    before = panes(grid)
    dead = ended(grid, "r1", kill=True)
    assert dead.exit_signal == (None if (tmux_version() or (0, 0)) < (3, 3) else "SIGKILL")
    assert up(grid, "r1", "r2") == ["r1"]
    after = panes(grid)
    assert after["r1"][0] == before["r1"][0] and after["r1"][1] != before["r1"][1]
    assert after["r2"] == before["r2"] and after["board"] == before["board"]


def test_an_exit_status_is_seen(grid: Grid) -> None:
    grid.ensure(spec(grid, "board"), [spec(grid, "r1", ["sh", "-c", "exit 7"])])
    pane = ended(grid, "r1", kill=False)
    assert pane.exit_status == 7 and pane.exit_signal is None and pane.started is None


def test_a_pane_that_somebody_closed_is_made_again(grid: Grid) -> None:
    up(grid, "r1", "r2")
    before = panes(grid)
    tmux(grid, "kill-pane", "-t", before["board"][0])
    tmux(grid, "kill-pane", "-t", before["r2"][0])
    assert up(grid, "r1", "r2") == ["board", "r2"]
    assert panes(grid)["r1"] == before["r1"]


def test_a_creation_that_was_cut_short_leaves_no_stray_pane(grid: Grid) -> None:
    up(grid, "r1")
    tmux(grid, "new-window", "-d", "--", *org.tmux.PLACEHOLDER)  # what a controller killed before naming it leaves
    named = tmux(grid, "new-window", "-dP", "-F", "#{pane_id}", "--", *org.tmux.PLACEHOLDER).strip()
    tmux(grid, "set-option", "-p", "-t", named, "@agent", "r2")
    assert up(grid, "r1", "r2") == ["r2"]
    assert tmux(grid, "list-panes", "-a", "-F", "#{@agent}").splitlines() == ["board", "r1", "r2"]
    assert panes(grid)["r2"][0] == named


def test_ten_agents_get_two_windows_and_room_to_read(grid: Grid) -> None:
    names = [f"r{number}" for number in range(10)]
    up(grid, *names)
    seen = grid.observe() or {}
    assert [seen[name].window for name in names] == ["grid-1"] * 5 + ["grid-2"] * 5
    with attached(grid.attach_argv(), 220, 50):
        assert readable(grid, 220)


@pytest.mark.parametrize(("size", "windows"), [((80, 24), 3), ((80, 60), 1), ((130, 24), 2)])
def test_a_small_terminal_gets_more_windows(grid: Grid, size: tuple[int, int], windows: int) -> None:
    up(grid, "chief", "r1", "r2", size=size)
    assert len({pane.window for pane in (grid.observe() or {}).values()} - {"board"}) == windows
    with attached(grid.attach_argv(), *size):
        assert readable(grid, size[0])


@pytest.mark.parametrize(("columns", "hint"), [(80, "^b d leave"), (110, "^b t take over"), (150, "^b z zoom")])
def test_the_status_line_has_room_for_the_list_of_windows_and_whole_hints(grid: Grid, columns: int, hint: str) -> None:
    def line() -> str:
        client = tmux(grid, "list-clients", "-F", "#{client_name}").strip()
        windows = "#{W:#{T:window-status-format},#{T:window-status-current-format}}"
        shown = tmux(grid, "display-message", "-p", "-c", client, f"#{{T:status-left}}{windows}|#{{T:status-right}}")
        return re.sub(r"#\[[^]]*\]", "", shown.rstrip("\n")) if client else ""

    up(grid, "chief", "r1", "r2", "r3", size=(columns, 24))
    with attached(grid.attach_argv(), columns, 24):
        shown = until(line, "somebody looks", 10)
        windows, hints = shown.split("|")
        assert hint in hints and all(name in windows for name in [grid.name, "0 board", "1 grid-1"])
        assert len(shown) - 1 <= columns


def test_a_smaller_terminal_spreads_the_agents_and_a_larger_gathers_them_undisturbed(grid: Grid) -> None:
    names = ["chief", "r1", "r2", "r3"]
    up(grid, *names)
    before, windows = panes(grid), {name: pane.window for name, pane in (grid.observe() or {}).items()}
    with attached(grid.attach_argv("r2"), 80, 24):
        until(lambda: grid.clients_on("r2") is not None, "somebody looks at r2", 10)
        grid.relayout(80, 24)
        assert {name: pane.window for name, pane in (grid.observe() or {}).items()} == {
            "board": "board", "chief": "grid-1", "r1": "grid-2", "r2": "grid-3", "r3": "grid-4",
        }  # fmt: skip
        assert grid.clients_on("r2") is not None, "still looking at r2"
        assert readable(grid, 80)
    with attached(grid.attach_argv(), 80, 60):
        grid.relayout(80, 60)
        assert readable(grid, 80)
    with attached(grid.attach_argv(), 220, 50):
        grid.relayout(220, 50)
        assert readable(grid, 220)
        assert {name: pane.window for name, pane in (grid.observe() or {}).items()} == windows
    assert panes(grid) == before


def test_hostile_labels_are_shown_as_they_are_and_nothing_runs(grid: Grid, tmp_path: Path) -> None:
    up(grid, "r1", "r2", "r3")
    trap = tmp_path / "trap"
    grid.label(
        {
            "r1": f"#(touch {trap}) #[fg=red] %H #{{pid}} ;",
            "r2": f"two\nlines\x1b[31m; run-shell 'touch {trap}' ;",
            "r3": "x" * 5000,
            "nobody": "is passed over",
        },
        {"r1": "working", "r2": "no such state"},
    )
    with attached(grid.attach_argv("r1"), 400, 50) as screen:
        shown = ""

        def see() -> str:
            nonlocal shown
            shown += drain(screen).decode("utf-8", "replace")
            return shown

        until(lambda: f"#(touch {trap}) #[fg=red] %H #{{pid}} ;" in see(), "the label as it is", 10)
        assert "\x1b[31m; run-shell" not in shown
    assert not trap.exists()
    shown = tmux(grid, "show-options", "-pv", "-t", panes(grid)["r2"][0], "@label").rstrip("\n")
    assert shown == f"two lines [31m; run-shell 'touch {trap}' ;"
    assert len(tmux(grid, "show-options", "-pv", "-t", panes(grid)["r3"][0], "@label")) <= 201


def test_arguments_arrive_whole(grid: Grid, tmp_path: Path) -> None:
    words = ["two words", "it's", 'say "x"', "a;", ";", "\\;", "$HOME `id` #{pid} #(id) %H", "line\nbreak", "~", ""]
    words += ["ü✓", "-k"]
    out = tmp_path / "words.json"
    program = (
        "import json, os, sys, time; words = json.dumps([sys.argv[2:], os.environ['ODD']]); "
        "open(sys.argv[1], 'w').write(words); time.sleep(1000)"
    )
    odd = "a;b #{pid} 'q' \"d\"\nnext;"
    grid.ensure(spec(grid, "board"), [spec(grid, "r1", [sys.executable, "-c", program, str(out), *words], ODD=odd)])
    until(lambda: out.exists() and out.read_text(), "the agent wrote down its arguments", 20)
    assert json.loads(out.read_text()) == [words, odd]


def test_a_command_of_one_word_goes_through_no_shell(grid: Grid, tmp_path: Path) -> None:
    folder = tmp_path / "a folder; with #{odd} $name"
    folder.mkdir()
    program = folder / "agent"
    program.write_text("#!/bin/sh\npwd > here\nexec sleep 1000\n")
    program.chmod(0o755)
    grid.ensure(spec(grid, "board"), [PaneSpec("r1", "researcher", [str(program)], folder, {})])
    until(lambda: (folder / "here").exists() and (folder / "here").read_text(), "it started there", 10)
    assert (folder / "here").read_text() == f"{folder}\n"


def test_a_long_command_with_odd_words_arrives_whole(grid: Grid, tmp_path: Path) -> None:
    up(grid, "r1")
    odd = "it's; \"#{pane_id}\" $HOME ~ \\n ünïcode;" + "x" * 40_000 + "\nlast;"
    program = "import os, sys, time; open('got', 'w').write(os.environ['ODD'] + sys.argv[1]); os.rename('got', 'all'); time.sleep(99)"
    grid.respawn(PaneSpec("r1", "researcher", [sys.executable, "-c", program, odd], tmp_path, {"ODD": odd}))
    until(lambda: (tmp_path / "all").exists(), "what arrived", 10)
    assert (tmp_path / "all").read_text() == odd + odd
    with pytest.raises(UserError, match="no such directory"):
        grid.respawn(PaneSpec("r1", "researcher", WAIT, grid.home.root / "gone", {}))


def test_nothing_of_the_callers_environment_reaches_an_agent(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "CLAUDECODE", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "DISPLAY"):
        monkeypatch.setenv(name, "planted")
    out = tmp_path / "environment"
    show = ["sh", "-c", f"env > {out}; exec sleep 1000"]
    grid.ensure(spec(grid, "board"), [spec(grid, "r1", show, MINE="yes")])
    with attached(grid.attach_argv(), 220, 50):
        until(lambda: tmux(grid, "list-clients"), "a client", 10)
        until(lambda: out.exists() and "MINE=yes" in out.read_text(), "the environment", 10)
        first = out.read_text()
        out.unlink()
        grid.respawn(spec(grid, "r1", show, MINE="yes"))
        until(lambda: out.exists() and "MINE=yes" in out.read_text(), "the environment again", 10)
        for text in (first, out.read_text()):
            assert "planted" not in text
            language = next(line for line in text.splitlines() if line.startswith("LC_ALL="))
            assert language.lower().replace("-", "").endswith("utf8")
    assert "planted" not in tmux(grid, "show-environment", "-g") + tmux(grid, "show-environment")


def test_the_same_name_in_another_directory_is_refused_and_its_panes_are_not_ours(grid: Grid, tmp_path: Path) -> None:
    up(grid, "r1")
    before = panes(grid)
    other = tmp_path / "other"
    other.mkdir()
    second = Grid(grid.name, Home(other))
    with pytest.raises(UserError, match="--name") as refused:
        second.ensure(spec(second, "board"), [spec(second, "r1")])
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(UserError, match="--name"):
        second.check_free()
    assert not second.running() and second.observe() == {}
    second.kill()
    second.remove("r1")
    assert panes(grid) == before


@pytest.mark.parametrize("name", ["", "Upper", "a b", "-x", "a.b", "a:b", "x" * 32, "a\n", "é"])
def test_a_bad_session_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at most 31"):
        Grid(name, Home(tmp_path))


def test_without_tmux_or_with_an_old_one_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tmux_version() is None
    with pytest.raises(UserError, match="apt-get install tmux"):
        Grid("any", Home(tmp_path))
    old = tmp_path / "tmux"
    old.write_text("#!/bin/sh\necho tmux 3.1c\n")
    old.chmod(0o755)
    assert tmux_version() == (3, 1)
    with pytest.raises(UserError, match=r"3\.2"):
        Grid("any", Home(tmp_path))


def test_a_server_that_died_is_seen_and_started_anew(grid: Grid) -> None:
    up(grid, "r1")
    server = int(tmux(grid, "display-message", "-p", "#{pid}"))
    os.kill(server, signal.SIGKILL)
    until(lambda: not grid.running(), "the server is gone", 10)
    assert grid.observe() == {}
    assert grid.clients_on("r1") is None
    grid.label({"r1": "x"})
    grid.relayout(220, 50)
    grid.remove("r1")
    for act in (lambda: grid.respawn(spec(grid, "r1")), lambda: grid.capture("r1"), lambda: grid.attach_argv("r1")):
        with pytest.raises(UserError, match="orgctl up"):
            act()
    assert up(grid, "r1") == ["board", "r1"]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_unknown_not_empty(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    up(grid, "r1")
    server = int(tmux(grid, "display-message", "-p", "#{pid}"))
    monkeypatch.setattr(org.tmux, "TIMEOUT", 0.5)
    os.kill(server, signal.SIGSTOP)
    try:
        assert grid.observe() is None and not grid.running()
        with pytest.raises(UserError, match="does not answer"):
            up(grid, "r1")
    finally:
        os.kill(server, signal.SIGCONT)
    until(lambda: grid.observe(), "it answers again", 10)


def test_a_directory_with_a_line_break_blinds_nobody(grid: Grid, tmp_path: Path) -> None:
    odd = tmp_path / "a\nb|c"
    odd.mkdir()
    grid.ensure(spec(grid, "board"), [PaneSpec("r1", "researcher", WAIT, odd, {}), spec(grid, "r2")])
    tmux(grid, "rename-window", "-t", panes(grid)["r2"][0], "mine|x\ny")
    assert list(panes(grid)) == ["board", "r1", "r2"]
    assert up(grid, "r1", "r2") == []


def test_attaching_shows_the_agents_pane_and_typing_there_is_noticed(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(grid, "r1", "r2")
    assert grid.clients_on("r1") is None
    with attached(grid.attach_argv("r1"), 220, 50) as keys:
        until(lambda: grid.clients_on("r1") is not None, "somebody looks at r1", 10)
        assert grid.clients_on("r2") is None
        began = time.time()
        os.write(keys, b"x")
        until(lambda: (grid.clients_on("r1") or 99) < time.time() - began + 2, "typing is recent", 10)
        # in a pane of this server attaching only switches
        monkeypatch.setenv("TMUX", tmux(grid, "display-message", "-p", "#{socket_path},#{pid},0").strip())
        subprocess.run(grid.attach_argv("r2"), check=True)
        until(lambda: grid.clients_on("r2") is not None, "somebody looks at r2", 10)
    until(lambda: grid.clients_on("r2") is None, "nobody looks any more", 10)


def test_copy_mode_is_seen(grid: Grid) -> None:
    up(grid, "r1")
    tmux(grid, "copy-mode", "-t", panes(grid)["r1"][0])
    assert (grid.observe() or {})["r1"].in_mode


def test_the_screen_is_captured_with_history_and_colours(grid: Grid) -> None:
    say = "printf '\\033[31mred\\033[0m\\n'; seq 100; exec sleep 1000"
    grid.ensure(spec(grid, "board"), [spec(grid, "r1", ["sh", "-c", say])])
    until(lambda: grid.capture("r1").endswith("100"), "the numbers", 10)
    assert "red" not in grid.capture("r1")
    assert grid.capture("r1", lines=100).split("\n") == [str(number) for number in range(1, 101)]
    assert "\x1b[31mred" in grid.capture("r1", lines=101, escapes=True)
    with pytest.raises(UserError, match="no pane for agent 'r9'"):
        grid.capture("r9")


@pytest.mark.slow
def test_the_screens_of_all_are_had_at_once_and_of_one_that_went_nothing(grid: Grid) -> None:
    say = {name: ["sh", "-c", f"echo I am {name}; exec sleep 1000"] for name in ("r1", "r2", "r3")}
    grid.ensure(spec(grid, "board"), [spec(grid, name, words) for name, words in say.items()])
    for name in say:
        until(lambda name=name: grid.capture(name) == f"I am {name}", "its words", 10)  # type: ignore[misc]
    seen = grid.observe() or {}
    assert [grid.shown(seen[name]).strip() for name in say] == [f"I am {name}" for name in say]
    tmux(grid, "kill-pane", "-t", seen["r2"].pane_id)
    until(lambda: grid.shown(seen["r2"]) == "", "it is gone", 10)
    grid.observe()
    until(lambda: grid.shown(seen["r3"]).strip() == "I am r3", "the others are there", 10)


def writers(log: Path) -> list[int]:
    """Processes that were started with the log's path as an argument of their own."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(log) in process.cmdline():
                found.append(process.pid)
    return found


def test_the_screen_log_survives_respawn_and_stays_bounded(grid: Grid, tmp_path: Path) -> None:
    log = tmp_path / "a log; 100% #{odd}" / "screen.log"
    up(grid, "r1")
    grid.log_to("r1", log)
    writer = until(lambda: writers(log), "a writer", 10)
    grid.log_to("r1", log)
    assert writers(log) == writer and len(writer) == 1
    for word in ("first", "second"):
        grid.respawn(spec(grid, "r1", ["sh", "-c", f"echo {word}; exec sleep 1000"]))
        until(lambda word=word: log.exists() and word in log.read_text(), f"the {word} words", 10)
    assert "first" in log.read_text()


@pytest.mark.slow
def test_an_agent_that_crashes_at_once_keeps_nobody_from_starting_and_is_logged_when_it_comes_back(grid: Grid, tmp_path: Path) -> None:
    path = tmp_path / "screen.log"
    grid.ensure(spec(grid, "board"), [spec(grid, "r1", ["sh", "-c", "exit 3"])])
    until(lambda: (grid.observe() or {})["r1"].dead, "it is dead", 5)
    grid.log_to("r1", path)
    grid.respawn(spec(grid, "r1", ["sh", "-c", "sleep 0.5; echo back; exec sleep 1000"]))
    grid.log_to("r1", path)
    until(lambda: path.exists() and "back" in path.read_text(), "its log", 10)


def test_a_screen_log_keeps_the_last_of_a_flood_in_bounded_space(tmp_path: Path) -> None:
    log = tmp_path / "screen.log"
    flood = b"".join(b"%07d\n" % number for number in range(20_000))
    command = [sys.executable, "-I", "-S", str(Path(screenlog.__file__)), str(log), "50000"]
    subprocess.run(command, input=flood, check=True)
    kept = (tmp_path / "screen.log.1").read_bytes() + log.read_bytes()
    assert flood.endswith(kept) and 50_000 <= len(kept) <= 2 * 65536 + 50_000


@pytest.mark.slow
def test_removing_an_agent_ends_even_one_that_ignores_the_hang_up(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("org.panes.GRACE", 0.5)
    deaf = ["sh", "-c", "trap '' HUP; echo deaf; while :; do sleep 1; done"]
    grid.ensure(spec(grid, "board"), [spec(grid, "r1", deaf), spec(grid, "r2", deaf), spec(grid, "r3")])
    until(lambda: "deaf" in grid.capture("r1") + grid.capture("r2"), "they do not listen", 10)
    first, second = (Identity.of(panes(grid)[name][1]) for name in ("r1", "r2"))
    assert first and second
    grid.remove("r1")
    until(lambda: not first.alive(), "r1 is gone", 5)
    assert "r1" not in panes(grid)
    grid.remove("r1")
    grid.kill()
    until(lambda: not second.alive(), "r2 is gone", 5)
    assert grid.observe() == {}
    grid.kill()


@pytest.mark.parametrize("ended", ["end", "respawn", "remove", "kill", "crash"])
def test_what_an_agent_started_ends_with_it_also_in_sessions_of_its_own(grid: Grid, tmp_path: Path, ended: str) -> None:
    def seated(agent: str) -> PaneSpec:
        left = tmp_path / f"{agent}.pid"
        script = f"setsid sleep 1000 & echo $! > {left}.new; mv {left}.new {left}; exec sleep 1000"
        env = {"ORGCTL_AGENT": agent, "ORGCTL_HOME": str(grid.home.root), "ORGCTL_PROGRAM": grid.home.program}
        return PaneSpec(agent, "researcher", ["sh", "-c", script], tmp_path, env)

    def pid(agent: str) -> int:
        until((tmp_path / f"{agent}.pid").exists, "it has started something", 5)
        return int((tmp_path / f"{agent}.pid").read_text())

    def gone(one: int) -> bool:
        return not psutil.pid_exists(one) or psutil.Process(one).status() == psutil.STATUS_ZOMBIE

    everybody = [seated("r1"), seated("r2")]
    grid.ensure(spec(grid, "board"), everybody)
    mine, others = pid("r1"), pid("r2")
    try:
        if ended == "crash":
            os.kill(panes(grid)["r1"][1], signal.SIGKILL)
            until(lambda: (grid.observe() or {})["r1"].dead, "it is dead")
            assert grid.ensure(spec(grid, "board"), everybody) == ["r1"]
        elif ended == "kill":
            grid.kill()
        elif ended == "respawn":
            grid.respawn(everybody[0])
        else:
            getattr(grid, ended)("r1")
        until(lambda: gone(mine), "what it had started is gone", 5)
        if ended == "kill":
            until(lambda: gone(others), "of everybody", 5)
        assert gone(others) == (ended == "kill")
    finally:
        grid.kill()
        for one in (mine, others, pid("r1")):
            if not gone(one):
                os.kill(one, signal.SIGKILL)
