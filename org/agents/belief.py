"""What a handful of noisy trials says about each value of each knob: an additive Gaussian process over the knobs.

Called by `study.py` to choose the next trial and to say why. A trial that set several knobs tells about their sum,
one on an older trunk about the difference to that trunk's values, and all trials on one trunk share the error of its
bank: so nothing that was paid for is thrown away when trunk moves, and one lucky run is shrunk towards nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from org.agents.space import Value, ordered, place
from tasks.spec import Knob

LENGTH = 2.0
"""Steps over which a knob's effect is alike (length scale of a squared-exponential kernel)."""
PRIOR = 4.0
"""Standard deviation of a knob's effect at one value before any trial, in sigmas of one run; a step then changes it by
about two. Not critical: `benchmarks/sweep.py` leaves 0.47 of the loss with 4 and with 2 (48 worlds each).
"""


@dataclass(frozen=True)
class Evidence:
    """One trial: knobs `changed` from what `base` has (`start`), better than base's bank by `gain` (sigmas) over
    `runs` runs.
    """

    base: str
    changed: Mapping[str, Value]
    start: Mapping[str, Value]
    gain: float
    runs: int = 1


class Belief:
    """Posterior over the effect of setting knobs, in sigmas of one run, positive for better."""

    def __init__(self, knobs: Iterable[Knob], evidence: Sequence[Evidence], bank: int) -> None:
        """`bank`: runs of a baseline bank, whose mean all trials on one trunk are compared with."""
        self.knobs = {knob.name: knob for knob in knobs}
        self.evidence = [one for one in evidence if set(one.changed) <= set(self.knobs)]
        count = len(self.evidence)
        spread = np.zeros((count, count))
        for i, a in enumerate(self.evidence):
            for j, b in enumerate(self.evidence[: i + 1]):
                shared = self._covariance(a.changed, a.start, b.changed, b.start)
                spread[i, j] = spread[j, i] = shared + (1 / bank if a.base == b.base else 0.0)
            spread[i, i] += 1 / a.runs
        self._inverse: NDArray[np.float64] = np.asarray(np.linalg.inv(spread) if count else spread, dtype=np.float64)
        self._weights: NDArray[np.float64] = self._inverse @ np.array([one.gain for one in self.evidence])

    def about(self, changes: Mapping[str, Value], start: Mapping[str, Value]) -> tuple[float, float]:
        """(mean, standard deviation) of the gain from setting `changes` where `start` holds now."""
        prior = self._covariance(changes, start, changes, start)
        if not self.evidence:
            return 0.0, math.sqrt(prior)
        link = np.array([self._covariance(changes, start, one.changed, one.start) for one in self.evidence])
        variance = prior - float(link @ self._inverse @ link)
        return float(link @ self._weights), math.sqrt(max(0.0, variance))

    def _covariance(
        self, a: Mapping[str, Value], a_start: Mapping[str, Value], b: Mapping[str, Value], b_start: Mapping[str, Value]
    ) -> float:
        total = 0.0
        for name in a.keys() & b.keys():
            knob, v, s, w, t = self.knobs[name], a[name], a_start[name], b[name], b_start[name]
            total += alike(knob, v, w) - alike(knob, v, t) - alike(knob, s, w) + alike(knob, s, t)
        return PRIOR**2 * total


def alike(knob: Knob, a: Value, b: Value) -> float:
    """How much the knob's effect at two values has in common, from 0 to 1."""
    apart = place(knob, a) - place(knob, b) if ordered(knob) else float(a != b)  # one name is a step from every other
    return math.exp(-0.5 * (apart / LENGTH) ** 2)
