"""Letters from the laboratory: who hears of a review, and who does not."""

from __future__ import annotations

from pathlib import Path

from org.news import letters
from tests.lab.test_experiment import TASK, Story


def test_a_review_is_mailed_to_the_owner_of_the_idea_and_to_nobody_else(tmp_path: Path) -> None:
    story = Story(tmp_path)
    name = story.idea()
    fact = story.ledger.append("review", {"finding": "leak", "text": "it knows its targets"}, name, "r2")
    assert letters(fact, story.state, ["r1", "r2", "chief"], TASK) == [
        ("r1", "review", name, f"r2 has reviewed {name} (leak):\n\nit knows its targets\n")
    ]
    own = story.ledger.append("review", {"finding": "", "text": "it is not what I meant"}, name, "r1")
    assert letters(own, story.state, ["r1", "r2"], TASK) == []
