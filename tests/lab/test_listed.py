"""`orgctl exp list` as people read it: on a terminal of 80 columns, and piped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import termios
import threading
from pathlib import Path

import pytest

from lab.home import Home
from lab.ledger import Ledger
from lab.text import ESCAPE
from tests.conftest import ORGCTL

LONG = "A step that shrinks with the square root of what is left of the budget, " * 4
AGENT = "a-researcher-with-a-name-of-30"


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """The root of a session in which two agents have proposed something at length; one was judged."""
    home = Home(tmp_path / "research")
    home.make()
    home.settings.write_text("")
    ledger = Ledger(home.ledger, create=True)
    ledger.append("trunk", {"commit": "t", "parent": "", "experiment": "", "why": ""}, "t")
    base = {"mechanism": "m", "family": "other", "direction": "improves", "min_effect": 0.0, "held_constant": "", "base": "t", "params": {}}
    for agent, text in (("r1", LONG[:107]), (AGENT, LONG[:250])):
        ledger.append_new("proposal", "E", {**base, "agent": agent, "hypothesis": text})
    ledger.append("attempt", {"number": 1, "parent": "t", "commit": "c", "diff": "", "changed": [], "ignored": []}, "E0002")
    ledger.append("verdict", {"attempt": 1, "verdict": "inconclusive", "effect": -0.00012345, "n": 14, "reasoning": []}, "E0002")
    ledger.close()
    return home.root


def on_terminal(root: Path, env: dict[str, str], columns: int) -> str:
    """What `orgctl exp list` prints on a terminal so wide."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while piece := os.read(ours, 4096):
                seen.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    subprocess.run([*ORGCTL, "exp", "list"], cwd=root, env=env, stdin=theirs, stdout=theirs, stderr=theirs, check=True, timeout=120)
    os.close(theirs)
    reader.join()
    os.close(ours)
    return b"".join(seen).decode()


def check(text: str, columns: int) -> None:
    """A line an experiment that fits, with all there is to know of it but for the end of its hypothesis."""
    head, first, second = lines = [line.rstrip() for line in ESCAPE.sub("", text).splitlines()]
    assert max(map(len, lines)) <= columns, text
    assert head.split() == ["experiment", "agent", "status", "effect", "hypothesis"]
    assert first.split()[:5] == ["E0001", "r1", "proposed", "A", "step"]
    assert second.split()[:6] == ["E0002", AGENT, "inconclusive", "-0.00012", "A", "step"]
    assert second.endswith("…") and first.endswith("…" if columns == 80 else LONG[:107])


@pytest.mark.parametrize("columns", [80, 200])
def test_a_long_hypothesis_gives_way_to_the_other_columns_on_a_terminal(session: Path, clean_env: dict[str, str], columns: int) -> None:
    check(on_terminal(session, clean_env, columns), columns)


def test_a_long_hypothesis_gives_way_to_the_other_columns_in_a_pipe(session: Path, clean_env: dict[str, str]) -> None:
    done = subprocess.run([*ORGCTL, "exp", "list"], cwd=session, env=clean_env, capture_output=True, text=True, check=True, timeout=120)
    check(done.stdout, 200)
