"""The workflow of an idea as pure decisions: what the laboratory does next, given only the ledger's facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.experiment import Policy, Promote, Queue, Rebase, Write, decide
from lab.ledger import Ledger
from lab.queue import pick, waiting
from lab.records import State, fold
from lab.slots import Slot
from tasks.spec import Task

TASK = Task.model_validate(
    {
        "name": "t",
        "title": "t",
        "metric": {"name": "loss", "unit": "nats"},
        "editable": ["a.py"],
        "protected": ["b.py"],
        "train": ["{python}", "a.py"],
        "score": ["{python}", "b.py"],
        "min_effect": 0.01,
        "scale": {
            "name": "s",
            "title": "s",
            "device": "cpu",
            "budget": {"kind": "tokens", "amount": 1000},
            "deadline_seconds": 10,
            "memory_gib": 1,
        },
    }
)
BANK = [2.450, 2.452, 2.448, 2.451]


class Story:
    """A ledger that a test tells line by line."""

    def __init__(self, path: Path) -> None:
        self.task = TASK
        self.ledger = Ledger(path / "ledger.db", create=True)
        self.ledger.append("session", {"task": "t"})
        self.trunk("t0", "")

    @property
    def state(self) -> State:
        return fold(self.ledger.facts())

    def next(self, **policy: Any) -> list[Any]:
        return decide(self.state, self.task, Policy(**policy))

    def trunk(self, commit: str, parent: str, experiment: str = "") -> None:
        self.ledger.append("trunk", {"commit": commit, "parent": parent, "experiment": experiment, "why": ""}, commit)

    def run(
        self,
        purpose: str,
        commit: str,
        experiment: str = "",
        attempt: int = 1,
        status: str = "ok",
        flops: float | None = 1e9,
        seconds: float = 10.0,
        flags: tuple[str, ...] = (),
        **metric: float,
    ) -> str:
        body = {
            "experiment": experiment,
            "attempt": attempt,
            "purpose": purpose,
            "commit": commit,
            "seed": len(self.state.runs),
            "splits": list(metric),
            "budget": self.task.scale.budget.model_dump(),
            "agent": "r1",
            "home_slot": 0,
        }
        name = self.ledger.append_new("run", "R", body).subject
        if status != "queued":
            self.ledger.append("start", {"slot": 0, "pid": 1, "started": 0.0, "device": "cpu"}, name)
            result = {
                "status": status,
                "reason": "why",
                "metric": metric,
                "account": {
                    "flops": flops,
                    "flops_unknown": "" if flops else "mine::op",
                    "train_seconds": seconds + 3,
                    "startup_seconds": 3.0,
                },
                "hashes": {},
                "log_tail": "",
                "flags": list(flags),
            }
            self.ledger.append("result", result, name)
        return name

    def bank(self, commit: str = "t0", shift: float = 0.0, **more: Any) -> None:
        for value in BANK:
            self.run("bank", commit, attempt=0, search=value + shift, audit=value + shift, **more)

    def scale(self, **changes: Any) -> None:
        """Other budgets and targets from here on."""
        self.task = Task.model_validate({**TASK.model_dump(), "scale": {**TASK.scale.model_dump(), **changes}})

    def idea(self, commit: str = "c1", parent: str = "t0", attempt: int = 1, name: str | None = None) -> str:
        if name is None:
            body = dict.fromkeys(("mechanism", "family", "direction", "held_constant"), "")
            name = self.ledger.append_new(
                "proposal",
                "E",
                {**body, "hypothesis": "h", "agent": "r1", "min_effect": 0.0, "params": {}, "base": parent},
            ).subject
        self.ledger.append(
            "attempt",
            {"number": attempt, "parent": parent, "commit": commit, "diff": "", "changed": [], "ignored": []},
            name,
        )
        return name

    def tell(self, step: Any) -> None:
        assert isinstance(step, Write)
        self.ledger.append(step.kind, step.body, step.subject)


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


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


def nominated(story: Story, value: float = 2.40, **bank: Any) -> str:
    story.bank(**bank)
    name = story.idea()
    story.run("nominate", "c1", name, search=value)
    story.tell(story.next()[0])
    return name


def test_an_ordered_confirmation_runs_three_fresh_seeds_on_both_splits_and_judges_on_audit(story: Story) -> None:
    name = nominated(story)
    story.ledger.append("confirm", {"attempt": 1}, name)
    steps = story.next()
    assert [(step.purpose, step.commit) for step in steps] == [("bank", "t0")] + [("confirm", "c1")] * 3
    assert {step.splits for step in steps} == {("search", "audit")}
    story.run("bank", "t0", attempt=0, search=2.449, audit=2.449)
    for value in (2.402, 2.399):
        story.run("confirm", "c1", name, audit=value)
    assert [step.purpose for step in story.next() if step.commit == "c1"] == ["confirm"], "one of three is missing still"
    story.run("confirm", "c1", name, audit=2.401)
    (verdict,) = story.next()
    assert verdict.body["verdict"] == "improved"
    assert verdict.body["low"] <= verdict.body["effect"] <= verdict.body["high"] < 0
    assert verdict.body["n"] == 3 and verdict.body["m"] == 5 and len(verdict.body["reasoning"]) == 4
    assert abs(verdict.body["effect"] - (2.4006667 - 2.45)) < 1e-6, "the nominating value is thrown away"


def test_an_unclear_effect_gets_a_second_stage(story: Story) -> None:
    name = nominated(story, 2.449)
    story.ledger.append("confirm", {"attempt": 1}, name)
    for value in (2.447, 2.4495, 2.4485):
        story.run("confirm", "c1", name, audit=value)
    steps = story.next()
    assert [step.purpose for step in steps] == ["bank"] + ["confirm"] * 3
    for value in (2.4510, 2.4490, 2.4500):
        story.run("confirm", "c1", name, audit=value)
    (verdict,) = story.next()
    assert verdict.body["verdict"] in ("neutral", "inconclusive") and verdict.body["n"] == 6


def test_a_gain_that_costs_more_flops_is_checked_at_equal_cost_and_is_bought(story: Story) -> None:
    name = nominated(story)
    story.ledger.append("confirm", {"attempt": 1}, name)
    for value in (2.402, 2.399, 2.401):
        story.run("confirm", "c1", name, audit=value, flops=1.5e9)
    steps = story.next()
    assert [(step.purpose, step.commit) for step in steps] == [("control", "t0")] * 4
    assert steps[0].budget_factor == pytest.approx(1.5)
    for value in (2.380, 2.382, 2.381, 2.379):
        story.run("control", "t0", name, audit=value)
    (verdict,) = story.next()
    assert verdict.body["verdict"] == "bought"


def test_a_gain_that_beats_its_control_is_improved(story: Story) -> None:
    name = nominated(story)
    story.ledger.append("confirm", {"attempt": 1}, name)
    for value in (2.402, 2.399, 2.401):
        story.run("confirm", "c1", name, audit=value, flops=1.03e9)
    for value in (2.440, 2.442, 2.441, 2.439):
        story.run("control", "t0", name, audit=value)
    (verdict,) = story.next()
    assert verdict.body["verdict"] == "improved"


def confirmed(story: Story, name: str, **more: Any) -> list[Any]:
    """What follows on three clearly better runs."""
    story.ledger.append("confirm", {"attempt": 1}, name)
    for value in (2.402, 2.399, 2.401):
        story.run("confirm", "c1", name, search=value, audit=value, **more)
    return story.next()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("time", "decided at equal seconds, which the budget sees to; FLOPs 1.500x the bank's"),
        ("flops", "decided at equal FLOPs, which the budget sees to"),
    ],
)
def test_a_budget_of_seconds_or_flops_makes_the_cost_equal_and_needs_no_control(story: Story, kind: str, said: str) -> None:
    story.scale(budget={"kind": kind, "amount": 5.5})
    (verdict,) = confirmed(story, nominated(story), flops=1.5e9)
    assert (verdict.body["verdict"], verdict.body["reasoning"][3]) == ("improved", said)


@pytest.mark.parametrize(("bank", "mine"), [(1e9, None), (None, 1e9), (None, None)], ids=["mine", "bank", "both"])
def test_where_flops_are_unknown_the_claim_is_decided_at_equal_seconds_of_the_device(
    story: Story, bank: float | None, mine: float | None
) -> None:
    name = nominated(story, flops=bank)
    steps = confirmed(story, name, flops=mine, seconds=15.0)
    assert [(step.purpose, step.commit, step.budget_factor) for step in steps] == [("control", "t0", 1.5)] * 4
    for value in (2.380, 2.382, 2.381, 2.379):
        story.run("control", "t0", name, audit=value)
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
    assert verdict.body["reasoning"][3] == "decided at equal FLOPs: 1.000x the bank's"


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
    for _ in range(3):
        story.run("confirm", "c1", name, search=900.0, audit=900.0, flops=2e9)
    (verdict,) = story.next()
    assert (verdict.body["verdict"], verdict.body["effect"]) == ("improved", -100.0)
    assert "the cost of reaching the target" in verdict.body["reasoning"][3]


def test_what_is_odd_about_the_confirming_runs_stands_in_the_reasoning(story: Story) -> None:
    (verdict,) = confirmed(story, nominated(story), flags=("looks odd",))
    runs = [run.id for run in story.state.runs.values() if run.purpose == "confirm"]
    assert verdict.body["reasoning"][4] == "flagged: " + "; ".join(f"{run}: looks odd" for run in runs)


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
    for value in (2.402, 2.399, 2.401):
        story.run("confirm", "c1", name, audit=value)
    story.tell(story.next(confirmation="auto", promotion="auto")[0])
    assert story.next(confirmation="auto", promotion="auto") == [Promote(name)]
    assert story.next() == [], "with a chief, promotion waits for the chief"


def test_a_withdrawn_idea_is_left_alone(story: Story) -> None:
    name = nominated(story)
    story.ledger.append("withdrawn", {"why": "no"}, name)
    assert story.next() == []


def test_the_queue_serves_banks_then_confirmations_then_own_ideas_and_prefers_home_slots(story: Story) -> None:
    own = story.run("nominate", "c1", "E1", status="queued")
    confirm = story.run("confirm", "c1", "E1", status="queued")
    bank = story.run("bank", "t0", status="queued")
    assert [run.id for run in waiting(story.state)] == [bank, confirm, own]
    slots = [Slot(0, "cpu", None, ""), Slot(1, "cpu", None, "")]
    assert [(run.id, slot.index) for run, slot in pick(story.state, slots)] == [(bank, 0), (confirm, 1)]
    assert [(run.id, slot.index) for run, slot in pick(story.state, slots[1:])] == [(bank, 1)]
