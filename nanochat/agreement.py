"""What two model hosts must agree on: how rows are cut and ordered for each, and the statistics of their answers.

Called by evaluate.py. Pure functions of arrays; nothing here talks to a host. Notable choices:
- in 3 of 8 rows host A sees other text behind a random cut, in 3 of 8 host B. No text that is hidden from a host behind a
  cut reaches it elsewhere, so what it says right before a cut cannot rest on what comes next, whatever it looks at or keeps;
- right before a cut a host that looks ahead does worse than the other, which saw the true text. How much of that is
  rounding is read off the rows that neither host saw cut: nothing has to be known of the model's precision;
- all splits are asked for in one random order, another for each host, in batches of two sizes: where the sizes were equal
  honest models hardly differ at all, so half of the cuts are sharp even in bf16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

CUT = 3 / 8
"""Part of the rows that each host sees with other text behind a cut. The rest, 1/4, measures how much honest answers move."""
FAINT, SHARP = 1e-4, 1e-3
"""Nats that looking ahead may bring, over all cuts on average and at one of them, where answers do not move at all otherwise."""
ERRORS, TIMES = 5.0, 4.0
"""Where they do move: standard errors that the average may lie above 0, and times the largest honest move for one cut."""


@dataclass(frozen=True)
class Tolerance:
    """Nats that the two hosts may differ by over text that both saw, whatever the reason: at most, and on average."""

    largest: float
    mean: float


TOLERANCES = {"cpu": Tolerance(0.1, 2e-3), "cuda": Tolerance(0.25, 0.02)}
"""By the device the hosts compute on. `benchmarks/agreement.py` measures what honest models need.

cpu (AMD EPYC, AVX2, torch 2.13, batches of 1 to 64 rows, 1 and 2 threads, width 64 to 512): fp32, bf16, fp16 and compiled models
do not differ in one bit; room is left for processors whose kernels change with the batch. cuda (one H100, torch 2.11, d8 in
batches of 1 to 16 rows): no difference in any of these either; room is left for other GPUs and kernels."""


class Disagreement(Exception):
    """The hosts disagree by more than honest models do. `str(error)` says how, one line."""


@dataclass(frozen=True)
class Plan:
    """What one host is asked: `batches` of row numbers in order; row r shows the text of row donors[r] from cuts[r] on."""

    batches: list[np.ndarray]
    cuts: np.ndarray
    donors: np.ndarray

    def inputs(self, tokens: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Token ids (len(part), context) for these rows out of `tokens` (rows, context + 1)."""
        kept = np.arange(tokens.shape[1] - 1) < self.cuts[part, None]
        return np.where(kept, tokens[part, :-1], tokens[self.donors[part], :-1])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """(size of the batch each row came in, number of that batch), both (rows,)."""
        sizes, turns = np.zeros(len(self.cuts), dtype=np.int64), np.zeros(len(self.cuts), dtype=np.int64)
        for turn, part in enumerate(self.batches):
            sizes[part], turns[part] = len(part), turn
        return sizes, turns


def plans(splits: list[int], context: int, largest: int, random: np.random.Generator) -> tuple[Plan, Plan]:
    """For hosts A and B, over the rows of all splits laid end to end; `splits` are their numbers of rows, `largest` the
    rows of a batch. Cuts lie in [1, context - 1]; `context` says that a row is whole. Donors are of the row's own split
    and whole in that host. Splits of less than 4 rows are not cut."""
    total = sum(splits)
    cuts = np.full((2, total), context)
    donors = np.tile(np.arange(total), (2, 1))
    begin = 0
    for rows in splits:
        shuffled = begin + random.permutation(rows)
        count = int(CUT * rows)
        for host, chosen in enumerate((shuffled[:count], shuffled[count : 2 * count])):
            cuts[host, chosen] = random.integers(1, context, size=count)
            donors[host, chosen] = random.permutation(np.setdiff1d(shuffled, chosen))[:count]
        begin += rows
    a, b = (Plan(_batches(total, largest, random), cuts[host], donors[host]) for host in (0, 1))
    return a, b


