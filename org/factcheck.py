"""What an agent says in a report, held against the ledger, sentence by sentence. Pure: words and facts in, flags out.

Called by the standup's digest. The choice that matters most: only what is plainly asserted of a named experiment, and what the
ledger plainly says otherwise, is flagged. Intentions, hedges, hypotheses and negations are read as such; a number counts as right
when it is the ledger's number rounded or cut to as many digits. `tests/org/test_factcheck.py` measures false flags and misses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lab.areas import PERSON
from lab.records import Experiment
from org.hedges import AS_EXPECTED, hedged
from org.outcome import believed, outcome
from org.phrases import (
    DID,
    ELSEWHERE,
    EMPHASIS,
    FIRST_RUN,
    GROUP,
    ID,
    LOOKED,
    MINE,
    PAST,
    PAST_OF_METRIC,
    PRONOUN,
    PROPOSED,
    QUOTED,
    clauses,
    ids_of,
    measured_of,
    negated,
    run_ids,
    subjects,
    taken_back,
)
from org.recorded import NUMBER, Known, about_experiment, about_run, together
from org.tally import shares, tally

LONGEST = 600
"""Characters of a sentence that are looked at."""
Kind = Literal["unknown", "verdict", "number", "owner"]


@dataclass(frozen=True)
class Flag:
    """What the ledger says otherwise, in a few words. `kind`: an id that is not there, an outcome, a number, somebody else's work."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Witness:
    """Who speaks. `decides`: a chief, whose word on others' experiments is part of its work."""

    agent: str
    agents: tuple[str, ...] = ()
    decides: bool = False


@dataclass(frozen=True)
class Checked:
    """A sentence and what is wrong with it. `claim`: does it say anything that the ledger can bear out?"""

    text: str
    flags: tuple[Flag, ...]
    claim: bool


