"""`orgctl exp run` on a real terminal: it follows the run, and who stops watching stops nothing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess

import pytest

from lab.orders import Orders
from lab.requests import answer, waiting
from tests.conftest import ORGCTL, until
from tests.lab.conftest import Desk

pytestmark = pytest.mark.slow  # three seconds


def test_on_a_terminal_it_says_what_is_odd_follows_and_is_interrupted_without_harm_to_the_run(desk: Desk) -> None:
    name = desk.propose()["experiment"]
    worktree = desk.home.worktrees / "r1"
    model = worktree / "toy" / "model.py"
    model.write_text(model.read_text().replace("LR = 0.02", "LR = 0.1"))
    (worktree / "random.py").write_text("seed = 1\n")
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    desk.monkeypatch.setenv("TERM", "xterm-256color")
    asked = subprocess.Popen(
        [*ORGCTL, "exp", "run", name], cwd=worktree, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background it is ignored
    )  # fmt: skip
    os.close(theirs)
    screen = ""

    def reads(words: str) -> bool:
        nonlocal screen
        for request in waiting(desk.home):
            answer(desk.home, request, True, **Orders(desk.lab).take(request))
        try:
            screen += os.read(ours, 1 << 16).decode()
        except BlockingIOError:
            pass
        except OSError:  # it has ended
            assert words in screen, screen
        return words in screen

    try:
        until(lambda: reads("R0009 queued"), "the bar", 20)
        assert "Not part of it: random.py." in screen
        asked.send_signal(signal.SIGINT)
        until(lambda: reads(f"no longer watching; R0009 goes on. orgctl exp wait {name}"), "the last words", 20)
        assert asked.wait(20) == 0 and desk.state.runs["R0009"].status == "queued"
    finally:
        asked.kill()
        asked.wait()
        os.close(ours)
