"""Every kind of nomination and verdict that the workflow writes is derived anew from the facts before it, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from lab import verify
from lab.attempt import without_comparison
from lab.ledger import Fact
from lab.state import State
from lab.steps import Policy, Rebase, Write
from tests.lab.story import Story, confirmed, nominated, promoted
from tests.lab.test_audit import order, stack
from tests.lab.test_audit import runs as audited
from tests.lab.test_carry import runs as carried


def lines(story: Story) -> list[str]:
    """What does not fit among nominations and verdicts."""
    return [line for line in verify._replayed(story.ledger, story.task, State()) if "(trunk " not in line]


def told(story: Story, steps: list[Any]) -> dict[str, Any]:
    """Write the one step down as the laboratory does; its body."""
    (step,) = steps
    assert isinstance(step, Write)
    story.tell(step)
    return step.body


def test_a_bought_gain_and_its_control(story: Story) -> None:
    name = nominated(story)
    confirmed(story, name, flops=1.5e9)
    story.frontier(2.50, 2.41)
    for value in (2.380, 2.382, 2.381, 2.379):
        story.run("control", "t0", name, factor=1.5, audit=value)
    assert told(story, story.next())["verdict"] == "bought" and lines(story) == []


@pytest.mark.parametrize("status", ["crashed", "invalid", "timeout"])
def test_a_failure(story: Story, status: str) -> None:
    story.bank()
    story.run("nominate", "c1", story.idea(), status=status)
    told(story, story.next())
    assert lines(story) == []


def test_a_first_run_that_was_no_better(story: Story) -> None:
    story.bank()
    story.run("nominate", "c1", story.idea(), search=2.46)
    assert told(story, story.next())["verdict"] == "worse" and lines(story) == []


def test_what_could_not_be_carried_to_a_new_trunk(story: Story) -> None:
    name = nominated(story)
    story.trunk("t1", "t0")
    story.bank("t1", -0.02)
    story.ledger.append("confirm", {"attempt": 1}, name)
    assert story.next() == [Rebase(name)]
    body = without_comparison(story.state.experiments[name].attempts[-1], "inconclusive", ["conflicts with trunk in a.py"])
    story.ledger.append("verdict", body, name)
    assert lines(story) == []


def test_what_was_improved_and_cannot_be_carried_keeps_its_verdict(story: Story) -> None:
    name = nominated(story)
    told(story, confirmed(story, name))
    story.trunk("t1", "t0")
    body = {"attempt": 1, "trunk": "t1", "branch": "org/trunk", "files": ["a.py"], "why": "conflicts with trunk in a.py"}
    story.ledger.append("unmerged", body, name)
    assert lines(story) == []
    assert (story.state.experiments[name].status, story.state.experiments[name].verdict) == ("unmerged", "improved")
    story.ledger.append("verdict", without_comparison(story.state.experiments[name].attempts[-1], "inconclusive", []), name)
    (line,) = lines(story)
    assert "says inconclusive, but the facts before it call for no verdict" in line


def test_what_an_older_version_made_of_that_is_no_difference(story: Story) -> None:
    name = nominated(story)
    told(story, confirmed(story, name))
    story.trunk("t1", "t0")
    attempt = story.state.experiments[name].attempts[-1]
    assert attempt.verdict
    story.ledger.append("verdict", {**attempt.verdict, "verdict": "inconclusive", "reasoning": ["conflicts with trunk in a.py"]}, name)
    assert lines(story) == []


def test_what_was_never_improved_is_kept_from_trunk_by_its_verdict_and_not_by_git(story: Story) -> None:
    story.bank()
    name = story.idea()
    body = {"attempt": 1, "trunk": "t0", "branch": "org/trunk", "files": ["a.py"], "why": "conflicts with trunk in a.py"}
    story.ledger.append("unmerged", body, name)
    assert ["it was never found improved" in line for line in lines(story)] == [True]


def test_the_rules_of_the_session_are_those_of_its_facts(story: Story) -> None:
    rules = Policy(bank=5, stages=(3, 6), confirmation="auto")
    story.ledger.append("session", {"policy": {"bank": 5, "stages": [3, 6], "confirmation": "auto", "of_the_future": 1}})
    assert verify.policy(story.state) == rules
    story.bank()
    name = story.idea()
    story.run("nominate", "c1", name, search=2.46)
    early = Story.next(story)  # as if a bank of four were enough
    story.tell(next(step for step in early if isinstance(step, Write)))
    (line,) = lines(story)
    assert "call for no verdict" in line


def test_a_verdict_before_its_runs_or_twice(story: Story) -> None:
    name = nominated(story)
    body = {"attempt": 1, "verdict": "improved", "effect": -0.1, "n": 3, "reasoning": ["trust me"]}
    story.ledger.append("verdict", body, name)
    (line,) = lines(story)
    assert line.startswith("fact ") and f"(verdict {name}): says improved, but the facts before it call for no verdict" in line


def test_a_nomination_with_a_better_value(story: Story) -> None:
    story.bank()
    name = story.idea()
    story.run("nominate", "c1", name, search=2.44)
    (step,) = story.next()
    story.ledger.append("nomination", {**step.body, "value": 2.40}, name)
    (line,) = lines(story)
    assert f"(nomination {name}): says nominated, but the facts before it give nominated (value 2.4 for 2.44)" in line


def test_a_run_of_something_else_than_was_submitted(story: Story) -> None:
    story.bank()
    name = story.idea("c1")
    run = story.run("nominate", "c9", name, status="queued")
    bank = story.run("bank", "c1", attempt=0, status="queued")
    assert [line.partition(": ")[2] for line in lines(story)] == [
        f"runs c9, which is not what {name} was submitted as", "a baseline run of c1, which never was trunk",
    ]  # fmt: skip
    assert [line.partition(": ")[0][-6:-1] for line in lines(story)] == [run, bank]


def beside(story: Story, *given: str) -> list[str]:
    """The same, but for the verdicts on ideas that a test gave by hand."""
    return [line for line in lines(story) if not any(f"(verdict {name})" in line for name in given)]


def test_a_promotion_that_stands_and_one_that_is_taken_back(story: Story) -> None:
    name = promoted(story, shift=0.0)
    body = {"commit": "r1", "parent": "c1", "experiment": "", "why": "w", "reverts": name, "bank": "t0"}
    state = story.state
    assert beside(story, name) == [] and list(verify._promotion(state, Fact(99, 0.0, "trunk", "r1", "lab", body, ""))) == []
    for wrong in ({"reverts": "E0009"}, {"parent": "t0"}, {"bank": "c1"}):
        assert list(verify._promotion(state, Fact(99, 0.0, "trunk", "r1", "lab", {**body, **wrong}, ""))), wrong


def test_a_check_that_says_something_else_than_the_banks(story: Story) -> None:
    name = promoted(story, shift=0.0, checked=False)
    (step,) = story.next()
    story.ledger.append("checked", {**step.body, "holds": True}, step.subject)
    (line,) = beside(story, name)
    assert "says that it stands, but the facts before it give that it does not stand (holds True for False)" in line


def test_an_audit_a_removal_and_what_was_carried(story: Story) -> None:
    one, two = stack(story, -0.02, -0.04)
    order(story, [one, two])
    audited(story, one, -0.04)
    audited(story, two, -0.02)
    told(story, story.next())
    proposal = {**dict.fromkeys(("mechanism", "family", "held_constant"), ""), "direction": "no-change", "hypothesis": "h",
                "agent": "lab", "min_effect": 0.01, "params": {"removes": one, "audit": "A0001"}, "base": "c2"}  # fmt: skip
    removal = story.ledger.append_new("proposal", "E", proposal).subject
    story.idea(f"without-{one}", "c2", 1, removal)
    told(story, story.next())
    story.ledger.append_new("carry_order", "C", {"scale": "next", "seeds": 4, "by": "chief", "ideas": [two]})
    carried(story, "t0", 1.2)
    carried(story, "c2", 1.195, two)
    (step,) = story.next()
    story.tell(step)
    assert beside(story, one, two) == []
    story.ledger.append("carry", {**step.body, "effect": -1.0}, two)
    (line,) = beside(story, one, two)
    assert "the facts before it call for no carry" in line


def test_an_audit_whose_table_was_changed(story: Story) -> None:
    (one,) = stack(story, -0.02)
    order(story, [one])
    audited(story, one, -0.02)
    (step,) = story.next()
    rows = [{**row, "verdict": "helps"} for row in step.body["rows"]]
    story.ledger.append("audit", {**step.body, "rows": rows}, step.subject)
    (line,) = beside(story, one)
    assert "its rows are not what the facts before it give" in line
