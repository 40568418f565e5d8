"""The figures that the ledger holds about an experiment, a run or trunk, and whether a figure in a sentence is one of them. Pure.

Called by `org.factcheck`. A number in a sentence is looked at only where words beside it say that it is the metric, an effect, a
number of sigmas, a percentage of the metric, p or n: settings ("LR 0.03") and costs are nobody's claim here.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lab import claims
from lab.records import Attempt, Experiment, Run
from lab.state import State
from org.hedges import hedged
from org.phrases import PAST, PAST_OF_METRIC, better, metric_words, negated
from tasks.spec import Task

NUMBER = re.compile(r"(?<![\w.:/])([-+−±]?)\s?(\d{1,12}(?:\.\d{1,12})?|\.\d{1,12})(e[-+]?\d{1,3})?(?![\w:/]|\.\d)(?!-)", re.IGNORECASE)
SIGMA_UNIT = r"\s*-?\s*(?:σ|sigmas?\b|sds?\b|stdevs?\b|standard deviations?\b)"
ABOUT = r"(?:about|around|roughly|nearly|almost|approximately|approx\.?|circa|ca\.?|some|~|≈)\s*"
MORE = r"(?:over|more than|at least|above|>=?|≥)\s*"
LESS = r"(?:up to|less than|under|below|at most|<=?|≤)\s*"
SPLITS = ("audit", "search")
INTERVAL = re.compile(r"\b(?:interval|CI|confidence|between|bounds?)\b|[\[(]", re.IGNORECASE)
SPREAD = r"\bsigma|σ|\bnoise(?: floor| level)?|\bspread|\bsd|\bstandard deviation"
LOOSE = 0.15
"""How far off "about" may be."""
EFFECT = r"(?:effect|gain|improvement|benefit|contribution|reduction|drop|delta)"
OFF = r"(?:\bshav\w+|\btakes?|\btook|\bknock\w*|\btrim\w*|\bcuts?|\bcarv\w+|\badds?|\badded)"
DIRECTED = r"(?:improv\w*|better|worse|gain(?:s|ed)?|beat\w*(?: \w+){0,3}|ahead|behind|hurts?|hurt)"
"""Says by itself which way: a sign beside it may mean either."""
BETTER = rf"(?:{DIRECTED}|effect|delta|Δ|difference)"


@dataclass
class Figures:
    """What is on record about `name`. Levels and deltas in the metric's unit, deltas candidate minus baseline."""

    name: str
    levels: list[float] = field(default_factory=list)
    deltas: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    """Ends of intervals of the effect: right where a clause speaks of an interval."""
    sigmas: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    percents: list[float] = field(default_factory=list)
    ps: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    minimize: bool = True
    of_experiment: bool = True
    several: bool = False
    """Of more than one experiment, where each number may be any one's."""
    trunks: list[float] = field(default_factory=list)
    """Levels that trunk has or had."""

    def check(self, clause: str, metric: str, trunk: Sequence[float] = ()) -> tuple[list[str], int]:
        """(what is wrong, how many figures were looked at) of a clause; `metric` is a pattern for the metric's names, `trunk` all levels
        of trunk."""
        wrong, looked = [], 0
        for found in NUMBER.finditer(clause):
            before, after = clause[: found.start()][-80:], clause[found.end() :][:60]
            kind = classify(before, found, after, metric)
            if not kind or _hedged(clause, found) or (kind in ("p", "sigma") and _demanded(before, after)):
                continue
            line = self._compare(kind, found, before, after, trunk)
            looked += line is not None
            wrong += [line] if line else []
        return wrong, looked

    def _compare(self, kind: str, found: re.Match[str], before: str, after: str, trunk: Sequence[float]) -> str | None:
        """What is wrong with one number; "" when nothing is, None when there is nothing to hold it against."""
        said = f"{found[1].strip()}{found[2]}{found[3] or ''}"
        truths: Sequence[float] = {
            "level": self.levels, "delta": self.deltas, "either": [*self.levels, *self.deltas], "sigma": self.sigmas,
            "spread": self.spreads, "percent": self.percents, "p": self.ps, "n": self.counts, "trunk": trunk,
        }[kind]  # fmt: skip
        if kind in ("delta", "either") and (INTERVAL.search(before) or re.match(r"\s*(?:to|–|-)\s*[-+−]?\d*\.\d", after)):
            truths = [*truths, *self.bounds]
        if not truths:
            missing = self.of_experiment and kind in ("level", "delta", "percent", "p", "sigma")
            return f"nothing of the kind was measured of {self.name} yet" if missing else None
        bound = "more" if re.search(rf"{MORE}$", before) else "less" if re.search(rf"{LESS}$", before) else ""
        loose = bool(re.search(rf"{ABOUT}$", before, re.IGNORECASE))
        directed = re.search(rf"{DIRECTED}\W*(?:by|of)?\W*$", before, re.IGNORECASE)
        signed = kind in ("delta", "either") and found[1] in ("-", "−", "+") and not directed
        if any(agrees(found, truth, bound, loose, signed) for truth in truths):
            return ""
        if self.several or kind == "trunk":
            return f"nothing on record of {'trunk' if kind == 'trunk' else self.name} is {said}"
        return f"{self._told(kind)}, not {said}"

    def _told(self, kind: str) -> str:
        """The figure that is on record instead."""
        if kind in ("delta", "either") and self.deltas:
            return f"{self.name}'s effect is {self.deltas[0]:+.4g}"
        if kind in ("level", "either") and self.levels:
            return f"{self.name} measured {self.levels[0]:.5g}"
        name, values = {
            "sigma": ("sigmas", self.sigmas), "spread": ("a sigma of", self.spreads), "percent": ("per cent", self.percents),
            "p": ("p =", self.ps), "n": ("n =", self.counts),
        }[kind]  # fmt: skip
        after = kind in ("sigma", "percent")
        return f"{self.name} has {values[0]:.3g} {name}" if after else f"{self.name} has {name} {values[0]:.3g}"


