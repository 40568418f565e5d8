"""Every kind of nomination and verdict that the workflow writes is derived anew from the facts before it, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import verify
from lab.experiment import Policy, Rebase, Write, without_comparison
from lab.records import State
from tests.lab.test_experiment import Story, confirmed, nominated


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


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
        story.run("control", "t0", name, audit=value)
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


def test_what_was_improved_and_could_not_be_carried_keeps_its_figures(story: Story) -> None:
    name = nominated(story)
    told(story, confirmed(story, name))
    story.trunk("t1", "t0")
    attempt = story.state.experiments[name].attempts[-1]
    story.ledger.append("verdict", without_comparison(attempt, "inconclusive", ["conflicts with trunk in a.py"]), name)
    assert lines(story) == []
    story.ledger.append("verdict", {**without_comparison(attempt, "inconclusive", []), "effect": -9.0}, name)
    (line,) = lines(story)
    assert "says inconclusive, but the facts before it call for no verdict" in line, "it is not improved any more"


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
