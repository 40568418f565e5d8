"""The study of a sweep researcher: what has been tried of the knobs, and what to try next.

Called by the researcher loop in `sweep.py`. Nothing is stored: trials are read off the ledger each time, so a
restarted agent knows what its predecessor knew. Each knob is turned once, alone or on top of what helped; what
helped is tried together; then the most hopeful single step takes turns with Optuna's TPE over the whole area, which
is blind below a dozen trials.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from lab.cost import control
from lab.records import BANK, NO_EVIDENCE, Attempt, Bank, Experiment
from lab.similar import alike
from lab.state import State
from org.agents.belief import Belief, Evidence
from org.agents.space import Value, distance, distribution, neighbours, rounded, settle
from org.agents.worker import MOVED
from tasks.spec import Knob, Task

FEW = 3
"""Knobs that one experiment changes at most, so that its hypothesis stays a sentence."""
GOOD = 0.5
"""Believed gain, in sigmas, from which a change is built upon."""
FAR = 20.0
"""Sigmas beyond which a gain or loss counts no further: one disaster must not bend what is believed of its neighbours.
`benchmarks/sweep.py` leaves 0.48 of the loss with 20 and 0.50 with 10 (48 worlds each).
"""
OPTIMISM = 1.0
"""Standard deviations that are added to the mean when the most hopeful step is chosen."""
TPE_TURN = 3
"""Every third trial after the first round is TPE's."""
TPE_MOVES = 2
"""Knobs that are moved of TPE's suggestion: those it moves furthest."""

Difference = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Trial:
    """One experiment on the knobs. `gain`: how much better than its base's bank, in the metric's unit; NaN unless
    done.
    """

    experiment: str
    agent: str
    base: str
    changed: dict[str, Value]
    state: Literal["pending", "done", "failed"]
    gain: float = math.nan
    runs: int = 1
    """Runs that `gain` is the mean of: 1 for a nominating run, more when fresh seeds were run."""