def _hedged(clause: str, found: re.Match[str]) -> bool:
    """Does a hedge govern a number? "Reached", "was" and the like before it tell of the past."""
    told = re.search(rf"\b(?:{PAST}|{PAST_OF_METRIC}|reached|measured|scored|was|had)\b", clause[: found.start()], re.IGNORECASE)
    return hedged(clause, found, bool(told))


def _demanded(before: str, after: str) -> bool:
    """Is a number of p or sigmas a bar that was missed or is still to be cleared?"""
    bar = r"\b(?:threshold|bar|alpha|requir\w+|demand\w*|rule|target|reach|for (?:a )?p)\b"
    return negated(before) or bool(re.search(bar, before, re.IGNORECASE) or re.match(rf"{SIGMA_UNIT} would", after))


PERCENT = r"\s*(?:%|percent|per cent)"
UNITS = r"\s*(?:x\b|×|times\b|-fold|[KMG]\b|[KMG]?i?B\b|k\b|ms\b|s\b|min\b|h\b|hours?\b|steps\b|tokens\b)"
OF_COST = r"(?:interval|CI\b|confidence|of\b|more|fewer|less|extra|flops|cost|faster|slower|mfu)"
COSTS = r"\b(?:flops|cost|compute|memory|time|speed|tokens|param\w*|throughput|mfu)\b"
ELSEWHERE = r"(?:speed|throughput|memory|time|seconds|cost|flops|compute|size|lines|parameters|params)"
VERBS = r"(?:\s+(?:is|was|of|to|at|from|now|reached|fell|went|dropped|improved|came|down|up|stands|=))*\s*[=:(]?"
"""Between the metric and its value."""
STANDS = r"(?:\s+(?:is|was|sits|sat|stands|stood|ended|now|currently))*"
"""Between an experiment and "at" its value."""


