"""What a clause says became of an experiment, and what the ledger says instead, in a few words. Pure.

Called by `org.factcheck`. Words of success, failure and state are told from hedges and negations by the patterns of `org.phrases`; None
means that a clause says nothing of an outcome, an empty list that what it says is so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lab.records import Experiment
from org.hedges import asserted, hedged
from org.phrases import (
    BAD,
    BEAT_BANK,
    CONFIRMED,
    CONFIRMED_BAD,
    COSTLY,
    DECIMAL,
    ELSEWHERE,
    EQUAL,
    FIRST_RUN,
    GROUP,
    PAST,
    PRESENT,
    RAN_WELL,
    REVERTED,
    SAID,
    WORD,
    ids_of,
    negated,
    taken_back,
)
from org.recorded import Known
from tasks.spec import Task


def believed(one: Experiment) -> bool:
    """Did the laboratory call it improved, and stand by it?"""
    return one.reverted is None and (one.promoted is not None or one.verdict == "improved")


def crashed(one: Experiment) -> bool:
    """Did it, or a run of it?"""
    return one.verdict in ("crashed", "invalid") or any(run.failed for run in one.runs)


def outcome(
    clause: str, sentence: str, one: Experiment, known: Known, tentative: bool, others: Sequence[Experiment]
) -> list[str] | None:
    """What is wrong with what a clause says became of an experiment; None where it says nothing of that."""
    stated = _stated(clause, one)
    if stated is not None:
        return stated
    if ELSEWHERE.search(EQUAL.sub(" ", clause)) and not re.search(known.metric, clause, re.IGNORECASE):
        return None
    good = list(known.better.finditer(clause))
    if tentative:  # of what was proposed or started, the present tense is the hypothesis
        good = [found for found in good if not re.match(rf"(?:{PRESENT})\b|\w+s\s", found[0], re.IGNORECASE)]
    good = asserted(clause, [*good, *CONFIRMED.finditer(clause), *_levels(clause, known)])
    denied = [found for found in good if negated(clause[: found.start()]) or taken_back(clause[found.end() :])]
    bad = [found for found in asserted(clause, BAD.finditer(clause)) if not negated(clause[: found.start()])]
    if len(good) > len(denied) and not CONFIRMED_BAD.search(clause):
        bought = one.verdict == "bought" and (COSTLY.search(sentence) or (BEAT_BANK.search(clause) and not EQUAL.search(clause)))
        if bought or (one.reverted and REVERTED.search(sentence)):
            return []
        return None if bad and not denied else _claimed(clause, one, others, known.task)  # None: it says both
    well = next(iter(asserted(clause, RAN_WELL.finditer(clause))), None)
    if well and one.verdict == "crashed" and not negated(clause[: well.start()]):
        return [f"{one.id} crashed"]
    if not (denied or bad):
        return None
    if believed(one) and not FIRST_RUN.search(clause) and not others:
        return [f"the ledger says that {one.id} improved"]
    return _failure(clause, sentence, one, bad)


def _levels(clause: str, known: Known) -> list[re.Match[str]]:
    """Where it says that the metric went from one level to a better one."""
    between = rf"(?:\bus\b|\btrunk|{known.metric})\s+(?:\w+\s+)?from\s+({DECIMAL})\s+(?:\w+\s+)?to\s+(?:\w+\s+)?({DECIMAL})"
    lower = known.task.metric.direction == "minimize"
    found = re.finditer(between, clause, re.IGNORECASE)
    return [one for one in found if one[1] != one[2] and (float(one[2]) < float(one[1])) == lower]


def _claimed(clause: str, one: Experiment, others: Sequence[Experiment], task: Task) -> list[str]:
    """An improvement is asserted."""
    if believed(one) or (one.removed and one.promoted):
        return []
    if one.reverted:
        return [f"{one.id} was promoted and taken back: its own bank was no better"]
    if FIRST_RUN.search(clause) and _first_run_better(one, task):
        return []
    mine, known = _effect(one), [(rival.id, effect) for rival in others if (effect := _effect(rival)) is not None]
    if known and mine is not None:
        ahead = all((mine < effect) == (task.metric.direction == "minimize") for _, effect in known)
        return [] if ahead else [f"{one.id}'s effect is {mine:+.4g}, {known[0][0]}'s {known[0][1]:+.4g}"]
    if one.verdict is None:
        only = ": one run only nominates" if one.status == "nominated" else ""
        return [f"{one.id} has no verdict ({one.status}){only}"]
    return [f"{one.id}'s verdict is {one.verdict}"]


def _failure(clause: str, sentence: str, one: Experiment, bad: list[re.Match[str]]) -> list[str]:
    """A failure is asserted: a crash must be one, and a word that is the laboratory's own must be its word here."""
    if any(re.match(r"crash", found[0], re.IGNORECASE) for found in bad) and not crashed(one):
        return [f"no run of {one.id} crashed ({one.status})"]
    word = WORD.search(clause)
    if word is None or one.reverted or FIRST_RUN.search(clause) or word["word"].lower() == one.verdict:
        return []
    if one.verdict == "bought" and (COSTLY.search(sentence) or "control" in sentence.lower()):
        return []  # at equal cost it is no better, whatever that is called
    return [f"{one.id}'s verdict is {one.verdict}" if one.verdict else f"{one.id} has no verdict ({one.status})"]


