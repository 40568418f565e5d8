"""What lies in the way of one agent, in its folder, its inbox or its role, stops nothing that is done for the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import orgctl
from lab.files import write_json
from lab.home import Home
from lab.requests import ask, waiting
from org import cost, reports
from org.agents import base
from org.agents.base import Cost
from org.controller import Controller
from org.session import Wish, found
from org.team import Team
from tests.conftest import TOY, until

AGENTS = [{"role": "researcher", "names": [name], "backend": "shell", "settings": {"budget_tokens": 1000}} for name in ("anna", "bert")]
PROCESS = {"standup": {"deadline": "1s"}, "restart": {"first_seconds": 0.05, "longest_seconds": 0.05, "attempts": 3}}


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    """A controller that has seated anna and bert, and is made to do its duties by hand."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/sh")
    design = tmp_path / "two.yaml"
    design.write_text(yaml.safe_dump({"name": "two", "about": "Two shells.", "agents": AGENTS, "process": PROCESS}))
    home = found(tmp_path / "research", Wish(design=str(design), task=str(TOY), name=f"t{uuid.uuid4().hex[:10]}", slots=2))
    one = Controller(home)
    one.lab.refresh()
    one.team.found_worktrees()
    one.team.seat_everybody()
    yield one
    one.grid.kill()


def used(home: Home, name: str, tokens: int) -> None:
    """What an agent's own records tell, as those of `chat` do."""
    write_json(home.agents / name / "chat" / "cost.json", vars(Cost("m", tokens, 0, 0, 0, None)))


def facts(team: Team, what: str, name: str) -> list[dict[str, object]]:
    return [fact.body for fact in team.lab.ledger.facts("agent", name) if fact.body["what"] == what]


def alive(team: Team) -> list[str]:
    seen = team.grid.observe() or {}
    return [name for name in team.seats if name in seen and not seen[name].dead and not seen[name].placeholder]


def duty(controller: Controller, name: str) -> Callable[[], str]:
    """What status shows as trouble of a duty after one round of it."""
    (one,) = [one for one in controller.duties if one.name == name]

    def attend() -> str:
        one.due = 0.0
        one.attend(1.0)
        assert not one.failures, one.said
        return one.said

    return attend


def test_an_obstacle_in_one_agents_folder_frees_nobody_of_a_budget(controller: Controller) -> None:
    team, home = controller.team, controller.home
    (home.agents / "anna" / "cost.json").mkdir()
    used(home, "anna", 1050)
    used(home, "bert", 1050)
    assert "the cost of anna cannot be read and written down" in duty(controller, "costs")()
    assert [len(facts(team, "budget_told", name)) for name in ("anna", "bert")] == [1, 1], "she is held to what was counted"
    for name in ("anna", "bert"):
        events = home.agents / name / "events.jsonl"
        until(events.exists, f"{name} is there", 20)
        events.unlink()
        events.mkdir()
        used(home, name, 1200)
    duty(controller, "costs")()
    assert [len(facts(team, "budget_spent", name)) for name in ("anna", "bert")] == [1, 1], "and to the end"


def test_records_that_are_taken_away_make_a_cost_no_less(controller: Controller) -> None:
    home = controller.home
    used(home, "bert", 900)
    controller.team.count()
    shutil.rmtree(home.agents / "bert" / "chat")
    write_json(home.agents / "bert" / "cost.json", cost.kept(Cost("m", 1, 0, 0, 0, None)))
    used(home, "bert", 100)
    controller.team.count()
    assert controller.team.spending.counted["bert"]["tokens"] == 900


def test_a_budget_in_dollars_that_cannot_be_kept_is_shown(controller: Controller) -> None:
    team, home = controller.team, controller.home
    team.seats["anna"].settings.update(budget_tokens=None, budget_dollars=0.01)
    used(home, "anna", 1200)
    assert duty(controller, "costs")() == "anna is not held to all of its budget of $0.01: the price of m is not known"
    write_json(home.agents / "anna" / "chat" / "cost.json", vars(Cost("m", 1300, 0, 0, 0, None, 0.0105)))
    assert "anna is not held to all" in duty(controller, "costs")() and len(facts(team, "budget_told", "anna")) == 1