def _batches(rows: int, largest: int, random: np.random.Generator) -> list[np.ndarray]:
    """All rows in random order, in batches of `largest` and of about three quarters of it, as chance will have it."""
    sizes = [largest, max(1, 3 * largest // 4 - 1)]  # neither divides the other, nor most numbers of rows
    order, batches = random.permutation(rows), []
    while len(order):
        size = sizes[int(random.integers(2))]
        batches.append(order[:size])
        order = order[size:]
    return batches


def agreed(logs: np.ndarray, both: tuple[Plan, Plan], tolerance: Tolerance) -> tuple[np.ndarray, dict[str, Any]]:
    """From the hosts' log-probabilities of the targets, float32 (2, rows, context): those to score, each from a host that
    saw the true text before it, and {"max", "mean": nats between the hosts where both did, "positions": how many,
    "ahead": nats that the text behind a cut is worth, "cuts": how many}. Raises Disagreement."""
    rows, context = logs.shape[1:]
    position = np.arange(context)
    first = np.minimum(both[0].cuts, both[1].cuts)
    shared = position < first[:, None]
    moved = logs[0].astype(np.float64) - logs[1]
    (size_a, turn_a), (size_b, turn_b) = (plan.places() for plan in both)
    cut = first < context
    # right before the cut: what the host said that saw the true text go on, less what the other said
    ahead = np.where(both[0].cuts < both[1].cuts, -1, 1) * moved[np.arange(rows), first - 1]
    for alike in (True, False):
        group = (size_a == size_b) == alike
        _look_ahead(ahead[group & cut], moved[group & ~cut], tolerance)
    distance = np.abs(moved[shared])
    largest, mean = float(distance.max()), float(distance.mean())
    if not (largest <= tolerance.largest and mean <= tolerance.mean):
        what = f"by up to {largest:.2g} nats, {mean:.2g} on average, in two hosts that saw it among other rows, in another order"
        raise Disagreement(f"the model does not judge a row by itself: what it says of one text differs {what}")
    # turns as parts of the whole, since the hosts may need different numbers of batches
    sooner = np.sign(turn_a / len(both[0].batches) - turn_b / len(both[1].batches))
    gain = sooner * np.where(shared, moved, 0).sum(1) / shared.sum(1)
    if gain.mean() > max(FAINT, ERRORS * gain.std() / math.sqrt(rows)):
        what = f"the later of two hosts to see a row does better by {gain.mean():.2g} nats"
        raise Disagreement(f"the model keeps what it saw in earlier batches: {what}")
    scored = np.where(position < both[0].cuts[:, None], logs[0], logs[1])
    numbers = {"max": largest, "mean": mean, "positions": int(shared.sum()), "cuts": int(cut.sum())}
    return scored, {**numbers, "ahead": float(ahead[cut].mean()) if cut.any() else 0.0}


def _look_ahead(ahead: np.ndarray, calm: np.ndarray, tolerance: Tolerance) -> None:
    """`ahead` (cuts,): by how many nats the host that saw the true text beyond a cut does better right before it;
    `calm`: what honest moves are. Raises Disagreement."""
    if not len(ahead):
        return
    most = float(np.abs(calm).max()) if calm.size else tolerance.largest
    noise = math.sqrt(float(np.square(calm).mean())) if calm.size else tolerance.mean
    mean, largest = float(ahead.mean()), float(np.abs(ahead).max())
    if mean > max(FAINT, ERRORS * noise / math.sqrt(len(ahead))) or largest > max(SHARP, TIMES * most):
        what = f"other text from a position on moved what it said right before by up to {largest:.2g} nats, {mean:+.2g} on average"
        raise Disagreement(f"the model looks ahead: {what} over {len(ahead)} cuts")
