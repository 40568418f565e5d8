"""What a sweep researcher tries next, and what it remembers: promises of the study."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sweep import Session, World
from org.agents.space import neighbours, settle
from org.agents.study import Study, noise, seed_of, trials
from tasks.spec import Task
from tests.org.agents.paper import Paper, knob, task

THREE = task(knob("A"), knob("B"), knob("C", "schedule"))
START = {"A": 1.0, "B": 1.0, "C": 1.0}


def study(
    paper: Paper, at: dict[str, dict[str, Any]] | None = None, of: Task = THREE, agents: list[str] | None = None
) -> Study:
    state = paper.state
    known = trials(state, of, agents)
    return Study(list(of.knobs), state.trunk, at or {"t0": START}, known, noise(state), seed_of(["r1", "session"]))


def test_the_first_round_turns_every_knob_once_and_alone(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    turned: list[str] = []
    for _ in range(3):
        move = study(paper).next()
        assert move is not None and move.kind == "probe" and len(move.changes) == 1
        turned += move.changes
        paper.tried(dict(move.changes), 1.0)
    assert sorted(turned) == ["A", "B", "C"]


def test_nothing_is_tried_twice_not_even_what_is_still_queued(tmp_path: Path) -> None:
    paper, seen = Paper(tmp_path), []
    for number in range(25):
        move = study(paper).next()
        assert move is not None
        seen.append(tuple(sorted(move.changes.items())))
        if number % 3:
            paper.tried(dict(move.changes), 1.0 + 0.01 * (number % 4))
        else:
            paper.submit(paper.propose(dict(move.changes)))
    assert len(set(seen)) == len(seen)
    assert all(1 <= len(changes) <= 3 for changes in seen)


def test_a_value_within_two_percent_of_what_was_tried_is_not_tried(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0, "B": 0.5}, 1.0)
    found = study(paper)
    assert not found.fresh({"A": 2.03, "B": 0.495})
    assert found.fresh({"A": 2.1, "B": 0.5}) and found.fresh({"A": 2.0}) and found.fresh({"A": 2.0, "C": 0.5})


def test_what_helped_alone_is_tried_together(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0}, 0.95)
    paper.tried({"B": 0.5}, 0.96)
    paper.tried({"C": 2.0}, 1.1)
    move = study(paper).next()
    assert move is not None and move.kind == "combine"
    assert move.changes == {"A": 2.0, "B": 0.5}
    assert move.mean > 3, "both gains are expected to add up"


def test_a_new_process_knows_what_its_predecessor_knew(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    for value in (0.97, 1.02, 1.0, 0.99):
        move = study(paper).next()
        assert move is not None
        paper.tried(dict(move.changes), value)
    assert study(paper).next() == study(paper).next()
    other = Study(
        list(THREE.knobs),
        "t0",
        {"t0": START},
        trials(paper.state, THREE),
        noise(paper.state),
        seed_of(["r2", "session"]),
    )
    assert other.turnable != study(paper).turnable, "two agents begin at different ends"


def test_a_gain_that_reached_trunk_is_not_undone(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    winner = paper.tried({"A": 2.0}, 0.95, agent="r2")
    paper.tried({"B": 2.0}, 1.05)
    paper.tried({"C": 2.0}, 1.05)
    paper.promote(winner, (0.95, 0.97, 0.93, 0.95))
    at = {"t0": START, "E0001.1": {**START, "A": 2.0}}
    for agents in (None, ["r1"]):  # also for researchers who otherwise know only their own trials
        belief = study(paper, at, agents=agents).belief
        back, _ = belief.about({"A": 1.0}, at["E0001.1"])
        assert back < -2, "going back is known to cost what was gained"
        worse, _ = belief.about({"B": 2.0}, at["E0001.1"])
        assert worse < -2, "what was learned on the old trunk still counts"


def test_a_crash_counts_as_tried_and_a_change_overtaken_by_trunk_does_not(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0}, None)
    lost = paper.propose({"B": 2.0})
    paper.submit(lost)
    paper.ledger.append("withdrawn", {"why": "trunk has moved: E0009, promoted since, turned B too"}, lost)
    skipped = paper.propose({"C": 2.0})
    paper.submit(skipped)
    paper.ledger.append("withdrawn", {"why": "skipped by a person at the pane"}, skipped)
    found = study(paper)
    assert not found.fresh({"A": 2.0}) and not found.fresh({"C": 2.0})
    assert found.fresh({"B": 2.0})
    assert found.next() is not None


def test_a_bought_gain_is_not_built_upon(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0}, 0.8, flops=2e9)
    paper.tried({"B": 2.0}, 0.95)
    assert list(study(paper).best) == ["B"]


def test_fresh_seeds_count_more_than_the_run_that_was_picked(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    name = paper.tried({"A": 2.0}, 0.9)
    assert study(paper).belief.about({"A": 2.0}, START)[0] > 3
    for value in (1.0, 1.01, 0.99):
        paper.end(paper.queue("confirm", f"{name}.1", name, "r1", 1), value)
    assert abs(study(paper).belief.about({"A": 2.0}, START)[0]) < 1


def test_one_disaster_does_not_make_the_other_direction_look_like_a_miracle(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0}, 900.0)
    there, spread = study(paper).belief.about({"A": 0.5}, START)
    assert there < 15 and spread > 0


def test_a_metric_to_be_maximised_is_maximised(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0}, 1.1)
    paper.tried({"B": 2.0}, 0.9)
    upwards = task(*THREE.knobs, direction="maximize")
    assert list(study(paper, of=upwards).best) == ["A"]


def test_optuna_sees_every_trial_and_what_is_pending_as_running(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0}, 0.95)
    paper.tried({"B": 2.0}, None)
    paper.submit(paper.propose({"C": 2.0}))
    found = study(paper).optuna_study()
    assert [trial.state.name for trial in found.trials] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    assert found.best_params == {"A": 2.0, "B": 1.0, "C": 1.0}


def test_tpe_has_its_turn_and_stays_in_the_ranges(tmp_path: Path) -> None:
    knobs = [
        knob("A"), knob("B", low=0.0, high=0.2), knob("C", choices=[2, 3, 4]), knob("D", choices=["relu", "gelu"]),
        knob("E", low=1, high=9),
    ]  # fmt: skip
    mixed, now = task(*knobs), {"A": 1.0, "B": 0.0, "C": 4, "D": "relu", "E": 3}
    paper, kinds = Paper(tmp_path), set()
    for number in range(20):
        move = study(paper, {"t0": now}, mixed).next()
        assert move is not None
        kinds.add(move.kind)
        for name, value in move.changes.items():
            one = next(knob for knob in knobs if knob.name == name)
            if one.choices is not None:
                assert value in one.choices
            else:
                assert one.low is not None and one.high is not None and not isinstance(value, str)
                assert one.low <= value <= one.high and isinstance(value, int if name == "E" else float)
        paper.tried(dict(move.changes), 1.0 + 0.013 * (number % 5))
    assert {"probe", "tpe"} <= kinds


def test_a_knob_that_trunk_lost_is_left_alone(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    for _ in range(8):
        move = study(paper, {"t0": {"A": 1.0, "C": 1.0}}).next()
        assert move is not None and "B" not in move.changes
        paper.tried(dict(move.changes), 1.0)


def test_when_all_choices_are_used_up_there_is_no_move(tmp_path: Path) -> None:
    paper, one = Paper(tmp_path), task(knob("D", choices=["relu", "gelu"]))
    now = {"t0": {"D": "relu"}}
    assert study(paper, now, one).next() is not None
    paper.tried({"D": "gelu"}, 1.1)
    assert study(paper, now, one).next() is None


@pytest.mark.parametrize("value", [0.1, 0.25, 1.0, 4.0, 9.0])
def test_steps_stay_in_the_range_even_from_outside_it(value: float) -> None:
    one = knob("A")
    found = neighbours(one, value, True)
    assert found and all(0.25 <= float(step) <= 4.0 and step != value for step in found)
    assert settle(one, 1.0, value) == min(max(value, 0.25), 4.0)


def test_noise_is_pooled_over_banks(tmp_path: Path) -> None:
    paper = Paper(tmp_path, (1.0, 1.2))
    assert noise(paper.state).sigma == pytest.approx(statistics.stdev([1.0, 1.2]))  # type: ignore[union-attr]
    assert noise(Paper(_made(tmp_path / "empty"), ()).state) is None


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_a_session_on_a_noisy_landscape_finds_confirmed_improvements() -> None:
    """The default's promise, on paper: 128 runs on 2 slots, 12 knobs whose optima lie 0.8 steps away (seeds fixed)."""
    left, promoted = [], 0
    for seed in range(6):
        world = World(seed)
        session = Session(world)
        losses = session.play(128)
        left.append(losses[-1] / world.loss(world.start))
        promoted += bool(session.state.promotions())
    assert promoted >= 5
    assert statistics.fmean(left) < 0.6