def sentences(text: str) -> list[str]:
    """The sentences of Markdown prose: a bullet or line each, and cut where one ends; empty ones and rules left out."""
    found = []
    for line in text.splitlines():
        line = re.sub(r"^\s*(?:[-*+>]|\d{1,3}[.)]|#{1,6})\s+", "", line).strip()
        line = EMPHASIS.sub("", line)
        pieces = re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!cf\.)(?<!approx\.)\s+(?=[\"“(]?[A-Z])", line[: 20 * LONGEST])
        found += [piece.strip() for piece in pieces if re.search(r"\w", piece)]
    return found


def check(text: str, known: Known, witness: Witness, section: str = "done") -> list[Checked]:
    """Every sentence of a section with its flags. Of what comes `next` only ids are looked at; in what was `done` a sentence that opens
    with an experiment tells of the speaker's own."""
    found: list[Checked] = []
    subject: list[str] = []
    for sentence in sentences(text):
        one = _Sentence(sentence[:LONGEST], known, witness, subject if PRONOUN.search(sentence) else [])
        one.judge(section)
        found.append(Checked(sentence, tuple(dict.fromkeys(one.flags)), one.claim))
        subject = one.last
    return found


@dataclass
class _Sentence:
    """One sentence on its way to its flags. `last` is the experiment that it was about in the end."""

    text: str
    known: Known
    witness: Witness
    last: list[str]
    flags: list[Flag] = field(default_factory=list)
    claim: bool = False

    def judge(self, section: str) -> None:
        state = self.known.state
        for letter, digits in dict.fromkeys((found[1].upper(), found[2]) for found in ID.finditer(self.text)):
            if (name := f"{letter}{digits}") not in (state.experiments if letter == "E" else state.runs):
                self._say([Flag("unknown", f"there is no {name}")])
        if section != "next" and not self.text.rstrip("\"”)* ").endswith("?"):
            for clause in clauses(self.plain):
                self._clause(clause)
            self._owner(section == "done")

    @cached_property
    def plain(self) -> str:
        """The text without what others said and what was expected."""
        return AS_EXPECTED.sub(" ", QUOTED.sub(" ", self.text))

    def _say(self, flags: list[Flag] | None) -> None:
        """None: it was no claim."""
        self.flags += flags or []
        self.claim = self.claim or flags is not None

    def _clause(self, clause: str) -> None:
        ids, others = subjects(clause)
        if not ids and not others:
            ids = self.last if len(self.last) == 1 else []
        elif len(ids) == 1 or not self.last:
            self.last = ids
        experiments = self.known.state.experiments
        about = [experiments[name] for name in ids if name in experiments]
        rivals = [experiments[name] for name in others if name in experiments]
        if len(about) < len(ids) or len(rivals) < len(others):
            return
        tentative = bool(PROPOSED.search(self.plain))
        if len(about) > 1 and (told := shares(clause, self.known)):
            told_of: list[list[str] | None] = [tally(told, about)]
        else:
            told_of = [outcome(clause, self.text, one, self.known, tentative, rivals) for one in about]
        for wrong in told_of:
            self._say(None if wrong is None else [Flag("verdict", line) for line in wrong])
        if not ids and not ID.search(self.text):
            self._say(self._unnamed(clause))
        measured = [one for one in rivals if one.id in measured_of(clause)]
        self._say(self._numbers(clause, [*about, *rivals] if about else measured, tentative))

    def _unnamed(self, clause: str) -> list[Flag] | None:
        """An improvement of the metric that names no experiment must at least be somebody's."""
        found = [one for one in self.known.better.finditer(clause) if re.fullmatch(PAST, one[0].split()[0], re.IGNORECASE)]
        if not found or not re.search(self.known.metric, clause, re.IGNORECASE) or ELSEWHERE.search(clause):
            return None
        if any(hedged(clause, one, True) or negated(clause[: one.start()]) or taken_back(clause[one.end() :]) for one in found):
            return None
        own = bool(MINE.search(clause)) and not self.witness.decides
        if any(believed(one) for one in self.known.state.experiments.values() if not own or one.agent == self.witness.agent):
            return []
        who = f"none of {self.witness.agent}'s experiments" if own else "no experiment"
        return [Flag("verdict", f"names no experiment, and {who} has the verdict improved")]

    def _numbers(self, clause: str, about: Sequence[Experiment], tentative: bool) -> list[Flag] | None:
        """Figures of the metric, against what was measured of the experiments; without any, against all that was measured."""
        named = run_ids(clause)
        runs = [self.known.state.runs[name] for name in named if name in self.known.state.runs]
        if (named and not runs and not about) or not NUMBER.search(clause):
            return None
        if tentative and not re.search(rf"\b(?:{PAST}|{PAST_OF_METRIC}|verdict|effect)\b", clause, re.IGNORECASE):
            return None
        first = bool(FIRST_RUN.search(self.text))
        if len(runs) == 1:
            figures = about_run(self.known.state, runs[0], about[0] if about else None)
        elif about:
            figures = together([about_experiment(self.known.state, self.known.task, one, first) for one in about])
        else:
            figures = self.known.trunk
        wrong, looked = figures.check(clause, self.known.metric, self.known.trunk.trunks)
        return [Flag("number", line) for line in wrong] if looked else None

    def _owner(self, done: bool) -> None:
        """An experiment of somebody else told as one's own doing. `done`: what is told here is the speaker's, unless it says otherwise."""
        text = QUOTED.sub(" ", self.text)
        if self.witness.decides or LOOKED.search(text):
            return
        words = {word.lower() for word in re.findall(r"[\w-]+", re.sub(r"['’]s\b", "", text))}
        if words & {name.lower() for name in self.witness.agents if name != self.witness.agent}:
            return  # it says whose it is, or at least that it is not the speaker's alone
        for group in GROUP.finditer(text):
            near = text[max(0, group.start() - 40) : group.end() + 40]
            opens = done and group.start() <= 2 and "+" not in group[0]  # of a sum of two each may be another's
            if not (MINE.search(near) or DID.search(text) or opens):
                continue
            for one in (self.known.state.experiments.get(name) for name in ids_of(group[0])):
                if one and self.witness.agent not in (one.agent, one.versions[0].actor):
                    self._say([Flag("owner", f"{one.id} is {'a ' if one.agent == PERSON else ''}{one.agent}'s")])
