"""Who reviews whom, and what a design without reviewers is told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from org import design
from org.reviewers import lacking, reviewers


@dataclass(frozen=True)
class One:
    name: str
    role: str = "researcher"
    slot: int | None = 0


def names(count: int) -> list[One]:
    return [One(f"r{number}", slot=number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("count", "pairs"),
    [
        (2, {"r1": ["r2"], "r2": ["r1"]}),
        (3, {"r1": ["r2"], "r2": ["r3"], "r3": ["r1"]}),
        (4, {"r1": ["r2"], "r2": ["r1"], "r3": ["r4"], "r4": ["r3"]}),
        (5, {"r1": ["r2"], "r2": ["r1"], "r3": ["r4"], "r4": ["r5"], "r5": ["r3"]}),
    ],
)
def test_partners_review_each_other_and_an_odd_one_joins_the_last_pair(count: int, pairs: dict[str, list[str]]) -> None:
    found = reviewers("partner", names(count))
    assert found == pairs
    assert all(name not in who for name, who in found.items()), "nobody reviews oneself"


def test_chief_and_skeptic_have_no_partner_and_agents_without_a_slot_neither() -> None:
    members = [One("chief", "chief-scientist", None), One("skeptic", "skeptic", 0), *names(2), One("human", "human", None)]
    assert reviewers("partner", members) == {"r1": ["r2"], "r2": ["r1"]}


def test_a_skeptic_reviews_everybody_and_the_chief_the_skeptic() -> None:
    members = [One("chief", "chief-scientist", None), One("s1", "skeptic"), One("s2", "skeptic"), One("r1")]
    assert reviewers("skeptic", members) == {
        "chief": ["s1", "s2"], "s1": ["chief"], "s2": ["chief"], "r1": ["s1", "s2"],
    }  # fmt: skip
    assert reviewers("auto", members) == reviewers("chief", members) == {}


def test_what_a_policy_lacks_is_said() -> None:
    assert "no agent is a skeptic" in (lacking("skeptic", names(2)) or "")
    assert "only 1 agent has a slot" in (lacking("partner", names(1)) or "")
    assert "no agent has" in (lacking("partner", [One("skeptic", "skeptic")]) or "")
    assert lacking("partner", names(2)) is lacking("auto", []) is None


def test_the_shipped_designs_say_who_reviews_whom() -> None:
    assert design.load("pairs", 2).reviewers() == {"r1": ["r2"], "r2": ["r1"]}
    assert design.load("skeptic", 3).reviewers() == {
        "chief": ["skeptic"], "skeptic": ["chief"], "r1": ["skeptic"], "r2": ["skeptic"],
    }  # fmt: skip
    assert design.load("chief", 2).reviewers() == {}