def classify(before: str, found: re.Match[str], after: str, metric: str) -> str:
    """What a number is by the words beside it: level, delta, either, sigma, spread, percent, p, n; "" for anything else."""

    def led(pattern: str) -> bool:
        return bool(re.search(rf"(?:{pattern})\W{{0,3}}(?:{ABOUT}|{MORE}|{LESS}|only |just |now )?$", before, re.IGNORECASE))

    def followed(pattern: str) -> bool:
        return bool(re.match(pattern, after, re.IGNORECASE))

    if found[1] == "±" or re.search(r"±\s*$", before) or re.match(UNITS, after):
        return ""
    if followed(PERCENT):
        if followed(rf"{PERCENT}\W{{0,3}}{OF_COST}") or re.search(COSTS, before[-40:] + after[:30], re.IGNORECASE):
            return ""
        near = led(rf"{BETTER}(?:\s+(?:{metric}))?\s*(?:by|of)?|{metric}\s*(?:\w+\s+)?by")
        near = near or bool(found[1] and re.search(rf"{metric}.{{0,40}}\d\s*\($", before, re.IGNORECASE))  # "2.45 → 2.43 (-0.8 %)"
        return "percent" if near or followed(rf"{PERCENT}\s+(?:better|worse|lower|higher|improvement|gain)") else ""
    if followed(SIGMA_UNIT):
        return "" if re.search(r"\b(?:within|threshold|bound|bar|need\w*|rule)\b", before[-30:], re.IGNORECASE) else "sigma"
    if re.search(r"(?<!\w)p\s*(?:=|<|≤|of|is|:)\s*$", before):
        return "p"
    whole = "." not in found[2] and not found[1]
    if whole and (re.search(r"(?<!\w)n\s*(?:=|of|:)\s*$", before) or followed(r"\s+fresh (?:seeds|runs)\b")):
        return "n"
    if not whole and led(rf"(?:{SPREAD})(?: of the bank)?\s*(?:is|was|=|of|:|at)?"):
        return "spread"
    if whole and not followed(rf"\s*{metric}"):
        return ""  # "improved 8 of 9", "gain 3": nobody gives the metric in whole numbers
    return _of_metric(led, followed, found, metric)


def _of_metric(led: Callable[[str], bool], followed: Callable[[str], bool], found: re.Match[str], metric: str) -> str:
    """The metric itself, a difference of it, or neither."""
    if followed(rf"\s+(?:{metric}\s+)?(?:improvement|reduction|decrease|drop|gain|regression)\b(?!\s+(?:in|of) (?:the )?{ELSEWHERE})"):
        return "delta"
    words = r"is|was|now|stands|sits|stayed|remains|averages?|reads?|has|had|came|in|down|up|a|an|of|at|to|on"
    if led(rf"\b(?:trunk|bank (?:on|of|behind) (?:the |our )?trunk)(?:['’]s)?(?:\s+(?:bank|{metric}|{words}))+\s*[=:]?"):
        return "trunk"
    if led(rf"{metric} (?:on|of) (?:the |our )?trunk{VERBS}"):
        return "trunk"
    whole_of = followed(rf"\s*(?:{metric}|(?:of|off|from|to|on) (?:the )?{metric}|(?:off)?(?:[.,;)]|$))")
    if led(rf"{OFF}|\b(?:worth|contribut\w+|good for)") and whole_of:
        return "delta"
    if led(rf"{EFFECT}(?: \w+)? (?:of|from|for|in|by) (?:\w+['’]s )?E\d{{4,}} (?:is|was|comes to|came to|amounts to|amounted to|=|:)"):
        return "delta"
    by = led(rf"{metric}(?:\s+\w+)?\s+by") or led(rf"{BETTER}(?:\s+(?:the\s+)?{metric})?\s*(?:by|of|is|was|=|:)") or led(r"E\d{4,}\s+by")
    if by or followed(r"\s+(?:worse|better)\b"):
        return "delta"
    if led(BETTER):
        return "either"
    fine = len(found[2].partition(".")[2]) > 2 and not found[1]  # of fewer digits it may be a setting
    if fine and followed(r"\W*$|[.,;)]|\s+(?:now|on|against|vs|versus|after)\b") and led(rf"E\d{{4,}}{STANDS} at"):
        return "level"
    reached = led(r"\b(?:reached|reaches|scored|measured|achieved|achieves)")
    reached = reached or led(rf"{metric}\s+(?:\w+\s+)?from\s+[\d.]+\s+(?:\w+\s+)?to")
    reached = reached or led(rf"{metric}{VERBS}\s*\W?\s*[\d.]+\s*(?:→|->|=>|⟶|to)")
    if reached or led(rf"{metric}(?:\s+on (?:the )?\w+)?{VERBS}"):
        return "either" if found[1] else "level"
    if followed(rf"\s*(?:{metric})") and not led(r"[A-Za-z_]+\s*=|\b(?:lr|rate|momentum|width|decay|init)"):
        return "either"
    outcome = led(r"\b(?:improved|bought|neutral|worse|inconclusive|promoted|confirmed)") or led(r"E\d{4,}")
    return "delta" if found[1] and outcome else ""


