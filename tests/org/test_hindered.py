"""What lies in the way of one agent, in its folder, its inbox or its role, stops nothing that is done for the others."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import orgctl
from lab.errors import UserError
from lab.files import write_json
from lab.home import Home
from lab.ledger import Ledger
from lab.requests import ask, wait_answer
from org import cost, swap
from org import design as designs
from org.agents import base
from org.agents.base import Cost
from org.controller import Controller
from org.session import Wish, found
from org.team import Team
from tests.conftest import TOY, until

pytestmark = pytest.mark.slow  # whole controllers, or commands as processes

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


def own_role(controller: Controller, folder: Path) -> tuple[Path, str]:
    """Anna follows a role of her own: where it is pinned, and its text. One that was changed there is not followed."""
    mine = folder / "mine.md"
    mine.write_text("# Mine\n")
    ask(controller.home, "swap", "person", {"roles": {"anna": str(mine)}})
    controller._requests()
    (pinned,) = (controller.home.org / "agents" / "anna").rglob("researcher.md")
    return pinned, pinned.read_text()


def asked(controller: Controller, kind: str, **body: object) -> dict[str, Any]:
    """What a person who asks for this is answered."""
    request = ask(controller.home, kind, "person", body)
    controller._requests()
    return wait_answer(controller.home, request, 1) or {}


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
    assert duty(controller, "costs")() == ""
    assert [len(facts(team, "budget_told", name)) for name in ("anna", "bert")] == [1, 1], "she is held to what was counted"
    for name in ("anna", "bert"):
        events = home.agents / name / "events.jsonl"
        until(events.exists, f"{name} is there", 20)
        events.unlink()
        events.mkdir()
        used(home, name, 1200)
    write_json(home.agents / "bert" / "chat" / "cost.json", vars(Cost("m", 1200, 0, 0, 0, -1e9)))
    assert "the cost of bert cannot be read and written down: chat tells of no sum" in duty(controller, "costs")()
    used(home, "bert", 1200)
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
    assert controller.team.spending.counted["bert"].tokens == 900
    for dollars in (4.0, None):  # of a server on this machine, say the records now
        write_json(home.agents / "bert" / "chat" / "cost.json", vars(Cost("m", 950, 0, 0, 0, dollars)))
        controller.team.count()
    assert (cost.read(home, "bert") or {})["least"] == 4.0 and (cost.read(home, "bert") or {})["dollars"] is None


def test_what_was_counted_becomes_no_less_with_another_controller(controller: Controller) -> None:
    team, home = controller.team, controller.home
    used(home, "anna", 900)
    used(home, "bert", 1050)
    team.count()
    used(home, "anna", 10)
    used(home, "bert", 100)
    team.lab.ledger.append("agent", {"what": "counted", **cost.kept(Cost("m", 10**9, 0, 0, 0, None))}, "anna", "bert")
    team.lab.ledger.append("agent", {"what": "counted", **cost.kept(Cost("m", 10**9, 0, 0, 0, None)), "output_tokens": True}, "anna")
    anew = Controller(home)
    anew.team.count()
    assert [(cost.read(home, name) or {})["tokens"] for name in ("anna", "bert")] == [900, 1050]
    assert not facts(team, "budget_raised", "bert") and len(facts(team, "budget_told", "bert")) == 1
    assert not anew.team.mail.waiting("anna") and anew.team.mail.waiting("bert") == 1
    used(home, "anna", 950)
    anew.team.count()
    anew.stopping = True
    anew.run()
    assert Controller(home).team.spending.counted["anna"].tokens == 950, "an end notes what was counted since"
    log = CliRunner().invoke(orgctl.app, ["logs", "bert"], env={"ORGCTL_HOME": str(home.root)}).output
    assert "was told to finish" in log and "counted" not in log


def test_a_file_that_somebody_laid_down_counts_nothing(controller: Controller) -> None:
    team, home = controller.team, controller.home
    team.take(swap.resettled(team.design, {}, {"budget_tokens": 5000}))
    write_json(home.agents / "anna" / "cost.json", cost.kept(Cost("m", 10**9, 0, 0, 0, None)))
    used(home, "bert", 100)
    team.count()
    assert not [fact for fact in team.lab.ledger.facts("agent") if "budget" in str(fact.body["what"])] and len(alive(team)) == 2


def test_who_could_not_be_told_of_its_budget_is_told_as_soon_as_it_can_be(controller: Controller) -> None:
    team, home, costs = controller.team, controller.home, duty(controller, "costs")
    inbox = home.comms / "inbox" / "bert"

    def block() -> None:
        inbox.rename(inbox.with_name("away"))
        inbox.write_text("no folder")

    def unblock() -> None:
        inbox.unlink()
        inbox.with_name("away").rename(inbox)

    block()
    used(home, "bert", 1050)
    assert "the budget of bert: " in costs() and not facts(team, "budget_told", "bert")
    began = team.attendance["bert"].budget_told
    unblock()
    assert costs() == "" and costs() == "" and team.mail.waiting("bert") == len(facts(team, "budget_told", "bert")) == 1
    assert team.attendance["bert"].budget_told == began is not None, "its time runs from when it was spent"
    team.mail.take("bert")
    block()
    team.seats["bert"].settings["budget_tokens"] = 5000
    assert "the budget of bert: " in costs() and not facts(team, "budget_raised", "bert")
    unblock()
    assert costs() == "" and costs() == "" and team.mail.waiting("bert") == len(facts(team, "budget_raised", "bert")) == 1


def test_a_budget_in_dollars_that_cannot_be_kept_is_shown(controller: Controller) -> None:
    team, home = controller.team, controller.home
    team.seats["anna"].settings.update(budget_tokens=None, budget_dollars=0.01)
    used(home, "anna", 1200)
    assert duty(controller, "costs")() == "anna is not held to all of its budget of $0.01: the price of m is not known"
    write_json(home.agents / "anna" / "chat" / "cost.json", vars(Cost("m", 1300, 0, 0, 0, None, 0.0105)))
    assert "anna is not held to all" in duty(controller, "costs")() and len(facts(team, "budget_told", "anna")) == 1


def test_whatever_a_backend_raises_for_one_frees_and_hides_no_other(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Another(Exception):
        """Of another package."""

    def broken(_: object, seat: base.Seat, *__: object) -> None:
        if seat.agent == "anna":
            raise Another("no such record")

    team = controller.team
    used(controller.home, "bert", 1050)
    monkeypatch.setattr(type(base.load("shell")), "cost", broken)
    assert duty(controller, "costs")() == "the cost of anna cannot be read and written down: no such record"
    assert len(facts(team, "budget_told", "bert")) == 1
    monkeypatch.setattr(type(base.load("shell")), "told", broken)
    caplog.set_level("INFO")
    for _ in range(2):
        team.label(team.grid.observe() or {})
    assert "the records of shell cannot be read (Another)" in team.status("anna", (team.grid.observe() or {})["anna"]).text
    assert team.labels["bert"].startswith("bert · ") and "unknown" in team.labels["anna"] and "unknown" not in team.labels["bert"]
    assert caplog.text.count("Traceback") == 1, "once, with where that came from"


def test_who_cannot_be_started_is_given_up_with_the_reason_and_the_others_come_back(controller: Controller, tmp_path: Path) -> None:
    team, home, panes = controller.team, controller.home, duty(controller, "panes")
    role, honest = own_role(controller, tmp_path)
    role.write_text(honest + "x")
    seen = team.grid.observe() or {}
    for name in ("anna", "bert"):
        os.kill(seen[name].pid, signal.SIGKILL)
    until(lambda: panes() and facts(team, "restarted", "bert"), "bert is back", 20)
    until(lambda: panes() and facts(team, "gave_up", "anna"), "anna is given up", 20)
    (fact,) = facts(team, "gave_up", "anna")
    assert fact["restarts"] == 0 and "researcher.md is not what" in str(fact["hindered"])
    assert panes().startswith("anna cannot be started: ") and "researcher.md is not what" in panes(), "status shows it as long as it is so"
    assert " · cannot be started: " in team.labels["anna"] and alive(team) == ["bert"]
    told = CliRunner().invoke(orgctl.app, ["logs", "anna"], env={"ORGCTL_HOME": str(home.root)}).output
    assert "anna given up, it cannot be started: " in told and "5 restarts" not in told and "3 restarts" not in told
    role.write_text(honest)
    team.restart("anna", "by request")
    assert not panes() and alive(team) == ["anna", "bert"]


def test_an_organisation_begins_though_one_of_it_cannot_be_started(controller: Controller, tmp_path: Path) -> None:
    role, honest = own_role(controller, tmp_path)
    controller.grid.kill()
    role.write_text(honest + "x")
    anew = Controller(controller.home)
    anew.lab.refresh()
    anew.team.found_worktrees()
    anew.team.seat_everybody()
    assert alive(anew.team) == ["bert"] and "anna cannot be started: " in duty(anew, "panes")()
    role.write_text(honest)
    until(lambda: duty(anew, "panes")() == "" and alive(anew.team) == ["anna", "bert"], "anna sits there again", 20)


def test_who_cannot_be_started_after_a_swap_is_tried_again_and_shown(controller: Controller, tmp_path: Path) -> None:
    team, panes = controller.team, duty(controller, "panes")
    role, honest = own_role(controller, tmp_path)
    before = (team.grid.observe() or {})["anna"].pid
    role.write_text(honest + "x")
    found = asked(controller, "swap", backends={"anna": "sweep"})
    assert found["changed"] == "anna (sweep)" and found["words"][-1].startswith("anna cannot be started: ")
    patience = team.design.process.restart.model_copy(update={"attempts": 999})
    team.take(team.design.model_copy(update={"process": team.design.process.model_copy(update={"restart": patience})}))
    for _ in range(3):
        assert panes().startswith("anna cannot be started: ") and " · cannot be started: " in team.labels["anna"]
    role.write_text(honest)
    until(lambda: panes() == "" and facts(team, "restarted", "anna")[-1]["backend"] == "sweep", "anna is swapped", 20)
    assert (team.grid.observe() or {})["anna"].pid != before and not team.swapped and alive(team) == ["anna", "bert"]


def test_who_is_given_up_after_a_swap_has_no_process_of_before(controller: Controller, tmp_path: Path) -> None:
    team, panes = controller.team, duty(controller, "panes")
    role, honest = own_role(controller, tmp_path)
    role.write_text(honest + "x")
    asked(controller, "swap", backends={"anna": "sweep"})
    until(lambda: panes() and facts(team, "gave_up", "anna"), "anna is given up", 20)
    assert alive(team) == ["bert"] and panes().startswith("anna cannot be started: ")
    role.write_text(honest)
    for _ in range(3):
        panes()
    assert alive(team) == ["bert"]
    team.restart("anna", "by request")
    assert panes() == "" and alive(team) == ["anna", "bert"]


def test_who_never_had_a_pane_is_started_by_the_command_that_is_printed(controller: Controller, tmp_path: Path) -> None:
    role, honest = own_role(controller, tmp_path)
    controller.grid.kill()
    role.write_text(honest + "x")
    anew = Controller(controller.home)
    anew.lab.refresh()
    anew.team.seat_everybody()
    until(lambda: duty(anew, "panes")() and facts(anew.team, "gave_up", "anna"), "anna is given up", 20)
    with pytest.raises(UserError, match="is not what"):
        anew.team.restart("anna", "by request")
    role.write_text(honest)
    assert asked(anew, "restart", agent="anna")["ok"]
    assert alive(anew.team) == ["anna", "bert"] and duty(anew, "panes")() == ""


def test_a_swap_that_was_cut_short_is_made_good_by_the_next_controller(
    controller: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team, home, before = controller.team, controller.home, controller.session
    (tmp_path / "mine.md").write_text("# Mine\n")
    for wanted in (swap.Swap(roles={"anna": str(tmp_path / "mine.md")}), swap.Swap(settings={"bert": {"budget_tokens": 2000}})):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Ledger, "append_all", interrupted)
            swap.apply(home, designs.read(home), wanted, team.lab.ledger, "person")
    after = designs.read(home)
    for _ in range(2):
        anew = Controller(home)
        anew.stopping = True
        anew.run()
    assert [fact.body.get("swapped_from") for fact in team.lab.ledger.facts("session") if "org_hash" in fact.body] == [None, before.hash]
    assert anew.lab.state.session["org_hash"] == after.hash != before.hash
    assert [[fact.get("why") for fact in facts(team, "restarted", name)] for name in team.seats] == [["swapped"], ["swapped"]]
    assert (home.agents / "anna" / "prompt.md").read_text().startswith("# Mine")
    log = CliRunner().invoke(orgctl.app, ["logs", "bert"], env={"ORGCTL_HOME": str(home.root)}).output
    assert "bert swapped: budget_tokens 1000 gives way to 2000" in log


def test_a_count_that_cannot_be_written_at_the_end_keeps_nobody_at_work(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(controller.team.spending, "note", full)
    controller.stopping = True
    with pytest.raises(OSError, match="no space left"):
        controller.run()
    assert not controller.grid.running()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


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
