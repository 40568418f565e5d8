"""The laboratory over a real repository and ledger: what it refuses, what it repeats, and what another environment changes."""

from __future__ import annotations

from pathlib import Path

from lab.experiment import Policy, decide
from lab.ledger import Ledger
from lab.queue import HALT_SECONDS, halted
from lab.records import View, fold
from tests.lab.test_experiment import BANK, TASK, Story


def test_a_bank_measured_in_another_environment_does_not_count(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.bank()
    assert story.next() == []
    name = story.run("bank", "t0", attempt=0, status="queued")
    story.ledger.append("start", {"slot": 0, "pid": 1, "started": 0.0, "device": "cpu"}, name)
    newer = {"torch": "99.0"}
    body = {"status": "ok", "reason": "", "metric": {"search": 2.3, "audit": 2.3}, "account": {}, "hashes": newer, "log_tail": ""}
    story.ledger.append("result", body, name)
    steps = story.next()
    assert [(step.purpose, step.commit) for step in steps] == [("bank", "t0")] * (len(BANK) - 1), "three more under the new torch"


def test_the_machine_gets_a_minute_when_three_runs_in_a_row_were_lost(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.run("bank", "t0", attempt=0, search=2.4, audit=2.4)
    for _ in range(3):
        story.run("bank", "t0", attempt=0, status="lost")
    state = story.state
    last = max(run.ended or 0 for run in state.runs.values())
    assert halted(state, last + 1)
    assert not halted(state, last + HALT_SECONDS + 1)
    story.run("bank", "t0", attempt=0, search=2.4, audit=2.4)
    assert not halted(story.state, last + 1)


def test_lost_baseline_runs_are_asked_for_again_without_an_alarm(tmp_path: Path) -> None:
    story = Story(tmp_path)
    for _ in range(5):
        story.run("bank", "t0", attempt=0, status="lost")
    assert [step.purpose for step in story.next()] == ["bank"] * 4


def test_a_fact_of_a_stranger_is_passed_over_with_an_alarm_and_stops_no_reader(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", create=True)
    view = View(ledger)
    ledger.append("proposal", {"agent": "r1"}, "E0001", "r1")
    ledger.append("trunk", {"commit": "t0", "parent": "", "experiment": "", "why": ""}, "t0")
    assert len(view.refresh()) == 2
    assert view.state.trunk == "t0" and "fact 1" in view.state.alarms[0]
    assert view.refresh() == []


def test_a_promotion_is_one_fact(tmp_path: Path) -> None:
    story = Story(tmp_path)
    name = story.idea()
    story.trunk("c1", "t0", name)
    state = fold(story.ledger.facts())
    assert state.trunk == "c1" and state.experiments[name].promoted == "c1" and state.promotions() == [state.experiments[name]]


def test_an_idea_on_its_way_to_a_new_trunk_is_confirmed_and_not_nominated_again(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.bank()
    name = story.idea()
    story.idea(commit="c2", parent="t0", attempt=2, name=name)
    steps = decide(story.state, TASK, Policy())
    assert {step.purpose for step in steps} == {"bank", "confirm"} and {step.attempt for step in steps if step.purpose == "confirm"} == {2}
