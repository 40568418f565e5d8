"""Plans that were tried, go into a dead end or are two agents' are pointed out, whatever experiments they name."""

from __future__ import annotations

import pytest

from lab.home import Home
from lab.state import State, fold
from org.plans import pointed_out
from tests.org.sample import FIRST, Story


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    """E0001 of r1 promoted, E0002 of r2 inconclusive, E0003 of r1 proposed; the schedule is a dead end."""
    story = Story(Home(tmp_path_factory.mktemp("plans")))
    story.bank(FIRST, [2.450, 2.452, 2.448, 2.450])
    ends = (("r1", "more units in each layer", "improved"), ("r2", "larger batches average noise, BATCH = 32", "inconclusive"))
    for number, (agent, what, verdict) in enumerate(ends):
        commit = f"{number + 1:040x}"
        name = story.propose(agent, what)
        story.attempt(name, commit)
        story.done({"search": 2.44}, "nominate", commit, name, attempt=1, agent=agent)
        story.verdict(name, verdict, 0.01)
    story.trunk(f"{1:040x}", FIRST, "E0001", "promoted by chief")
    story.propose("r1", "batches that grow average noise later")
    story.ledger.append("retired", {"area": "schedule", "evidence": ["E0002"], "why": "no effect"}, "schedule", "chief")
    return fold(story.ledger.facts())


@pytest.mark.parametrize("named", ["", ", on top of E0001", ", as E0002 did", ", after E0003", ", unlike E0001 and E0002"])
def test_to_name_an_experiment_hides_no_repeat(state: State, named: str) -> None:
    (line,) = pointed_out(state, [("r1", f"larger batches average noise, BATCH = 32{named}")])
    assert "like E0002 by r2 (inconclusive" in line


@pytest.mark.parametrize("named", ["", " on top of E0001", ", E0002 left it open"])
def test_to_name_an_experiment_hides_no_dead_end(state: State, named: str) -> None:
    (line,) = pointed_out(state, [("r3", f"go on with the schedule{named}")])
    assert "area schedule was retired by chief" in line


def test_two_agents_with_one_plan_are_told_whatever_it_stands_on(state: State) -> None:
    plan = "on top of E0001, tie the output head to the embedding"
    (line,) = pointed_out(state, [("r1", plan), ("r2", plan)])
    assert line.startswith("- r1 and r2 plan the same")
    assert len(pointed_out(state, [("r1", plan), ("r2", "tie the output head to the embedding of the tokens")])) == 1
    assert not pointed_out(state, [("r1", plan), ("r2", "on top of E0002, tie the output head to the embedding")]), "another base"


@pytest.mark.parametrize(
    "plan",
    ["E0003: batches that grow average noise later", "run E0003 on the schedule of the new trunk", "finish E0003, on top of E0001"],
)
def test_what_is_registered_was_compared_then(state: State, plan: str) -> None:
    assert not pointed_out(state, [("r1", plan)])


@pytest.mark.parametrize("plan", ["replicate E0002 (larger batches average noise)", "review E0002, whose larger batches average noise"])
def test_work_on_an_experiment_is_no_idea_like_it(state: State, plan: str) -> None:
    assert not pointed_out(state, [("r1", plan)])


def test_once_more_is_pointed_out_once(state: State) -> None:
    (line,) = pointed_out(state, [("r3", "E0002 again: larger batches average noise")])
    assert "E0002 of r2 is inconclusive" in line
