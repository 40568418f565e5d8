"""How often the laboratory believes something false, finds something true, and at what cost: `lab.verdict` simulated.

    python benchmarks/verdict.py [--ideas 100000]

Plays the laboratory with its own rule on many ideas at once (`verdict.looks`): a bank, one run to nominate, stages of fresh
seeds with baselines among them, and the runs after acceptance. The baseline's sigma is the unit and noise is normal.
Nomination and confirmation use the *same* bank values, as if the two splits were perfectly correlated: the cautious case.
"Cold": each idea meets a bank of its own of 8; below that 20 ideas share a trunk and its growing bank. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import claims, promotion, verdict
from lab.attempt import interleaved
from lab.flags import drift
from lab.steps import Policy

BANK = Policy().bank
EFFECTS = (1.0, 1.5, 2.0, 3.0)
FURTHER = (4.5, 5.0, 6.0, 8.0)
"""True effects at which part of the old banks serve for the reported effect."""
SPREADS = (0.5, 1.0, 2.0, 3.0, 7.0)
SHARED = 20
"""Ideas tried on a trunk, or in a session, one after the other."""
CHUNK = 25_000
Floats = NDArray[np.float64]


@dataclass
class Sample:
    """Growing samples, one for each of many trunks or ideas: sums, so that runs can be added to some of them."""

    n: NDArray[np.int64]
    total: Floats
    squares: Floats

    @classmethod
    def empty(cls, count: int) -> Sample:
        return cls(np.zeros(count, np.int64), np.zeros(count), np.zeros(count))

    def add(self, rows: Any, values: Floats, count: Any) -> None:
        """The first `count` of each row of values."""
        taken = values * (np.arange(values.shape[1]) < np.reshape(count, (-1, 1)))
        self.n[rows] += count
        self.total[rows] += taken.sum(1)
        self.squares[rows] += (taken * taken).sum(1)

    def moments(self, rows: Any = slice(None)) -> verdict.Moments:
        n, total = self.n[rows], self.total[rows]
        return verdict.Moments(n, total / n, (self.squares[rows] - total * total / n) / (n - 1))


@dataclass
class Played:
    """What became of the ideas. Arrays of one row a trunk and one column an idea tried on it."""

    accepted: NDArray[np.bool_]
    runs: Floats
    """Of the idea, interleaved baselines included, the bank and the runs after acceptance not."""
    naive: Floats
    """Of what was accepted: how much better (sigma) by the runs that accepted it; NaN elsewhere."""
    reported: Floats
    """The same by the runs after acceptance."""
    stands: NDArray[np.bool_]
    """Accepted, promoted at once, and its own bank better than its parent's at `promotion.LEVEL`."""
    luck: Floats
    """t of each trunk's first bank against the truth: how much it flatters every idea."""
    bank: Floats
    """Runs in each trunk's bank at the end."""


