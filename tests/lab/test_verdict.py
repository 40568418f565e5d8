"""Promises of the statistics: what is believed, what is refused, and how often a null idea gets through."""

from __future__ import annotations

import importlib.util
import math
import random
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from lab import verdict
from org.process import FOUND

ROOT = Path(__file__).resolve().parents[2]
BANK = [2.412, 2.398, 2.405, 2.391, 2.409, 2.401, 2.394, 2.402]
"""mean 2.4015, sigma 0.0071"""
CLEAR = [2.341, 2.352, 2.347, 2.344]
"""8 sigma better"""


def judge(candidate: list[float], baseline: list[float] | None = None, **other: object) -> verdict.Judgement | None:
    asked: dict[str, object] = {"minimize": True, "min_effect": 0.0, "compared_with": "bank", **other}
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

    low, high = stats.t.interval(0.95, 7, statistics.fmean(BANK), stats.sem(BANK))
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


def test_the_interval_of_sigma_is_chi_squared() -> None:
    from scipy import stats

    sigma, low, high = verdict.sigma_interval(BANK)
    squares = 7 * statistics.variance(BANK)
    assert sigma == pytest.approx(statistics.stdev(BANK))
    assert (low, high) == pytest.approx([(squares / stats.chi2.ppf(q, 7)) ** 0.5 for q in (0.975, 0.025)])
    assert verdict.sigma_interval([2.0, 2.0]) == (0.0, 0.0, 0.0)


def test_a_clear_gain_is_improved_at_four_fresh_seeds_and_never_at_two() -> None:
    assert judge(CLEAR[:2]) is None, "two seeds accept nothing, however good"
    assert word(CLEAR) == "improved"
    assert word(flipped(CLEAR), flipped(BANK), minimize=False) == "improved"


def test_a_promising_but_unproven_idea_gets_more_seeds_and_then_an_answer() -> None:
    seeds = [2.3931, 2.3921, 2.3801, 2.3962, 2.3860, 2.3811, 2.3892, 2.3940, 2.3870, 2.3924, 2.3850, 2.3834, 2.3901, 2.3888]
    assert [word(seeds[:n]) for n in (2, 4)] == [None, None]
    assert word(seeds) == "improved"
    assert word([value + 0.009 for value in seeds]) == "inconclusive"


def test_the_boundary_follows_from_the_information_of_stages_and_bank() -> None:
    from statistics import NormalDist

    assert verdict.accepts_below(14, 20) == pytest.approx(1 - NormalDist().cdf(verdict.BOUNDARY)), "the last stage's own"
    bounds = [float(verdict.accepts_below(n, 8)) for n in verdict.STAGES]
    assert bounds[0] == 0 and bounds[1:] == sorted(bounds[1:]), "the earlier, the harder"
    hopes = [float(verdict.hopeless_below(n, 8)) for n in verdict.STAGES]
    assert hopes == sorted(hopes) and hopes[-1] == verdict.FUTILITY
    assert verdict.accepts_below(3, 4, (3,)) > 0 and verdict.accepts_below(2, 4, (2, 4)) == 0, "short plans can accept too"


def test_an_idea_without_hope_stops_after_the_first_stage() -> None:
    assert word([2.4021, 2.4093]) == "inconclusive"
    assert word([2.4521, 2.4603]) == "worse"
    assert word(flipped([2.4521, 2.4603]), flipped(BANK), minimize=False) == "worse"
    stopped = judge([2.4021, 2.4093])
    assert stopped and "stopped early: below t = " in stopped.reasoning[2]


def test_two_runs_that_happen_to_lie_close_together_are_no_hope() -> None:
    together = [2.39981, 2.39982]
    assert verdict.welch(together, BANK).t < -0.6 and word(together) == "inconclusive"


def test_neutral_means_that_the_interval_excludes_an_effect_of_interest() -> None:
    six = [2.4021, 2.3983, 2.4054, 2.3962, 2.4081, 2.4003]
    assert word(six, min_effect=0.05) == "neutral"
    assert word([2.4021, 2.4283, 2.3854], min_effect=0.001) == "inconclusive"


