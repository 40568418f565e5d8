"""Waking in a real tmux pane whose program has bad manners: mail gets through, and nothing is ever approved by accident."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import orgctl
from lab.client import propose
from lab.errors import UserError
from lab.home import Home
from lab.process import starved
from lab.requests import ask
from org import design as designs
from org import nudge, swap, wake
from org.agents.event import read_events, write_event
from org.controller import Controller
from org.cost import Budget
from org.session import Wish, found
from org.status import AgentStatus, snapshot
from org.team import Team
from tests.conftest import TOY, until
from tests.org.agents.fake_backend import BACKEND, offer
from tests.org.agents.fake_cli import received


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Team]]:
    """Seats one fake agent with a persona; found by its entry point, as another package's backend is."""
    monkeypatch.syspath_prepend(str(offer(tmp_path / "site")))
    monkeypatch.setenv("HOME", str(tmp_path))
    seated: list[Team] = []

    def seat(persona: str = "plain", liar: bool = False) -> Team:
        wish = Wish(design="solo", task=str(TOY), name=f"t{uuid.uuid4().hex[:10]}", slots=1, backend="shell")
        home = found(tmp_path / "research", wish)
        monkeypatch.setattr(BACKEND, "persona", persona)
        monkeypatch.setattr(BACKEND, "liar", liar)
        controller = Controller(home)
        controller.session, _ = swap.apply(home, designs.read(home), swap.Swap(backends={"r1": "fake"}), controller.lab.ledger, "person")
        controller.lab.refresh()
        team = controller.team
        team.take(controller.session.design)
        seated.append(team)
        team.found_worktrees()
        team.seat_everybody()
        return team

    yield seat
    for team in seated:
        team.grid.kill()


def log(home: Home) -> Path:
    return home.agents / "r1" / "log"


