"""The workflow of an idea as pure decisions: what the laboratory does next, given only the ledger's facts."""

from __future__ import annotations

from typing import Any

import pytest

from lab.attempt import interleaved
from lab.claims import reported, said
from lab.cost import cost
from lab.experiment import decide
from lab.queue import pick, waiting
from lab.records import Bank
from lab.slots import Slot
from lab.steps import Policy, Promote, Queue, Rebase, Write
from tasks.spec import Task
from tests.lab.story import BANK, CONTROLS, GOOD, TASK, Story, confirmed, nominated, promoted


def test_the_bank_comes_first_and_is_asked_for_once(story: Story) -> None:
    assert [(step.purpose, step.commit) for step in story.next()] == [("bank", "t0")] * 4
    for _ in range(4):
        story.run("bank", "t0", attempt=0, status="queued")
    assert story.next() == []


def test_a_baseline_that_fails_raises_one_alarm_and_no_endless_runs(story: Story) -> None:
    for _ in range(3):
        story.run("bank", "t0", attempt=0, status="crashed")
    (alarm,) = story.next()
    assert alarm.kind == "alarm" and "itself fails" in alarm.body["text"]
    story.tell(alarm)
    assert story.next() == []


def test_no_idea_is_run_on_a_baseline_that_fails_by_itself(story: Story) -> None:
    own = story.run("nominate", "c1", story.idea(), status="queued")
    slots = [Slot(0, "cpu", None, "")]
    for _ in range(3):
        assert [run.id for run, _ in pick(story.state, slots)] == [own]
        story.run("bank", "t0", attempt=0, status="invalid")
    assert pick(story.state, slots) == [], "it would be called invalid, and would have been tried"
    story.bank()
    assert [run.id for run, _ in pick(story.state, slots)] == [own]


def test_a_first_run_only_nominates(story: Story) -> None:
    story.bank()
    name = story.idea()
    (first,) = story.next()
    assert isinstance(first, Queue) and first.purpose == "nominate" and first.splits == ("search",)
    story.run("nominate", "c1", name, search=2.40)
    (step,) = story.next()
    assert step.kind == "nomination" and step.body["nominated"]
    story.tell(step)
    assert story.state.experiments[name].status == "nominated"
    assert story.next() == [], "nothing is confirmed before somebody orders it"


@pytest.mark.parametrize(("direction", "value", "said"), [("minimize", 2.461, "+0.0107"), ("maximize", 2.44, "-0.0103")])
def test_a_first_run_that_is_worse_is_so_many_sigma_away_on_the_side_of_its_effect(
    story: Story, direction: str, value: float, said: str
) -> None:
    story.task = Task.model_validate({**TASK.model_dump(), "metric": {**TASK.metric.model_dump(), "direction": direction}})
    story.bank()
    story.run("nominate", "c1", story.idea(), search=value)
    (step,) = story.next()
    assert step.body["reasoning"][0].startswith(f"one run at {said} nats ({said[0]}") and step.body["verdict"] == "worse"


def test_no_judgement_before_the_bank_is_full(story: Story) -> None:
    name = story.idea()
    story.run("nominate", "c1", name, search=2.40)
    assert all(isinstance(step, Queue) and step.purpose == "bank" for step in story.next())


def test_a_first_run_that_is_no_better_ends_the_idea(story: Story) -> None:
    story.bank()
    name = story.idea()
    story.run("nominate", "c1", name, search=2.46)
    (step,) = story.next()
    assert step.kind == "verdict" and step.body["verdict"] == "worse"


def ordered(story: Story, **bank: Any) -> str:
    """A nominated idea whose confirmation was ordered."""
    name = nominated(story, **bank)
    story.ledger.append("confirm", {"attempt": 1}, name)
    return name


