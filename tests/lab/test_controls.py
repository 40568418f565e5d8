"""Controls at equal cost: ordered by hand, and trunk resized by its own dial; through the workflow and on real runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lab import client, controls
from lab.attempt import bank_ready
from lab.errors import UserError
from lab.shown import next_step
from lab.steps import Policy, Write
from lab.verify import verify
from tasks.spec import Task
from tests.lab.conftest import Bench, Work, first
from tests.lab.story import CONTROLS, GOOD, SMALL, Story, confirmed, nominated
from tests.lab.test_verify import lines, told

LOST = (2.440, 2.442, 2.441, 2.439)
"""Metrics of a control that the good idea beats."""


def refusal(story: Story, name: str) -> str | None:
    experiment = story.state.experiments[name]
    attempt = experiment.attempt
    return controls.refusal(experiment, bank_ready(story.state, attempt.parent, Policy(**SMALL)) if attempt else None, story.task)


def order(story: Story, name: str, factor: float = 1.5) -> None:
    assert refusal(story, name) is None
    story.ledger.append("control", {"attempt": 1, "factor": factor}, name, "chief")


def run_controls(story: Story, steps: list[Any], values: tuple[float, ...]) -> None:
    """Carry out the workflow's wish for a control."""
    assert [step.purpose for step in steps] == ["control"] * len(values)
    for step, value in zip(steps, values, strict=True):
        story.run("control", "t0", step.experiment, factor=step.budget_factor, dial=step.dial, audit=value)


# By hand


def dear(story: Story) -> str:
    """An idea whose first run was good and cost 1.5 times as much."""
    story.bank()
    name = story.idea()
    story.run("nominate", "c1", name, search=2.40, flops=1.5e9)
    story.tell(story.next()[0])
    return name


def test_an_order_is_refused_in_a_line_that_says_what_is_missing(story: Story) -> None:
    name = story.idea()
    assert "the bank of E0001's parent is not full" in (refusal(story, name) or "")
    story.bank()
    assert "the first run of E0001 is not over" in (refusal(story, name) or "")
    story.run("nominate", "c1", name, search=2.40)
    assert "no extra cost of E0001 is measured (decided at equal FLOPs: 1x the bank's" in (refusal(story, name) or "")
    withdrawn = story.idea("c2")
    story.ledger.append("withdrawn", {"why": "no"}, withdrawn)
    assert "E0002 was withdrawn" in (refusal(story, withdrawn) or "")
    unlike = story.idea("c3")
    story.run("nominate", "c3", unlike, search=2.40, flops=None, seconds=0.0)
    assert "neither FLOPs nor seconds of E0003 can be compared" in (refusal(story, unlike) or "")


def test_what_was_judged_on_other_grounds_gets_no_control(story: Story) -> None:
    story.bank()
    name = story.idea()
    story.run("nominate", "c1", name, search=2.46, flops=1.5e9)
    story.tell(story.next()[0])
    assert "E0001 is worse: a control is for" in (refusal(story, name) or "")


def test_a_control_ordered_early_runs_at_once_and_decides_without_a_first_look_at_the_frontier(story: Story) -> None:
    name = dear(story)
    order(story, name)
    steps = story.next()
    assert {step.budget_factor for step in steps} == {1.5}
    run_controls(story, steps, LOST)
    assert story.next() == [] and "has its control already" in (refusal(story, name) or "")
    assert {step.purpose for step in confirmed(story, name, flops=1.5e9)} == {"frontier"}, "for the gain in compute"
    story.frontier(2.50, 2.20)  # by which it would be bought at once
    body = told(story, story.next())
    assert body["verdict"] == "improved" and "against trunk with 1.5x the budget (m = 4)" in body["reasoning"][2]
    assert lines(story) == []


@pytest.mark.parametrize(("values", "word"), [(LOST, "improved"), (CONTROLS, "bought")])
def test_what_the_frontier_alone_called_bought_is_judged_anew_by_its_control(
    story: Story, values: tuple[float, ...], word: str
) -> None:
    name = nominated(story)
    confirmed(story, name, flops=1.5e9)
    story.frontier(2.50, 2.20)
    assert told(story, story.next())["verdict"] == "bought" and story.next() == []
    assert f"orgctl exp control {name}" in (next_step(story.state.experiments[name]) or "")
    order(story, name)
    assert story.state.experiments[name].status == "confirming"
    run_controls(story, story.next(), values)
    assert told(story, story.next())["verdict"] == word and story.next() == [] and lines(story) == []
    assert "has its control already" in (refusal(story, name) or ""), "once"
    story.ledger.append("control", {"attempt": 1, "factor": 1.5}, name, "chief")
    assert story.state.experiments[name].status == word, "a second order opens nothing"


