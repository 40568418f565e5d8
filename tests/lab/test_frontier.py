"""What trunk buys for more compute, and what an idea that spends it is worth: on curves that are known, and through the workflow."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lab import frontier, verdict
from lab.frontier import Frontier
from lab.steps import Policy
from tests.lab.conftest import Bench, Work
from tests.lab.story import Story, confirmed, nominated

SIGMA = 0.0077
"""Standard deviation over seeds of nanochat's baseline on a CPU (docs/nanochat.md)."""


def curve(cost: float) -> float:
    """A power law like a baseline's: 2 % more steps buy .007, twice as many .17."""
    return 1.5 + 0.97 * cost**-0.36


def sample(chance: random.Random, mean: float, n: int) -> list[float]:
    return [chance.gauss(mean, SIGMA) for _ in range(n)]


def drawn(chance: random.Random, sign: float = 1.0) -> Frontier:
    """A frontier measured as the laboratory does it: 4 runs at 0.5x and 2x, a bank of 8."""
    runs = ((0.5, 4), (1.0, 8), (2.0, 4))
    return Frontier(tuple((x, verdict.moments([sign * value for value in sample(chance, curve(x), n)], "x")) for x, n in runs))


def exact(sign: float = 1.0, spread: float = 1e-6) -> Frontier:
    return Frontier(tuple((x, verdict.Moments(8, sign * curve(x), spread**2)) for x in (0.5, 1.0, 2.0)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("better", [0.7, 1.0, 1.03, 1.2, 1.9])
def test_the_gain_is_the_cost_at_which_trunk_gets_as_far_over_the_ideas_own(better: float, sign: float) -> None:
    values = [sign * (curve(better) + 1e-6 * step) for step in (-1, 0, 1, 0)]
    for spent in (0.9, 1.0, 1.5):
        gain = exact(sign).gain(values, spent, minimize=sign > 0)
        assert gain.ceg == pytest.approx(better / spent, rel=0.006), "the parabola follows a power law that closely"
        assert gain.low is not None and gain.high is not None and gain.low < gain.ceg < gain.high


def test_an_idea_is_held_against_trunks_curve_at_its_own_cost_and_never_beyond_what_was_measured() -> None:
    worse = [curve(1.5) + 0.03, curve(1.5) + 0.03001]
    found = exact().beside(worse, 1.5, minimize=True)
    assert found is not None and found.spent == 1.5 and found.test.effect == pytest.approx(0.03, abs=0.001)
    assert frontier.bought(found, True) and not frontier.bought(found, False)
    far = exact().beside(worse, 3.0, minimize=True)
    assert far is not None and far.spent == 2.0 and far.test.effect == pytest.approx(worse[0] - curve(2.0), abs=1e-4)
    assert exact().beside(worse, 0.4, minimize=True) is None


def test_intervals_of_gain_and_difference_cover_the_truth_nineteen_times_in_twenty() -> None:
    chance, rounds, gains, differences = random.Random(4), 600, 0, 0
    for _ in range(rounds):
        found, values = drawn(chance), sample(chance, curve(1.25), 4)
        gain, away = found.gain(values, 1.1, True), found.beside(values, 1.1, True)
        assert away is not None
        gains += gain.low is not None and gain.high is not None and gain.low < 1.25 / 1.1 < gain.high
        differences += away.test.low < curve(1.25) - curve(1.1) < away.test.high
    assert 0.925 < gains / rounds < 0.975 and 0.925 < differences / rounds < 0.975


def test_an_idea_that_is_worth_its_cost_is_turned_down_without_a_control_once_in_forty() -> None:
    chance, rounds = random.Random(5), 1500
    turned = sum(
        frontier.bought(drawn(chance).beside(sample(chance, curve(1.1), 4), 1.1, True), True) for _ in range(rounds)
    )
    assert 0.017 < turned / rounds < 0.035


def test_four_runs_at_the_two_ends_are_nearly_as_good_as_eight() -> None:
    def variance(cost: float, ends: int) -> float:
        """Of a difference between 4 runs of the idea and the curve, in sigma squared."""
        weights, _ = exact()._weights(math.log(cost))
        return 1 / 4 + sum(weight**2 / n for weight, n in zip(weights, (ends, 8, ends), strict=True))

    def share(cost: float) -> float:
        return 1 - variance(cost, 10**9) / variance(cost, frontier.RUNS)

    assert share(1.05) == pytest.approx(0.0017, abs=1e-4) and share(1.5) == pytest.approx(0.159, abs=1e-3)
    assert (variance(1.5, frontier.RUNS) / variance(1.5, 8)) ** 0.5 == pytest.approx(1.042, abs=1e-3)


def test_a_metric_that_trunk_does_not_reach_and_a_flat_curve_leave_the_gain_undefined() -> None:
    for value in (curve(2.2), curve(0.45), 0.5):
        gain = exact().gain([value, value + 1e-6], 1.0, minimize=True)
        assert gain.facts() == {"ceg": None, "ceg_low": None, "ceg_high": None} and "outside of what trunk reaches" in gain.why
    chance = random.Random(1)
    flat = Frontier(tuple((x, verdict.moments(sample(chance, 2.0 - 0.001 * x, 4), "x")) for x in (0.5, 1.0, 2.0)))
    gain = flat.gain([2.0, 2.0001, 1.9999], 1.0, minimize=True)
    assert gain.ceg is None and "more compute does not visibly help trunk" in gain.why
    bent = Frontier(tuple((x, verdict.Moments(4, mean, 1e-3)) for x, mean in ((0.5, 2.2), (1.0, 2.0), (2.0, 1.998))))
    gain = bent.gain([1.976, 1.9761, 1.9759], 1.0, minimize=True)
    assert gain.ceg is None and gain.why.startswith("there the curve may be flat: slope ")


# Through the workflow, with figures like nanochat's on a CPU

AUDIT = [2.4681, 2.4789, 2.4720, 2.4853, 2.4647, 2.4765, 2.4701, 2.4842]
HALF, DOUBLE = 2.74, 2.26
POLICY: dict[str, Any] = {"bank": 8, "stages": verdict.STAGES}


def judged(story: Story, effect: float, ratio: float, control: float | None = None, **policy: Any) -> tuple[dict[str, Any], list[str]]:
    """An idea of this effect at equal tokens and this ratio of FLOPs, carried by the workflow to its verdict; the purposes of
    the runs that were asked for since its first run. `control`: trunk given as much; by default its power law."""
    chance = random.Random(3)
    for value in AUDIT:
        story.run("bank", "t0", attempt=0, search=value - 0.06, audit=value)
    name = story.idea()
    story.run("nominate", "c1", name, search=2.33, flops=ratio * 1e9)
    asked: list[str] = []
    while True:
        steps = story.next(**{**POLICY, "confirmation": "auto", **policy})
        for step in steps:
            if not hasattr(step, "purpose"):
                story.tell(step)
                if step.kind == "verdict":
                    return step.body, asked
                break
            asked.append(step.purpose)
            mean = {
                "confirm": 2.475 + effect, "bank": 2.475, "frontier": {0.5: HALF, 2.0: DOUBLE}.get(step.budget_factor, 0),
                "control": 1.5 + 0.975 * ratio**-0.36 if control is None else control,
            }[step.purpose]  # fmt: skip
            cost = ratio if step.purpose == "confirm" else step.budget_factor
            value = chance.gauss(mean, SIGMA)
            story.run(step.purpose, step.commit, step.experiment, step.attempt, factor=step.budget_factor, flops=cost * 1e9,
                      search=value - 0.06, audit=value)  # fmt: skip


def test_a_wider_model_gains_at_equal_tokens_loses_at_equal_flops_and_is_bought_before_any_control(story: Story) -> None:
    body, asked = judged(story, effect=-0.044, ratio=1.62)
    assert body["verdict"] == "bought" and body["high"] < 0 and body["cost_ratio"] == pytest.approx(1.62)
    assert asked.count("frontier") == 8 and "control" not in asked
    assert body["ceg"] < 0.8 and body["ceg_low"] < body["ceg"] < body["ceg_high"] < 1
    text = "\n".join(body["reasoning"])
    assert "against trunk's frontier at 1.62x the cost effect +0.1" in text and "worse than what that buys" in text
    assert "decided at equal FLOPs: 1.62x the bank's" in text and "CEG 0.69" in text


def test_a_real_improvement_that_costs_some_per_cent_more_is_improved_with_its_gain(story: Story) -> None:
    body, asked = judged(story, effect=-0.06, ratio=1.04)
    assert body["verdict"] == "improved"
    assert asked.count("frontier") == 8 and asked.count("control") == 8
    assert 1.05 < body["ceg_low"] < body["ceg"] < body["ceg_high"] < 1.35
    text = "\n".join(body["reasoning"])
    assert "against trunk with 1.04x the budget (m = 8)" in text and "n = 4, 10, 4), the idea at 1.04x" in text


def test_a_gain_that_is_just_what_its_cost_buys_passes_the_first_look_and_is_bought_by_its_control(story: Story) -> None:
    body, asked = judged(story, effect=1.5 + 0.975 * 1.15**-0.36 - 2.475, ratio=1.15)
    assert body["verdict"] == "bought" and asked.count("control") == 8
    assert body["ceg_low"] < 1 < body["ceg_high"]


def test_a_cost_that_rises_by_a_fraction_of_a_thousandth_is_charged(story: Story) -> None:
    body, asked = judged(story, effect=-0.06, ratio=1.0005)
    assert body["verdict"] == "improved" and "frontier" in asked and "control" in asked
    assert "decided at equal FLOPs: 1.0005x the bank's" in body["reasoning"][3]


def test_beyond_twice_the_cost_the_control_decides_and_the_gain_is_undefined_with_the_difference_at_equal_cost(story: Story) -> None:
    body, asked = judged(story, effect=-0.30, ratio=2.4, control=2.25)
    assert body["verdict"] == "improved" and asked.count("control") == 8
    assert (body["ceg"], body["ceg_low"], body["ceg_high"]) == (None, None, None)
    text = "\n".join(body["reasoning"])
    assert "CEG undefined: 2.1" in text and "against its control effect -0.0" in text


def test_an_idea_that_costs_no_more_asks_for_no_frontier_and_takes_its_gain_from_one_that_is_there(story: Story) -> None:
    body, asked = judged(story, effect=-0.06, ratio=1.0)
    assert body["verdict"] == "improved" and set(asked) == {"confirm", "bank"} and body["ceg"] is None
    assert not any("CEG" in line for line in body["reasoning"])


def test_the_frontier_is_measured_once_for_all_ideas_that_cost_more_and_only_when_one_is_believed(story: Story) -> None:
    name = nominated(story)
    other = story.idea("c2")
    story.run("nominate", "c2", other, search=2.40)
    story.tell(story.next()[0])
    story.ledger.append("confirm", {"attempt": 1}, other)
    for value in (2.402, 2.399):
        story.run("confirm", "c2", other, search=value, audit=value, flops=1.2e9)
    assert {step.purpose for step in story.next()} == {"confirm", "bank"}, "two seeds are believed by nobody"
    for value in (2.401, 2.400):
        story.run("confirm", "c2", other, search=value, audit=value, flops=1.2e9)
    steps = confirmed(story, name, flops=1.5e9)
    assert sorted((step.purpose, step.commit, step.experiment, step.budget_factor) for step in steps) == [
        *[("frontier", "t0", "", 0.5)] * 4, *[("frontier", "t0", "", 2.0)] * 4,
    ]  # fmt: skip
    for step in steps:
        story.run("frontier", "t0", attempt=0, factor=step.budget_factor, status="queued")
    assert story.next() == [], "it is waited for"
    for run in list(story.state.runs.values()):
        if run.purpose == "frontier":
            factor = run.budget["amount"] / 1000
            story.end(run.id, "ok", flops=factor * 1e9, audit={0.5: 2.50, 2.0: 2.41}[factor] + 0.0001 * run.seed)
    assert {(step.purpose, step.experiment) for step in story.next()} == {("control", name), ("control", other)}


def test_a_frontier_that_fails_is_given_up_and_the_control_decides(story: Story) -> None:
    name = nominated(story)
    confirmed(story, name, flops=1.1e9)
    for _ in range(3):
        story.run("frontier", "t0", attempt=0, factor=2.0, status="timeout")
    assert {step.purpose for step in story.next()} == {"control"}
    for value in (2.440, 2.442, 2.441, 2.439):
        story.run("control", "t0", name, factor=1.1, audit=value)
    (step,) = story.next()
    assert step.body["verdict"] == "improved" and step.body["ceg"] is None
    said = "CEG undefined: trunk fails at 2x its budget (why); against its control effect -0.04"
    assert said in "\n".join(step.body["reasoning"])


def test_trunk_that_costs_the_same_on_any_budget_leaves_the_gain_undefined_for_that_reason(story: Story) -> None:
    name = nominated(story)
    confirmed(story, name, flops=1.1e9)
    for factor in (0.5, 2.0):
        for step in range(4):
            story.run("frontier", "t0", attempt=0, factor=factor, flops=1e9, audit=2.45 + 0.001 * step)
    for value in (2.440, 2.442, 2.441, 2.439):
        story.run("control", "t0", name, factor=1.1, audit=value)
    (step,) = story.next()
    assert step.body["verdict"] == "improved" and step.body["ceg"] is None
    said = "CEG undefined: trunk costs 1x and 1x in FLOPs on half and twice its budget, which it does not follow; against its control"
    assert said in "\n".join(step.body["reasoning"])


def test_runs_of_the_frontier_from_another_machine_do_not_count_and_do_not_make_the_bank_another(story: Story) -> None:
    name = nominated(story)
    confirmed(story, name, flops=1.5e9)
    story.frontier(2.50, 2.41, hashes={"torch": "another"})
    assert [step.purpose for step in story.next()] == ["frontier"] * 8
    assert story.state.environment is not None and story.state.environment[2] == 1000, "the budget of the bank"


@pytest.mark.slow
def test_on_real_runs_width_alone_is_bought_and_a_larger_step_that_comes_with_a_little_width_is_improved(
    bench: Callable[..., Bench],
) -> None:
    """The toy task, whose WIDTH costs FLOPs in proportion: 8 units gain at equal tokens and lose to trunk given as many FLOPs."""
    work = Work(bench(), Policy(bank=8, stages=(8,), confirmation="auto"))
    lab = work.lab

    def turn(agent: str, **constants: float) -> dict[str, Any]:
        """An idea that sets these constants, through the laboratory to its verdict."""
        now = {"WIDTH": 4, "LR": 0.02}
        work.seat(agent, "toy/model.py", *((f"\n{name} = {now[name]}\n", f"\n{name} = {value}\n") for name, value in constants.items()))
        return work.verdict(work.submit(agent, ", ".join(constants), f"{constants} are worth more than they cost"))

    wide = turn("r1", WIDTH=8, LR=0.023)
    assert (wide["verdict"], wide["cost_ratio"]) == ("bought", pytest.approx(25 / 13)), wide["reasoning"]
    assert wide["high"] < 0 and wide["ceg_high"] < 1, wide["reasoning"]
    good = turn("r2", WIDTH=5, LR=0.036)
    assert (good["verdict"], good["cost_ratio"]) == ("improved", pytest.approx(16 / 13)), good["reasoning"]
    assert good["ceg_low"] > 1, good["reasoning"]
    counted = Counter(run.purpose for run in lab.state.runs.values())
    assert (counted["bank"], counted["frontier"]) == (8, 8), "one frontier for both"