def _stated(clause: str, one: Experiment) -> list[str] | None:
    """A verdict or state named as such; None where none is, or where it is another's."""
    found = SAID.search(clause)
    if found is None:
        return None
    before, after = clause[: found.start()], clause[found.end() :]
    past = not re.match(r"(?:is|are|now|stands|sits|stays|remains)\b", found[0], re.IGNORECASE)
    on_condition = re.match(r"\s+if\b|\s*\?" if past else r"\s+(?:only )?(?:if|once|when|as soon as|after|above)\b|\s*\?", after)
    if (hedged(clause, found, past) or on_condition) and not (found["verdict"] or found["open"]):
        return None
    group = GROUP.match(after) if found["active"] or found["noun"] else GROUP.search(found[0])
    group = group or next(reversed(list(GROUP.finditer(before))), None)
    if group and one.id not in ids_of(group[0]):
        return None  # "E0011 started after E0001 was promoted"
    if found["open"]:
        return None if one.verdict is None or negated(before) else [f"{one.id}'s verdict is {one.verdict}"]
    if found["verdict"]:
        word = found["word"].lower()
        if re.search(r"\bno\s+$|\bwithout (?:a )?$", before):
            return None
        right = one.verdict == word or (word in ("promoted", "nominated", "reverted", "withdrawn") and _is(one, word))
        wrong = f"{one.id}'s verdict is {one.verdict}" if one.verdict else f"{one.id} has no verdict ({one.status})"
        return [] if right else [wrong]
    verb = (found["passive"] or found["had"] or found["active"] or "promoted").lower()
    word = "on trunk" if found["trunk"] else "promoted" if verb == "merged" else verb
    denied = bool(found["not"]) or negated(before)
    if denied == _is(one, word):
        state = f"{one.id} is {one.status}" if denied else f"{one.id} is {one.status}, not {word}"
        return [state]
    return [] if not better_elsewhere(clause, found) else None


def better_elsewhere(clause: str, found: re.Match[str]) -> bool:
    """Does the rest of the clause say more of the outcome than the word that was found?"""
    rest = clause[: found.start()] + clause[found.end() :]
    return bool(re.search(rf"\b(?:{PAST})\b", rest, re.IGNORECASE))


def _is(one: Experiment, word: str) -> bool:
    if word == "nominated":
        return any(attempt.nomination and attempt.nomination.get("nominated", True) for attempt in one.attempts)
    if word in ("promoted", "on trunk"):
        return one.stands if word == "on trunk" else one.promoted is not None
    return one.reverted is not None if word == "reverted" else one.withdrawn is not None


def _effect(one: Experiment) -> float | None:
    for attempt in reversed(one.attempts):
        value = (attempt.verdict or {}).get("effect")
        if isinstance(value, int | float):
            return float(value)
    return None


def _first_run_better(one: Experiment, task: Task) -> bool:
    """Was its first run better than the bank?"""
    if _is(one, "nominated"):
        return True
    effect = _effect(one)
    return effect is not None and (effect < 0 if task.metric.direction == "minimize" else effect > 0)