def test_a_control_that_fails_before_anything_was_confirmed_decides_nothing(story: Story) -> None:
    name = dear(story)
    order(story, name)
    for _ in range(3):
        story.run("control", "t0", name, factor=1.5, status="timeout")
    assert story.next() == [] and story.state.experiments[name].status == "nominated"


def test_a_control_that_was_given_less_than_is_charged_now_does_not_count(story: Story) -> None:
    name = nominated(story)
    story.ledger.append("confirm", {"attempt": 1}, name)
    story.frontier(2.50, 2.41)
    for value, flops in zip(GOOD, (1.1e9, 1.1e9, 1.6e9, 1.6e9), strict=True):
        story.run("confirm", "c1", name, audit=value, flops=flops)
    for value in LOST:
        story.run("control", "t0", name, factor=1.1, audit=value)
    steps = story.next()
    assert [step.budget_factor for step in steps] == pytest.approx([1.35] * 4)
    run_controls(story, steps, CONTROLS)
    assert told(story, story.next())["verdict"] == "bought"


# By the task's own dial


def sized(story: Story, *settings: int) -> None:
    """The task gets a dial, which its scale sets to 2."""
    scale = {**story.task.scale.model_dump(), "args": {"depth": 2}}
    dial = {"arg": "depth", "settings": [1, 2, *settings]}
    story.task = Task.model_validate({**story.task.model_dump(), "scale": scale, "dial": dial})


def beaten(story: Story, ratio: float) -> list[Any]:
    """What follows when an idea that costs so much has beaten its first control."""
    name = nominated(story)
    confirmed(story, name, flops=ratio * 1e9)
    story.frontier(2.50, 2.41)
    run_controls(story, story.next(), LOST)
    return story.next()


def probe(story: Story, steps: list[Any], size: float | None) -> list[Any]:
    """Run trunk at the one setting that is asked for, where it costs `size` times as much; None: it fails."""
    (step,) = steps
    assert (step.purpose, step.commit, step.experiment, step.budget_factor) == ("frontier", "t0", "", 0.125)
    more: dict[str, Any] = {"flops": 0.125e9 * size} if size else {"status": "crashed"}
    story.run("frontier", "t0", attempt=0, factor=0.125, dial=step.dial, audit=2.9, **more)
    return story.next()


@pytest.mark.parametrize(("values", "word"), [(LOST, "improved"), (CONTROLS, "bought")])
def test_an_idea_of_another_size_has_to_beat_trunk_of_about_that_size_at_the_same_cost_too(
    story: Story, values: tuple[float, ...], word: str
) -> None:
    sized(story, 3, 4)
    steps = beaten(story, 1.8)
    assert steps[0].dial == 3
    steps = probe(story, steps, 2.0)
    assert [(step.dial, step.budget_factor) for step in steps] == [(3, pytest.approx(0.9))] * 4
    run_controls(story, steps, values)
    body = told(story, story.next())
    assert body["verdict"] == word and lines(story) == []
    text = body["reasoning"][2]
    assert "against trunk with 1.8x the budget (m = 4)" in text
    assert "against trunk at depth 3 (2x the cost of a token) with 0.9x the budget (m = 4)" in text
    assert (body["p"] > 0.5) == (word == "bought"), "the largest of all"


def test_the_setting_is_the_one_whose_cost_is_nearest_and_trunks_own_is_one_of_them(story: Story) -> None:
    sized(story, 3, 4, 6)
    steps = probe(story, beaten(story, 1.3), 1.8)  # 1.3 lies nearer to 1 than to 1.8
    assert isinstance(steps[0], Write) and steps[0].body["verdict"] == "improved"


def test_settings_are_measured_up_to_the_ideas_cost_and_once_for_all_ideas(story: Story) -> None:
    sized(story, 3, 4, 6)
    steps = beaten(story, 1.9)
    steps = probe(story, steps, 1.5)
    assert steps[0].dial == 4
    steps = probe(story, steps, 2.2)
    assert {step.dial for step in steps} == {4}, "1.9 is nearer to 2.2 than to 1.5"
    other = story.idea("c2")
    story.run("nominate", "c2", other, search=2.40)
    story.tell(next(step for step in story.next() if isinstance(step, Write)))
    story.ledger.append("confirm", {"attempt": 1}, other)
    for value in GOOD:
        story.run("confirm", "c2", other, search=value, audit=value + 0.0001, flops=1.9e9)
    for value in LOST:
        story.run("control", "t0", other, factor=1.9, audit=value)
    assert {(step.purpose, step.dial, step.experiment) for step in story.next()} == {("control", 4, "E0001"), ("control", 4, other)}