@dataclass(frozen=True)
class Move:
    """What to try next: the knobs to set on trunk, how that was chosen, and what is believed of it (sigmas)."""

    changes: dict[str, Value]
    kind: Literal["probe", "combine", "step", "tpe"]
    mean: float
    spread: float

    @property
    def because(self) -> str:
        """The choice in words, for the proposal."""
        how = {
            "probe": "nobody has turned this knob on the present line of trunk yet",
            "combine": "each of these changes helped before; do their gains add up?",
            "step": "the most hopeful single step of the area",
            "tpe": "suggested by TPE over the whole area",
        }[self.kind]
        return f"{how}; trials so far make it {self.mean:+.1f} ± {self.spread:.1f} sigma"


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one run (metric's unit, pooled over the banks so far) and runs in the last bank."""

    sigma: float
    bank: int


def trials(state: State, task: Task, agents: Sequence[str] | None = None) -> list[Trial]:
    """Experiments that set knobs, as trials, oldest first; with `agents` only theirs, and what reached trunk."""
    known = {knob.name for knob in task.knobs}
    return [
        _trial(state, task, experiment)
        for experiment in state.experiments.values()
        if experiment.params
        and set(experiment.params) <= known
        and (agents is None or experiment.agent in agents or experiment.promoted)
        and not _taken_back(experiment)
    ]


def _taken_back(experiment: Experiment) -> bool:
    """Withdrawn before it ran, and not because anything spoke against it: it may be tried again."""
    ran = any(run.started is not None for run in experiment.runs)
    return not ran and experiment.withdrawn is not None and experiment.withdrawn.startswith(MOVED)


def _trial(state: State, task: Task, experiment: Experiment) -> Trial:
    sign = 1.0 if task.metric.direction == "minimize" else -1.0
    changed = dict(experiment.params)
    for attempt in reversed(experiment.attempts):  # fresh seeds tell more than the run that was picked for being good
        bank = state.bank(attempt.parent)
        fresh = [
            run.metric["audit"]
            for run in experiment.runs_for("confirm", attempt.number)
            if run.status == "ok" and "audit" in run.metric
        ]
        if len(fresh) > 1 and bank.values("audit"):
            gain = _earned(sign * (bank.mean("audit") - statistics.fmean(fresh)), experiment, bank)
            return Trial(experiment.id, experiment.agent, attempt.parent, changed, "done", gain, len(fresh))
    first = experiment.attempts[0] if experiment.attempts else None
    base = first.parent if first else experiment.base
    found: tuple[Literal["pending", "done", "failed"], float] = (
        _nominating(state, experiment, first, sign)
        if first
        else ("failed" if experiment.withdrawn is not None else "pending", math.nan)
    )
    return Trial(experiment.id, experiment.agent, base, changed, *found)


def _nominating(
    state: State, experiment: Experiment, first: Attempt, sign: float
) -> tuple[Literal["pending", "done", "failed"], float]:
    runs = [run for run in experiment.runs_for("nominate", first.number) if run.over and run.status not in NO_EVIDENCE]
    if not runs:
        return ("failed" if experiment.withdrawn is not None else "pending"), math.nan
    value = runs[0].metric.get("search", math.nan)
    if runs[0].status != "ok" or not math.isfinite(value):
        return "failed", math.nan
    bank = state.bank(first.parent)
    if not bank.values("search"):
        return "pending", math.nan
    return "done", _earned(sign * (bank.mean("search") - value), experiment, bank)


def _earned(gain: float, experiment: Experiment, bank: Bank) -> float:
    """A gain as far as it was not bought: of what costs more compute, none before a verdict has said so."""
    dear = control([run for run in experiment.runs if run.purpose in ("nominate", "confirm")], bank) is not None
    return min(gain, 0.0) if dear and experiment.status not in ("improved", "unmerged", "promoted") else gain


def noise(state: State, split: str = "search") -> Noise | None:
    """Pooled over the banks of every trunk so far; None before any bank has two runs that differ."""
    squares, freedom, size = 0.0, 0, 0
    for commit in dict.fromkeys(step.commit for step in state.trunks):
        values = state.bank(commit).values(split)
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom, size = freedom + len(values) - 1, len(values)
    return Noise(math.sqrt(squares / freedom), size) if squares > 0 else None


@dataclass(frozen=True)
class Study:
    """Everything that the next move on the present trunk depends on; `next` is a pure function of it.

    `at`: knob values of each trunk commit (of those knobs that could be read); `seed` makes choices reproducible.
    """

    knobs: list[Knob]
    trunk: str
    at: Mapping[str, Mapping[str, Value]]
    known: list[Trial]
    noise: Noise | None
    seed: int

    @property
    def now(self) -> Mapping[str, Value]:
        return self.at[self.trunk]

    @cached_property
    def turnable(self) -> list[Knob]:
        """Knobs that trunk has, areas interleaved, from a starting point that depends on the seed: two agents begin
        apart.
        """
        areas: dict[str, list[Knob]] = {}
        for knob in self.knobs:
            if knob.name in self.now:
                areas.setdefault(knob.area, []).append(knob)
        longest = max(map(len, areas.values()), default=0)
        mixed = [row[index] for index in range(longest) for row in areas.values() if index < len(row)]
        start = self.seed % len(mixed) if mixed else 0
        return mixed[start:] + mixed[:start]

    @cached_property
    def usable(self) -> list[Trial]:
        """Trials that turned nothing but these knobs, on a base whose values are known."""
        names = {knob.name for knob in self.turnable}
        return [
            trial
            for trial in self.known
            if set(trial.changed) <= names and set(trial.changed) <= set(self.at.get(trial.base, ()))
        ]

    @cached_property
    def belief(self) -> Belief:
        """From what is done; what is pending counts as if it came out as expected, which makes its neighbourhood less
        tempting.
        """
        sigma, bank = (self.noise.sigma, self.noise.bank) if self.noise else (1.0, BANK)
        done = [
            self._evidence(trial, min(max(trial.gain / sigma, -FAR), FAR))
            for trial in self.usable
            if trial.state == "done"
        ]
        first = Belief(self.turnable, done, bank)
        pending = [
            self._evidence(trial, first.about(trial.changed, self._start(trial))[0])
            for trial in self.usable
            if trial.state == "pending"
        ]
        return Belief(self.turnable, [*done, *pending], bank) if pending else first

    def _start(self, trial: Trial) -> dict[str, Value]:
        return {name: self.at[trial.base][name] for name in trial.changed}

    def _evidence(self, trial: Trial, sigmas: float) -> Evidence:
        return Evidence(trial.base, trial.changed, self._start(trial), sigmas, trial.runs)

    def difference(self, changes: Mapping[str, Value]) -> Difference:
        """What of these settings differs from trunk, in a form that can be compared."""
        return tuple(
            sorted(
                (name, rounded(value)) for name, value in changes.items() if rounded(value) != rounded(self.now[name])
            )
        )

    @cached_property
    def tried(self) -> set[Difference]:
        """What was tried, or waits, as differences from the present trunk."""
        return {
            self.difference(
                {**{k.name: self.at[t.base].get(k.name, self.now[k.name]) for k in self.turnable}, **t.changed}
            )
            for t in self.usable
        }

    def fresh(self, changes: Mapping[str, Value]) -> bool:
        """Does every one of these changes change something, and was nothing so close to it tried?"""
        found = self.difference(changes)
        names, values = [name for name, _ in found], [value for _, value in found]
        return len(names) == len(changes) > 0 and not any(
            names == [name for name, _ in before] and all(map(alike, values, (value for _, value in before)))
            for before in self.tried
        )

    @cached_property
    def best(self) -> dict[str, Value]:
        """Of each knob the value that did best in the trials so far; only those believed to gain GOOD or more, best
        first.
        """
        seen: dict[str, set[Value]] = {}
        for trial in self.usable:
            if trial.state == "done":
                for name, value in trial.changed.items():
                    seen.setdefault(name, set()).add(rounded(value))
        means = {
            (name, value): self.belief.about({name: value}, self.now)[0]
            for name, values in seen.items()
            for value in values
        }
        top: dict[str, Value] = {}
        for (name, value), mean in sorted(means.items(), key=lambda item: (-item[1], str(item[0]))):
            if mean >= GOOD and value != rounded(self.now[name]):
                top.setdefault(name, value)
        return top

    def built_upon(self, changes: Mapping[str, Value], most: int) -> dict[str, Value]:
        """These changes with up to `most` of the best other ones; fewer where that was tried already."""
        others = [name for name in self.best if name not in changes]
        for count in range(min(most, len(others)), 0, -1):
            stacked = {**changes, **{name: self.best[name] for name in others[:count]}}
            if self.fresh(stacked):
                return stacked
        return dict(changes)

    def next(self) -> Move | None:
        """The next move, or None when nothing untried is in sight."""
        turn = len(self.usable) % TPE_TURN == 0
        for changes, kind in (
            self._probe(),
            self._combine(),
            self._tpe() if turn else ({}, "tpe"),
            self._step(),
            self._tpe(),
        ):
            if changes:
                return Move(changes, kind, *self.belief.about(changes, self.now))
        return None

    def _probe(self) -> tuple[dict[str, Value], Literal["probe"]]:
        """A first turn of a knob, on top of the best change so far."""
        turned = {name for trial in self.usable for name in trial.changed}
        for knob in self.turnable:
            if knob.name not in turned:
                for value in neighbours(knob, self.now[knob.name], up_first=_coin(self.seed, knob.name)):
                    if self.fresh({knob.name: value}):
                        return self.built_upon({knob.name: value}, 1), "probe"
        return {}, "probe"

    def _combine(self) -> tuple[dict[str, Value], Literal["combine"]]:
        """The best changes together."""
        for count in range(min(FEW, len(self.best)), 1, -1):
            changes = dict(list(self.best.items())[:count])
            if self.fresh(changes):
                return changes, "combine"
        return {}, "combine"

    def _step(self) -> tuple[dict[str, Value], Literal["step"]]:
        """A step or half a step of one knob, from trunk's value or its best: where mean plus spread promises most."""
        hopes: list[tuple[float, str, dict[str, Value]]] = []
        for knob in self.turnable:
            best = self.best.get(knob.name, self.now[knob.name])
            got = self.belief.about({knob.name: best}, self.now)[0]
            starts = {rounded(self.now[knob.name]), rounded(best)}
            for value in {rounded(v) for s in starts for size in (1.0, 0.5) for v in neighbours(knob, s, True, size)}:
                changes = self.built_upon({knob.name: value}, FEW - 1)
                if self.fresh(changes):
                    mean, spread = self.belief.about({knob.name: value}, self.now)
                    hopes.append((mean + OPTIMISM * spread - got, str(value), changes))
        return (max(hopes, key=lambda hope: hope[:2])[2] if hopes else {}), "step"

    def _tpe(self) -> tuple[dict[str, Value], Literal["tpe"]]:
        """The few knobs that TPE's suggestion moves furthest, on top of the best changes."""
        study = self.optuna_study()
        for _ in range(8 if self.turnable else 0):
            suggested = study.ask({knob.name: distribution(knob, self.now[knob.name]) for knob in self.turnable}).params
            wanted = {knob.name: settle(knob, self.now[knob.name], suggested[knob.name]) for knob in self.turnable}
            moved = sorted(self.turnable, key=lambda knob: -distance(knob, self.now[knob.name], wanted[knob.name]))
            changes = dict(self.difference({knob.name: wanted[knob.name] for knob in moved[:TPE_MOVES]}))
            changes = self.built_upon(changes, FEW - len(changes)) if changes else changes
            if changes and self.fresh(changes):
                return changes, "tpe"
        return {}, "tpe"

    def optuna_study(self) -> Any:
        """The trials as an Optuna study to be maximised; value: believed gain of the base over trunk plus the measured
        gain.

        A pending trial counts as running, so that TPE keeps away from it (constant liar).
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        states = optuna.trial.TrialState
        space = {knob.name: distribution(knob, self.now[knob.name]) for knob in self.turnable}
        sampler = optuna.samplers.TPESampler(
            multivariate=True, n_startup_trials=4, seed=(self.seed + len(self.usable)) % 2**32
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        sigma = self.noise.sigma if self.noise else 1.0

        def add(settings: Mapping[str, Value], state: Any, value: float | None) -> None:
            params = {knob.name: settle(knob, self.now[knob.name], settings[knob.name]) for knob in self.turnable}
            study.add_trial(optuna.trial.create_trial(state=state, params=params, distributions=space, value=value))

        add(self.now, states.COMPLETE, 0.0)
        for trial in self.usable:
            base = {knob.name: self.at[trial.base].get(knob.name, self.now[knob.name]) for knob in self.turnable}
            if trial.state == "done":
                add(
                    {**base, **trial.changed},
                    states.COMPLETE,
                    trial.gain + sigma * self.belief.about(base, self.now)[0],
                )
            else:
                add({**base, **trial.changed}, states.RUNNING if trial.state == "pending" else states.FAIL, None)
        return study


def _coin(seed: int, name: str) -> bool:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()[0] % 2 == 0


def seed_of(words: Iterable[str]) -> int:
    """A seed from names: the same words give the same studies."""
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:4], "big")