def test_an_ordered_confirmation_runs_fresh_seeds_on_both_splits_and_judges_on_audit(story: Story) -> None:
    name = ordered(story)
    steps = story.next()
    assert [(step.purpose, step.commit) for step in steps] == [("confirm", "c1")] * 2
    assert {step.splits for step in steps} == {("search", "audit")}
    story.run("confirm", "c1", name, audit=GOOD[0])
    assert [step.purpose for step in story.next()] == ["confirm"], "one of two is missing still"
    story.run("confirm", "c1", name, audit=GOOD[1])
    steps = story.next()
    assert [(step.purpose, step.commit) for step in steps] == [("bank", "t0"), ("confirm", "c1")] * 2, "baselines in between"
    assert steps[0].splits == ("search", "audit")
    for value in (2.449, 2.4505):
        story.run("bank", "t0", attempt=0, search=value, audit=value)
    for value in GOOD[2:]:
        story.run("confirm", "c1", name, audit=value)
    (verdict,) = story.next()
    assert verdict.body["verdict"] == "improved"
    assert verdict.body["low"] <= verdict.body["effect"] <= verdict.body["high"] < 0
    assert verdict.body["n"] == 4 and verdict.body["m"] == 6 and len(verdict.body["reasoning"]) == 4
    assert abs(verdict.body["effect"] - (2.4005 - 2.450083333)) < 1e-6, "the nominating value is thrown away"


def test_the_stages_of_the_default_policy_end_at_fourteen_seeds_with_a_baseline_beside_each_until_the_bank_is_large(
    story: Story,
) -> None:
    for index in range(8):
        story.run("bank", "t0", attempt=0, search=2.45 + 0.001 * index, audit=2.45 + 0.001 * index)
    name = story.idea()
    story.run("nominate", "c1", name, search=2.40)
    story.tell(story.next(bank=8, stages=Policy().stages)[0])
    story.ledger.append("confirm", {"attempt": 1}, name)
    asked, seeds = [], iter(range(100))
    while not isinstance((steps := decide(story.state, TASK, Policy()))[0], Write):
        asked.append((len([s for s in steps if s.purpose == "confirm"]), len([s for s in steps if s.purpose == "bank"])))
        for step in steps:
            value = (2.4486 if step.purpose == "confirm" else 2.4508) + 0.0011 * (next(seeds) % 5) + 1e-6 * next(seeds)
            story.run(step.purpose, step.commit, step.experiment, step.attempt, search=value, audit=value)
    assert asked == [(2, 0), (2, 2), (4, 4), (6, 6)]
    assert (steps[0].body["n"], steps[0].body["m"]) == (14, 20)
    assert [interleaved(have, 6) for have in (8, 20, 24, 60)] == [6, 4, 1, 1]


def test_a_judgement_waits_for_the_baselines_it_asked_for_and_not_for_what_others_ask_for(story: Story) -> None:
    name = ordered(story)
    early = story.run("bank", "t0", attempt=0, status="queued")
    for value in GOOD[:2]:
        story.run("confirm", "c1", name, audit=value)
    assert story.next() == [], "asked for before its own runs were"
    story.run("bank", "t0", attempt=0, status="queued")
    story.end(early, "ok", search=2.451, audit=2.451)
    assert [step.purpose for step in story.next()] == ["bank", "confirm"] * 2


def test_an_unclear_effect_gets_a_second_stage(story: Story) -> None:
    name = nominated(story, 2.449)
    story.ledger.append("confirm", {"attempt": 1}, name)
    for value in (2.4470, 2.4478):
        story.run("confirm", "c1", name, audit=value)
    assert [step.purpose for step in story.next()] == ["bank", "confirm"] * 2
    for value in (2.4510, 2.4490):
        story.run("confirm", "c1", name, audit=value)
    (verdict,) = story.next()
    assert verdict.body["verdict"] in ("neutral", "inconclusive") and verdict.body["n"] == 4


def test_a_gain_that_costs_more_flops_is_checked_at_equal_cost_and_is_bought(story: Story) -> None:
    name = nominated(story)
    assert {step.purpose for step in confirmed(story, name, flops=1.5e9)} == {"frontier"}
    story.frontier(2.50, 2.41)
    steps = story.next()
    assert [(step.purpose, step.commit) for step in steps] == [("control", "t0")] * 4
    assert steps[0].budget_factor == pytest.approx(1.5)
    for value in CONTROLS:
        story.run("control", "t0", name, factor=1.5, audit=value)
    (verdict,) = story.next()
    assert verdict.body["verdict"] == "bought"


def test_a_gain_that_beats_its_control_is_improved(story: Story) -> None:
    name = nominated(story)
    confirmed(story, name, flops=1.03e9)
    story.frontier(2.50, 2.41)
    for value in (2.440, 2.442, 2.441, 2.439):
        story.run("control", "t0", name, factor=1.03, audit=value)
    (verdict,) = story.next()
    assert verdict.body["verdict"] == "improved"


