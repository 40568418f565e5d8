"""The screens of org commands on a terminal of 80 and of 120 columns, and into a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from lab.client import propose
from lab.text import wrapped
from org.controller import Controller
from org.session import Wish, found
from tests.conftest import ORGCTL, TOY


def screen(columns: int, home: Path, *words: str) -> list[str]:
    """What an orgctl command prints on a terminal of so many columns, line by line and without its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb", "ORGCTL_HOME": str(home)}
    child = subprocess.Popen([*ORGCTL, *words], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=env, cwd=home)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert child.wait(60) == 0, said
    return said.decode().splitlines()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.slow
def test_designs_are_listed_within_the_width_and_whole_into_a_pipe(columns: int, tmp_path: Path) -> None:
    shown = screen(columns, tmp_path, "design", "list")
    assert max(map(len, shown)) <= columns
    piped = subprocess.run([*ORGCTL, "design", "list"], capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert len(piped) == 5 < len(shown) and " ".join(" ".join(shown).split()) == " ".join(" ".join(piped).split())


@pytest.mark.slow
def test_areas_and_digests_fit_the_terminal(tmp_path: Path) -> None:
    home = found(tmp_path / "research", Wish(design="chief", task=str(TOY), name="t-screen", slots=2, backend="shell"))
    one = Controller(home)
    propose(home, "r1", "a part with a long name", "because", "architecture/activation-function")
    propose(home, "person", "let the step sizes of both layers fall together " * 4, "because", "schedule")
    one.lab.refresh()
    one.lab.ledger.append("assignment", {
        "agent": "r1", "areas": ["optimizer", "schedule"], "hypothesis": "", "idea": "", "gpu_hours": None, "deadline": None, "why": "w",
    }, "W0001", "person")  # fmt: skip
    one.lab.refresh()
    one.standups.open("called by a test", "lab")
    meeting = one.lab.state.direction.standup
    assert meeting is not None
    meeting.deadline = 0.0
    one.standups.attend()
    for columns in (80, 120):
        table = screen(columns, home.root, "areas")
        assert max(map(len, table)) <= columns
        assert next(line.split()[0] for line in table if line.strip()) == "area" and len(table) <= 12, table
        page = screen(columns, home.root, "standup", "show")
        assert max(len(line) for line in page if "`" not in line) <= columns
        assert any('`orgctl assign AGENT --idea E0002 --why "..."`' in line for line in page), "whole, to be copied"


def test_a_line_is_broken_at_words_and_never_within_code() -> None:
    text = "- say it: `orgctl assign r1 --idea E0001` or not at all\nshort  \n  a line that is indented stays so"
    assert wrapped(text, 24).splitlines() == [
        "- say it:", "  `orgctl assign r1 --idea E0001`", "  or not at all", "short  ", "  a line that is", "  indented stays so",
    ]  # fmt: skip
    assert wrapped("chief   hands out the parts", 16, hang=8).splitlines() == ["chief   hands", "        out the", "        parts"]
