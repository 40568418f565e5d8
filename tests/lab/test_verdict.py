"""Promises of the statistics: what is believed, what is refused, and how often a null idea gets through."""

from __future__ import annotations

import importlib.util
import math
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from lab import verdict

ROOT = Path(__file__).resolve().parents[2]
BANK = [2.412, 2.398, 2.405, 2.391]
"""mean 2.4015, sigma 0.0090"""


def judge(candidate: list[float], baseline: list[float] | None = None, **other: object) -> verdict.Judgement | None:
    asked: dict[str, object] = {"minimize": True, "min_effect": 0.0, "final": True, "compared_with": "bank", **other}
    return verdict.judge(candidate, BANK if baseline is None else baseline, **asked)  # type: ignore[arg-type]


def word(candidate: list[float], baseline: list[float] | None = None, **other: object) -> str | None:
    judgement = judge(candidate, baseline, **other)
    return judgement.verdict if judgement else None


def flipped(values: list[float]) -> list[float]:
    return [-value for value in values]


def test_welch_agrees_with_the_reference_implementation() -> None:
    from scipy import stats

    source = random.Random(7)
    for _ in range(50):
        a = [source.gauss(0, source.uniform(0.1, 3)) for _ in range(source.randint(2, 9))]
        b = [source.gauss(0.5, 1) for _ in range(source.randint(2, 9))]
        ours, theirs = verdict.welch(a, b), stats.ttest_ind(a, b, equal_var=False, alternative="less")
        assert (ours.t, ours.df, ours.p_better) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
        interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
        assert verdict.welch(a, b, minimize=False).p_better == pytest.approx(1 - ours.p_better)


def test_mean_interval_agrees_with_student() -> None:
    from scipy import stats

    low, high = stats.t.interval(0.95, 3, statistics.fmean(BANK), stats.sem(BANK))
    assert verdict.mean_interval(BANK) == pytest.approx((statistics.fmean(BANK), low, high))


def test_one_run_nominates_from_0_4_sigma_on_in_either_direction() -> None:
    mean, sigma = statistics.fmean(BANK), statistics.stdev(BANK)
    yes, sigmas = verdict.nominate(mean - 0.41 * sigma, BANK, minimize=True)
    assert yes and sigmas == pytest.approx(0.41)
    assert not verdict.nominate(mean - 0.39 * sigma, BANK, minimize=True)[0]
    no, sigmas = verdict.nominate(mean + 2 * sigma, BANK, minimize=True)
    assert not no and sigmas == pytest.approx(-2)
    yes, sigmas = verdict.nominate(mean + 2 * sigma, BANK, minimize=False)
    assert yes and sigmas == pytest.approx(2)


def test_a_bank_without_spread_still_nominates_what_is_better_only() -> None:
    assert verdict.nominate(1.9, [2.0, 2.0, 2.0], minimize=True) == (True, math.inf)
    assert verdict.nominate(2.1, [2.0, 2.0, 2.0], minimize=True) == (False, -math.inf)
    assert verdict.nominate(2.0, [2.0, 2.0, 2.0], minimize=True) == (False, 0.0)


def test_a_clear_gain_on_three_fresh_seeds_is_improved_at_once() -> None:
    assert word([2.341, 2.352, 2.347], final=False) == "improved"
    assert word(flipped([2.341, 2.352, 2.347]), flipped(BANK), final=False, minimize=False) == "improved"


def test_a_promising_but_unproven_idea_gets_more_seeds_and_then_an_answer() -> None:
    three = [2.3921, 2.3801, 2.3962]
    assert judge(three, final=False) is None
    assert word(three) == "inconclusive"
    assert word([*three, 2.3760, 2.3811, 2.3792]) == "improved"


def test_an_idea_without_hope_stops_after_the_first_stage() -> None:
    assert word([2.4021, 2.4093, 2.3994], final=False) == "inconclusive"
    assert word([2.4521, 2.4603, 2.4554], final=False) == "worse"
    assert word(flipped([2.4521, 2.4603, 2.4554]), flipped(BANK), final=False, minimize=False) == "worse"


def test_neutral_means_that_the_interval_excludes_an_effect_of_interest() -> None:
    six = [2.4021, 2.3983, 2.4054, 2.3962, 2.4081, 2.4003]
    assert word(six, min_effect=0.05) == "neutral"
    assert word(six, min_effect=0.001) == "inconclusive"


