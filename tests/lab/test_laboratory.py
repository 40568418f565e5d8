"""The laboratory over a real repository and ledger: what it refuses, what it repeats, and what another environment changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.experiment import Policy, decide
from lab.fence import ABI
from lab.ledger import Ledger
from lab.queue import HALT_SECONDS, halted
from lab.records import Run, View, fold
from lab.runs import Runs
from lab.runspec import RunSpec
from lab.slots import Slot
from tests.conftest import until
from tests.lab.conftest import Bench
from tests.lab.test_experiment import BANK, SMALL, TASK, Story


@pytest.mark.slow
def test_a_candidates_run_is_limited_and_flagged_by_its_parents_bank(bench: Callable[..., Bench]) -> None:
    one = bench()
    trunk = one.repo.trunk()
    ledger = Ledger(one.home.ledger, create=True)
    ledger.append("session", {"protected": one.hashes})
    ledger.append("trunk", {"commit": trunk, "parent": "", "experiment": "", "why": ""}, trunk)
    keys = ("hypothesis", "mechanism", "family", "direction", "held_constant", "agent")
    ledger.append("proposal", {**dict.fromkeys(keys, ""), "min_effect": 0.0, "params": {}, "base": trunk}, "E0001")
    attempt = {"number": 1, "parent": trunk, "commit": trunk, "diff": "", "changed": [], "ignored": []}
    ledger.append("attempt", attempt, "E0001")
    runs = Runs(one.home, one.task, [Slot(0, "cpu", None, "")], View(ledger))

    def run(purpose: str, experiment: str = "") -> Run:
        body = {"experiment": experiment, "attempt": 1 if experiment else 0, "purpose": purpose, "commit": trunk, "agent": "r1",
                "seed": len(runs.state.runs), "splits": ["search", "audit"], "home_slot": None,
                "budget": one.task.scale.budget.model_dump()}  # fmt: skip
        name = ledger.append_new("run", "R", body).subject
        runs.view.refresh()
        runs.start(0.0)
        until(lambda: [runs.reap(), runs.state.runs[name].over][1], f"{name} ends")
        return runs.state.runs[name]

    early = run("confirm", "E0001")
    assert RunSpec.read(one.home.runs / early.id).limits is None and early.flags == [], "there is no bank yet"
    bank = [run("bank") for _ in range(3)]
    assert {found.status for found in bank} == {"ok"} and all(found.unsealed == "" for found in bank if ABI)
    assert RunSpec.read(one.home.runs / bank[-1].id).limits is None
    for found in bank:  # as if the bank had been far better on search than on audit
        found.metric["search"] -= 0.5
    late = run("confirm", "E0001")
    limits = RunSpec.read(one.home.runs / late.id).limits
    assert limits is not None and limits["checkpoint_bytes"] == max(found.account["checkpoint_bytes"] for found in bank)
    assert (late.status, len(late.flags)) == ("ok", 1) and late.flags[0].startswith("search minus audit")


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
    steps = decide(story.state, TASK, Policy(**SMALL))
    assert [(step.purpose, step.attempt) for step in steps] == [("confirm", 2)] * 2