def play(effect: float, spread: float, trunks: int, ideas: int = 1, seed: int = 1, bank: int = BANK) -> Played:
    """On each trunk `ideas` one after the other, each `effect` sigma better than it, with `spread` times its noise."""
    parts = [
        _play(effect, spread, min(CHUNK, trunks - done), ideas, np.random.default_rng([seed, done]), bank)
        for done in range(0, trunks, CHUNK)
    ]
    names = ("accepted", "runs", "naive", "reported", "stands", "luck", "bank")
    return Played(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _play(effect: float, spread: float, trunks: int, ideas: int, random: np.random.Generator, first: int) -> Played:
    bank = Sample.empty(trunks)
    bank.add(slice(None), random.normal(0, 1, (trunks, first)), first)
    start = bank.moments()
    shape = (trunks, ideas)
    played = Played(
        np.zeros(shape, bool), np.ones(shape), np.full(shape, math.nan), np.full(shape, math.nan),
        np.zeros(shape, bool), start.mean * np.sqrt(first / start.variance), np.zeros(trunks),
    )  # fmt: skip
    for idea in range(ideas):
        value, now = random.normal(-effect, spread, trunks), bank.moments()
        rows = np.flatnonzero((now.mean - value) / np.sqrt(now.variance) >= verdict.NOMINATE)
        seeds = Sample.empty(trunks)
        before = 0
        for stage in verdict.STAGES:
            fresh = stage - before
            seeds.add(rows, random.normal(-effect, spread, (len(rows), fresh)), fresh)
            beside = np.zeros(len(rows), np.int64)
            if before:
                table = [interleaved(have, fresh) for have in range(bank.n.max() + 1)]
                beside = np.array(table)[bank.n[rows]]
                bank.add(rows, random.normal(0, 1, (len(rows), fresh)), beside)
            played.runs[rows, idea] += fresh + beside
            mine, theirs = seeds.moments(rows), bank.moments(rows)
            found = verdict.looks(mine._replace(n=stage), theirs, verdict.STAGES)
            won = found.accepted
            _accept(played, rows[won], idea, effect, spread, _part(mine, won), _part(theirs, won), random)
            rows = rows[~(won | found.hopeless)]
            before = stage
    played.bank[:] = bank.n
    return played


def _part(moments: verdict.Moments, chosen: Any) -> verdict.Moments:
    return verdict.Moments(*(values[chosen] for values in moments))


def _accept(
    played: Played, rows: Any, idea: int, effect: float, spread: float, mine: verdict.Moments, theirs: verdict.Moments,
    random: np.random.Generator,
) -> None:  # fmt: skip
    """Write down what was accepted, and its fresh runs: a new bank against fresh parents, or where it is far the old bank."""
    played.accepted[rows, idea] = True
    gain = theirs.mean - mine.mean
    played.naive[rows, idea] = gain
    _, df = verdict.statistic(mine, theirs)
    reach = stdtrit(df, 0.975) * np.sqrt(mine.variance / mine.n + theirs.variance / theirs.n)
    far = gain - reach > claims.FAR * np.sqrt(theirs.variance)
    parents = random.normal(0, 1, (len(rows), BANK)).mean(1)
    after = random.normal(-effect, spread, (len(rows), BANK))
    played.reported[rows, idea] = np.where(far, theirs.mean, parents) - after.mean(1)
    t, df = verdict.statistic(verdict.Moments(BANK, after.mean(1), after.var(1, ddof=1)), theirs)
    played.stands[rows, idea] = stdtr(df, t) < promotion.LEVEL


def greedy(effect: float, spread: float, sessions: int) -> tuple[Floats, Floats]:
    """Keep an idea when its one run is lower than the lowest kept so far, 20 ideas a session: (share kept, fake gain).

    The fake gain, in sigma, is how much better the session's best value looks than the true mean of what was kept.
    """
    random = np.random.default_rng(2)
    truth, kept, best = np.zeros(sessions), np.zeros(sessions), random.normal(0, 1, sessions)
    for _ in range(SHARED):
        value = truth - effect + spread * random.normal(0, 1, sessions)
        better = value < best
        truth, best, kept = truth - effect * better, np.where(better, value, best), kept + better
    return kept / SHARED, truth - best


def two_sigma(effect: float, spread: float, ideas: int) -> tuple[Floats, Floats]:
    """Keep an idea when its one run is 2 sigma of the bank below the bank's mean: (kept, fake gain of what was kept)."""
    random = np.random.default_rng(3)
    bank = random.normal(0, 1, (ideas, BANK))
    gain = bank.mean(1) - random.normal(-effect, spread, ideas)
    kept = gain > 2 * bank.std(1, ddof=1)
    return kept.astype(float), gain[kept] - effect


def interval(values: Floats, digits: int) -> str:
    if len(values) < 2:
        return "-"
    return f"{values.mean():.{digits}f} ±{1.96 * values.std(ddof=1) / len(values) ** 0.5:.{digits}f}"


def unlucky(played: Played) -> str:
    """False accepts an idea in the tenth of the trunks whose bank flatters most."""
    worst = played.luck >= np.quantile(played.luck, 0.9)
    return interval(played.accepted[worst].mean(1), 4)


def cold(ideas: int) -> None:
    print(f"\ncold: every idea meets a bank of {BANK} of its own (+{BANK / SHARED:.1f} runs an idea where {SHARED} share it)")
    print("null ideas   spread   false accepts     in the unluckiest tenth    runs an idea   greedy keeps   |delta| > 2 sigma keeps")
    for spread in SPREADS:
        null = play(0.0, spread, ideas)
        print(
            f"{ideas:10d} {spread:8.1f} {interval(null.accepted.mean(1), 5):>18} {unlucky(null):>21}"
            f" {interval(null.runs.mean(1), 2):>18} {greedy(0.0, spread, ideas // SHARED)[0].mean():14.3f}"
            f" {two_sigma(0.0, spread, ideas)[0].mean():14.3f}"
        )
    print("true effect  found            runs an idea      bias, naive      bias, reported    greedy: kept, fake    2 sigma: kept, fake")
    for effect in (*EFFECTS, *FURTHER):
        found = play(effect, 1.0, ideas // 2)
        naive, reported = (values[found.accepted] - effect for values in (found.naive, found.reported))
        kept, fake = greedy(effect, 1.0, ideas // SHARED)
        passed, excess = two_sigma(effect, 1.0, ideas // 2)
        print(
            f"{effect:11.1f}  {interval(found.accepted.mean(1), 3):>13} {interval(found.runs.mean(1), 1):>14}"
            f" {interval(naive, 3):>16} {interval(reported, 3):>16}"
            f" {kept.mean():12.2f} {fake.mean():+7.2f} {passed.mean():12.2f} {excess.mean():+7.2f}"
        )


def taken_back(ideas: int) -> None:
    print(f"\npromoted as soon as accepted: share taken back, as its own bank of {BANK} is not better than its parent's; cold")
    print("effect    accepted and taken back   accepted and left on trunk, of all ideas")
    for effect in (0.0, *EFFECTS):
        found = play(effect, 1.0, ideas if not effect else ideas // 2)
        back = 1.0 - found.stands[found.accepted].astype(float)
        print(f"{effect:6.1f} {interval(back, 3):>26} {interval(found.stands.astype(float), 5):>42}")


def shared(ideas: int) -> None:
    print(f"\n{SHARED} ideas on a trunk, one after the other, whose bank grows; its first {BANK} runs are counted")
    print("effect  spread    accepted an idea   in the unluckiest tenth   runs an idea   bank at the end   variance / mean")
    for effect, spread in (*((0.0, spread) for spread in SPREADS), (2.0, 1.0)):
        trunks = play(effect, spread, ideas // SHARED, SHARED)
        counts = trunks.accepted.sum(1)
        print(
            f"{effect:6.1f} {spread:7.1f} {interval(trunks.accepted.mean(1), 5):>19} {unlucky(trunks):>20}"
            f" {interval(trunks.runs.mean(1) + BANK / SHARED, 2):>19} {trunks.bank.mean():12.1f}"
            f" {counts.var(ddof=1) / counts.mean():16.2f}"
        )


def smaller(ideas: int) -> None:
    print("\nagainst a smaller bank, cold")
    print("bank    false accepts     runs a null idea   found at 2 sigma")
    for bank in range(2, BANK + 1):
        null, found = play(0.0, 1.0, ideas, bank=bank), play(2.0, 1.0, ideas // 4, bank=bank)
        print(f"{bank:4d} {interval(null.accepted.mean(1), 5):>18} {null.runs.mean():16.2f} {interval(found.accepted.mean(1), 3):>18}")


def drifting(banks: int) -> None:
    print(f"\na bank of {BANK} and 16 baseline runs after it, which lie further off: share of the banks with an alarm, after so many runs")
    random = np.random.default_rng(4)
    for shift in (0.0, 1.0, 2.0, 3.0):
        after = []
        for _ in range(banks):
            values = [*random.normal(0, 1, BANK), *random.normal(shift, 1, 16)]
            after += [next((n for n in range(1, 17) if drift(values[: BANK + n], BANK)), 0)]
        seen = np.array(after)
        print(f"{shift:6.1f} sigma {interval((seen > 0).astype(float), 3):>16} {seen[seen > 0].mean():6.1f}")


def considered(ideas: int) -> None:
    print("\nwhat else was considered, cold")
    print("                           false accepts     runs a null idea   found at 1.5, 2 sigma")
    chosen = {name: getattr(verdict, name) for name in ("NOMINATE", "BOUNDARY", "FUTILITY", "STAGES")}
    for other in (
        {}, {"NOMINATE": 0.0}, {"NOMINATE": 1.0}, {"BOUNDARY": 2.76}, {"BOUNDARY": 3.0}, {"FUTILITY": 2.0},
        {"FUTILITY": 4.0}, {"STAGES": (2, 4, 12)}, {"STAGES": (3, 6, 12)}, {"STAGES": (2, 4, 8)},
    ):  # fmt: skip
        try:
            for name, value in {**chosen, **other}.items():
                setattr(verdict, name, value)
            null = play(0.0, 1.0, ideas)
            found = [play(effect, 1.0, ideas // 4).accepted.mean() for effect in (1.5, 2.0)]
        finally:
            for name, value in chosen.items():
                setattr(verdict, name, value)
        what = ", ".join(f"{name} {value}" for name, value in other.items()) or "as above"
        print(f"{what:>24} {interval(null.accepted.mean(1), 5):>18} {null.runs.mean():12.2f} {found[0]:19.3f}, {found[1]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the laboratory's decisions.")
    parser.add_argument("--ideas", type=int, default=100_000, help="null ideas for each line")
    ideas: int = parser.parse_args().ideas
    began = time.monotonic()
    print(f"bank of {BANK}, stages {verdict.STAGES}, nominated from {verdict.NOMINATE} sigma, boundary {verdict.BOUNDARY}, ", end="")
    print(f"futility {verdict.FUTILITY}; ± is a 95 % interval")
    cold(ideas)
    taken_back(ideas)
    shared(ideas)
    considered(ideas)
    smaller(ideas)
    drifting(2000)
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