def test_two_runs_never_improve_anything_and_one_alone_is_not_judged() -> None:
    assert word([2.1001, 2.1002]) == "inconclusive"
    assert judge([2.1001, 2.1002], final=False) is None
    assert judge([2.1], final=False) is None
    with pytest.raises(ValueError, match="at least two"):
        judge([2.1])
    with pytest.raises(ValueError, match="at least two"):
        judge([2.1, 2.2, 2.3], [2.4])


def test_the_same_value_for_different_seeds_is_invalid() -> None:
    judgement = judge([2.34712345, 2.34712345, 2.35298761], final=False)
    assert judgement and judgement.verdict == "invalid"
    assert "same metric for different seeds" in judgement.reasoning[2]
    assert word([2.3, 2.3, 2.3]) == "invalid"


def test_ties_of_a_metric_with_few_digits_are_honest() -> None:
    assert word([0.91, 0.91, 0.92], [0.71, 0.73, 0.72, 0.72], minimize=False) == "improved"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    for candidate, baseline in (([2.3, bad, 2.4], BANK), ([2.3, 2.31, 2.32], [2.4, bad])):
        with pytest.raises(ValueError, match="finite"):
            judge(candidate, baseline)
    with pytest.raises(ValueError, match="finite"):
        judge([bad], final=False)
    with pytest.raises(ValueError, match="finite"):
        verdict.nominate(bad, BANK, minimize=True)


def test_a_diverged_run_is_judged_and_one_beyond_arithmetic_is_refused() -> None:
    assert word([1e30, 2.4, 2.5], final=False) in ("inconclusive", "worse")
    with pytest.raises(ValueError, match="too large"):
        judge([1e200, 2.4, 2.5])


def test_what_costs_more_must_beat_a_control_that_spends_as_much() -> None:
    candidate = [2.341, 2.352, 2.347]
    assert verdict.needs_control(1.08) and not verdict.needs_control(1.0005) and not verdict.needs_control(None)
    assert verdict.beats(candidate, BANK, minimize=True)
    assert judge(candidate, cost_ratio=1.08) is None, "undecided until the control has run"
    assert word(candidate, cost_ratio=1.08, control=[2.401, 2.395, 2.408]) == "improved"
    bought = judge(candidate, cost_ratio=1.08, control=[2.344, 2.351, 2.349])
    assert bought and bought.verdict == "bought"
    assert "1.080x the budget" in bought.reasoning[2]
    assert word(candidate, cost_ratio=0.9) == "improved", "what costs less needs no control"


def test_a_costly_idea_that_does_not_even_beat_the_bank_needs_no_control() -> None:
    assert word([2.4521, 2.4603, 2.4554], cost_ratio=1.5) == "worse"


def test_the_interval_is_always_printed_with_n_and_sigma() -> None:
    judgement = judge([2.341, 2.352, 2.347], compared_with="the bank of 1a2b3c (split audit)")
    assert judgement is not None and len(judgement.reasoning) == 3
    effect, test, compared = judgement.reasoning
    assert f"{judgement.low:+.4g} to {judgement.high:+.4g}, n = 3" in effect and "sigma 0.00904" in effect
    assert "m = 4" in test and "p = " in test
    assert "the bank of 1a2b3c (split audit)" in compared
    assert judgement.low < judgement.effect < judgement.high < 0
    assert (judgement.n, judgement.m) == (3, 4)
    assert judgement.sigma == pytest.approx(statistics.stdev(BANK))


def test_importing_the_statistics_does_not_load_scipy() -> None:
    code = "import sys, lab.verdict; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_null_ideas_are_accepted_in_about_one_case_in_a_hundred_and_large_effects_are_found() -> None:
    spec = importlib.util.spec_from_file_location("benchmark_verdict", ROOT / "benchmarks" / "verdict.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    null = benchmark.laboratory(0.0, 1.0, 5000)
    assert statistics.fmean(null.accepted) <= 0.011
    kept, _ = benchmark.greedy(0.0, 1.0, 500)
    assert statistics.fmean(kept) > 0.1, "greedy keeps noise"
    assert statistics.fmean(benchmark.laboratory(3.0, 1.0, 200).accepted) > 0.8
