"""Letters from the laboratory: who hears of a review or of a control, and who does not."""

from __future__ import annotations

from pathlib import Path

from lab.home import Home
from lab.state import fold
from org.events import describe
from org.news import letters
from tests.lab.story import TASK, Story
from tests.org import sample


def test_a_review_is_mailed_to_the_owner_of_the_idea_and_to_nobody_else(tmp_path: Path) -> None:
    story = Story(tmp_path)
    name = story.idea()
    fact = story.ledger.append("review", {"finding": "leak", "text": "it knows its targets"}, name, "r2")
    assert letters(fact, story.state, ["r1", "r2", "chief"], TASK) == [
        ("r1", "review", name, f"r2 has reviewed {name} (leak):\n\nit knows its targets\n")
    ]
    own = story.ledger.append("review", {"finding": "", "text": "it is not what I meant"}, name, "r1")
    assert letters(own, story.state, ["r1", "r2"], TASK) == []


def test_whose_idea_gets_a_control_hears_of_it(tmp_path: Path) -> None:
    story = Story(tmp_path)
    fact = story.ledger.append("control", {"attempt": 1, "factor": 1.5}, story.idea(), "chief")
    ((agent, _, about, text),) = letters(fact, story.state, ["r1", "r2"], TASK)
    assert (agent, about) == ("r1", "E0001") and "chief has ordered the control of E0001" in text


def test_what_bears_anothers_name_is_told_to_nobody(tmp_path: Path) -> None:
    story = Story(tmp_path)
    name = story.idea()
    body = {"attempt": 1, "verdict": "improved", "effect": -1.0, "n": 8, "reasoning": ["believe me"]}
    fact = story.ledger.append("verdict", body, name, "r2")
    assert letters(fact, story.state, ["r1", "r2"], TASK) == [] and describe(fact, story.state) is None
    honest = story.ledger.append("verdict", body, name)
    assert letters(honest, story.state, ["r1", "r2"], TASK) and describe(honest, story.state)


def test_a_person_hears_what_came_of_an_idea_that_somebody_else_tried(tmp_path: Path) -> None:
    story = sample.Story(Home(tmp_path))
    name = story.propose("person", "tie the layers")
    body = {"agent": "r1", "areas": [], "hypothesis": "", "idea": name, "gpu_hours": None, "deadline": None, "why": "w"}
    story.ledger.append_new("assignment", "W", body, "chief")
    story.attempt(name, sample.SECOND)
    story.verdict(name, "neutral", 0.001)
    fact = story.ledger.facts("verdict")[-1]
    told = {to: text for to, _, _, text in letters(fact, fold(story.ledger.facts()), ["r1"], TASK)}
    assert told["person"].startswith(f"What came of your idea, tried by r1. {name}: **neutral**") and name in told["r1"]


def test_a_digest_tells_those_whose_assignment_is_over_and_no_skeptic_to_have_ideas(tmp_path: Path) -> None:
    story = sample.Story(Home(tmp_path))
    rules = {"promotion": "skeptic", "reviewers": {"r1": ["skeptic"], "r2": ["skeptic"]}}
    story.ledger.append("session", {"up": 1.0, "policy": rules, "chiefs": ["chief"], "unassigned": "own-ideas"})
    for agent, deadline in (("r1", 1.0), ("r2", None)):
        body = {"agent": agent, "areas": ["data"], "hypothesis": "", "idea": "", "gpu_hours": None, "deadline": deadline, "why": "w"}
        story.ledger.append_new("assignment", "W", body, "chief")
    opened = {"what": "opened", "number": 1, "why": "w", "agents": ["r1"], "deadline": 2.0, "finished": 0}
    story.ledger.append("standup", opened, "S0001")
    closed = {"what": "closed", "reported": [], "missing": [], "aside": {}, "claims": 0, "flagged": 0, "text": "# It"}
    fact = story.ledger.append("standup", closed, "S0001")
    told = {to: text.splitlines()[0] for to, _, _, text in letters(fact, fold(story.ledger.facts()), ["r1", "r2", "skeptic"], TASK)}
    assert told["r1"].startswith("You have no assignment") and told["r2"] == told["skeptic"] == "Go on with your part."
