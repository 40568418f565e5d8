"""How often the laboratory believes something false, finds something true, and at what cost: `lab.verdict` simulated.

    python benchmarks/verdict.py [--trunks 1000]

Plays the laboratory with its own `nominate` and `judge`: a bank of 4 shared by the 20 ideas tried on a trunk, one run
to nominate, stages of 3 and 6 fresh seeds. Next to it greedy keep-if-lower on one seed. Noise is normal, the baseline's
sigma is the unit. Nomination and confirmation use the *same* bank values, as if the two splits were perfectly
correlated: the cautious case. Intervals are 95 %, over trunks (ideas that share a bank err together).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import verdict

IDEAS = 20
"""Ideas tried on a trunk, or in a session, one after the other."""
BANK = 4
EFFECTS = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
SPREADS = (0.5, 1.0, 2.0, 3.0)


@dataclass
class Tally:
    """Per trunk or session: share of ideas accepted and nominated, runs an idea (banks included)."""

    accepted: list[float] = field(default_factory=list)
    nominated: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    excess: list[float] = field(default_factory=list)
    """Measured minus true effect of the accepted, in sigma."""
    ended: Counter[str] = field(default_factory=Counter)


def laboratory(effect: float, spread: float, plays: int, promote: bool = False, grow: int = 0) -> Tally:
    """`plays` times 20 ideas that are each `effect` sigma better than the trunk they are tried on.

    Without `promote` all 20 are judged against one bank; with it an accepted idea becomes trunk and the next ideas meet
    a fresh bank. `grow` baseline runs join the bank with every stage of a confirmation (at most 16 in all).
    """
    random = np.random.default_rng(1)
    tally = Tally()
    for _ in range(plays):
        bank = list(random.normal(0, 1, BANK))
        runs, accepted, nominated = BANK, 0, 0
        for _ in range(IDEAS):
            runs += 1
            if not verdict.nominate(random.normal(-effect, spread), bank, minimize=True)[0]:
                tally.ended["not nominated"] += 1
                continue
            nominated += 1
            seeds: list[float] = []
            judgement = None
            for stage in verdict.STAGES:
                fresh = min(grow, 16 - len(bank))
                bank += random.normal(0, 1, fresh).tolist()
                seeds += random.normal(-effect, spread, stage - len(seeds)).tolist()
                runs += fresh
                last = stage == verdict.STAGES[-1]
                judgement = verdict.judge(seeds, bank, minimize=True, min_effect=0, final=last, compared_with="bank")
                if judgement is not None:
                    break
            assert judgement is not None
            runs += len(seeds)
            tally.ended[judgement.verdict] += 1
            if judgement.verdict == "improved":
                accepted += 1
                tally.excess.append(-judgement.effect - effect)
                if promote:
                    bank = list(random.normal(0, 1, BANK))  # the new trunk is the new zero
                    runs += BANK
        tally.accepted.append(accepted / IDEAS)
        tally.nominated.append(nominated / IDEAS)
        tally.runs.append(runs / IDEAS)
    return tally


def greedy(effect: float, spread: float, plays: int) -> tuple[list[float], list[float]]:
    """Keep an idea when its one run is lower than the lowest kept so far: (share kept, fake gain) for each session.

    The fake gain, in sigma, is how much better the session's best value looks than the true mean of what was kept.
    """
    random = np.random.default_rng(2)
    kept, fake = [], []
    for _ in range(plays):
        truth, best, count = 0.0, random.normal(0, 1), 0
        for _ in range(IDEAS):
            value = truth - effect + spread * random.normal()
            if value < best:
                truth, best, count = truth - effect, value, count + 1
        kept.append(count / IDEAS)
        fake.append(truth - best)
    return kept, fake


def interval(values: list[float], digits: int) -> str:
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.{digits}f} ±{half:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the laboratory's decisions.")
    parser.add_argument("--trunks", type=int, default=1000, help="trunks of 20 ideas for each line (null ideas: 5x)")
    plays: int = parser.parse_args().trunks
    print(f"bank of {BANK}, stages {verdict.STAGES}, alpha {verdict.ALPHAS} one-sided, futile above {verdict.FUTILE}\n")
    print("20 ideas on one trunk, one bank; greedy: sessions of 20 ideas")
    print("effect spread  accepted an idea    nominated   runs an idea  excess of accepted   greedy keeps    fake gain")
    for effect in EFFECTS:
        for spread in SPREADS:
            many = plays * 5 if effect == 0 else plays
            lab = laboratory(effect, spread, many)
            kept, fake = greedy(effect, spread, many)
            excess = interval(lab.excess, 2) if len(lab.excess) > 1 else "-"
            print(
                f"{effect:6.1f} {spread:6.1f} {interval(lab.accepted, 4):>17} {interval(lab.nominated, 3):>12}"
                f" {interval(lab.runs, 2):>14} {excess:>19} {interval(kept, 3):>14} {interval(fake, 2):>12}"
            )
            if effect == 0 and spread == 1:
                null = lab
    total = sum(null.ended.values())
    counts = [share * IDEAS for share in null.accepted]
    ratio = statistics.variance(counts) / statistics.fmean(counts)
    print("\nnull ideas of equal spread end as", ", ".join(f"{k} {v / total:.3f}" for k, v in null.ended.most_common()))
    print(f"false accepts on a trunk, variance / mean: {ratio:.1f} (1 would be independence: the bank is shared)\n")
    print("what else was considered, equal spreads")
    futile = verdict.FUTILE
    for name, stop, promote, grow in (
        ("as above", futile, False, 0),
        ("never stop early", 1.0, False, 0),
        ("1 baseline run with each stage", futile, False, 1),
        ("fresh bank after each promotion", futile, True, 0),
        ("both", futile, True, 1),
    ):
        verdict.FUTILE = stop
        for effect in (0.0, 2.0, 3.0):
            lab = laboratory(effect, 1.0, plays * 2, promote, grow)
            print(f"{name:>32}  effect {effect:.0f} accepted {interval(lab.accepted, 4)}, runs {interval(lab.runs, 2)}")
    verdict.FUTILE = futile


if __name__ == "__main__":
    main()
