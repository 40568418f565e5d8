"""Who may take a pane over and give it back: a person anybody's, an agent's own process what it opened for a person itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.requests import ask, wait_answer
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
