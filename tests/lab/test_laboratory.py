"""The laboratory over a real repository and ledger: what it refuses, what it repeats, and what another environment changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import laboratory
from lab.errors import UserError
from lab.experiment import decide
from lab.fence import ABI
from lab.laboratory import Laboratory
from lab.ledger import Ledger
from lab.queue import HALT_SECONDS, halted
from lab.records import Run
from lab.runs import Runs
from lab.runspec import RunSpec, read_manifest
from lab.slots import Slot
from lab.state import View, fold
from lab.steps import Policy
from tests.conftest import until
from tests.lab.conftest import Bench
from tests.lab.story import BANK, SMALL, TASK, Story


def begun(one: Bench) -> Ledger:
    """The ledger of a session that has its first trunk and nothing else."""
    ledger, trunk = Ledger(one.home.ledger, create=True), one.repo.trunk()
    ledger.append("session", {"protected": one.hashes})
    ledger.append("trunk", {"commit": trunk, "parent": "", "experiment": "", "why": ""}, trunk)
    return ledger


def test_the_workflow_is_asked_again_only_once_something_has_happened(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    one, asked = bench(), []
    ledger = begun(one)
    lab = Laboratory(one.home, one.task, Policy(bank=3), one.repo, [])
    monkeypatch.setattr(laboratory, "decide", lambda *given: (asked.append(1), decide(*given))[1])
    lab.step()
    assert [run.purpose for run in lab.state.runs.values()] == ["bank"] * 3 and len(asked) == 2
    lab.step()
    assert len(asked) == 2, "the facts are the same"
    ledger.append("agent", {"what": "noted"}, "r1")
    lab.step()
    assert len(asked) == 3
    lab.policy = Policy(bank=4)
    lab.step()
    assert len(lab.state.runs) == 4 and len(asked) == 5, "other rules, other steps"


@pytest.mark.slow
def test_a_candidates_run_is_limited_and_flagged_by_its_parents_bank(bench: Callable[..., Bench]) -> None:
    one = bench()
    trunk, ledger = one.repo.trunk(), begun(one)
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


@pytest.fixture
def runs(bench: Callable[..., Bench]) -> Runs:
    """A session with one slot and one baseline run queued."""
    one = bench()
    trunk, ledger = one.repo.trunk(), begun(one)
    body = {"experiment": "", "attempt": 0, "purpose": "bank", "commit": trunk, "agent": "lab", "seed": 1000, "home_slot": None,
            "splits": ["search", "audit"], "budget": one.task.scale.budget.model_dump()}  # fmt: skip
    ledger.append_new("run", "R", body)
    made = Runs(one.home, one.task, [Slot(0, "cpu", None, "")], View(ledger))
    made.view.refresh()
    return made


@pytest.mark.parametrize("which", ["manifest", "protected", "pipe"])
def test_no_run_is_started_while_a_pinned_file_is_another_and_nothing_is_judged(runs: Runs, which: str) -> None:
    manifest, score = runs.home.data / "manifest.json", runs.home.protected / "toy" / "score.py"
    runs.view.ledger.append("session", {"manifest": read_manifest(runs.home.data)[1]})
    runs.view.refresh()
    path, said = (manifest, "no run is started") if which == "manifest" else (score, "protected file .*score.py is no")
    honest = path.read_bytes()
    path.unlink()
    if which == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(honest + b"\n")
    for _ in range(2):
        with pytest.raises(UserError, match=said):
            runs.start(0.0)
    assert runs.state.runs["R0001"].status == "queued" and not runs.view.ledger.facts("result")
    path.unlink()
    path.write_bytes(honest)
    runs.start(0.0)
    assert runs.state.runs["R0001"].status == "running"
    runs.stop_all()


FORGED = {"run": "R0001", "status": "ok", "metric": {"search": 0.001, "audit": 0.001}, "account": {}, "hashes": {}}


def test_who_kills_a_runner_and_leaves_a_result_in_its_place_is_not_believed(runs: Runs) -> None:
    runs.start(0.0)
    run = runs.state.runs["R0001"]
    os.kill(run.pid, signal.SIGSTOP)
    (runs.home.runs / "R0001" / "result.json").write_text(json.dumps(FORGED))
    os.kill(run.pid, signal.SIGKILL)
    until(lambda: [runs.reap(), run.over][1], "the run is over")
    assert (run.status, run.metric) == ("lost", {}) and run.reason == "its runner was killed by signal 9 before it had written a result"


@pytest.mark.slow
def test_a_baseline_that_somebody_ends_is_run_again_on_its_seed_with_an_alarm(bench: Callable[..., Bench]) -> None:
    one = bench()
    begun(one)
    lab = Laboratory(one.home, one.task, Policy(bank=2), one.repo, [Slot(0, "cpu", None, "")])
    lab.refresh()
    lab.step()
    asked = [run.seed for run in lab.state.runs.values()]
    run = lab.state.runs["R0001"]
    until(lambda: [lab.step(), lab.runs.start(0.0), run.status == "running"][2], "a baseline runs")
    until(lambda: (one.home.runs / run.id / "stdout.log").exists(), "its runner is past its start")
    os.kill(run.pid, signal.SIGTERM)
    until(lambda: [lab.step(), lab.runs.start(0.0), not lab.state.open][2], "every run is over")
    found = [(run.seed, run.status) for run in lab.state.runs.values()]
    assert found == [(asked[0], "lost"), (asked[1], "ok"), (asked[0], "ok")]
    who = f"R0001 (bank of {run.commit[:8]}) was ended by somebody else"
    assert lab.state.alarms == [f"{who}: what stands in for it runs on its seed, {run.seed}, so nothing is gained"]


@pytest.mark.slow
def test_a_program_that_takes_a_runners_name_is_ended_and_the_run_begins_on_its_seed(runs: Runs, tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", runs.home.runs / "R0001"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    (folder / "spec.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps(FORGED))
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "lab.runner", str(folder)])
    try:
        runs.start(0.0)
        run = runs.state.runs["R0001"]
        assert run.pid != sleeper.pid and sleeper.wait(10) < 0 and not folder.is_symlink()
        until(lambda: [runs.reap(), run.over][1], "the run is over")
    finally:
        sleeper.kill()
    assert run.status == "ok" and run.metric["audit"] > 0.01 and RunSpec.read(folder).seed == 1000
    assert sorted(path.name for path in elsewhere.iterdir()) == ["result.json", "spec.json"], "nothing was written through the link"


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


def test_a_result_in_anothers_name_ends_no_run_and_keeps_none_from_ending(tmp_path: Path) -> None:
    story = Story(tmp_path)
    run = story.run("bank", "t0", attempt=0, status="queued")
    story.ledger.append("result", {"status": "ok"}, run, "r1")
    assert not story.state.runs[run].over
    ended = {"status": "ok", "reason": "", "metric": {"search": 2.0}, "account": {}, "hashes": {}, "log_tail": ""}
    assert story.ledger.append_once("result", ended, run) is not None and story.ledger.append_once("result", ended, run) is None
    assert story.state.runs[run].metric == {"search": 2.0}


def test_what_is_withdrawn_is_not_told_to_be_put_on_trunk_by_hand(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.bank()
    name = story.idea()
    story.idea(commit="c2", parent="t0", attempt=2, name=name)
    lost = {"attempt": 2, "trunk": "t0", "branch": "org/trunk", "files": ["toy/model.py"], "why": "conflicts with trunk in toy/model.py"}
    story.ledger.append("unmerged", lost, name)
    assert story.state.experiments[name].status == "unmerged"
    story.ledger.append("withdrawn", {"why": "no longer mine"}, name, "r1")
    assert story.state.experiments[name].status == "withdrawn"


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