def agrees(found: re.Match[str], truth: float, bound: str, loose: bool, signed: bool) -> bool:
    """Is a written number this one, rounded or cut to its digits? `signed`: the sign counts too."""
    value = float(f"{found[2]}{found[3] or ''}")
    negative = found[1] in ("-", "−")
    if signed and (truth < 0) != negative and value:
        return False
    truth = abs(truth)
    digits = len(found[2].partition(".")[2])
    unit = 10.0**-digits * 10.0 ** int((found[3] or "e0")[1:])
    if bound == "more":
        return truth >= value * (1 - 1e-9) - unit / 2
    if bound == "less":
        return truth <= value * (1 + 1e-9) + unit / 2
    cut = value >= 10 * unit and 0 <= truth - value < unit * 0.999999  # of a single digit too little would be left
    near = abs(value - truth) <= unit * 0.5000001 or cut
    return near or (loose and math.isclose(value, truth, rel_tol=LOOSE))


# What is on record


def about_experiment(state: State, task: Task, one: Experiment, first: bool = False) -> Figures:
    """Everything measured of an experiment, what decides first. The run that nominated it counts until there is a verdict, or where
    the sentence speaks of that run (`first`): afterwards its value is thrown away."""
    found = Figures(one.id, minimize=task.metric.direction == "minimize")
    for attempt in reversed(one.attempts):
        _attempt(found, state, one, attempt, first)
    if (fresh := claims.reported(state, one, found.minimize, state.wanted)) is not None:
        found.deltas.append(fresh.effect)
        found.bounds += [fresh.low, fresh.high]
        found.sigmas += [fresh.effect / fresh.sigma] if fresh.sigma else []
        found.counts += [fresh.n, fresh.m]
        found.percents += [100 * fresh.effect / level for level in found.levels[-1:] if level]
    found.deltas += _numbers([(one.check or {}).get("effect")])
    found.bounds += _numbers((one.check or {}).get(key) for key in ("low", "high"))
    rows = [row for audit in state.audits.values() for row in (audit.result or {}).get("rows", []) if row["experiment"] == one.id]
    carried = [order.results[one.id] for order in state.carries.values() if one.id in order.results]
    found.deltas += _numbers(row.get("effect") for row in [*rows, *carried])
    found.levels += [value for run in one.runs for value in run.metric.values()]
    if one.promoted:
        found.levels += _numbers(state.bank(one.promoted).mean(split) for split in SPLITS)
    found.counts += [len(one.runs), *(sum(run.purpose == purpose for run in one.runs) for purpose in ("confirm", "control"))]
    return found