def test_a_control_that_leaves_it_open_asks_for_the_next_stage_whatever_the_number_of_its_runs(story: Story) -> None:
    rules: dict[str, Any] = {"bank": 8, "stages": (2, 4, 8)}
    story.bank()
    name = nominated(story)
    confirmed(story, name, flops=1.03e9)
    story.frontier(2.50, 2.41)
    for value in (2.400, 2.402, 2.403, 2.404, 2.4025, 2.4035, 2.4065, 2.4025):
        story.run("control", "t0", name, factor=1.03, audit=value)
    steps = story.next(**rules)
    assert [step.purpose for step in steps] == ["bank", "confirm"] * 4
    for _ in range(4):
        story.run("confirm", "c1", name, audit=2.401, search=2.401, status="queued", flops=1.03e9)
    assert story.next(**rules) == [], "the fresh seeds are waited for"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("time", "decided at equal seconds, which the budget sees to; not charged: FLOPs 1.500x"),
        ("flops", "decided at equal FLOPs, which the budget sees to; not charged: seconds 1.000x"),
    ],
)
def test_a_budget_of_seconds_or_flops_makes_the_cost_equal_and_needs_no_control(story: Story, kind: str, said: str) -> None:
    story.scale(budget={"kind": kind, "amount": 5.5})
    (verdict,) = confirmed(story, nominated(story), flops=1.5e9)
    assert (verdict.body["verdict"], verdict.body["reasoning"][3]) == ("improved", said)


def test_who_takes_longer_than_a_budget_of_seconds_that_no_feeder_counts_is_charged_for_it(story: Story) -> None:
    story.scale(budget={"kind": "time", "amount": 5.5})
    without: dict[str, Any] = {"startup": None, "flops": None}
    name = nominated(story, **without)
    confirmed(story, name, seconds=15.0, **without)
    story.frontier(2.50, 2.41, startup=None)
    steps = story.next()
    assert [(step.purpose, step.commit, step.budget_factor) for step in steps] == [("control", "t0", 1.5)] * 4
    for value in CONTROLS:
        story.run("control", "t0", name, factor=1.5, audit=value)
    (verdict,) = story.next()
    said = "decided at equal seconds of the device, since no feeder holds training to its budget: 1.500x the bank's"
    assert (verdict.body["verdict"], verdict.body["reasoning"][3]) == ("bought", said)


def test_a_feeder_that_counts_no_start_up_still_holds_training_to_its_seconds(story: Story) -> None:
    story.scale(budget={"kind": "time", "amount": 5.5})
    name = nominated(story, startup=None)
    confirmed(story, name, startup=None, seconds=15.0)
    state = story.state
    runs = {side: [run for run in state.runs.values() if run.purpose == side] for side in ("bank", "confirm")}
    unknown = cost(runs["confirm"], Bank("t0", runs["bank"]))
    for run in state.runs.values():
        run.account["tokens"] = 1000
    found = cost(runs["confirm"], Bank("t0", runs["bank"]))
    assert unknown is not None and unknown.control == 1.5, "nobody counted"
    assert found is not None and found.control is None and found.said.startswith("decided at equal seconds, which the budget sees to")


@pytest.mark.parametrize(("bank", "mine"), [(1e9, None), (None, 1e9), (None, None)], ids=["mine", "bank", "both"])
def test_where_flops_are_unknown_the_claim_is_decided_at_equal_seconds_of_the_device(
    story: Story, bank: float | None, mine: float | None
) -> None:
    name = nominated(story, flops=bank)
    confirmed(story, name, flops=mine, seconds=15.0)
    story.frontier(2.50, 2.41)
    steps = story.next()
    assert [(step.purpose, step.commit, step.budget_factor) for step in steps] == [("control", "t0", 1.5)] * 4
    for value in CONTROLS:
        story.run("control", "t0", name, factor=1.5, audit=value)
    (verdict,) = story.next()
    said = "decided at equal seconds of the device, since FLOPs are unknown (mine::op): 1.500x the bank's"
    assert (verdict.body["verdict"], verdict.body["reasoning"][3]) == ("bought", said)
    assert verdict.body["cost_ratio"] == 1.5


def test_unknown_flops_at_seconds_like_the_banks_need_no_control(story: Story) -> None:
    (verdict,) = confirmed(story, nominated(story), flops=None, seconds=10.3)
    assert verdict.body["verdict"] == "improved" and "1.030x" in verdict.body["reasoning"][3]


