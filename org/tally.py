"""Several experiments told of at once that came to different ends ("3 worse, 1 promoted (E0001, E0002)"). Pure.

Called by `org.factcheck`. Which of them is meant by which word is not told, so a word is wrong where none of them came to that, or
where every one is counted and fewer did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.records import Experiment
from org.hedges import asserted
from org.outcome import believed, crashed
from org.phrases import BAD, CONFIRMED, STATUS, negated, taken_back
from org.recorded import Known

NUMERALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
COUNTED = re.compile(
    rf"(?<![\w.])(?P<count>\d{{1,3}}|{'|'.join(NUMERALS)})\s+(?:of them |is |are |was |were |has been |have been |came out |got |ended )?"
    rf"(?P<word>{STATUS}|better|failed|failures?|wins?|promotions?|improvements?)\b(?!\s+by\b)",
    re.IGNORECASE,
)
APART = re.compile(r"\b(?:the (?:latter|former|other|second|first|last)|respectively|in turn)\b", re.IGNORECASE)
"""Says that they are not all meant."""


@dataclass(frozen=True)
class Share:
    """`count` of them are told to have come to `word`."""

    count: int
    word: str
    holds: Callable[[Experiment], bool]


def shares(clause: str, known: Known) -> list[Share]:
    """What a clause tells of some of its experiments; empty where all its words are of all of them."""
    counted = [found for found in asserted(clause, COUNTED.finditer(clause)) if not negated(clause[: found.start()])]
    if counted:
        return [Share(_count(found["count"]), found["word"].lower(), _holds(found["word"].lower())) for found in counted]
    good = [found for found in asserted(clause, [*known.better.finditer(clause), *CONFIRMED.finditer(clause)]) if _stands(clause, found)]
    bad = [found for found in asserted(clause, BAD.finditer(clause)) if not negated(clause[: found.start()])]
    if not APART.search(clause) and not (good and bad):
        return []
    told = [Share(1, good[0][0], believed)] if good else []
    return told + [Share(1, found[0], _holds(found[0].lower())) for found in bad[:1]]


def tally(told: Sequence[Share], about: Sequence[Experiment]) -> list[str]:
    """What is wrong with it."""
    names, all_counted = ", ".join(one.id for one in about), sum(share.count for share in told) == len(about)
    lines = []
    for share in told:
        true = [one.id for one in about if share.holds(one)]
        if not true and share.count:
            lines.append(f"none of {names} is {share.word}")
        elif all_counted and len(true) < share.count:
            lines.append(f"of {names} only {', '.join(true)} {'is' if len(true) == 1 else 'are'} {share.word}")
    return lines


def _count(word: str) -> int:
    return int(word) if word.isdigit() else NUMERALS.index(word.lower()) + 1


def _stands(clause: str, found: re.Match[str]) -> bool:
    return not negated(clause[: found.start()]) and not taken_back(clause[found.end() :])


def _holds(word: str) -> Callable[[Experiment], bool]:
    """Whether a word is true of an experiment; of failures only a crash is taken at its word."""
    if word.startswith("promot"):
        return lambda one: one.promoted is not None
    if word == "nominated":
        return lambda one: bool(one.attempts)
    if word == "reverted":
        return lambda one: one.reverted is not None
    if word == "withdrawn":
        return lambda one: one.withdrawn is not None
    if word.startswith("crash"):
        return crashed
    if word == "better" or word.startswith(("improve", "win")):
        return believed
    return lambda one: not believed(one)