def _attempt(found: Figures, state: State, one: Experiment, attempt: Attempt, first: bool) -> None:
    """Add the figures of one attempt."""
    judged, nominated, bank = attempt.verdict or {}, attempt.nomination or {}, state.bank(attempt.parent)
    deltas = _numbers([judged.get("effect")])
    found.bounds += _numbers(judged.get(key) for key in ("low", "high"))
    early = first or not deltas
    value, mean = _number(nominated.get("value")), _number(nominated.get("bank_mean"))
    if early:
        deltas += [value - mean] if value is not None and mean is not None else []
        found.sigmas += _numbers([nominated.get("sigmas")])
    for split in SPLITS:
        mine, first_run, controls = (
            _mean(one.runs_for(purpose, attempt.number), split) for purpose in ("confirm", "nominate", "control")
        )  # fmt: skip
        found.levels += _numbers([mine, first_run])
        deltas += [mine - other for other in _numbers([bank.mean(split), controls])] if mine is not None else []
    levels = _numbers([mean, *(bank.mean(split) for split in SPLITS)])
    found.spreads += _numbers([judged.get("sigma"), nominated.get("bank_sigma"), *(bank.sigma(split) for split in SPLITS)])
    found.sigmas += [delta / spread for delta in deltas for spread in found.spreads if spread]
    found.percents += [100 * delta / level for delta in deltas for level in levels if level]
    found.deltas += deltas
    found.levels += levels
    found.ps += _numbers([judged.get("p")])
    found.counts += _numbers([judged.get("n"), judged.get("m")])


def together(found: Sequence[Figures]) -> Figures:
    """The figures of several experiments in one sentence: each number may be any one's, or the difference between two."""
    if len(found) == 1:
        return found[0]
    pairs = [(one, other) for one in found for other in found if one is not other]
    joint = Figures(" or ".join(one.name for one in found), minimize=found[0].minimize, several=True)
    for name in ("levels", "deltas", "bounds", "sigmas", "spreads", "percents", "ps", "counts"):
        setattr(joint, name, [value for one in found for value in getattr(one, name)])
    joint.deltas += [mine - theirs for one, other in pairs for mine in one.deltas[:1] for theirs in other.deltas[:1]]
    return joint


def about_run(state: State, run: Run, one: Experiment | None) -> Figures:
    """The metric of one run."""
    levels = list(run.metric.values())
    bank = state.bank(run.commit if run.purpose == "bank" else (one.attempts[-1].parent if one and one.attempts else state.trunk))
    means = {split: bank.mean(split) for split in run.metric}
    deltas = [value - means[split] for split, value in run.metric.items() if not math.isnan(means[split])]
    return Figures(run.id, levels=[*levels, *_numbers(means.values())], deltas=deltas)


def about_trunk(state: State, task: Task) -> Figures:
    """All that was measured, for sentences that name nothing: an honest number is among it."""
    found = Figures("trunk", minimize=task.metric.direction == "minimize", of_experiment=False)
    for step in reversed(state.trunks):
        bank = state.bank(step.commit)
        for split in SPLITS:
            found.levels += _numbers([bank.mean(split), *bank.values(split)])
            found.trunks += _numbers([bank.mean(split)])
            found.spreads += _numbers([bank.sigma(split)])
    if state.trunks:
        first, last = (state.bank(step.commit).mean(state.split) for step in (state.trunks[0], state.trunks[-1]))
        found.deltas += _numbers([last - first])
        found.percents += _numbers([100 * (last - first) / first if first else None])
    for one in state.experiments.values():
        mine = about_experiment(state, task, one) if one.attempts else Figures("")
        found.levels += mine.levels
        found.deltas += mine.deltas
        found.percents += mine.percents
        if one.stands and one.attempt:
            found.trunks += _numbers(_mean(one.runs_for("confirm", one.attempt.number), split) for split in SPLITS)
    return found


def _mean(runs: Iterable[Run], split: str) -> float | None:
    values = [run.metric[split] for run in runs if run.status == "ok" and split in run.metric]
    return statistics.fmean(values) if values else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _numbers(values: Iterable[object]) -> list[float]:
    return [number for value in values if (number := _number(value)) is not None]


@dataclass
class Known:
    """What a report is held against: the facts, and what is made of them once for all sentences."""

    state: State
    task: Task

    @cached_property
    def metric(self) -> str:
        return metric_words(self.task)

    @cached_property
    def better(self) -> re.Pattern[str]:
        return better(self.task)

    @cached_property
    def trunk(self) -> Figures:
        return about_trunk(self.state, self.task)
