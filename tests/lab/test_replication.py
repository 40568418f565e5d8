"""What a promotion waits for: a review, and a replication on fresh seeds. Decided from facts, enforced, verified, and told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab import gate, replication, verify
from lab.errors import UserError
from lab.records import Run
from lab.shown import replications
from lab.steps import Policy, Promote, Queue, Write
from org.events import describe
from org.news import letters
from tests.lab.conftest import Bench
from tests.lab.story import TASK, Story
from tests.lab.test_promotion import Site

SKEPTIC: dict[str, Any] = {"promotion": "skeptic", "confirmation": "auto", "reviewers": {"r1": ["skeptic"], "skeptic": ["chief"]}}
PARTNER: dict[str, Any] = {"promotion": "partner", "confirmation": "auto", "reviewers": {"r1": ["r2"], "r2": ["r1"]}}


def improved(story: Story) -> str:
    """An idea of r1 on trunk t0 that was found improved."""
    story.bank()
    name = story.idea()
    body = {"attempt": 1, "verdict": "improved", "effect": -0.05, "low": -0.06, "high": -0.04, "p": 1e-6, "n": 4, "m": 4,
            "sigma": 0.002, "reasoning": []}  # fmt: skip
    story.ledger.append("verdict", body, name)
    return name


def review(story: Story, name: str, actor: str, finding: str) -> None:
    story.ledger.append("review", {"finding": finding, "text": "read"}, name, actor)


def order(story: Story, name: str, by: str = "r2", seeds: int = 2) -> None:
    story.ledger.append("replication_order", {"attempt": 1, "seeds": seeds, "by": by}, name, by)


def replicate(story: Story, name: str, *values: float, **order_: Any) -> dict[str, Any]:
    """Order, run and judge a replication; the body of its outcome."""
    order(story, name, seeds=len(values), **order_)
    for value in values:
        story.run("replicate", "c1", name, search=value, audit=value)
    (step,) = [step for step in story.next() if getattr(step, "kind", "") == "replication"]
    story.tell(step)
    return dict(step.body)


@pytest.mark.parametrize(
    ("reviews", "promoted"),
    [
        ([], False),
        ([("r2", "ok")], False),
        ([("r1", "ok")], False),
        ([("skeptic", "")], False),
        ([("skeptic", "doubt")], False),
        ([("skeptic", "leak")], False),
        ([("skeptic", "ok")], True),
        ([("skeptic", "ok"), ("skeptic", "doubt")], False),
        ([("skeptic", "doubt"), ("r2", "ok"), ("skeptic", "ok")], True),
    ],
)
def test_what_is_improved_reaches_trunk_only_after_the_skeptics_newest_word_is_ok(
    story: Story, reviews: list[tuple[str, str]], promoted: bool
) -> None:
    name = improved(story)
    for actor, finding in reviews:
        review(story, name, actor, finding)
    assert (Promote(name) in story.next(**SKEPTIC)) is promoted
    assert Promote(name) in story.next(promotion="auto"), "another policy waits for nobody"
    assert Promote(name) not in story.next(promotion="chief")


def test_an_ok_from_before_the_verdict_is_no_review_of_it(story: Story) -> None:
    story.bank()
    name = story.idea()
    review(story, name, "skeptic", "ok")
    body = {"attempt": 1, "verdict": "improved", "effect": -0.05, "low": -0.06, "high": -0.04, "p": 1e-6, "n": 4, "m": 4,
            "sigma": 0.002, "reasoning": []}  # fmt: skip
    story.ledger.append("verdict", body, name)
    assert Promote(name) not in story.next(**SKEPTIC)
    review(story, name, "skeptic", "ok")
    assert Promote(name) in story.next(**SKEPTIC)


def test_a_partners_ok_is_not_enough_without_a_replication_that_holds(story: Story) -> None:
    name = improved(story)
    review(story, name, "r2", "ok")
    assert Promote(name) not in story.next(**PARTNER)
    assert not replicate(story, name, 2.451, 2.449)["holds"]
    assert Promote(name) not in story.next(**PARTNER)
    assert replicate(story, name, 2.401, 2.399)["holds"], "the runs of the first replication take no part"
    assert Promote(name) in story.next(**PARTNER)
    review(story, name, "r2", "doubt")
    assert Promote(name) not in story.next(**PARTNER)


def test_what_nobody_reviews_waits_for_a_person(story: Story) -> None:
    name = improved(story)
    assert "a person may promote it" in (gate.waits("skeptic", {}, story.state.experiments[name]) or "")
    assert Promote(name) not in story.next(**{**SKEPTIC, "reviewers": {}})


def test_a_replication_asks_for_fresh_runs_with_baselines_between_and_once(story: Story) -> None:
    name = improved(story)
    order(story, name, seeds=3)
    steps = [step for step in story.next() if isinstance(step, Queue)]
    assert [step.purpose for step in steps] == ["bank", "replicate"] * 3
    assert {(step.commit, step.agent) for step in steps if step.purpose == "replicate"} == {("c1", "r2")}
    for step in steps:
        story.run(step.purpose, step.commit, step.experiment, step.attempt, status="queued")
    assert story.next() == []


def test_the_outcome_is_compared_with_the_parents_bank_and_waits_for_every_run(story: Story) -> None:
    name = improved(story)
    order(story, name)
    story.run("replicate", "c1", name, search=2.40, audit=2.40)
    last = story.run("replicate", "c1", name, status="queued")
    assert [step for step in story.next() if isinstance(step, Write)] == []
    story.end(last, "ok", search=2.402, audit=2.402)
    (step,) = story.next()
    assert isinstance(step, Write) and (step.kind, step.subject) == ("replication", name)
    body = step.body
    assert body["holds"] and (body["n"], body["m"]) == (2, 4) and body["by"] == "r2" and body["against"] == "the bank of t0"
    assert body["low"] < body["effect"] < body["high"] < 0 and body["effect"] == pytest.approx(2.401 - 2.45025)
    story.tell(step)
    assert story.next() == [] and story.state.experiments[name].verdict == "improved", "it changes no verdict"


def test_a_run_of_the_replication_that_fails_is_its_outcome(story: Story) -> None:
    name = improved(story)
    order(story, name, seeds=4)
    story.run("replicate", "c1", name, search=2.40, audit=2.40)
    failed = story.run("replicate", "c1", name, status="crashed")
    (step,) = story.next()
    assert isinstance(step, Write) and not step.body["holds"] and failed in step.body["why"] and step.body["effect"] is None
    story.tell(step)
    assert "does not hold: " + failed in replications(story.state.experiments[name], "bits")[0]


def test_one_lost_run_is_made_up_for_and_a_second_is_not(story: Story) -> None:
    name = improved(story)
    order(story, name)
    story.run("replicate", "c1", name, status="lost")
    assert [step.purpose for step in story.next() if isinstance(step, Queue)] == ["replicate"] * 2
    story.run("replicate", "c1", name, status="lost")
    (step,) = story.next()
    assert isinstance(step, Write) and "ended lost" in step.body["why"]


def test_what_costs_more_is_replicated_against_its_control(story: Story) -> None:
    name = improved(story)
    for value in (2.380, 2.382, 2.381, 2.379):
        story.run("control", "t0", name, factor=2.0, audit=value)
    body = replicate(story, name, 2.40, 2.401)
    assert body["against"] == "its control at equal cost" and not body["holds"] and body["effect"] > 0


def test_a_replication_is_told_to_author_and_reviewer_and_on_the_board(story: Story) -> None:
    name = improved(story)
    story.ledger.append("session", {"policy": {"bank": 4, **PARTNER}})
    verdict = story.ledger.facts("verdict")[-1]
    told = letters(verdict, story.state, ["r1", "r2"], TASK)
    assert [(who, kind) for who, kind, _, _ in told] == [("r2", "review-wanted"), ("r1", "verdict")]
    assert f"orgctl exp replicate {name}" in told[0][3]
    replicate(story, name, 2.401, 2.399)
    fact = story.ledger.facts("replication")[-1]
    assert [(who, kind) for who, kind, _, _ in letters(fact, story.state, ["r1", "r2"], TASK)] == [
        ("r1", "replication"), ("r2", "replication"),
    ]
    assert "holds" in (describe(fact, story.state) or "") and "[" in (describe(fact, story.state) or "")
    assert "n = 2 against m = 4" in replications(story.state.experiments[name], "bits")[0]
    review(story, name, "r2", "ok")
    assert [kind for _, kind, _, _ in letters(verdict, story.state, ["r1", "r2"], TASK)] == ["verdict"]


def runs(site: Site, name: str) -> list[Run]:
    return site.lab.state.experiments[name].runs_for("replicate")


@pytest.fixture
def site(bench: Callable[..., Bench]) -> Site:
    """A laboratory whose promotions wait for a partner."""
    one = Site(bench())
    one.lab.policy = Policy(bank=4, stages=(2, 4), **PARTNER)
    one.lab.ledger.append("session", {"policy": {"bank": 4, "stages": [2, 4], **PARTNER}})
    one.lab.step()
    one.end(2.45, "bank")
    return one


def test_the_laboratory_refuses_to_promote_around_the_gate(site: Site) -> None:
    name = site.idea("MOMENTUM = ", "MOMENTUM = 0.1 * ")
    with pytest.raises(UserError, match="only what has the verdict `improved` is replicated"):
        site.ask("replicate", name, "r2")
    site.accept(name)
    with pytest.raises(UserError, match=f"{name} cannot be promoted yet: it waits for the review of r2"):
        site.ask("promote", name)
    for actor in ("r1", "r3"):
        with pytest.raises(UserError, match=f"{actor} may not order a replication of r1's {name}: chief or r2 does that here"):
            site.ask("replicate", name, actor)
    with pytest.raises(UserError, match="--seeds: give a whole number from 2 to 16"):
        site.ask("replicate", name, "r2", seeds=17)
    assert site.ask("replicate", name, "r2") == {"seeds": replication.SEEDS}
    with pytest.raises(UserError, match="is being replicated already"):
        site.ask("replicate", name, "chief")
    site.lab.step()
    assert [run.agent for run in runs(site, name)] == ["r2"] * 4
    site.lab.step()
    assert [run.status for run in runs(site, name)] == ["queued"] * 4, "a verdict makes a replication not needless"
    site.end(2.45, "bank")
    site.end(2.40, "replicate")
    (found,) = site.lab.state.experiments[name].replications
    assert found.result is not None and found.result["holds"] and found.result["m"] == 8
    with pytest.raises(UserError, match="it waits for the review of r2"):
        site.ask("promote", name)
    site.lab.ledger.append("review", {"finding": "ok", "text": "held"}, name, "r2")
    site.lab.refresh()
    site.lab.step()
    assert site.lab.state.experiments[name].promoted == site.lab.state.trunk == site.git("rev-parse", "org/trunk")
    lines = verify.verify(site.lab.ledger, site.lab.task, site.bench.home.runs, site.bench.repo, None)
    assert not [line for line in lines if "(trunk" in line or "(replication" in line]


@pytest.mark.slow
def test_a_person_may_pass_the_gate_and_nobody_else_can_without_being_found_out(site: Site) -> None:
    for actor, complaints in (("person", 0), ("lab", 1)):
        name = site.idea("MOMENTUM = ", f"MOMENTUM = 0.{complaints + 1} * ", again="another factor")
        site.accept(name)
        if actor == "person":
            site.ask("promote", name, actor)
        else:
            attempt = site.lab.state.experiments[name].attempts[-1]
            body = {"commit": attempt.commit, "parent": site.lab.state.trunk, "experiment": name, "why": ""}
            site.lab.ledger.append("trunk", body, attempt.commit, actor)
            site.lab.refresh()
        lines = verify.verify(site.lab.ledger, site.lab.task, site.bench.home.runs, site.bench.repo, None)
        assert len([line for line in lines if f"promotes {name}, although it waits for the review of r2" in line]) == complaints
        site.lab.step()
        site.end(2.40 - 0.05 * complaints, "bank")


def test_an_outcome_that_was_made_up_is_found_out(site: Site) -> None:
    name = site.idea("MOMENTUM = ", "MOMENTUM = 0.1 * ")
    site.accept(name)
    site.ask("replicate", name, "r2")
    body = {"attempt": 1, "by": "r2", "against": "x", "effect": -1.0, "low": -1.1, "high": -0.9, "p": 0.0, "n": 4, "m": 8,
            "holds": True, "why": ""}  # fmt: skip
    site.lab.ledger.append("replication", body, name, "lab")
    lines = verify.verify(site.lab.ledger, site.lab.task, site.bench.home.runs, site.bench.repo, None)
    assert [line for line in lines if f"(replication {name}): the facts before it call for no replication" in line]
