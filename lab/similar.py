"""How alike two ideas are: proposals by their knobs or else their words, changes by their lines. Pure functions of the ledger.

Called by `lab.client` when an idea is proposed or amended, by `lab.orders` when it is run. The choice that matters most:
numbers are compared as numbers (within 2 %) and never as text, so that the same knob with another value is related, and the
same sentence with another effect size is the same idea. Thresholds are calibrated on the examples in tests/lab/test_similar.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lab.records import Experiment
from lab.state import State
from lab.text import clean, figure

CLOSE = 0.02
"""Numbers that differ by less than this share of the larger are the same setting."""
SAME_TEXT, RELATED_TEXT = 0.6, 0.35
"""Cosine of word pieces from which two proposals are the same idea, or worth showing."""
SAME_LINES, RELATED_LINES = 0.9, 0.5
"""Share of changed lines that two changes have in common (Jaccard) from which they are the same, or worth showing."""
UNSAID = "a person's idea; the mechanism is for who tries it to say"
"""The mechanism of an idea that came without one; no word of it is its author's."""
NEVER = " (never compared)"
"""Of a verdict that says nothing of the idea: it could not be carried to trunk, say."""
SHOWN = 3
"""Ideas named beside a new one, the most alike first."""
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w.]*\w)", re.IGNORECASE)
HEDGE = r"(?:(?:at least|at most|more than|less than|up to|about|around|roughly|some)\s+|~\s*)"
PREDICTED = re.compile(
    r"(?:\b(?:lower|reduc|improv|fall|drop|cut)\w* (?:[a-z_]+ ){0,3}?by|\b(?:gain|drop|fall|improvement) of)"
    rf"\s+{HEDGE}?[-+]?\d[\d.e-]*\s*%?|\bby\s+{HEDGE}[-+]?\d[\d.e-]*\s*%?"
)
"""An effect that is expected, as in "lowers val_bpb by 0.01": what is predicted does not tell ideas apart."""
WORD = re.compile(r"[^\W\d]+")

Lines = Mapping[str, list[tuple[float, ...]]]
"""The lines of a change without their numbers -> the numbers of each such line."""


@dataclass(frozen=True)
class Near:
    """An earlier experiment beside a new idea. `likeness`: 0 to 1; `same`: above the threshold, so a reason is asked for."""

    experiment: str
    likeness: float
    by: Literal["knobs", "words", "lines"]
    same: bool


# Proposals


def proposals(state: State, text: Mapping[str, Any], params: Mapping[str, Any], but: str = "") -> list[Near]:
    """Earlier proposals that are like this one (`text` has hypothesis and mechanism), the most alike first.

    Two proposals with knobs are compared by these, others by their words. `but` is left out: the idea itself.
    """
    others = [one for one in state.experiments.values() if one.id != but]
    spoken = [one for one in others if not (params and one.params)]
    found = [_by_knobs(one, params) for one in others if params.keys() & one.params.keys()]
    found += _by_words(spoken, _said(text)) if spoken else []
    return _ranked(state, found)


def _by_knobs(one: Experiment, params: Mapping[str, Any]) -> Near:
    """A knob at the same value counts 1, one that both turn but to different values a half."""
    shared = [name for name in params if name in one.params]
    equal = sum(alike(params[name], one.params[name]) for name in shared)
    likeness = (len(shared) + equal) / 2 / len({*params, *one.params})
    return Near(one.id, likeness, "knobs", likeness == 1.0)


def alike(a: Any, b: Any) -> bool:
    """Are these the same setting: equal, or numbers within CLOSE of each other?"""
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, int | float) and isinstance(b, int | float)):
        return bool(a == b)
    try:
        return math.isclose(a, b, rel_tol=CLOSE)
    except OverflowError:  # a whole number beyond every float
        return a == b


def _said(text: Mapping[str, Any]) -> str:
    mechanism = text.get("mechanism", "")
    return f"{text.get('hypothesis', '')}\n{'' if mechanism == UNSAID else mechanism}".lower()


