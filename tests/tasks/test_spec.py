"""A task as types: budgets, targets and GPUs that make sense, and a line that says what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import spec

TOY = Path(__file__).parents[1] / "toytask"


def scale(**changes: Any) -> spec.Scale:
    return spec.Scale.model_validate({**spec.load(str(TOY)).scale.model_dump(), **changes})


@pytest.mark.parametrize(
    ("kind", "amount", "factor", "times", "words"),
    [
        ("tokens", 409600, 1.5, 614400, "409,600 tokens"), ("steps", 3, 0.1, 1, "3 steps"),
        ("tokens", 4096.0, 1.0, 4096, "4,096 tokens"), ("time", 300, 1.25, 375.0, "300 s"),
        ("time", 2.5, 2, 5.0, "2.5 s"), ("flops", "3e18", 0.5, 1.5e18, "3e+18 FLOPs"),
    ],
)  # fmt: skip
def test_a_budget_is_read_multiplied_and_said(kind: str, amount: Any, factor: float, times: float, words: str) -> None:
    budget = spec.Budget.model_validate({"kind": kind, "amount": amount})
    more = budget.times(factor)
    assert (str(budget), more.amount, type(more.amount)) == (words, times, type(times))
    assert spec.Budget.model_validate_json(budget.model_dump_json()) == budget


@pytest.mark.parametrize(
    ("kind", "amount"),
    [("tokens", 0.5), ("steps", 2.5), ("time", 0), ("flops", -1.0), ("time", float("inf")), ("time", True),
     ("tokens", float("nan")), ("time", [3]), ("time", "soon"), ("naps", 3)],
)  # fmt: skip
def test_a_budget_that_makes_no_sense_is_refused(kind: str, amount: Any) -> None:
    with pytest.raises(ValueError):
        spec.Budget.model_validate({"kind": kind, "amount": amount})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpus": 2, "launch": ["x"]}, "gpus: 2 needs `device: cuda`"),
        ({"gpus": 2, "device": "cuda"}, "gpus: 2 needs `launch`"),
        ({"budget": {"kind": "time", "amount": 20}}, "deadline_seconds must leave time for start-up"),
        ({"target": {"value": float("nan"), "cost": "tokens"}}, "finite"),
        ({"target": {"value": 2.4, "cost": "naps"}}, "'tokens', 'flops' or 'seconds'"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scale(**changes)


def test_a_task_with_a_target_is_measured_by_its_cost_and_reads_back_as_itself() -> None:
    plain = spec.load(str(TOY))
    aimed = {**plain.model_dump(), "scale": scale(target={"value": 0.1, "cost": "flops"}).model_dump()}
    task = spec.Task.model_validate(aimed)
    assert task.metric == spec.Metric(name="flops_to_target", unit="FLOPs", direction="minimize")
    assert task.reach == plain.metric and task.min_effect == 0
    assert spec.Task.model_validate_json(task.model_dump_json()) == task


def test_a_scale_whose_successor_does_not_exist_is_refused_by_file(tmp_path: Path) -> None:
    for name in ("task.yaml", "toy.yaml"):
        (tmp_path / name).write_text((TOY / name).read_text())
    (tmp_path / "toy.yaml").write_text((TOY / "toy.yaml").read_text() + "next: larger\n")
    with pytest.raises(spec.TaskError, match=r"toy.yaml: next: no scale 'larger': choose one of toy"):
        spec.load(str(tmp_path))


@pytest.mark.parametrize("budget", ["{kind: steps, amount: 200}", "{kind: tokens, amount: 4096}", "{kind: flops, amount: 1e9}"])
def test_a_budget_that_nobody_counts_is_refused_by_file_with_what_to_do(tmp_path: Path, budget: str) -> None:
    text = (TOY / "task.yaml").read_text()
    (tmp_path / "task.yaml").write_text("".join(line for line in text.splitlines(True) if not line.startswith("feed:")))
    written = (TOY / "toy.yaml").read_text().replace("{kind: tokens, amount: 4096}", budget)
    (tmp_path / "toy.yaml").write_text(written)
    with pytest.raises(spec.TaskError) as caught:
        spec.load(str(tmp_path), "toy")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/task.yaml: feed: nobody counts the ") and "of toy.yaml" in said and "\n" not in said
    assert "add a command that hands out the data and counts it" in said
    (tmp_path / "toy.yaml").write_text(written.replace(budget, "{kind: time, amount: 5}"))
    assert spec.load(str(tmp_path), "toy").feed == [], "seconds are counted by the laboratory's own clock"


@pytest.mark.parametrize(
    ("dial", "reason"),
    [
        ({"arg": "width", "settings": [8, 4]}, "from small to large"),
        ({"arg": "width", "settings": [4]}, "at least 2 items"),
        ({"arg": "width", "settings": [8, 16]}, "scale toy sets width to 4, which is none of its settings"),
        ({"arg": "depth", "settings": [4, 8]}, "scale toy sets depth to None"),
    ],
)
def test_a_dial_that_makes_no_sense_is_refused_with_the_reason(dial: dict[str, Any], reason: str) -> None:
    fields = {**spec.load(str(TOY)).model_dump(), "scale": scale(args={"width": 4}).model_dump(), "dial": dial}
    with pytest.raises(ValueError, match=reason):
        spec.Task.model_validate(fields)


def test_a_dial_changes_its_one_argument_and_every_scale_of_nanochat_is_one_of_its_settings() -> None:
    for name in ("tiny", "cpu", "d4", "d8", "d24"):
        task = spec.load("nanochat", name)
        larger = task.resized(6)
        assert larger.scale.args == {**task.scale.args, "depth": 6} and task.setting == int(task.scale.args["depth"])
        assert larger.model_copy(update={"scale": task.scale}) == task
    with pytest.raises(ValueError, match="task toy has no dial"):
        spec.load(str(TOY)).resized(6)
