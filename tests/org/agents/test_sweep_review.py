"""What a sweep skeptic, or a sweep's partner, makes of what is improved; and both at work in whole organisations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.ledger import Ledger
from lab.records import Experiment
from org.agents.sweep_review import due, finding, stray_lines
from tests.conftest import Org, until
from tests.org.agents.paper import Paper

REVIEWERS = {"r1": ["r2"], "r2": ["r1"]}
HELD: dict[str, Any] = {
    "attempt": 1, "by": "r2", "against": "the bank of t0", "effect": -0.05, "low": -0.06, "high": -0.04, "p": 1e-4, "n": 4,
    "m": 8, "holds": True, "why": "",
}  # fmt: skip


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    return Paper(tmp_path)


def improved(paper: Paper, agent: str = "r1", params: dict[str, Any] | None = None) -> str:
    name = paper.tried(params or {"A": 2.0}, 0.9, agent=agent)
    paper.verdict(name, "improved", -0.05)
    return name


def with_diff(paper: Paper, name: str, diff: str) -> Experiment:
    one = paper.state.experiments[name]
    one.attempts[-1].diff = diff
    return one


def test_only_a_partners_improved_ideas_that_have_no_word_of_ours_are_due(paper: Paper) -> None:
    first = improved(paper)
    improved(paper, "r2", {"B": 2.0})
    paper.tried({"C": 2.0}, 0.9)
    assert [one.id for one in due(paper.state, REVIEWERS, "r2")] == [first]
    assert due(paper.state, {}, "r2") == []
    paper.ledger.append("review", {"finding": "", "text": "looking"}, first, "r2")
    paper.ledger.append("review", {"finding": "ok", "text": "mine"}, first, "r1")
    assert [one.id for one in due(paper.state, REVIEWERS, "r2")] == [first], "neither a remark nor another's word is a finding"
    paper.ledger.append("review", {"finding": "doubt", "text": "no"}, first, "r2")
    assert due(paper.state, REVIEWERS, "r2") == []


def test_a_finding_that_reached_trunk_is_not_due(paper: Paper) -> None:
    name = improved(paper)
    paper.trunk(f"{name}.1", name, (0.9, 0.9, 0.9, 0.9))
    assert due(paper.state, REVIEWERS, "r2") == []


def test_the_word_is_that_of_the_fresh_runs(paper: Paper) -> None:
    one = with_diff(paper, improved(paper), "--- a/a.py\n+++ b/a.py\n-A = 1.0\n+A = 2.0\n")
    word, why = finding(one, HELD, "nats")
    assert word == "ok" and "holds: -0.05 nats" in why and "n = 4 against m = 8" in why and "is the knobs" in why
    word, why = finding(one, {**HELD, "holds": False, "p": 0.4}, "nats")
    assert word == "doubt" and "does not hold" in why


def test_a_change_of_more_than_its_knobs_is_doubted_whatever_the_runs_say(paper: Paper) -> None:
    sneaky = with_diff(paper, improved(paper), "-A = 1.0\n+A = 2.0\n+import os\n# a comment\n")
    assert "3 lines are added or removed where 1 knobs" in stray_lines(sneaky)
    assert finding(sneaky, HELD, "nats")[0] == "doubt"
    by_hand = with_diff(paper, improved(paper), "+a\n+b\n+c\n")
    by_hand.params = {}
    word, why = finding(by_hand, HELD, "nats")
    assert word == "ok" and "no program can read" in why


def test_flags_on_two_runs_of_a_change_that_no_program_can_read_are_doubted(paper: Paper) -> None:
    one = with_diff(paper, improved(paper), "-A = 1.0\n+A = 2.0\n")
    for number, word in ((1, "ok"), (2, "doubt")):
        run = paper.queue("confirm", f"{one.id}.1", one.id, "r1", 1)
        paper.end(run, 0.9)
        now = paper.state.experiments[one.id]
        now.attempts[-1].diff = one.attempts[-1].diff
        for done in now.runs_for("confirm"):
            done.flags = ["knows the search split better"]
        found, why = finding(now, HELD, "nats")
        assert found == "ok" and f"{number} runs are flagged" in why, "declared knobs leave no place for a leak; it is said all the same"
        now.params = {}
        assert finding(now, HELD, "nats")[0] == word, number


DESIGN = """
name: small-{name}
about: a quick one
agents:
{agents}
promotion: {promotion}
confirmation: auto
process: {{bank: 4, confirm_stages: [2, 4]}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("promotion", "agents"),
    [
        ("partner", "  - {role: researcher, count: slots}"),
        ("skeptic", "  - {role: skeptic, settings: {seeds: 3}}\n  - {role: researcher, count: slots}"),
    ],
    ids=["partner", "skeptic"],
)
def test_what_sweeps_find_is_replicated_and_called_ok_before_it_is_trunk(
    org: Org, tmp_path: Path, promotion: str, agents: str
) -> None:
    design = tmp_path / "small.yaml"
    design.write_text(DESIGN.format(name=promotion, agents=agents, promotion=promotion))
    org.up("--slots", "2", "--design", str(design))
    until(lambda: org.state.promotions() or [one for one in org.state.experiments.values() if one.reverted], "a promotion", 270)
    first = next(one for one in org.state.experiments.values() if one.promoted)
    assert "is replicated on 2 fresh seeds" in org("exp", "replicate", first.id, "--seeds", "2"), "a person may order another"
    assert "is being replicated already" in org("exp", "replicate", first.id, code=2)
    org("down")
    state = org.state
    first = state.experiments[first.id]
    reviewer = {"partner": {"r1": "r2", "r2": "r1"}, "skeptic": {"r1": "skeptic"}}[promotion][first.agent]
    facts = {fact.kind: fact for fact in reversed(list(_facts(org, first.id)))}  # the first of each kind
    said = [fact for fact in _facts(org, first.id) if fact.kind == "review" and fact.actor == reviewer]
    assert said[-1].body["finding"] == "ok" and "holds" in said[-1].body["text"]
    assert facts["replication_order"].actor == reviewer and facts["replication"].body["holds"]
    promoted = next(fact for fact in _all(org) if fact.kind == "trunk" and fact.body["experiment"] == first.id)
    assert facts["replication"].id < said[-1].id < promoted.id and promoted.actor == "lab"
    replicas = [run for run in first.runs_for("replicate") if run.agent == reviewer]
    assert len(replicas) == (3 if promotion == "skeptic" else 4) and first.replications[0].result
    assert not {run.seed for run in replicas} & {run.seed for run in first.runs if run.purpose != "replicate"}
    assert org("ledger", "verify").startswith(f"{state.last} facts")
    assert "replication ordered by" in org("exp", "show", first.id)
    org("report")
    assert "| replicate |" in (org.root / "report" / "report.md").read_text(), "what it cost"


def _all(org: Org) -> list[Any]:
    ledger = Ledger(org.home.ledger)
    try:
        return ledger.facts()
    finally:
        ledger.close()


def _facts(org: Org, experiment: str) -> list[Any]:
    return [fact for fact in _all(org) if fact.subject == experiment]