def _by_words(others: list[Experiment], text: str) -> list[Near]:
    """Cosine of word pieces; above the threshold it is the same idea unless each side has a number of its own."""
    found, numbers = [], settings(text)
    texts = [_said(vars(one)) for one in others]
    for one, said, likeness in zip(others, texts, cosines(text, texts), strict=True):
        if likeness >= RELATED_TEXT:
            same = likeness >= SAME_TEXT and not told_apart(numbers, settings(said))
            found.append(Near(one.id, likeness, "words", same))
    return found


def cosines(text: str, others: list[str]) -> list[float]:
    """TF-IDF cosine of a text with each of the others, over the pieces of their words; numbers are left out.

    Term frequency is 1 + log of the count, inverse document frequency log((1 + n) / (1 + df)) + 1 over them all. The words of
    thousands of texts are cut once each and counted in numpy: 9,000 proposals take 0.4 s (benchmarks/ledger.py).
    """
    import numpy as np

    known: dict[str, int] = {}
    per_word: list[list[int]] = []
    words: dict[str, int] = {}
    document, word = [], []
    for number, one in enumerate([text, *others]):
        for found in WORD.findall(NUMBER.sub(" ", one.lower().replace("_", " "))):
            if found not in words:
                words[found] = len(words)
                per_word.append([known.setdefault(piece, len(known)) for piece in pieces(found)])
            document.append(number)
            word.append(words[found])
    if not word:
        return [0.0] * len(others)
    lengths = np.array([len(cut) for cut in per_word])
    cut, starts = np.concatenate(per_word), np.cumsum(lengths) - lengths
    times = lengths[word]
    place = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times) + np.repeat(starts[word], times)
    cells, counts = np.unique(np.repeat(document, times) * len(known) + cut[place], return_counts=True)
    row, column = np.divmod(cells, len(known))
    size, seen = len(others) + 1, np.bincount(column, minlength=len(known))
    weight = (1 + np.log(counts)) * (np.log((1 + size) / (1 + seen)) + 1)[column]
    norm = np.sqrt(np.bincount(row, weight**2, minlength=size))
    mine = np.zeros(len(known))
    mine[column[row == 0]] = weight[row == 0]
    product = np.bincount(row, weight * mine[column], minlength=size)
    return [min(1.0, float(one)) for one in (product / np.maximum(norm * norm[0], 1e-12))[1:]]


def pieces(word: str) -> list[str]:
    """Pieces of three and four letters of a word that is marked at both ends."""
    marked = f" {word} "
    return [marked[start : start + size] for size in (3, 4) for start in range(max(1, len(marked) - size + 1))]


def settings(text: str) -> list[float]:
    """The numbers in a text, but for the effects that it predicts."""
    return [float(found) for found in NUMBER.findall(PREDICTED.sub(" ", text)) if math.isfinite(float(found))]


def told_apart(a: list[float], b: list[float]) -> bool:
    """Has each side a number that the other has not?"""
    return any(not any(alike(x, y) for y in b) for x in a) and any(not any(alike(x, y) for x in a) for y in b)


# Changes


@dataclass
class Changes:
    """The lines of every attempt so far, read once each. `near` follows the state as it grows."""

    lines: dict[tuple[str, int], tuple[int, Lines]] = field(default_factory=dict)

    def near(self, state: State, diff: str, but: str = "") -> list[Near]:
        """Earlier experiments whose change is like this one on whatever trunk, the most alike first."""
        mine, size = lines(diff), _size(lines(diff))
        best: dict[str, float] = {}
        for one in state.experiments.values():
            for attempt in one.attempts if one.id != but else ():
                key = (one.id, attempt.number)
                if key not in self.lines:
                    theirs = lines(attempt.diff)
                    self.lines[key] = _size(theirs), theirs
                length, theirs = self.lines[key]
                if min(size, length) >= RELATED_LINES * max(size, length):  # else they cannot have that much in common
                    best[one.id] = max(best.get(one.id, 0.0), overlap(mine, theirs))
        found = [Near(name, likeness, "lines", likeness >= SAME_LINES) for name, likeness in best.items()]
        return _ranked(state, [near for near in found if near.likeness >= RELATED_LINES])


