"""Promises about budgets: never exceeded, spent to the last row, FLOPs extrapolated by tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.budget import Budget, Compute


@given(
    st.sampled_from(["tokens", "steps"]),
    st.integers(1, 5000),
    st.integers(1, 64),
    st.lists(st.integers(1, 50), max_size=300),
)
def test_a_budget_is_never_exceeded_and_is_spent_to_the_last_row(
    kind: str, amount: int, context: int, wanted: list[int]
) -> None:
    budget = Budget(kind, amount)
    for rows in [*wanted, *[50] * (amount + 1)]:
        granted = budget.grant(rows, context)
        assert 0 <= granted <= rows
        if not granted:
            break
        budget.take(granted, context)
    assert budget.spent <= amount
    assert amount - budget.spent < (context if kind == "tokens" else 1)


@given(st.floats(1e3, 1e18), st.floats(1.0, 1e9), st.lists(st.integers(1, 50), min_size=1, max_size=100))
def test_a_budget_of_flops_ends_within_a_row_once_a_step_is_measured(
    amount: float, per_token: float, wanted: list[int]
) -> None:
    budget = Budget("flops", amount)
    for rows in wanted:
        granted = budget.grant(rows, 10)
        if not granted:
            assert amount - budget.spent < per_token * 10 * (1 + 1e-9)
            break
        if not budget.steps:
            budget.compute.steps.append((0, granted * 10, per_token * granted * 10))
        budget.take(granted, 10)
    first = wanted[0] * 10 * per_token
    assert budget.spent <= max(amount, first) * (1 + 1e-9)


def test_what_nobody_measured_ends_a_budget_of_flops() -> None:
    budget = Budget("flops", 1e12)
    assert budget.grant(8, 64) == 8
    budget.take(8, 64)
    assert budget.grant(8, 64) == 0
    budget.compute.steps.append((0, 512, 0.0))
    assert budget.grant(8, 64) == 0


def test_time_ends_with_the_step_that_crosses_it() -> None:
    budget = Budget("time", 2.5)
    for seconds, rows, progress in ((0.0, 8, 0.0), (2.4, 8, 0.96), (2.5, 0, 1.0), (9.0, 0, 1.0)):
        budget.seconds = seconds
        assert budget.grant(8, 64) == rows
        assert budget.progress == pytest.approx(progress)


@given(st.lists(st.integers(1, 30), min_size=3, max_size=60), st.floats(1, 100), st.data())
def test_constant_cost_is_extrapolated_exactly(sizes: list[int], per_token: float, data: st.DataObject) -> None:
    measured = data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1))
    steps = [(sum(sizes[:i]), sizes[i], per_token * sizes[i]) for i in sorted(measured)]
    assert Compute(steps).total(sum(sizes)) == pytest.approx(per_token * sum(sizes))


def test_cost_that_changes_is_taken_for_linear_between_measured_steps() -> None:
    compute = Compute([(0, 10, 100.0), (40, 10, 200.0), (90, 10, 200.0)])
    # 10 tokens at 10, 30 on the way from 10 to 20, 10 at 20, 40 at 20, 10 at 20
    assert compute.total(100) == pytest.approx(100 + 450 + 200 + 800 + 200)
    compute.after = 7
    assert compute.total(110) == pytest.approx(1750 + 10 * 20 + 7)
    assert Compute().total(5) is None


def test_all_steps_measured_is_the_sum() -> None:
    compute = Compute([(0, 16, 5.0), (16, 16, 80.0), (32, 3, 1.0)])
    assert compute.total(35) == pytest.approx(86.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [("3", "not JSON like"), ("{", "not JSON like"), ('{"kind": "time"}', "not JSON like"),
     ('{"kind": "seconds", "amount": 3}', "kind must be"),
     ('{"kind": ["time"], "amount": 3}', "kind must be"), ('{"kind": "tokens", "amount": 0}', "positive whole number"),
     ('{"kind": "steps", "amount": 2.5}', "positive whole number"), ('{"kind": "time", "amount": NaN}', "positive number"),
     ('{"kind": "flops", "amount": Infinity}', "positive number"), ('{"kind": "flops", "amount": true}', "positive number"),
     ('{"kind": "time", "amount": "3"}', "positive number")],
)  # fmt: skip
def test_a_wrong_budget_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Budget.parse(text)
    assert "\n" not in str(error.value)


def test_amounts_are_whole_where_they_count_things() -> None:
    assert Budget.parse('{"kind": "tokens", "amount": 4e5}').amount == 400000
    assert Budget.parse('{"kind": "flops", "amount": 1.5e18}').amount == 1.5e18
    assert Budget.parse('{"kind": "time", "amount": 0.5}').amount == 0.5
