"""What is odd about a run beside its parent's bank: flagged where it is, silent about what is merely better."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lab.flags import CHANCE, band, drift, flags
from lab.records import Run

SHAPE = [0.4, 0.1, 0.0, -0.05, -0.1, -0.1, -0.12, -0.13]


def ended(noise: random.Random, level: float = 2.0, gap: float = 0.05, tilt: float = 0.0) -> Run:
    """A run of some level, gap and shape, with noise of .002 on each."""
    losses = [level + value + tilt * place + noise.gauss(0, 0.002) for place, value in enumerate(SHAPE)]
    metric = {"search": level + noise.gauss(0, 0.002), "audit": level - gap + noise.gauss(0, 0.002)}
    return Run(
        id="R0001", experiment="", attempt=0, purpose="bank", commit="", seed=0, splits=[], budget={}, agent="lab",
        home_slot=None, queued=0.0, status="ok", metric=metric, account={"position_loss": {"audit": losses}},
    )  # fmt: skip


def test_newest_baseline_runs_are_held_against_the_band_of_those_before_them() -> None:
    steady = [2.41, 2.40, 2.42, 2.39, 2.40, 2.41, 2.43, 2.40]
    assert drift(steady, 8) == "" == drift([*steady, 2.42, 2.38], 8)
    assert drift([*steady, 2.49, 2.50, 2.48], 8).startswith("the mean of the newest 3, 2.49, is outside of the 2.36")
    late = [*steady, *steady, 2.47, 2.46, 2.48, 2.47, 2.46, 2.47]
    assert "the newest 8" in drift(late, 8), "what has moved lately does not drown in what had not"
    assert drift([5.0] * 9 + [7.0], 8) == "", "without any spread there is no band to leave"


def flagged(run: Run, bank: list[Run]) -> list[str]:
    return flags(run.metric, run.account, bank)


@pytest.fixture
def noise() -> random.Random:
    return random.Random(7)


def test_a_better_model_of_the_same_shape_is_not_flagged(noise: random.Random) -> None:
    bank = [ended(noise) for _ in range(6)]
    assert flagged(ended(noise, level=1.0), bank) == []


def test_a_model_that_is_good_in_odd_places_is_flagged_there(noise: random.Random) -> None:
    found = flagged(ended(noise, tilt=-0.05), [ended(noise) for _ in range(6)])
    assert found and all(line.startswith("audit: loss in eighth ") and "bank's" in line for line in found)


def test_a_gap_between_search_and_audit_that_the_bank_does_not_have_is_flagged(noise: random.Random) -> None:
    found = flagged(ended(noise, gap=-0.1), [ended(noise) for _ in range(4)])
    assert len(found) == 1 and found[0].startswith("search minus audit -0.098") and "(n = 4)" in found[0]


def test_the_band_holds_all_but_one_in_a_hundred_of_runs_like_the_banks(noise: random.Random) -> None:
    outside = 0
    for _ in range(2000):
        low, high = band([noise.gauss(1, 3) for _ in range(4)])
        outside += not low <= noise.gauss(1, 3) <= high
    assert outside / 2000 == pytest.approx(CHANCE, abs=0.007)


@pytest.mark.parametrize("odd", [None, {"audit": [1.0]}, {"audit": ["x"] * 8}, {"audit": [float("nan")] * 8}, [1]])
def test_small_banks_and_malformed_profiles_flag_nothing(noise: random.Random, odd: Any) -> None:
    assert flagged(ended(noise, gap=9), [ended(noise) for _ in range(2)]) == []
    assert flags({}, {"position_loss": odd}, [ended(noise) for _ in range(6)]) == []


def test_a_run_that_is_slow_for_the_flops_it_counted_is_flagged_and_a_fast_one_is_not() -> None:
    def account(seconds: float) -> dict[str, float]:
        return {"flops": 1e9, "train_seconds": seconds + 2, "startup_seconds": 2}

    bank = [ended(random.Random(0)) for _ in range(3)]
    for run, seconds in zip(bank, (10.0, 10.1, 9.9), strict=True):
        run.account = account(seconds)
    assert flags({}, account(2.0), bank) == []
    (line,) = flags({}, account(20.0), bank)
    assert line.startswith("5e+07 FLOP/s while training are below the bank's 8.")


def test_a_gpu_that_somebody_else_used_is_flagged() -> None:
    assert flags({}, {"contended": True}, []) == ["somebody else used the GPU"]


def test_processes_that_outlive_training_are_flagged_where_the_bank_leaves_none(noise: random.Random) -> None:
    bank = [ended(noise) for _ in range(3)]
    one = ended(noise)
    one.account["outlived"] = 2
    assert flagged(one, bank) == ["2 processes outlived training and had to be ended"]
    for run in bank:
        run.account["outlived"] = 2
    assert flagged(one, bank) == [], "the baseline's own do too"