def attend(team: Team, done: Callable[[], object], seconds: float) -> bool:
    """Let the team wake twice a second, faster than the controller does, until `done` or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        team.wake()
        if done():
            return True
        time.sleep(0.1)
    return False


def facts(team: Team, what: str) -> list[dict[str, object]]:
    return [fact.body for fact in team.lab.ledger.facts() if fact.kind == "agent" and fact.body["what"] == what]


@pytest.mark.parametrize("persona", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("swallow", "slow"))])
@pytest.mark.slow
def test_mail_wakes_an_idle_agent_in_seconds(fake: Callable[..., Team], persona: str) -> None:
    team = fake(persona)
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    team.mail.send("chief", "r1", "Try something else.")
    assert attend(team, lambda: received(log(team.home)), 8), team.grid.capture("r1")
    team.mail.take("r1")
    assert received(log(team.home)) == [wake.LINE] and bool(received(log(team.home), "lost")) == (persona == "slow")
    assert attend(team, lambda: team.status("r1", (team.grid.observe() or {})["r1"]).state == "idle", 5)
    team.mail.send("chief", "r1", "And again.")
    assert attend(team, lambda: len(received(log(team.home))) == 2, 8)


@pytest.mark.slow
@pytest.mark.parametrize("liar", [False, True])
def test_two_hundred_deliveries_into_an_open_permission_dialog_approve_nothing(fake: Callable[..., Team], liar: bool) -> None:
    team = fake("gate", liar)
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    team.mail.send("chief", "r1", "Go on.")
    record = team.attendance["r1"]
    for _ in range(200):
        record.waking = wake.IDLE  # no pause after a failure
        team.wake()
    assert "needs your permission" in team.grid.capture("r1")
    assert not received(log(team.home), "approved") and not received(log(team.home), "denied") and not received(log(team.home), "lost")
    assert team.mail.waiting("r1") == 1, "it is still unread"


@pytest.mark.slow
def test_what_a_person_left_in_the_box_is_neither_sent_nor_glued_to(fake: Callable[..., Team]) -> None:
    team = fake("draft")
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    team.mail.send("chief", "r1", "Go on.")
    assert not attend(team, lambda: received(log(team.home)) or received(log(team.home), "typed"), 3)
    assert team.attendance["r1"].waking.why == "there is text in its input box"
    team.label(team.grid.observe() or {})
    assert team.labels["r1"].endswith("mail waits: there is text in its input box")


@pytest.mark.slow
def test_an_agent_that_never_takes_the_line_is_reported_as_not_woken(fake: Callable[..., Team]) -> None:
    team = fake("deaf")
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    team.mail.send("chief", "r1", "Go on.")
    assert attend(team, lambda: facts(team, "undelivered"), 20)
    assert facts(team, "undelivered") == [{"what": "undelivered", "unread": 1, "why": "Enter was pressed and the agent did not take it"}]
    assert len(received(log(team.home), "swallowed")) == 2, "one Enter and one more, never a third"
    team.label(team.grid.observe() or {})
    assert "mail waits" in team.labels["r1"]
    told = CliRunner().invoke(orgctl.app, ["logs", "r1"], env={"ORGCTL_HOME": str(team.home.root)}).output
    assert "r1 has 1 unread message and could not be woken: Enter was pressed" in told


@pytest.mark.slow
def test_nobody_is_woken_who_was_taken_over_or_is_at_work_or_rate_limited(fake: Callable[..., Team]) -> None:
    team = fake("limited")
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    team.lab.ledger.append("intervention", {"what": "taken_over"}, "r1", "person")
    team.lab.refresh()
    team.mail.send("chief", "r1", "Go on.")
    assert not attend(team, lambda: received(log(team.home), "typed"), 2)
    team.lab.ledger.append("intervention", {"what": "released"}, "r1", "person")
    team.lab.refresh()
    assert attend(team, lambda: received(log(team.home)), 8), "queued mail flows after the release"
    status = team.status("r1", (team.grid.observe() or {})["r1"])
    assert status.state == "rate_limited" and status.until and status.until > time.time() + 3000
    team.label(team.grid.observe() or {})
    assert f"rate limited until {time.strftime('%H:%M', time.localtime(status.until))}" in team.labels["r1"]
    assert not attend(team, lambda: len(received(log(team.home))) > 1, 2)
    assert json.loads((team.home.agents / "r1" / "state").read_text())["status"] == "idle"


@pytest.mark.slow
def test_one_whose_provider_turns_it_away_while_it_works_is_shown_so_and_until_when(fake: Callable[..., Team]) -> None:
    team = fake("retries")
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    team.mail.send("chief", "r1", "Go on.")
    assert attend(team, lambda: received(log(team.home)), 8)

    def shown() -> str:
        team.label(team.grid.observe() or {})
        return team.labels["r1"]

    until(lambda: "rate limited until" in shown(), "the border", 5)
    assert shown().endswith("tries again after: 529 overloaded (attempt 2 of 10)")
    (row,) = [row for row in snapshot(team.home, team.grid)["agents"] if row["agent"] == "r1"]
    assert row["state"] == "rate_limited" and abs(row["until"] - time.time() - 9) < 3


@pytest.mark.slow
def test_a_spent_budget_outlives_a_restart_and_an_end_that_failed_is_tried_again(fake: Callable[..., Team]) -> None:
    team, budget = fake(), Budget(tokens=1000)
    team.spending.hold("r1", 1.02, budget, "your")
    told = team.attendance["r1"].budget_told
    team.restart("r1", "by request")
    assert told is not None and team.attendance["r1"].budget_told == told, "no new grace"
    team.grid.kill()
    with pytest.raises(UserError):
        team.spending.hold("r1", 1.2, budget, "your")
    assert not team.attendance["r1"].given_up
    team.seat_everybody()
    team.spending.hold("r1", 1.2, budget, "your")
    assert team.attendance["r1"].given_up and len(facts(team, "budget_spent")) == 1


def test_a_spent_budget_outlives_the_controller(fake: Callable[..., Team]) -> None:
    team, budget = fake(), Budget(tokens=1000)
    team.spending.hold("r1", 1.02, budget, "your")
    anew = Controller(team.home).team
    told = anew.attendance["r1"].budget_told
    assert told == pytest.approx(team.attendance["r1"].budget_told, abs=1.0)
    anew.spending.hold("r1", 1.02, budget, "your")
    assert len(facts(anew, "budget_told")) == 1 and not anew.attendance["r1"].given_up, "it is not told twice"
    anew.spending.hold("r1", 1.2, budget, "your")
    last = Controller(team.home).team
    last.lab.refresh()
    last.seat_everybody()
    last.attend()
    assert (last.grid.observe() or {})["r1"].dead, "nobody starts it again"
    assert last.labels["r1"].endswith(" · paused · its budget of 1,000 tokens is spent")
    last.restart("r1", "by request")
    last.spending.hold("r1", 1.02, budget, "your")
    assert not last.attendance["r1"].given_up, "a person may; its grace is what was left of it"
    last.spending.hold("r1", 0.5, budget, "your")
    assert last.attendance["r1"].budget_told is None, "it was raised"


def test_what_a_living_agent_was_told_is_kept_and_one_swapped_without_a_controller_is_started_anew_by_the_next(
    fake: Callable[..., Team], tmp_path: Path
) -> None:
    team = fake()
    seat, pid = team.seats["r1"], (team.grid.observe() or {})["r1"].pid
    seat.prompt.write_text("as an older orgctl composed it")
    team.seat_everybody()
    assert seat.prompt.read_text() == "as an older orgctl composed it"
    mine = tmp_path / "mine.md"
    mine.write_text("# Mine\n")
    swap.apply(team.home, designs.read(team.home), swap.Swap(roles={"r1": str(mine)}), team.lab.ledger, "person")
    for _ in range(2):
        anew = Controller(team.home).team
        anew.lab.refresh()
        anew.seat_everybody()
        anew.start_swapped()
    assert [fact.get("why") for fact in facts(team, "restarted")] == ["swapped"]
    assert seat.prompt.read_text().startswith("# Mine") and (team.grid.observe() or {})["r1"].pid != pid


@pytest.mark.slow
def test_one_that_crashes_at_its_start_is_given_up_with_its_last_words(fake: Callable[..., Team]) -> None:
    team = fake("crash")
    patience = team.design.process.restart.model_copy(update={"first_seconds": 0.1, "longest_seconds": 0.2, "attempts": 2})
    team.design = team.design.model_copy(update={"process": team.design.process.model_copy(update={"restart": patience})})

    def given_up() -> bool:
        team.attend()
        return bool(facts(team, "gave_up"))

    until(given_up, "it is given up", 20)
    (fact,) = facts(team, "gave_up")
    assert (fact["restarts"], fact["exit"]) == (2, 3)
    assert "fatal: no credentials found" in str(fact["screen"]) and "Pane is dead" not in str(fact["screen"])
    team.attend()
    assert (team.grid.observe() or {})["r1"].dead and team.labels["r1"].endswith("failed · exited with status 3")


@pytest.mark.slow
def test_an_idle_agent_is_woken_once_to_hear_that_its_budget_is_spent_and_by_nothing_afterwards(fake: Callable[..., Team]) -> None:
    team = fake()
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    team.spending.hold("r1", 1.02, Budget(tokens=1000), "your")
    write_event(team.home, "r1", "working", person=True, hook="UserPromptSubmit")
    write_event(team.home, "r1", "idle", hook="Stop")  # a person's turn while the pane was taken over: nothing is handed over then
    assert attend(team, lambda: received(log(team.home)), 8), team.grid.capture("r1")
    assert "is spent" in team.mail.take("r1")[0].body  # as its hook does
    write_event(team.home, "r1", "working", person=False, hook="UserPromptSubmit")
    write_event(team.home, "r1", "idle", hook="Stop")
    team.mail.send("chief", "r1", "Try something else.")
    assert not attend(team, lambda: len(received(log(team.home))) > 1, 1.5)
    anew = Controller(team.home).team
    assert not attend(anew, lambda: len(received(log(team.home))) > 1, 1), "nor by another controller"
    assert received(log(team.home)) == [wake.LINE]
    anew.attendance["r1"].words = nudge.MOST
    anew.spending.hold("r1", 0.5, Budget(tokens=1000), "your")
    assert attend(anew, lambda: len(received(log(team.home))) > 1, 8), "it was raised: mail wakes it again"
    assert anew.attendance["r1"].words < nudge.MOST
    assert "is 1,000 tokens now, of which 50% is spent" in anew.mail.take("r1")[-1].body


def interventions(team: Team) -> list[tuple[str, float]]:
    return [(fact.body["what"], fact.body["at"]) for fact in team.lab.ledger.facts("intervention", "r1")]


@pytest.mark.slow
def test_who_writes_into_the_worktree_of_one_that_does_nothing_is_found(fake: Callable[..., Team]) -> None:
    team = fake()
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    model = team.seats["r1"].worktree / "toy" / "model.py"

    def found() -> bool:
        team.label(team.grid.observe() or {})
        model.write_text(model.read_text() + "# r2 was here\n")
        return bool(facts(team, "touched"))

    until(found, "it is a fact", 20)
    assert facts(team, "touched") == [{"what": "touched", "paths": ["toy/model.py"], "at_work": []}]


@pytest.mark.slow
def test_one_that_was_killed_when_memory_ran_out_is_told_apart(
    fake: Callable[..., Team], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    team = fake()
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    counters = tmp_path / "vmstat"
    counters.write_text(f"pgfault 9\noom_kill {starved() + 1}\n")
    monkeypatch.setattr("org.team.starved", lambda: starved(counters))
    os.kill((team.grid.observe() or {})["r1"].pid, signal.SIGKILL)

    def back() -> bool:
        team.attend()
        return bool(facts(team, "restarted"))

    until(back, "it is started again", 20)
    (fact,) = facts(team, "restarted")
    assert fact["memory"] is True or fact["signal"] is None, "tmux before 3.3 names no signal"
    team.restart("r1", "by request")
    assert "memory" not in facts(team, "restarted")[-1]


def test_a_turn_that_a_person_typed_is_found_once_however_short_and_by_whichever_controller(fake: Callable[..., Team]) -> None:
    team = fake()
    for _ in range(2):
        write_event(team.home, "r1", "working", person=True, hook="UserPromptSubmit")
        write_event(team.home, "r1", "idle", hook="Stop")
    write_event(team.home, "r1", "working", person=False, hook="UserPromptSubmit")
    write_event(team.home, "r1", "idle", hook="Stop")
    said = read_events(team.home, "r1", 20)
    wanted = [("typed", said[0]["time"]), ("typed_end", said[1]["time"]), ("typed", said[2]["time"]), ("typed_end", said[3]["time"])]
    team.words.note_typed()
    team.words.note_typed()
    assert interventions(team) == wanted
    write_event(team.home, "r1", "working", person=True, hook="UserPromptSubmit")
    anew = Controller(team.home).team
    anew.lab.refresh()
    anew.words.note_typed()
    again = Controller(team.home).team  # in the middle of a turn
    again.lab.refresh()
    again.words.note_typed()
    assert again.lab.state.typed_in == {"r1"}
    write_event(team.home, "r1", "idle", hook="Stop")
    again.words.note_typed()
    assert [what for what, _ in interventions(team)] == ["typed", "typed_end"] * 3 and not again.lab.state.typed_in


@pytest.mark.slow
def test_a_run_that_was_asked_for_in_a_typed_turn_is_assisted_though_the_turn_is_over(fake: Callable[..., Team]) -> None:
    team = fake()
    controller = Controller(team.home)
    model = team.seats["r1"].worktree / "toy" / "model.py"
    ideas = [("LR = 0.02", "steps are too small", True), ("WIDTH = 4", "more units follow the curve", False)]
    for number, (knob, why, person) in enumerate(ideas, start=1):
        name = propose(team.home, "r1", f"{knob}1 fits better", why)
        model.write_text(model.read_text().replace(knob, f"{knob}1"))
        write_event(team.home, "r1", "working", person=person, hook="UserPromptSubmit")
        ask(team.home, "run", "r1", {"experiment": name})
        write_event(team.home, "r1", "idle", hook="Stop")
        controller._requests()
        assert [run.assisted for run in controller.lab.state.experiments[f"E000{number}"].runs] == [person]


@pytest.mark.slow
def test_what_was_asked_for_in_a_typed_turn_is_assisted_also_if_the_agent_was_started_anew_before_it_was_taken(
    fake: Callable[..., Team],
) -> None:
    team = fake()
    model = team.seats["r1"].worktree / "toy" / "model.py"
    name = propose(team.home, "r1", "faster steps fit better", "steps are too small")
    model.write_text(model.read_text().replace("LR = 0.02", "LR = 0.021"))
    write_event(team.home, "r1", "working", person=True, hook="UserPromptSubmit")
    ask(team.home, "run", "r1", {"experiment": name})
    team.grid.kill()  # and nobody looked meanwhile
    anew = Controller(team.home)
    anew.lab.refresh()
    anew.team.seat_everybody()
    anew._requests()
    assert [run.assisted for run in anew.lab.state.experiments[name].runs] == [True]
    anew.team.words.note_typed()
    assert not anew.lab.state.typed_in and [what for what, _ in interventions(team)] == ["typed", "typed_end"]


def test_a_typed_turn_ends_also_where_no_event_says_so(fake: Callable[..., Team]) -> None:
    team = fake()
    assert attend(team, lambda: received(log(team.home), "ready"), 10)
    for end in ("interrupt", "process"):
        write_event(team.home, "r1", "working", person=True, hook="UserPromptSubmit")
        team.words.note_typed()
        assert team.lab.state.typed_in == {"r1"}
        if end == "interrupt":
            team.words.end_typed("r1", AgentStatus("r1", "working", time.time(), "", None))
            team.words.end_typed("r1", AgentStatus("r1", "idle", time.time() - 60, "", None))
            assert team.lab.state.typed_in, "that was before"
            team.words.end_typed("r1", AgentStatus("r1", "waiting", time.time(), "", None))
            assert team.lab.state.typed_in, "its run began just now, its turn too: the CLI's record may be older than both"
            team.words.end_typed("r1", AgentStatus("r1", "idle", time.time(), "", None))
        else:
            team.restart("r1", "by request")
        assert not team.lab.state.typed_in, "or all its later runs would count as assisted"
        team.words.note_typed()
    assert [what for what, _ in interventions(team)] == ["typed", "typed_end"] * 2
