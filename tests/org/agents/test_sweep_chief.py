"""What the sweep chief decides: who works on what, what is confirmed, what is promoted."""

from __future__ import annotations

import time
from pathlib import Path

from org.agents.sweep_chief import best_improved, choose, deal, dry_areas, earned_share, nominees, reader, shares
from org.agents.worker import superseded
from tests.org.agents.paper import Paper


def test_areas_are_shared_out_by_their_number_of_knobs() -> None:
    areas = {"optimiser": 4, "schedule": 3, "initialisation": 3, "architecture": 5}
    parts = deal(areas, ["r1", "r2"], set())
    assert sorted(parts["r1"] + parts["r2"]) == sorted(areas)
    loads = [sum(areas[area] for area in part) for part in parts.values()]
    assert abs(loads[0] - loads[1]) <= 1


def test_nobody_goes_without_an_area_and_dry_ones_come_last() -> None:
    assert deal({"a": 2}, ["r1", "r2", "r3"], set()) == {"r1": ["a"], "r2": ["a"], "r3": ["a"]}
    parts = deal({"a": 9, "b": 2, "c": 2}, ["r1", "r2"], {"a"})
    assert {parts["r1"][0], parts["r2"][0]} == {"b", "c"}, "each has one that still yields"
    assert deal({}, ["r1"], set()) == {} == deal({"a": 1}, [], set())


def test_the_best_nominee_goes_first_and_one_at_a_time(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    for sigmas in (3.0, 6.0, 0.5):
        paper.nominate(paper.tried({"A": 1.0 + sigmas}, 0.9), sigmas)
    found = nominees(paper.state)
    assert [one.experiment for one in found] == ["E0002", "E0001", "E0003"]
    assert found[0].expected < found[0].sigmas, "one run is not believed at its word"
    chosen = choose(found, confirming=0, most=1)
    assert chosen is not None and chosen.experiment == "E0002"
    assert choose(found, confirming=1, most=1) is None


def test_a_gain_within_noise_waits_and_a_fair_one_goes_when_nothing_better_comes(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.nominate(paper.tried({"A": 2.0}, 0.99), 0.5)
    assert choose(nominees(paper.state), 0, 1) is None
    paper.nominate(paper.tried({"A": 3.0}, 0.98), 1.5)
    assert choose(nominees(paper.state), 0, 1) is None, "something better may come"
    for number in range(6):
        paper.tried({"B": 1.0 + number}, 1.1)
    chosen = choose(nominees(paper.state), 0, 1)
    assert chosen is not None and chosen.experiment == "E0002"


def test_what_costs_more_compute_is_less_likely_to_be_worth_it(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.nominate(paper.tried({"A": 2.0}, 0.9), 4.0)
    paper.nominate(paper.tried({"B": 2.0}, 0.9, flops=2e9), 4.0)
    cheap, dear = nominees(paper.state)
    assert (cheap.experiment, dear.experiment) == ("E0001", "E0002")
    assert dear.runs > cheap.runs and dear.chance < cheap.chance
    paper.queue("frontier", "t0")
    assert nominees(paper.state)[1].runs == dear.runs - 10, "the frontier is paid for once"
    before = earned_share(paper.state)
    paper.verdict("E0002", "bought", -0.05)
    assert earned_share(paper.state) < before


def test_only_improved_is_promoted_the_largest_effect_first(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    for word, effect in (("improved", -0.02), ("bought", -0.5), ("improved", -0.05), ("neutral", -0.3)):
        paper.verdict(paper.tried({"A": 2.0 + effect}, 0.9), word, effect)
    found = best_improved(paper.state, minimize=True)
    assert found is not None and found.id == "E0003"
    assert best_improved(Paper(_made(tmp_path / "other")).state, minimize=True) is None


def test_a_nominee_is_superseded_when_trunk_moved_on_its_own_knob_only(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    same = paper.tried({"A": 3.0, "B": 2.0}, 0.9)
    other = paper.tried({"C": 2.0}, 0.9)
    winner = paper.tried({"A": 2.0}, 0.9)
    assert superseded(paper.state, paper.state.experiments[same]) is None
    paper.promote(winner, (0.95, 0.96))
    state = paper.state
    assert winner in (superseded(state, state.experiments[same]) or "")
    assert superseded(state, state.experiments[other]) is None
    later = paper.tried({"A": 4.0}, 0.9)
    assert superseded(paper.state, paper.state.experiments[later]) is None, "it was tried on the new trunk"


def test_an_area_is_dry_after_eight_tries_without_promise(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    for number in range(8):
        assert dry_areas(paper.state, ["optimiser", "schedule"]) == set()
        paper.tried({"A": 1.0 + number}, 1.1, family="optimiser")
    assert dry_areas(paper.state, ["optimiser", "schedule"]) == {"optimiser"}
    paper.nominate(paper.tried({"A": 20.0}, 0.9, family="optimiser+schedule"), 3.0)
    assert dry_areas(paper.state, ["optimiser", "schedule"]) == set()


def assigned_by(paper: Paper, by: str, agent: str, *areas: str, idea: str = "") -> None:
    body = {"agent": agent, "areas": list(areas), "hypothesis": "", "idea": idea, "gpu_hours": None, "why": "w"}
    body["deadline"] = time.time() + 60
    paper.ledger.append_new("assignment", "W", body, by)


def test_whom_a_person_assigned_keeps_that_and_the_rest_is_dealt_to_the_others(tmp_path: Path) -> None:
    paper, now = Paper(tmp_path), time.time()
    areas = {"optimiser": 4, "schedule": 3, "architecture": 5}
    assigned_by(paper, "chief", "r1", "schedule")
    assert set(shares(paper.state, areas, ["r1", "r2"], "chief", now)) == {"r1", "r2"}
    assigned_by(paper, "person", "r1", "schedule")
    assert shares(paper.state, areas, ["r1", "r2"], "chief", now) == {"r2": ["architecture", "optimiser"]}
    assert set(shares(paper.state, areas, ["r1", "r2"], "chief", now + 61)) == {"r1", "r2"}, "when it is over it is the chief's again"
    assert shares(paper.state, {"schedule": 3}, ["r1", "r2"], "chief", now) == {"r2": ["schedule"]}, "rather that than nothing"


def test_an_area_that_somebody_took_up_again_is_not_dry_for_its_past(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    for number in range(8):
        paper.tried({"A": 1.0 + number}, 1.1, family="optimiser")
    paper.ledger.append("retired", {"evidence": ["E0001"], "why": "w"}, "optimiser", "chief")
    paper.ledger.append("reopened", {"why": "the data changed"}, "optimiser", "person")
    assert dry_areas(paper.state, ["optimiser"]) == set()


def test_a_person_s_idea_goes_to_who_reads_in_turn(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    assert reader(paper.state, ["r2", "r3"]) == "r2"
    assigned_by(paper, "chief", "r2", idea="E0001")
    assert reader(paper.state, ["r2", "r3"]) == "r3"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
