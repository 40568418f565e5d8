"""Proposing, amending, reviewing and running through the real commands: what is registered, what is refused, what is shown."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from lab import client
from lab.commands import app
from lab.errors import UserError
from lab.ledger import Ledger
from lab.orders import Orders
from lab.requests import Request
from org.events import describe
from tests.lab.conftest import IDEA, Desk

pytestmark = pytest.mark.slow  # five seconds together


def test_a_proposal_is_a_fact_with_its_time_before_anything_runs(desk: Desk) -> None:
    before = time.time()
    more = ("--family", "schedule+architecture", "--direction", "no-change", "--min-effect", "0.01", "--held-constant", "tokens")
    name = desk.propose(*IDEA, *more)["experiment"]
    (fact,) = Ledger(desk.home.ledger).facts(kind="proposal")
    assert before <= fact.time <= time.time() and (fact.subject, fact.actor) == (name, "r1")
    assert fact.body == {
        "agent": "r1", "hypothesis": IDEA[0], "mechanism": IDEA[1], "family": "schedule+architecture", "direction": "no-change",
        "min_effect": 0.01, "held_constant": "tokens", "params": {}, "base": desk.state.trunk, "again": None,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["alchemy", "schedule+alchemy", "", "Optimiser"])
def test_an_unknown_family_is_refused_with_the_list(desk: Desk, family: str) -> None:
    text = desk.refused("propose", "--hypothesis", "h", "--mechanism", "m", "--family", family)
    assert "architecture, optimiser, schedule, data, systems, initialisation, regularisation, other" in text
    assert desk.state.experiments == {}


def test_an_area_of_the_tasks_knobs_is_a_family_there(desk: Desk) -> None:
    assert desk.propose("h", "m", "--family", "optimizer")["experiment"] == "E0001"


def test_the_same_idea_is_refused_with_its_outcome_unless_a_reason_is_stated(desk: Desk, model: str) -> None:
    first = desk.propose()["experiment"]
    desk.run("r1", first, model.replace("LR = 0.02", "LR = 0.1"))
    desk.judged(first, "worse", 0.0123)
    desk.sit("r2")
    said = ("A step of 0.1 rather than 0.02 lowers val_mse by at least 0.02", "With 0.02, 200 steps are too short to arrive")
    text = desk.refused("propose", "--hypothesis", said[0], "--mechanism", said[1])
    assert "E0001 by r1 (worse, effect +0.0123; " in text and IDEA[0] in text and '--again "why"' in text and "\n" not in text
    assert list(desk.state.experiments) == [first]
    again = desk.propose(*said, "--again", "the bank has grown since")
    assert again["similar"][0] | {"likeness": 0} == {
        "experiment": first, "agent": "r1", "status": "worse", "effect": 0.0123, "likeness": 0, "by": "words", "same": True,
        "hypothesis": IDEA[0], "outcome": "worse, effect +0.0123",
    }  # fmt: skip
    assert desk.state.experiments["E0002"].again == {"why": "the bank has grown since", "near": [first]}
    assert "proposed again after E0001: the bank has grown since" in desk("show", "E0002")


def test_a_related_idea_is_shown_and_registered(desk: Desk) -> None:
    desk.propose()
    text = desk("propose", "--hypothesis", IDEA[0].replace("0.1", "0.3"), "--mechanism", IDEA[1])
    assert text.startswith("like it: E0001 by r1 (proposed; ") and "E0002 is registered" in text
    assert desk.state.experiments["E0002"].again is None


def test_a_change_run_before_needs_a_reason_whatever_its_sentence(desk: Desk, model: str) -> None:
    first = desk.propose()["experiment"]
    desk.run("r1", first, model.replace("LR = 0.02", "LR = 0.1"))
    desk.judged(first, "neutral", -0.001, 6)
    desk.sit("r2")
    other = desk.propose("Momentum should not be needed", "plain descent is steadier on a smooth curve")["experiment"]
    text = model.replace("LR = 0.02", "LR = 0.1005  # by mistake")
    with pytest.raises(UserError, match=r"E0001 by r1 \(neutral, effect -0\.0010; 100% alike by its lines\)") as caught:
        desk.run("r2", other, text)
    assert '--again "why"' in str(caught.value) and desk.state.experiments[other].attempts == []
    answer = desk.run("r2", other, text, again="a second opinion")
    assert [one["experiment"] for one in answer["similar"]] == [first]
    attempt = desk.state.experiments[other].attempt
    assert attempt is not None and attempt.again == {"why": "a second opinion", "near": [first]}
    assert "run again after E0001: a second opinion" in desk("show", other)


def test_a_reason_given_at_the_proposal_counts_for_the_run_of_the_same_idea_only(desk: Desk, model: str) -> None:
    first = desk.propose()["experiment"]
    desk.run("r1", first, model.replace("LR = 0.02", "LR = 0.1"))
    third = desk.propose("A wider network follows more bends", "four units are too few for this curve")["experiment"]
    desk.run("r1", third, model.replace("WIDTH = 4", "WIDTH = 8"))
    desk.sit("r2")
    again = desk.propose(*IDEA, "--again", "an independent repeat")["experiment"]
    with pytest.raises(UserError, match="E0002 by r1"):
        desk.run("r2", again, model.replace("WIDTH = 4", "WIDTH = 8"))
    run = desk.run("r2", again, model.replace("LR = 0.02", "LR = 0.1"))["run"]
    assert desk.state.runs[run].experiment == again


def test_another_value_of_the_same_knob_needs_no_reason(desk: Desk, model: str) -> None:
    first = desk.propose()["experiment"]
    desk.run("r1", first, model.replace("LR = 0.02", "LR = 0.1"))
    other = desk.propose(IDEA[0].replace("0.1", "0.2"), IDEA[1])["experiment"]
    answer = desk.run("r1", other, model.replace("LR = 0.02", "LR = 0.2"))
    assert answer["run"] and answer["similar"] == [], "a third of the lines in common is not worth a word"


def test_proposals_of_knobs_are_compared_by_their_values(desk: Desk) -> None:
    def turn(value: float, again: str = "") -> str:
        return client.propose(desk.home, "r1", f"LR {value} lowers val_mse", "m", params={"LR": value}, again=again)

    assert [turn(value) for value in (0.03, 0.04, 0.031)] == ["E0001", "E0002", "E0003"]
    with pytest.raises(UserError, match="E0002 by r1"):
        turn(0.0402)
    assert turn(0.0402, "trunk has moved") == "E0004"


def test_an_amendment_is_a_fact_and_every_version_is_shown(desk: Desk, model: str) -> None:
    name = desk.propose()["experiment"]
    better = "A step of 0.1 instead of 0.02 lowers val_mse by 0.05"
    assert "says anew: hypothesis, min effect" in desk("amend", name, "--hypothesis", better, "--min-effect", "0.05")
    desk("amend", name, "--held-constant", "everything else", "--json")
    (first, second) = Ledger(desk.home.ledger).facts(kind="amendment")
    assert first.body == {"hypothesis": better, "min_effect": 0.05, "again": None} and second.actor == "r1"
    item = desk.state.experiments[name]
    assert (item.hypothesis, item.mechanism, item.min_effect, item.held_constant) == (better, IDEA[1], 0.05, "everything else")
    assert [one.text["hypothesis"] for one in item.versions] == [IDEA[0], better, better]
    text = desk("show", name)
    assert f"said hypothesis: {IDEA[0]}; min effect: 0.002" in text and f"hypothesis: {better}" in text
    assert len(json.loads(desk("show", name, "--json"))["versions"]) == 3


def test_what_was_run_somebody_elses_or_unchanged_is_not_amended(desk: Desk, model: str) -> None:
    name = desk.propose()["experiment"]
    assert "nothing of E0001 would change" in desk.refused("amend", name, "--hypothesis", IDEA[0])
    assert "choose one of" in desk.refused("amend", name, "--family", "alchemy")
    desk.sit("r2")
    assert "belongs to r1" in desk.refused("amend", name, "--hypothesis", "mine")
    desk.sit("r1")
    desk.run("r1", name, model.replace("LR = 0.02", "LR = 0.1"))
    assert "was run" in desk.refused("amend", name, "--hypothesis", "it is worse, as I always said")
    Ledger(desk.home.ledger).append("amendment", {"hypothesis": "it is worse"}, name, "r1")
    assert desk.state.experiments[name].hypothesis == IDEA[0], "a fact that comes too late counts for nothing"


def test_amending_into_an_idea_that_was_there_needs_a_reason_too(desk: Desk) -> None:
    desk.propose()
    other = desk.propose("Momentum helps", "flat directions move faster")["experiment"]
    words = ("amend", other, "--hypothesis", IDEA[0], "--mechanism", IDEA[1])
    assert "E0001 by r1" in desk.refused(*words)
    desk(*words, "--again", "on purpose")
    assert desk.state.experiments[other].again == {"why": "on purpose", "near": ["E0001"]}
    desk("amend", other, "--held-constant", "tokens")
    assert desk.state.experiments[other].again == {"why": "on purpose", "near": ["E0001"]}, "once is enough"


def test_anybody_may_review_and_no_verdict_changes(desk: Desk, model: str) -> None:
    name = desk.propose()["experiment"]
    desk.run("r1", name, model.replace("LR = 0.02", "LR = 0.1"))
    desk.judged(name, "improved", -0.2, 3)
    desk.sit("r2")
    desk("review", name, "--text", "its seed reaches\x1b[31m the evaluation", "--finding", "leak")
    desk("review", name, "--text", "I take that back")
    item = desk.state.experiments[name]
    assert [(one.actor, one.finding) for one in item.reviews] == [("r2", "leak"), ("r2", "")] and item.verdict == "improved"
    text = desk("show", name)
    assert "review by r2 (leak): its seed reaches the evaluation" in text and "review by r2: I take that back" in text
    assert json.loads(desk("list", "--json"))[0]["reviews"] == ["leak", ""]
    assert json.loads(desk("list", "--status", "improved", "--json")) and json.loads(desk("list", "--status", "worse", "--json")) == []
    assert "--status better: choose one of proposed, queued" in desk.refused("list", "--status", "better")
    assert "choose one of ok, doubt, leak" in desk.refused("review", name, "--text", "x", "--finding", "fine")
    assert "say what you found" in desk.refused("review", name, "--text", " ")
    assert "no experiment 'E0099'" in desk.refused("review", "E0099", "--text", "x")


def late(name: str) -> str:
    """What `exp wait` says when its time was too short; the exit code is the same for people and programs."""
    done, told = (CliRunner().invoke(app, ["exp", "wait", name, "--seconds", "0", *more]) for more in ((), ("--json",)))
    assert (done.exit_code, told.exit_code, json.loads(told.stdout)["over"]) == (1, 1, False)
    return done.stdout


def test_diff_and_wait_tell_programs_all_they_need(desk: Desk, model: str) -> None:
    name = desk.propose()["experiment"]
    assert "not run yet" in desk.refused("diff", name, "--json")
    desk.run("r1", name, model.replace("LR = 0.02", "LR = 0.1"))
    found = json.loads(desk("diff", name, "--json"))
    assert (found["experiment"], found["number"], found["changed"]) == (name, 1, ["toy/model.py"]) and "+LR = 0.1" in found["diff"]
    done = CliRunner().invoke(app, ["exp", "wait", name, "--seconds", "0", "--json"])
    early = json.loads(done.stdout)
    assert (done.exit_code, early["over"], early["status"], early["verdict"]) == (1, False, "queued", None)
    assert [(one["purpose"], one["status"]) for one in early["runs"]] == [("nominate", "queued")]
    assert "still has runs going on" in late(name)
    ledger = Ledger(desk.home.ledger)
    run = desk.state.experiments[name].runs[0].id
    ledger.append("start", {"slot": 0, "pid": 1, "started": 0.0, "device": "cpu"}, run)
    result = {"status": "ok", "reason": "", "metric": {"search": 0.5}, "account": {}, "hashes": {}, "log_tail": ""}
    ledger.append("result", result, run)
    assert "still waits for the laboratory" in late(name), "its bank is not full: nothing is believed yet"
    ledger.append("nomination", {"attempt": 1, "nominated": True}, name)
    assert json.loads(desk("wait", name, "--seconds", "0", "--json"))["status"] == "nominated"
    ledger.append("confirm", {"attempt": 1}, name, "chief")
    assert "still waits for the laboratory" in late(name), "its runs are not queued yet"
    desk.judged(name, "worse", 0.1)
    over = json.loads(desk("wait", name, "--json"))
    assert (over["over"], over["verdict"], over["effect"]) == (True, "worse", 0.1)
    assert over["next"] == 'another idea; the same once more needs a reason: orgctl exp propose ... --again "WHY"'
    assert over["runs"][0]["metric"] == {"search": 0.5}


def test_who_stands_on_an_older_trunk_is_told_before_editing_and_when_it_runs(desk: Desk, model: str) -> None:
    words = ("propose", "--hypothesis", "a wider one bends more", "--mechanism", "units")
    assert "older trunk" not in desk(*words)
    old, repo = desk.state.trunk, desk.lab.repo
    other = desk.home.worktrees / "r2"
    (other / "toy" / "model.py").write_text(model.replace("LR = 0.02", "LR = 0.1"))
    made = repo.snapshot(other, "r2", repo.kept("exp/E0009/1"), old, desk.lab.task.editable, desk.lab.task.protected, "new")
    Ledger(desk.home.ledger).append("trunk", {"commit": made.commit, "parent": old, "experiment": "", "why": ""}, made.commit)
    desk.lab.refresh()
    desk.lab.mirror_trunk()
    said = desk("propose", "--hypothesis", "batches of four take more steps", "--mechanism", "steps count")
    assert f"Your worktree is based on {old[:8]}, an older trunk: first `git reset --hard org/trunk`" in said
    (desk.home.worktrees / "r1" / "toy" / "model.py").write_text(model.replace("BATCH = 16", "BATCH = 4"))
    with pytest.raises(UserError, match=f"based on {old[:8]}, an older trunk whose bank .*: `git reset --hard org/trunk`"):
        Orders(desk.lab).take(Request("1", "run", "r1", {"experiment": "E0002"}))
    assert desk.state.experiments["E0002"].status == "proposed", "nothing is lost"
    desk.bank(old)
    assert f"It is compared with {old[:8]}, an older trunk" in desk.asks("run", "E0002")


def test_what_may_not_be_run_is_refused_in_a_line_and_the_refusal_is_on_record_once(desk: Desk, model: str) -> None:
    name = desk.propose()["experiment"]
    mine, other, repo = desk.home.worktrees / "r1", desk.home.worktrees / "r2", desk.lab.repo
    score = mine / "toy" / "score.py"
    honest = score.read_text()
    score.write_text("print('always perfect')\n")
    for _ in range(2):
        with pytest.raises(UserError, match=r"E0001 changes protected files \(toy/score.py\): put them back with `git checkout org/trunk"):
            desk.run("r1", name, model.replace("LR = 0.02", "LR = 0.1"))
    score.write_text(honest)
    commit, rules = desk.state.trunk, (desk.lab.task.editable, desk.lab.task.protected)
    for number, value in enumerate(("0.05", "0.07"), start=1):  # trunk moves by two commits at once: nobody audited the first
        (other / "toy" / "model.py").write_text(model.replace("LR = 0.02", f"LR = {value}"))
        unaudited, commit = commit, repo.snapshot(other, "r2", repo.kept(f"exp/E0009/{number}"), commit, *rules, value).commit
    Ledger(desk.home.ledger).append("trunk", {"commit": commit, "parent": "", "experiment": "", "why": ""}, commit)
    subprocess.run(["git", "reset", "-q", "--hard", unaudited], cwd=mine, check=True)
    with pytest.raises(UserError, match=f"based on {unaudited[:8]}, which never was trunk here: `git reset --hard org/trunk`"):
        desk.run("r1", name, model.replace("LR = 0.02", "LR = 0.1"))
    facts = Ledger(desk.home.ledger).facts(kind="refused")
    assert [fact.actor for fact in facts] == ["lab"] * 2 and not desk.state.experiments[name].attempts
    assert all(f"  refused: {fact.body['why']}\n" in desk("show", name) for fact in facts)
    assert str(describe(facts[0], desk.state)).startswith("what was handed in for E0001 is refused: E0001 changes protected files")


def test_a_list_of_nothing_and_a_status_that_there_is_not_say_so(desk: Desk) -> None:
    assert desk("list") == "nothing was proposed yet: orgctl exp propose\n"
    name = desk.propose()["experiment"]
    assert desk("list", "--status", "nominated") == "no such experiment: orgctl exp list\n"
    assert json.loads(desk("list", "--status", "nominated", "--json")) == []
    assert name in desk("list", "--status", "proposed")
    assert desk.refused("list", "--status", "Good").startswith("--status Good: choose one of proposed, ")


def test_who_proposes_without_a_worktree_reads_how_it_is_tried(desk: Desk) -> None:
    desk.monkeypatch.delenv("ORGCTL_AGENT")
    told = desk("propose", "--hypothesis", IDEA[0], "--mechanism", IDEA[1])
    assert "orgctl assign AGENT --idea E0001" in told and "exp run" not in told
    for agent, line in (("r1", "orgctl assign r1 --idea E0001"), ("person", "orgctl assign AGENT --idea E0001")):
        with pytest.raises(UserError, match=line):
            Orders(desk.lab).take(Request("1", "run", agent, {"experiment": "E0001"}))


def verbs() -> list[Any]:
    group: Any = typer.main.get_command(app)
    return list(group.commands["exp"].commands.values())


@pytest.mark.parametrize("verb", verbs(), ids=lambda verb: str(verb.name))
def test_every_verb_has_json_and_a_help_that_says_what_each_option_is_for(verb: Any) -> None:
    assert any("--json" in one.opts for one in verb.params)
    assert len(verb.help) > 60 and [one.name for one in verb.params if not getattr(one, "help", None)] == []


def test_one_idea_is_found_among_thousands_at_once(desk: Desk) -> None:
    base = {"mechanism": "m", "family": "other", "direction": "improves", "min_effect": 0.0, "held_constant": "", "base": "t"}
    facts: list[tuple[str, str, dict[str, Any]]] = [
        ("proposal", f"E{number:04d}", {**base, "agent": "r1", "hypothesis": f"turns knob {number}", "params": {"K": number}})
        for number in range(1, 3001)
    ]
    Ledger(desk.home.ledger).append_all(facts)
    found = desk.propose("Turning knobs by hand is slow", "people get tired")
    assert found["experiment"] == "E3001" and len(found["similar"]) <= 3