def lines(diff: str) -> Lines:
    """The added and removed lines of a unified diff, without blanks, comments and numbers.

    A change of nothing but comments keeps these, so that it is like itself.
    """
    changed = [line for line in diff.splitlines() if line[:1] in ("+", "-") and not line.startswith(("+++", "---"))]
    code = [line[0] + text for line in changed if (text := " ".join(re.sub(r"(^|\s)#.*", "", line[1:]).split()))]
    found: dict[str, list[tuple[float, ...]]] = {}
    for line in code or [line[0] + " ".join(line[1:].split()) for line in changed]:
        numbers = tuple(float(number) for number in NUMBER.findall(line[1:]))
        found.setdefault(line[0] + NUMBER.sub("#", line[1:]), []).append(numbers)
    return found


def _size(found: Lines) -> int:
    return sum(map(len, found.values()))


def overlap(a: Lines, b: Lines) -> float:
    """Jaccard index of the lines of two changes; lines are equal when their text is and their numbers are alike."""
    common = 0
    for text, mine in a.items():
        left = list(b.get(text, ()))
        for numbers in mine:
            match = next((i for i, other in enumerate(left) if all(map(alike, numbers, other))), None)
            if match is not None:
                left.pop(match)
                common += 1
    whole = _size(a) + _size(b) - common
    return common / whole if whole else 0.0


# What is said of them


def _ranked(state: State, found: Iterable[Near]) -> list[Near]:
    """The most alike first, then the newest. What was withdrawn before anything of it was measured is never the same idea."""
    order = {name: number for number, name in enumerate(state.experiments)}
    kept = [
        one if not one.same or measured(state.experiments[one.experiment]) else replace(one, same=False) for one in found
    ]
    return sorted(kept, key=lambda one: (-one.same, -one.likeness, -order[one.experiment]))


def measured(experiment: Experiment) -> bool:
    """Is something known of it, or will be? Not where it was withdrawn, or could not be compared, before any run ended well."""
    given_up = experiment.withdrawn is not None or (experiment.verdict is not None and not experiment.tried)
    return not given_up or any(run.status == "ok" for run in experiment.runs)


def outcome(experiment: Experiment) -> str:
    """What became of an experiment, in a few words: "worse, effect +0.0123", "inconclusive (never compared)"."""
    verdict = experiment.attempts[-1].verdict if experiment.attempts else None
    effect = verdict.get("effect") if verdict else None
    size = f", effect {figure(effect, signed=True)}" if isinstance(effect, int | float) else ""
    word = f"{experiment.verdict}, promoted" if experiment.promoted and experiment.verdict else experiment.status
    return f"{word}{size}{NEVER if experiment.verdict and not experiment.tried else ''}"


def named(state: State, near: Iterable[Near]) -> list[str]:
    """A line for each: which experiment, whose, what became of it, how alike."""
    lines = []
    for one in near:
        idea = state.experiments[one.experiment]
        what = f"{outcome(idea)}; {one.likeness:.0%} alike by its {one.by}"
        lines.append(f"{idea.id} by {clean(idea.agent, 30)} ({what}): {clean(idea.hypothesis, 120)}")
    return lines


def shown(state: State, near: Iterable[Near]) -> list[dict[str, Any]]:
    """The same for programs: {experiment, agent, status, outcome, effect, likeness, by, same, hypothesis}."""
    found = []
    for one in near:
        idea = state.experiments[one.experiment]
        verdict = idea.attempts[-1].verdict if idea.attempts else None
        found.append({
            "experiment": idea.id, "agent": idea.agent, "status": idea.status, "outcome": outcome(idea),
            "effect": verdict.get("effect") if verdict else None, "likeness": round(one.likeness, 3), "by": one.by,
            "same": one.same, "hypothesis": idea.hypothesis,
        })  # fmt: skip
    return found
