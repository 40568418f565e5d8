"""Who may take a pane over and give it back: a person anybody's, an agent's own process what it opened for a person itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.files import write_json
from lab.ledger import Ledger
from lab.requests import ask, wait_answer
from org.attendance import Attendance
from org.controller import Controller
from org.session import Wish, found
from tests.conftest import TOY


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    one = Controller(found(tmp_path / "research", Wish(design="solo", task=str(TOY), name="t-takeover", slots=2)))
    one.lab.refresh()
    return one


def asked(controller: Controller, kind: str, actor: str, agent: str = "r1") -> dict[str, Any]:
    """The answer to a request."""
    name = ask(controller.home, kind, actor, {"agent": agent})
    controller._requests()
    return wait_answer(controller.home, name, 0) or {}


def facts(controller: Controller) -> list[tuple[str, str]]:
    return [(fact.body["what"], fact.actor) for fact in controller.lab.ledger.facts("intervention", "r1")]


def test_what_a_person_has_taken_only_a_person_gives_back(controller: Controller) -> None:
    assert asked(controller, "takeover", "person")["ok"]
    refused = asked(controller, "release", "r1")
    assert not refused["ok"] and "a person has taken r1 over: a person gives it back" in refused["error"]
    assert asked(controller, "takeover", "r1")["ok"] and not asked(controller, "release", "r1")["ok"], "nor by a way round"
    assert controller.lab.state.taken_over == {"r1"} and facts(controller) == [("taken_over", "person")]
    assert asked(controller, "release", "person")["had"] == "person"
    assert facts(controller)[1:] == [("released", "person")] and not controller.lab.state.taken_over


def test_the_shell_in_a_sweeps_pane_gives_it_back_unless_a_person_took_it_meanwhile(controller: Controller) -> None:
    assert asked(controller, "takeover", "r1")["ok"] and asked(controller, "release", "r1")["had"] == "r1"
    assert facts(controller) == [("taken_over", "r1"), ("released", "r1")]
    assert asked(controller, "takeover", "r1")["ok"] and asked(controller, "takeover", "person")["ok"]
    assert not asked(controller, "release", "r1")["ok"] and controller.lab.state.taken_over == {"r1"}


def test_to_give_back_what_nobody_has_is_no_fact(controller: Controller) -> None:
    assert asked(controller, "release", "person") == {"ok": True, "kind": "release", "agent": "r1", "had": ""}
    assert facts(controller) == []


def test_what_is_disowned_gives_up_nobody_and_takes_nothing_over(controller: Controller) -> None:
    """Forged by somebody else in the laboratory's name, or a person's, and found at the controller's next look."""
    stranger = Ledger(controller.home.ledger)
    for what in ("budget_told", "budget_spent", "swapped"):
        stranger.append("agent", {"what": what, "letter": "x"}, "r1")
    stranger.append("agent", {"what": "budget_spent"}, "r2", "r1")
    for what in ("taken_over", "typed"):
        stranger.append("intervention", {"what": what, "at": 5.0}, "r1", "person")
    stranger.close()
    assert asked(controller, "release", "person")["had"] == "" and facts(controller) == [("taken_over", "person"), ("typed", "person")]
    anew = Controller(controller.home)
    assert len(anew.lab.state.disowned) == 5, "it knows what is disowned before it serves"
    assert not anew.team.swapped and all(one == Attendance(born=one.born) for one in anew.team.attendance.values())
    assert anew.team.words.typed["r1"].noted != 5.0


# In whose name


@contextlib.contextmanager
def seated(controller: Controller, agent: str, role: str = "researcher") -> Iterator[int]:
    """A process that lives in an agent's seat, beneath what the pane runs, and calls itself chief."""
    home = {"ORGCTL_HOME": str(controller.home.root), "PATH": os.environ["PATH"]}
    command = "ORGCTL_AGENT=chief ORGCTL_ROLE=human sleep 1000 & echo $!; wait"
    env = {**home, "ORGCTL_AGENT": agent, "ORGCTL_ROLE": role}
    pane = subprocess.Popen(["sh", "-c", command], env=env, stdout=subprocess.PIPE, text=True)
    assert pane.stdout is not None
    inner = int(pane.stdout.readline())
    try:
        yield inner
    finally:
        os.kill(inner, 9)
        pane.wait()


def said_by(controller: Controller, pid: int, actor: str, kind: str = "audit") -> str:
    """Why a request by that process is refused; "" when it is not for who asks."""
    name = f"{time.time_ns():020d}-{pid}"
    write_json(controller.home.requests / f"{name}.json", {"kind": kind, "actor": actor, "body": {"agent": "r1"}})
    controller._requests()
    error = str((wait_answer(controller.home, name, 0) or {}).get("error", ""))
    return error if "may not speak" in error or "is nobody" in error else ""


def test_a_request_from_one_agents_seat_in_anothers_name_is_refused_with_an_alarm(controller: Controller) -> None:
    with seated(controller, "r1") as pid:
        for actor in ("r2", "person"):
            assert f"this runs in r1's seat and may not speak as {actor}" in said_by(controller, pid, actor)
        alarms = [fact.body["text"] for fact in controller.lab.ledger.facts("alarm", "r1")]
        assert alarms[0] == f"a process in r1's seat (pid {pid}) asked for a audit in the name of r2: refused" and len(alarms) == 2
        assert not said_by(controller, pid, "r1"), "for itself it may ask"
        controller.lab.ledger.append("intervention", {"what": "taken_over"}, "r1", "person")
        assert not said_by(controller, pid, "r2"), "a person sits there"
    with seated(controller, "r2", role="human") as pid:
        assert not said_by(controller, pid, "person")
    assert not said_by(controller, os.getpid(), "r2") and not said_by(controller, 2**22 + 1, "r2")
    assert len(controller.lab.ledger.facts("alarm")) == 2


def test_from_a_seat_of_another_program_nobody_asks_for_anything_but_a_person_who_has_it(controller: Controller) -> None:
    vision = Controller(found(controller.home.root, Wish(design="solo", task=str(TOY), slots=1, program="vision")))
    vision.lab.refresh()
    with seated(controller, "r1") as pid:
        for actor in ("r1", "person"):
            assert f"this runs in r1@main's seat and may not speak as {actor}" in said_by(vision, pid, actor)
        assert len(vision.lab.ledger.facts("alarm", "r1@main")) == 2
        controller.lab.ledger.append("intervention", {"what": "taken_over"}, "r1", "person")
        assert not said_by(vision, pid, "person")


def test_a_process_that_is_younger_than_the_request_did_not_make_it(controller: Controller) -> None:
    with seated(controller, "r1") as pid:
        name = f"{time.time_ns() - 60 * 10**9:020d}-{pid}"
        write_json(controller.home.requests / f"{name}.json", {"kind": "audit", "actor": "r2", "body": {}})
        controller._requests()
        assert "may not speak" not in str(wait_answer(controller.home, name, 0))


@pytest.mark.parametrize("name", ["lab", "trunk", "../worktrees/r2", "r1\n", "x" * 3000, "", "r9"])
@pytest.mark.slow
def test_nobody_asks_in_a_name_that_is_nobodys(controller: Controller, name: str) -> None:
    assert "is nobody of this organisation" in said_by(controller, os.getpid(), name)