def test_one_run_alone_is_not_judged_and_two_are_improved_only_where_there_are_no_more_to_come() -> None:
    assert judge([2.1001, 2.1002]) is None and judge([2.1]) is None
    assert word([2.1001, 2.1002], stages=(2,)) == "improved"
    assert word([2.3931, 2.3921], stages=(2,)) == "inconclusive"
    with pytest.raises(ValueError, match="at least two"):
        judge([2.1], stages=(1,))
    with pytest.raises(ValueError, match="at least two"):
        judge([2.1, 2.2, 2.3], [2.4])


def test_the_same_value_for_different_seeds_is_invalid() -> None:
    judgement = judge([2.34712345, 2.34712345, 2.35298761])
    assert judgement and judgement.verdict == "invalid"
    assert "same metric for different seeds" in judgement.reasoning[2]
    assert word([2.3, 2.3, 2.3]) == "invalid"


def test_ties_of_a_metric_with_few_digits_are_honest() -> None:
    assert word([0.91, 0.91, 0.92, 0.91], [0.71, 0.73, 0.72, 0.72], minimize=False) == "improved"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    for candidate, baseline in (([2.3, bad, 2.4], BANK), ([2.3, 2.31, 2.32], [2.4, bad])):
        with pytest.raises(ValueError, match="finite"):
            judge(candidate, baseline)
    with pytest.raises(ValueError, match="finite"):
        judge([bad])
    with pytest.raises(ValueError, match="finite"):
        verdict.nominate(bad, BANK, minimize=True)


def test_a_diverged_run_is_judged_and_one_beyond_arithmetic_is_refused() -> None:
    assert word([1e30, 2.4, 2.5]) in ("inconclusive", "worse")
    with pytest.raises(ValueError, match="too large"):
        judge([1e200, 2.4, 2.5])


def test_what_costs_more_must_beat_a_control_that_spends_as_much() -> None:
    assert [verdict.needs_control(ratio) for ratio in (1.08, 1.00001, 1 + 1e-9, None)] == [True, True, False, False]
    assert verdict.beats(CLEAR, BANK, minimize=True) and not verdict.beats(CLEAR[:2], BANK, minimize=True)
    assert judge(CLEAR, cost_ratio=1.08) is None, "undecided until the control has run"
    found = judge(CLEAR, cost_ratio=1.08, control=[2.401, 2.395, 2.408, 2.399, 2.391])
    assert found and found.verdict == "improved" and found.p > verdict.welch(CLEAR, BANK).p_better, "it claims to beat both"
    bought = judge(CLEAR, cost_ratio=1.08, control=[2.344, 2.351, 2.349])
    assert bought and bought.verdict == "bought" and bought.p > 0.2
    assert "1.08x the budget" in bought.reasoning[2]
    assert judge(CLEAR, cost_ratio=1.08, control=[2.354, 2.359, 2.352]) is None, "more seeds may tell them apart"
    assert word(CLEAR, cost_ratio=0.9) == "improved", "what costs less needs no control"


def test_what_is_bought_is_called_no_better_only_where_it_was_no_better() -> None:
    near = [2.3487 + 0.004 * math.sin(7 * step) for step in range(8)]
    mine = [2.3440 + 0.004 * math.sin(7 * step + 1) for step in range(14)]
    found, equal = judge(mine, cost_ratio=1.08, control=near), verdict.welch(mine, near)
    assert found and found.verdict == "bought" and equal.high < 0, "the interval lies beyond zero and the bound was not reached"
    assert "not shown (accepted below p = 0.002) to be better than what the same cost buys" in found.reasoning[2]
    for minimize, sign in ((True, 1.0), (False, -1.0)):
        mirrored = [[sign * value for value in values] for values in (mine, BANK, [value - 0.01 for value in near])]
        found = judge(mirrored[0], mirrored[1], cost_ratio=1.08, control=mirrored[2], minimize=minimize)
        assert found and found.verdict == "bought" and ": no better than what the same cost buys" in found.reasoning[2]


