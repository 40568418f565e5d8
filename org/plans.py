"""What agents plan next, beside what was tried: repeats, dead ends, and one plan of two agents. Pure, but for a limit of time.

Called by `org.digest`. A plan for the speaker's own open experiment was compared when that was registered; any other is compared by its
words without the ids, so that to name an experiment hides nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from lab import areas, similar
from lab.markdown import md
from lab.records import Experiment
from lab.state import State
from org.decisions import SHOWN
from org.factcheck import LONGEST
from org.phrases import GROUP, clauses, ids_of, subjects

WORDS = 6
"""Words of a plan from which it is compared with another agent's."""
COMPARING_SECONDS = 5.0
"""How long plans are compared with earlier ideas: one takes 0.4 s beside 9,000 of them (benchmarks/ledger.py)."""
ONCE_MORE = re.compile(r"\b(?:again|once more|re-?try|re-?run|repeat)\b", re.IGNORECASE)
"""Of an experiment that has its verdict: what a plan says of its like. "Replicate" is somebody's work."""
WORKS_ON = re.compile(
    r"\W*(?:(?:I|we|to|will|shall)\s+)*(?:replicat|confirm|review|promot|ablat|control|audit|carry|wait|read|compar)\w*\b.*E\d{4}",
    re.IGNORECASE,
)
"""Opens with work on an experiment that it names: it is no idea like that."""
LIKE = 0.45
"""Likeness of a plan to an earlier idea from which it is pointed out (`lab.similar`; 0.6 and more is the same idea)."""


def pointed_out(state: State, plans: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of Markdown on the plans (agent, sentence) that are like what was tried, name it, go into a dead end, or are two agents'."""
    lines = [
        f'- {agent} plans "{md(text, 160)}": {name} of {md(known.agent, 30)} is {similar.outcome(known)}'
        for agent, text in plans if ONCE_MORE.search(text)
        for name in ids_of(text) if (known := state.experiments.get(name)) and known.tried
    ]  # fmt: skip
    new = [(agent, text) for agent, text in plans if not _registered(state, agent, text)][: 4 * SHOWN]
    began = time.monotonic()
    for number, (agent, text) in enumerate(new):
        if time.monotonic() - began > COMPARING_SECONDS:
            lines.append(f"- not compared for want of time: {len(new) - number} plans")
            break
        lines += [f'- {agent} plans "{md(text, 160)}": {found}' for found in [*_like(state, agent, text), *_dead_ends(state, text)]]
    return [*lines, *_twice(new)][: 2 * SHOWN]


def _registered(state: State, agent: str, text: str) -> bool:
    """Is it about an own experiment without a verdict? One that it merely stands on does not count."""
    about = {name for clause in clauses(text[:LONGEST]) for name in subjects(clause)[0]}
    return any(_own_open(one, agent) for name in about if (one := state.experiments.get(name)))


def _own_open(one: Experiment, agent: str) -> bool:
    return one.agent == agent and one.verdict is None


def _idea(text: str) -> str:
    """A plan without the experiments that it names."""
    return GROUP.sub(" ", text)


def _like(state: State, agent: str, text: str) -> list[str]:
    """The earlier idea that a plan is like."""
    worked_on = ids_of(text) if WORKS_ON.match(text) or ONCE_MORE.search(text) else []
    near = [
        one for one in similar.proposals(state, {"hypothesis": _idea(text), "mechanism": ""}, {})
        if one.likeness >= LIKE and one.experiment not in worked_on and not _own_open(state.experiments[one.experiment], agent)
    ]  # fmt: skip
    return [f"like {md(similar.named(state, near[:1])[0], 260)}"] if near else []


def _dead_ends(state: State, text: str) -> list[str]:
    """The retired areas whose names a plan of one's own has."""
    found: list[str] = []
    if WORKS_ON.match(text):
        return found
    for gone in state.direction.retired.values():
        word = re.escape(gone.area.rpartition("/")[2]).replace("_", "[ _-]").replace("\\-", "[ _-]")
        if re.search(rf"\b{word}\b", text, re.IGNORECASE):
            found.append(md(areas.told(gone), 300))
    return found


def _twice(plans: Sequence[tuple[str, str]]) -> list[str]:
    """Plans that two agents have at once."""
    lines = []
    for number, (agent, text) in enumerate(plans):
        mine, ids = _idea(text), set(ids_of(text))
        later = [
            (other, words) for other, words in plans[number + 1 :]
            if other != agent and len(mine.split()) >= WORDS and not (ids and (theirs := set(ids_of(words))) and ids.isdisjoint(theirs))
        ]  # fmt: skip
        alike = similar.cosines(mine, [_idea(words) for _, words in later]) if later else []
        for (other, words), likeness in zip(later, alike, strict=True):
            if likeness >= similar.SAME_TEXT and not similar.told_apart(similar.settings(mine), similar.settings(_idea(words))):
                lines.append(f'- {agent} and {other} plan the same: "{md(text, 120)}", "{md(words, 120)}"')
    return lines