def test_flops_decide_at_a_budget_of_tokens_whatever_the_seconds(story: Story) -> None:
    (verdict,) = confirmed(story, nominated(story), seconds=30.0)
    assert verdict.body["verdict"] == "improved"
    assert verdict.body["reasoning"][3] == "decided at equal FLOPs: 1x the bank's; not charged: seconds 3.000x"


def test_seconds_that_cannot_be_compared_leave_the_idea_undecided(story: Story) -> None:
    (verdict,) = confirmed(story, nominated(story, seconds=-3.0), flops=None)
    assert verdict.body["verdict"] == "inconclusive" and "cannot be compared" not in verdict.body["reasoning"][1]
    assert "neither its FLOPs nor its seconds" in verdict.body["reasoning"][0]


def test_the_cost_of_a_target_is_the_metric_and_may_be_the_same_for_every_seed(story: Story) -> None:
    story.scale(target={"value": 2.5, "cost": "tokens"})
    for _ in BANK:
        story.run("bank", "t0", attempt=0, search=1000.0, audit=1000.0)
    name = story.idea()
    story.run("nominate", "c1", name, search=900.0)
    story.tell(story.next()[0])
    story.ledger.append("confirm", {"attempt": 1}, name)
    for _ in range(4):
        story.run("confirm", "c1", name, search=900.0, audit=900.0, flops=2e9)
    (verdict,) = story.next()
    assert (verdict.body["verdict"], verdict.body["effect"]) == ("improved", -100.0)
    assert "the cost of reaching the target" in verdict.body["reasoning"][3]


def test_what_is_odd_about_the_confirming_runs_stands_in_the_reasoning(story: Story) -> None:
    (verdict,) = confirmed(story, nominated(story), flags=("looks odd",))
    runs = [run.id for run in story.state.runs.values() if run.purpose == "confirm"][:3]
    assert verdict.body["reasoning"][4] == "flagged: " + "; ".join(f"{run}: looks odd" for run in runs) + "; and 1 more"


@pytest.mark.parametrize(
    ("status", "expected"), [("crashed", "crashed"), ("timeout", "crashed"), ("invalid", "invalid")]
)
def test_a_failed_run_is_a_verdict_with_its_reason(story: Story, status: str, expected: str) -> None:
    story.bank()
    name = story.idea()
    story.run("nominate", "c1", name, status=status)
    (step,) = story.next()
    assert step.body["verdict"] == expected and "why" in step.body["reasoning"][0]


def test_a_killed_run_is_no_evidence_and_is_run_again(story: Story) -> None:
    story.bank()
    name = story.idea()
    story.run("nominate", "c1", name, status="killed")
    (step,) = story.next()
    assert isinstance(step, Queue) and step.purpose == "nominate"


def test_confirmation_after_trunk_moved_is_carried_to_the_new_trunk(story: Story) -> None:
    name = nominated(story)
    story.trunk("t1", "t0")
    story.bank("t1", -0.02)
    story.ledger.append("confirm", {"attempt": 1}, name)
    assert story.next() == [Rebase(name)]


def test_with_automatic_policies_nobody_has_to_order_anything(story: Story) -> None:
    name = nominated(story)
    (step,) = story.next(confirmation="auto", promotion="auto")
    assert step.kind == "confirm"
    story.tell(step)
    for value in GOOD:
        story.run("confirm", "c1", name, audit=value)
    story.tell(story.next(confirmation="auto", promotion="auto")[0])
    assert story.next(confirmation="auto", promotion="auto") == [Promote(name)]
    assert story.next() == [], "with a chief, promotion waits for the chief"


def test_a_withdrawn_idea_is_left_alone(story: Story) -> None:
    name = nominated(story)
    story.ledger.append("withdrawn", {"why": "no"}, name)
    assert story.next() == []