def test_who_cannot_be_started_is_given_up_with_the_reason_and_the_others_come_back(controller: Controller) -> None:
    team, home, panes = controller.team, controller.home, duty(controller, "panes")
    (home.agents / "anna" / "prompt.md").unlink()
    (home.agents / "anna" / "prompt.md").mkdir()
    seen = team.grid.observe() or {}
    for name in ("anna", "bert"):
        os.kill(seen[name].pid, signal.SIGKILL)
    until(lambda: panes() and facts(team, "restarted", "bert"), "bert is back", 20)
    until(lambda: panes() and facts(team, "gave_up", "anna"), "anna is given up", 20)
    (fact,) = facts(team, "gave_up", "anna")
    assert fact["restarts"] == 0 and "prompt.md" in str(fact["hindered"])
    assert panes().startswith("anna cannot be started: ") and "prompt.md" in panes(), "status shows it as long as it is so"
    assert " · cannot be started: " in team.labels["anna"] and alive(team) == ["bert"]
    told = CliRunner().invoke(orgctl.app, ["logs", "anna"], env={"ORGCTL_HOME": str(home.root)}).output
    assert "anna given up, it cannot be started: " in told and "5 restarts" not in told and "3 restarts" not in told
    (home.agents / "anna" / "prompt.md").rmdir()
    team.restart("anna", "by request")
    assert not panes() and alive(team) == ["anna", "bert"]


def test_a_role_that_was_changed_keeps_nobody_else_from_being_brought_back(controller: Controller, tmp_path: Path) -> None:
    team, home, panes = controller.team, controller.home, duty(controller, "panes")
    ask(home, "swap", "person", {"backends": {"bert": "sweep"}})
    controller._requests()
    with open(home.org / "roles" / "researcher.md", "a") as role:
        role.write("x\n")
    os.kill((team.grid.observe() or {})["anna"].pid, signal.SIGKILL)
    until(lambda: panes() and facts(team, "gave_up", "anna"), "anna is given up", 20)
    assert "researcher.md" in str(facts(team, "gave_up", "anna")[0]["hindered"]) and "killed" not in panes()


def test_an_organisation_begins_though_one_of_it_has_no_place(controller: Controller) -> None:
    home = controller.home
    controller.grid.kill()
    shutil.rmtree(home.agents / "anna")
    (home.agents / "anna").write_text("in the way")
    anew = Controller(home)
    anew.lab.refresh()
    anew.team.found_worktrees()
    anew.team.seat_everybody()
    assert alive(anew.team) == ["bert"] and "anna cannot be started: " in duty(anew, "panes")()
    (home.agents / "anna").unlink()
    until(lambda: duty(anew, "panes")() == "" and alive(anew.team) == ["anna", "bert"], "anna has a place again", 20)


def test_a_request_that_cannot_be_answered_holds_up_no_other(controller: Controller) -> None:
    home = controller.home
    blocked = ask(home, "takeover", "person", {"agent": "anna"})
    (home.requests / "done" / f"{blocked}.json").mkdir()
    after = ask(home, "takeover", "person", {"agent": "bert"})
    assert f"request {blocked} cannot be answered" in duty(controller, "requests")()
    assert json.loads((home.requests / "done" / f"{after}.json").read_text())["ok"] and not waiting(home)
    assert duty(controller, "requests")() == ""


def test_folders_in_place_of_a_report_and_of_the_digest_keep_no_standup_open(controller: Controller) -> None:
    controller.standups.open("called by person", "person")
    for name in ("bert.md", "digest.md"):
        (reports.folder(controller.home, 1) / name).mkdir()
    for name in ("bert", "anna"):
        controller.mail.send(name, "lab", "## Done\n\n- nothing\n")
    look = duty(controller, "standup")
    until(lambda: look() == "" and controller.lab.state.direction.standups["S0001"].closed, "the standup is closed", 20)
    assert controller.lab.state.direction.standups["S0001"].reported == ["anna"]


def test_a_screen_that_its_backend_cannot_read_keeps_no_other_from_being_woken(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def box(screen: str) -> str | None:
        return None if "anna" not in screen else screen.splitlines()[9999]

    team = controller.team
    monkeypatch.setattr(base.load("shell"), "typed", True)
    monkeypatch.setattr(base.load("shell"), "box", box)
    for name in team.seats:
        team.mail.send("person", name, "Go on.")
    until(lambda: "anna cannot be woken: " in duty(controller, "wake")(), "anna's screen is looked at", 20)
    until(lambda: duty(controller, "wake")() and team.attendance["bert"].waking.why == "its input box cannot be seen", "bert's too", 20)
