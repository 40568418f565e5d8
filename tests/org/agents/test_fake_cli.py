"""The fake CLI does in a real pane what its personas promise, so that tests which use it prove something."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import end_server, until
from tests.org.agents import fake_cli
from tests.org.agents.fake_cli import box, received

Tmux = Callable[..., str]


@pytest.fixture
def pane(tmp_path: Path, clean_env: dict[str, str]) -> Iterator[tuple[Callable[[str], None], Tmux, Path]]:
    """(start a persona, run tmux, its log)."""
    socket, log = f"t{uuid.uuid4().hex[:8]}", tmp_path / "log.jsonl"

    def tmux(*words: str, text: str | None = None) -> str:
        command = ["tmux", "-L", socket, "-f", "/dev/null", *words]
        return subprocess.run(command, env=clean_env, text=True, input=text, capture_output=True).stdout

    def start(persona: str) -> None:
        argv = [sys.executable, "-I", fake_cli.__file__, "--persona", persona, "--log", str(log)]
        tmux("new-session", "-d", "-s", "a", "-x", "100", "-y", "30", "--", *argv)
        until(lambda: received(log, "ready") or received(log, "exit"), f"{persona} is ready")

    yield start, tmux, log
    end_server(tmux)


def say(tmux: Tmux, text: str) -> None:
    tmux("load-buffer", "-b", "x", "-", text=text)
    tmux("paste-buffer", "-p", "-r", "-d", "-b", "x", "-t", "a")
    tmux("send-keys", "-t", "a", "Enter")


@pytest.mark.parametrize(
    "persona, event, texts, left",
    [
        ("plain", "submit", ["go on\nplease"], ""),
        ("draft", "submit", ["I was about to say thatgo on\nplease"], ""),
        ("swallow", "submit", [], "go on\nplease"),
        ("gate", "approved", ["Run `git push --force`? It needs your permission."], ""),
    ],
)
def test_a_persona_does_with_a_paste_and_enter_what_it_promises(
    pane: tuple[Callable[[str], None], Tmux, Path], persona: str, event: str, texts: list[str], left: str
) -> None:
    start, tmux, log = pane
    start(persona)
    before = box(tmux("capture-pane", "-p", "-t", "a"))
    assert before == (None if persona == "gate" else "I was about to say that" if persona == "draft" else "")
    say(tmux, "go on\nplease")
    until(lambda: received(log, event) or received(log, "swallowed"), f"{persona} has seen the Enter")
    assert received(log, event) == texts
    assert received(log, "lost") == (["go on\nplease"] if persona == "gate" else [])
    until(lambda: box(tmux("capture-pane", "-p", "-t", "a")) == left, f"{left!r} is left in the box")