def test_a_probe_is_waited_for(story: Story) -> None:
    sized(story, 3)
    (step,) = beaten(story, 1.9)
    story.run("frontier", "t0", attempt=0, factor=0.125, dial=step.dial, status="queued")
    assert story.next() == []


def test_a_dial_that_turns_nothing_or_does_not_work_leaves_the_control_on_a_larger_budget_alone(story: Story) -> None:
    sized(story, 3, 4)
    steps = probe(story, beaten(story, 1.9), None)
    steps = probe(story, steps, None)
    assert steps[0].dial == 4, "two failures are enough"
    steps = probe(story, steps, 1.0)
    assert isinstance(steps[0], Write) and steps[0].body["verdict"] == "improved"


def test_a_control_by_size_that_fails_leaves_the_one_on_a_larger_budget(story: Story) -> None:
    sized(story, 3)
    steps = probe(story, beaten(story, 1.9), 2.0)
    for _ in range(3):
        story.run("control", "t0", steps[0].experiment, factor=0.95, dial=3, status="timeout")
    assert told(story, story.next())["verdict"] == "improved"


# On real runs

SIZED = """
import argparse, json, pathlib, socket
from toy import model
parser = argparse.ArgumentParser()
for name in ("fd", "seed", "width"):
    parser.add_argument(f"--{name}", type=int)
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--scale", type=pathlib.Path)
given = parser.parse_args()
model.WIDTH = json.loads(given.scale.read_text())["width"] + model.EXTRA
network = model.Network(given.seed)
with socket.socket(fileno=given.fd) as connection, connection.makefile("rw", encoding="ascii") as feed:
    while True:
        feed.write(f"{model.BATCH}\\n")
        feed.flush()
        served = json.loads(feed.readline())
        if not served["batch"]:
            break
        network.step(served["batch"], model.LR)
(given.out / "weights.json").write_text(json.dumps(network.weights))
"""


@pytest.mark.slow
def test_on_real_runs_trunk_at_a_larger_setting_is_what_a_larger_idea_has_to_beat(bench: Callable[..., Bench]) -> None:
    """The toy task with its width for a dial: two units more and a larger step, which the chief wants controlled at once."""
    base = first("", "toy/model.py")
    train = ["{python}", "-P", "-m", "toy.train", "--fd", "{feed}", "--seed", "{seed}", "--out", "{out}", "--scale", "{scale}"]
    one = bench(
        committed={"toy/train.py": SIZED, "toy/model.py": base.replace("INIT = 1.0", "INIT = 1.0\nEXTRA = 0")},
        scale={"args": {"width": 4}}, task={"train": train, "dial": {"arg": "width", "settings": [4, 6, 8]}},
    )  # fmt: skip
    work = Work(one, Policy(bank=4, stages=(8,)))
    work.seat("r1", "toy/model.py", ("LR = 0.02", "LR = 0.04"), ("EXTRA = 0", "EXTRA = 2"))
    name = client.propose(one.home, "r1", "two more units and twice the step", "the step is too small")
    with pytest.raises(UserError, match=f"{name} was not run yet"):
        work.ask("control", name)
    work.ask("run", name, "r1")
    work.until(lambda one: one.status == "nominated", name)
    with pytest.raises(UserError, match="r1 may not order controls: chief does that here"):
        work.ask("control", name, "r1")
    answer = work.ask("control", name)
    assert answer["factor"] == pytest.approx(19 / 13) and len(answer["runs"]) == 4
    work.ask("confirm", name)
    verdict = work.verdict(name)
    assert verdict["verdict"] == "improved"
    assert "against trunk at width 6 (1.46x the cost of a token) with 1x the budget (m = 4)" in verdict["reasoning"][2]
    lab = work.lab
    runs = Counter((run.purpose, run.dial) for run in lab.state.runs.values())
    assert runs["control", None] == 4 and runs["control", 6] == 4 and runs["frontier", 6] == 1
    resized = [run for run in lab.state.runs.values() if run.dial == 6 and run.purpose == "control"]
    mine = [run for run in lab.state.runs.values() if run.purpose == "confirm"]
    assert {run.flops for run in resized} == {run.flops for run in mine}, "the same cost"
    assert verify(lab.ledger, one.task, one.home.runs, one.repo, None) == []
