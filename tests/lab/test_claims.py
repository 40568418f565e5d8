"""What a session may claim: effects by fresh runs, and claims that hold together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lab.claims import claims, far, survives
from lab.home import Home
from lab.runs import Runs
from lab.state import View
from tests.lab.story import TASK, Story, promoted


def test_survivors_are_those_of_benjamini_and_hochberg() -> None:
    from scipy.stats import false_discovery_control

    source = random.Random(3)
    for count in range(1, 40):
        ps = [source.random() ** source.choice((1, 4, 12)) for _ in range(count)]
        assert survives(ps) == [adjusted <= 0.05 for adjusted in false_discovery_control(ps)]
    assert survives([]) == [] and survives([0.05]) == [True]
    assert survives([0.04, 0.03, 0.02]) == [True] * 3, "each alone would be above 0.05 / 3"
    with pytest.raises(ValueError, match="within 0 and 1"):
        survives([1.5])


def test_what_is_invalid_is_no_claim_whatever_its_p(tmp_path: Path) -> None:
    story = Story(tmp_path)
    sound, odd = story.idea("c1"), story.idea("c2")
    for name, word, p in ((sound, "inconclusive", 0.04), (odd, "invalid", 0.0)):
        story.ledger.append("verdict", {"attempt": 1, "verdict": word, "effect": -0.1, "p": p, "reasoning": []}, name)
    assert [(one.id, p, alive) for one, p, alive in claims(story.state)] == [(sound, 0.04, True)]


def test_only_an_interval_that_lies_beyond_four_sigma_as_a_whole_is_far() -> None:
    judged = {"low": -0.06, "high": -0.042, "sigma": 0.01}
    assert far(judged, minimize=True) and not far(judged, minimize=False)
    assert not far({**judged, "high": -0.039}, minimize=True)
    assert far({"low": 0.05, "high": 0.06, "sigma": 0.01}, minimize=False)
    assert far({"low": -0.1, "high": -0.1, "sigma": 0.0}, minimize=True), "without any spread every gain is"
    assert not far({"low": None, "high": None, "sigma": None}, minimize=True)


def test_a_queued_run_of_the_parent_is_not_needless_because_there_is_a_verdict(tmp_path: Path) -> None:
    story = Story(tmp_path)
    name = promoted(story)
    parent = story.run("parent", "t0", name, status="queued")
    late = story.run("confirm", "c1", name, status="queued")
    runs = Runs(Home(tmp_path), TASK, [], View(story.ledger))
    runs.view.refresh()
    runs.reap()
    assert (runs.state.runs[parent].status, runs.state.runs[late].status) == ("queued", "killed")
