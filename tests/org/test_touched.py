"""A worktree that changes while its agent does nothing: somebody else was there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lab.home import Home
from org.agents.base import Seat
from org.agents.event import write_event
from org.touched import LATE, SLACK, Touched

FILES = ["a.py", "b.py"]


def test_a_change_counts_only_while_the_agent_does_nothing(tmp_path: Path) -> None:
    """Files get the moment of the write; the looks are told an earlier time, so that the agent was calm for long enough by then."""
    seat = Seat(Home(tmp_path), "r1", "researcher", "claude", 0)
    seat.worktree.mkdir(parents=True)
    touched, now = Touched(), time.time() - 1000

    def seen(state: str, after: float = 1.0) -> list[str]:
        nonlocal now
        now += after
        return touched.look({"r1": seat}, {"r1": state}, FILES, now).get("r1", [])

    def write(name: str) -> None:
        (seat.worktree / "new").write_text("x")
        os.utime(seat.worktree / "new", (1_600_000_000, 1_600_000_000))
        (seat.worktree / "new").rename(seat.worktree / name)

    for name in FILES:
        write(name)
    assert seen("working") == []
    assert seen("idle") == []
    write("a.py")
    assert seen("waiting") == ["a.py"], "an older file that was moved there"
    write("b.py")
    assert seen("idle") == [], "once in a spell of calm"
    assert seen("working") == seen("idle") == []
    write("b.py")
    assert seen("idle", LATE + 1) == [], "too much may have gone by unseen"
    write("b.py")
    assert seen("idle") == ["b.py"]
    assert seen("working") == seen("idle") == []
    (seat.worktree / "b.py").unlink()
    assert seen("idle", SLACK) == [], "that may have been its own"
    write("b.py")
    assert seen("idle") == ["b.py"]
    assert seen("working") == seen("idle") == seen("idle", SLACK) == []
    (seat.worktree / "b.py").unlink()
    assert seen("idle") == ["b.py"], "gone is changed"
    assert seen("working") == []
    write("a.py")
    assert seen("working") == []


def test_a_turn_of_the_agents_own_between_two_looks_is_not_somebody_elses(tmp_path: Path) -> None:
    seat = Seat(Home(tmp_path), "r1", "researcher", "claude", 0)
    seat.worktree.mkdir(parents=True)
    (seat.worktree / "a.py").write_text("x")
    touched, begun = Touched(), time.time()

    def seen(moment: float) -> list[str]:
        return touched.look({"r1": seat}, {"r1": "idle"}, FILES, moment).get("r1", [])

    for moment in (begun - 10, begun - 8, begun - 6, begun - 4, begun - 2):
        assert seen(moment) == []
    write_event(seat.home, "r1", "working", hook="UserPromptSubmit")
    (seat.worktree / "a.py").write_text("y")
    write_event(seat.home, "r1", "idle", hook="Stop")
    assert seen(time.time()) == []
    (seat.worktree / "a.py").write_text("z")
    assert seen(time.time()) == [], "its last write may be seen late"
