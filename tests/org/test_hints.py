"""Areas and what the ledger hints about them, as pure folds of facts."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from lab import areas
from lab.home import Home
from lab.state import State, fold
from org import hints
from tests.org.sample import FIRST, Story

NOW = time.time()


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Six ideas: three about momentum (one improved), two about data without a gain, one of both architecture and schedule."""
    story = Story(Home(tmp_path))
    story.bank(FIRST, [2.450, 2.452, 2.448, 2.450])
    families = ["optimiser/momentum", "optimiser/momentum", "optimiser", "data", "data", "architecture+schedule"]
    for number, family in enumerate(families):
        body = {
            "agent": "r1", "hypothesis": f"h{number}", "mechanism": "m", "family": family, "direction": "improves", "min_effect": 0.01,
            "held_constant": "", "params": {}, "base": FIRST,
        }  # fmt: skip
        name = story.ledger.append_new("proposal", "E", body, "r1").subject
        story.attempt(name, f"{number}" * 40)
        story.done({"search": 2.44}, "nominate", f"{number}" * 40, name, attempt=1, agent="r1")
        if number < 5:
            story.verdict(name, "improved" if number == 1 else "neutral", -0.02 if number == 1 else 0.001 * (number + 1))
    found = fold(story.ledger.facts())
    for run in found.runs.values():
        run.started, run.ended = NOW - 7200.0, NOW - 3600.0  # an hour each
    return found


def test_a_part_lies_within_its_area_and_an_idea_may_be_of_two(state: State) -> None:
    assert areas.within("optimiser", "optimiser/momentum") and not areas.within("optimiser/momentum", "optimiser")
    assert areas.within("schedule", "architecture+schedule") and not areas.within("sched", "schedule")
    assert areas.known(state, ["systems"]) == ["architecture", "data", "optimiser", "optimiser/momentum", "schedule", "systems"]


def test_the_table_has_tries_hits_best_effect_and_cost_and_the_untried_come_first(state: State) -> None:
    found = {one.area: one for one in hints.table(state, True, NOW, ["systems"])}
    whole, part, data, both = (found[name] for name in ("optimiser", "optimiser/momentum", "data", "schedule"))
    assert (whole.tries, whole.hits, part.tries, data.hits) == (3, 1, 2, 0)
    assert (whole.best, whole.effect) == ("E0002", -0.02) and (data.best, data.effect) == ("E0004", 0.004)
    assert (whole.gpu_hours, both.gpu_hours, both.tries, both.under_way) == (3.0, 1.0, 0, 1)
    order = [one.area for one in hints.table(state, True, NOW, ["systems"])]
    assert order[0] == "systems" and order.index("optimiser/momentum") < order.index("data")
    assert math.isnan(both.rate) and hints.rate_text(both) == "untried" and hints.rate_text(whole).startswith("1 of 3 (")


def test_an_area_that_gave_something_once_may_run_dry(tmp_path: Path) -> None:
    story = Story(Home(tmp_path))
    story.bank(FIRST, [2.450, 2.452, 2.448, 2.450])

    def tries(family: str, verdicts: list[str]) -> hints.Area:
        for number, word in enumerate(verdicts):
            name = story.propose("r1", f"{family} {number}")
            story.attempt(name, f"{number:040d}")
            story.verdict(name, word, -0.02 if word == "improved" else 0.001)
        return next(one for one in hints.table(fold(story.ledger.facts()), True, NOW) if one.area == "optimiser")

    few = tries("a", ["neutral", "improved", *["neutral"] * (hints.DRIED_UP - 1)])
    assert (few.hits, few.streak, few.dry) == (1, hints.DRIED_UP - 1, False)
    more = tries("b", ["worse"])
    assert (more.hits, more.streak, more.dry) == (1, hints.DRIED_UP, True)


def test_what_was_never_compared_is_no_try(tmp_path: Path) -> None:
    story = Story(Home(tmp_path))
    for number in range(hints.DRY):
        name = story.propose("r1", f"a {number}")
        story.attempt(name, f"{number:040d}")
        story.ledger.append("verdict", {"attempt": 1, "verdict": "inconclusive", "effect": None, "n": 0, "reasoning": ["no bank"]}, name)
    (found,) = (one for one in hints.table(fold(story.ledger.facts()), True, NOW) if one.area == "optimiser")
    assert (found.tries, found.dry) == (0, False)


def test_the_interval_of_a_hit_rate_is_jeffreys() -> None:
    assert hints.jeffreys(0, 0) == (0.0, 1.0)
    low, high = hints.jeffreys(2, 9)
    assert (round(low, 4), round(high, 4)) == (0.0493, 0.5438), "Beta(2.5, 7.5) at 2.5 and 97.5 %"
    assert hints.jeffreys(0, 8)[0] == 0.0 and hints.jeffreys(8, 8)[1] == 1.0


def test_where_more_is_better_the_best_effect_is_the_largest(state: State) -> None:
    assert {one.area: one.best for one in hints.table(state, False, NOW)}["data"] == "E0005"


def test_an_assignment_is_over_when_its_slot_hours_are_spent(state: State) -> None:
    from lab.ledger import Fact

    body = {"agent": "r1", "areas": ["data"], "hypothesis": "", "idea": "", "gpu_hours": 6.5, "deadline": None, "why": "w"}
    state.apply(Fact(999, 0.0, "assignment", "W0001", "chief", body, ""))
    assert areas.worked(state, state.direction.assignments["W0001"], NOW) == 6.0
    assert areas.assigned(state, "r1", NOW) is not None
    state.apply(Fact(1000, 0.0, "assignment", "W0002", "chief", {**body, "gpu_hours": 6.0}, ""))
    assert areas.assigned(state, "r1", NOW) is None


def test_spent_budgets_close_an_area_and_its_parts(state: State) -> None:
    state.direction.budgets = {"optimiser": 3.0, "data": 2.5}
    assert "has spent 3 of its 3 GPU-hours" in areas.over_budget(state, "data+optimiser/momentum", NOW)
    assert areas.over_budget(state, "data", NOW) == "" and areas.closed(state, "r1", "optimiser", NOW)