def test_after_a_promotion_its_parent_is_run_again_on_fresh_seeds_for_the_effect_that_is_reported(story: Story) -> None:
    name = promoted(story)
    assert "not measured yet (4 of 4 runs of its own bank, 0 of 4 of its parent)" in said(story.state, name, TASK)[0]
    steps = story.next()
    assert [(step.purpose, step.commit, step.experiment, step.splits) for step in steps] == [("parent", "t0", name, ("audit",))] * 4
    for value in (2.4502, 2.4488, 2.4495):
        story.run("parent", "t0", name, audit=value)
    story.run("parent", "t0", name, status="lost")
    assert [step.purpose for step in story.next()] == ["parent"], "the lost one is asked for again"
    story.run("parent", "t0", name, audit=2.4515)
    assert story.next() == []
    found = reported(story.state, story.state.experiments[name], True, 4)
    assert found is not None and (found.n, found.m, found.fresh) == (4, 4, True)
    assert found.effect == pytest.approx(2.44625 - 2.45), "the promoted commit's bank against the fresh parents, nothing older"
    assert found.low < found.effect < found.high
    assert said(story.state, name, TASK)[0].startswith("reported effect -0.00375 nats (95 % interval ")
    story.run("bank", "c1", attempt=0, search=2.30, audit=2.30)
    again = reported(story.state, story.state.experiments[name], True, 4)
    assert again == found, "what joins the bank later, because of other ideas, changes nothing"


def test_a_promotion_far_beyond_four_sigma_is_reported_against_the_old_bank_at_no_cost(story: Story) -> None:
    name = promoted(story, 2.440)
    assert story.next() == []
    found = reported(story.state, story.state.experiments[name], True, 4)
    assert found is not None and not found.fresh and found.effect == pytest.approx(-0.004)
    assert "old bank" in said(story.state, name, TASK)[0]


def test_a_parent_that_fails_is_not_run_for_ever(story: Story) -> None:
    name = promoted(story)
    for _ in range(3):
        story.run("parent", "t0", name, status="crashed")
    assert story.next() == []


def test_baselines_that_leave_the_band_of_the_earlier_ones_raise_one_alarm(story: Story) -> None:
    story.bank()
    for value in (2.4506, 2.4494, 2.4511):
        story.run("bank", "t0", attempt=0, search=value, audit=value)
    assert story.next() == []
    for value in (2.470, 2.472, 2.471, 2.469):
        story.run("bank", "t0", attempt=0, search=value, audit=value)
    (alarm,) = story.next()
    assert alarm.kind == "alarm" and alarm.body["text"].startswith("the baseline t0 drifts: the mean of the newest 7, 2.4619,")
    story.tell(alarm)
    story.run("bank", "t0", attempt=0, search=2.48, audit=2.48)
    assert story.next() == []


@pytest.mark.parametrize("other", ["corpus", "tokenizer", "protected", "task", "torch", "python", "driver"])
def test_a_bank_of_another_environment_is_filled_anew(story: Story, other: str) -> None:
    story.bank()
    story.run("bank", "t0", attempt=0, search=2.45, audit=2.45, hashes={other: "another"})
    assert [step.purpose for step in story.next()] == ["bank"] * 3


def test_a_bank_on_another_budget_is_filled_anew_and_a_control_is_no_other_environment(story: Story) -> None:
    story.bank()
    story.run("control", "t0", story.idea(), factor=1.5, audit=2.45)
    assert [step.purpose for step in story.next()] == ["nominate"]
    story.run("bank", "t0", attempt=0, factor=2.0, search=2.45, audit=2.45)
    assert [step.purpose for step in story.next()] == ["bank"] * 3 + ["nominate"]


def test_the_queue_serves_banks_then_confirmations_then_parents_then_own_ideas_and_prefers_home_slots(story: Story) -> None:
    own = story.run("nominate", "c1", "E1", status="queued")
    parent = story.run("parent", "t0", "E1", status="queued")
    confirm = story.run("confirm", "c1", "E1", status="queued")
    bank = story.run("bank", "t0", status="queued")
    assert [run.id for run in waiting(story.state)] == [bank, confirm, parent, own]
    slots = [Slot(0, "cpu", None, ""), Slot(1, "cpu", None, "")]
    assert [(run.id, slot.index) for run, slot in pick(story.state, slots)] == [(bank, 0), (confirm, 1)]
    assert [(run.id, slot.index) for run, slot in pick(story.state, slots[1:])] == [(bank, 1)]


def test_baselines_for_a_full_bank_go_in_turn_with_the_confirmations_they_stand_beside(story: Story) -> None:
    story.bank()
    pairs = [story.run(purpose, commit, status="queued") for purpose, commit in (("bank", "t0"), ("confirm", "c1")) * 2]
    assert [run.id for run in waiting(story.state)] == pairs
