"""What somebody reads who waited for a run: short, what is now believed, what is useful next."""

from __future__ import annotations

import pytest

from lab.records import VERDICTS, Experiment
from lab.shown import next_step, outcome, story
from org.news import letters
from tests.lab.story import TASK, Story


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Story:
    """The shared story; `story` here is what `lab.shown` tells."""
    made: Story = request.getfixturevalue("story")
    return made


def nominated(told: Story) -> Experiment:
    """An idea whose first run was 3 sigma better."""
    told.bank()
    name = told.idea()
    told.run("nominate", "c1", name, search=2.0)
    (step,) = (one for one in told.next() if getattr(one, "kind", "") == "nomination")
    told.tell(step)
    return told.state.experiments[name]


def judged(told: Story, word: str, **more: object) -> Experiment:
    name = told.idea()
    told.run("nominate", "c1", name, search=2.0, flags=("odd " * 30,))
    body = {"attempt": 1, "verdict": word, "effect": None, "reasoning": ["the effect", "the test", "the comparison"], **more}
    told.ledger.append("verdict", body, name)
    return told.state.experiments[name]


def test_after_a_nomination_it_says_by_how_much_and_what_that_is_worth(told: Story) -> None:
    item = nominated(told)
    for text in (outcome(item), story(item)):
        assert "sigma better than the bank" in text and "it only nominates, and its value is thrown away" in text
        assert f"orgctl exp confirm {item.id}" in text


def test_while_its_run_or_the_bank_is_under_way_it_says_where_the_result_arrives(told: Story) -> None:
    name = told.idea()
    assert f"  next: nothing yet: the result arrives by mail (or: orgctl exp wait {name})\n" in outcome(told.state.experiments[name])


@pytest.mark.parametrize("word", VERDICTS)
def test_after_every_verdict_there_is_its_reasoning_and_a_next_step(told: Story, word: str) -> None:
    item = judged(told, word)
    lines = outcome(item).splitlines()
    assert lines[0].startswith(f"{item.id} by r1: {word}") and len(lines) == 6, "short, whatever the runs were like"
    assert [line.strip() for line in lines[1:4]] == ["the effect", "the test", "the comparison"]
    assert lines[4].startswith("  next: ") and lines[5].endswith(f"orgctl exp show {item.id}")


def test_what_could_not_be_carried_to_the_present_trunk_is_to_be_edited_there(told: Story) -> None:
    item = judged(told, "inconclusive", n=0)
    assert str(next_step(item)).startswith("edit it anew on the present trunk, which is a new proposal: orgctl exp propose")


@pytest.mark.parametrize("word", VERDICTS)
def test_the_mail_of_a_verdict_says_the_same_next_step(told: Story, word: str) -> None:
    item = judged(told, word)
    fact = told.ledger.facts(kind="verdict")[-1]
    text = next(text for agent, kind, _, text in letters(fact, told.state, ["r1"], TASK) if (agent, kind) == ("r1", "verdict"))
    assert next_step(item) and f"Next: {next_step(item)}." in text


def test_a_nomination_that_somebody_else_wrote_stops_no_reader(told: Story) -> None:
    name = told.idea()
    told.ledger.append("nomination", {"attempt": 1, "value": "huge"}, name)
    assert "search, ?: ? sigma better" in outcome(told.state.experiments[name])