def test_a_costly_idea_that_does_not_even_beat_the_bank_needs_no_control() -> None:
    assert word([2.4521, 2.4603, 2.4554], cost_ratio=1.5) == "worse"


def test_the_interval_is_always_printed_with_n_and_sigma() -> None:
    judgement = judge(CLEAR, compared_with="the bank of 1a2b3c (split audit)")
    assert judgement is not None and len(judgement.reasoning) == 3
    effect, test, compared = judgement.reasoning
    assert f"{judgement.low:+.4g} to {judgement.high:+.4g}, n = 4" in effect and "sigma 0.00715 (0.00473 to 0.0146)" in effect
    assert "m = 8" in test and "p = " in test and "accepted below" in test
    assert "the bank of 1a2b3c (split audit)" in compared
    assert judgement.low < judgement.effect < judgement.high < 0
    assert (judgement.n, judgement.m) == (4, 8)
    assert judgement.sigma == pytest.approx(statistics.stdev(BANK))


def test_importing_the_statistics_does_not_load_scipy() -> None:
    code = "import sys, lab.verdict; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("stages", [verdict.STAGES, (2, 4), (3,)])
def test_the_rule_on_arrays_of_moments_says_what_the_judge_of_one_idea_says(stages: tuple[int, ...]) -> None:
    import numpy as np

    random, seen = np.random.default_rng(5), Counter[str]()
    for n in (*stages, max(stages[0], stages[-1] - 1)):
        for m in (4, 8, 20):
            banks, ideas = random.normal(0, 1, (150, m)), random.normal(-2, 1.5, (150, n))
            found = verdict.looks(
                verdict.Moments(n, ideas.mean(1), ideas.var(1, ddof=1)),
                verdict.Moments(m, banks.mean(1), banks.var(1, ddof=1)), stages,
            )  # fmt: skip
            for bank, idea, accepted, hopeless in zip(banks.tolist(), ideas.tolist(), *found, strict=True):
                said = word(idea, bank, stages=stages)
                assert (said == "improved") == accepted == verdict.beats(idea, bank, minimize=True, stages=stages)
                assert (said is None) == (not accepted and not hopeless and n < stages[-1])
                seen[str(said)] += 1
    assert seen["improved"] > 20 and sum(seen.values()) - seen["improved"] - seen["None"] > 20


def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_verdict", ROOT / "benchmarks" / "verdict.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    return benchmark


def test_a_smaller_bank_finds_less_as_the_warning_about_it_says() -> None:
    benchmark = simulation()
    for bank, found in FOUND.items():
        assert 100 * benchmark.play(2.0, 1.0, 20_000, bank=bank).accepted.mean() == pytest.approx(found, abs=1.3), bank
        assert benchmark.play(0.0, 1.0, 50_000, bank=bank).accepted.mean() < 0.0014, "no more is believed by mistake"


def test_null_ideas_pass_once_in_a_thousand_whatever_their_spread_and_effects_of_two_sigma_are_found() -> None:
    benchmark = simulation()
    for spread in (0.5, 1.0, 3.0, 7.0):
        null = benchmark.play(0.0, spread, 100_000)
        assert null.accepted.mean() < 0.0017, "the bound is .0015, the standard error here .00012"
        assert spread != 1.0 or (null.accepted.mean() < 0.0013 and null.runs.mean() < 2.85)
    found = benchmark.play(2.0, 1.0, 20_000)
    assert found.accepted.mean() > 0.88
    naive, reported = (values[found.accepted].mean() - 2 for values in (found.naive, found.reported))
    assert naive > 0.05 and abs(reported) < 0.02, "fresh runs after acceptance do not flatter"
    assert benchmark.greedy(0.0, 1.0, 500)[0].mean() > 0.1, "greedy keeps noise"
