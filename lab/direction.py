"""Where the organisation is sent: standups, assignments, retired areas, budgets, the order of the queue. A pure fold of facts.

Part of the ledger's state (`state.direction`), called by the queue, proposals, the standup and agents. Nothing here is a result:
a chief or a person says where to go next, and verdicts stay the laboratory's. An assignment ends by itself, by its deadline or
when its slot-hours are spent; the newest one of an agent counts.

Fact kinds (body keys in brackets):
  standup     [what: opened, number, why, agents, deadline, finished]              subject S0001
  standup     [what: closed, reported, missing, aside, claims, flagged, digest]    subject S0001
  assignment  [agent, areas, hypothesis, idea, gpu_hours, deadline, why]           subject W0001   (idea: E.... of a person, handed over)
  dismissal   [why]   the agent's assignment is over                               subject = agent
  retired     [evidence, why]   a dead end                                         subject = area
  reopened    [why]                                                                subject = area
  budget      [gpu_hours]   of slot time, in all; null: no limit any more          subject = area
  priority    [first]   of its waiting runs among those of the same purpose        subject E....
  answer      [text]    to a person's idea                                         subject E....
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab.ledger import Fact

KINDS = ("standup", "assignment", "dismissal", "retired", "reopened", "budget", "priority", "answer")


@dataclass
class Standup:
    """One meeting. `agents` were asked at `opened`; `closed` is None while it waits for them (times in seconds since the epoch)."""

    id: str
    number: int
    why: str
    opened: float
    deadline: float
    agents: list[str]
    finished: int
    """Experiments that were over when it opened."""
    closed: float | None = None
    reported: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    aside: dict[str, str] = field(default_factory=dict)
    """Report -> why it was set aside."""
    claims: int = 0
    flagged: int = 0


@dataclass(frozen=True)
class Assignment:
    """What an agent was asked to do, by whom and why."""

    id: str
    agent: str
    areas: tuple[str, ...]
    hypothesis: str
    idea: str
    """The experiment, once a person's idea, that was handed over; "" for none."""
    gpu_hours: float | None
    deadline: float | None
    """Seconds since the epoch."""
    why: str
    by: str
    time: float


@dataclass(frozen=True)
class Retired:
    """A dead end, with the experiments that show it."""

    area: str
    evidence: tuple[str, ...]
    why: str
    by: str
    time: float


@dataclass
class Direction:
    """All of it folded."""

    standups: dict[str, Standup] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)
    """Agent -> its newest assignment; whether that is over, `lab.areas.assigned` says."""
    retired: dict[str, Retired] = field(default_factory=dict)
    reopened: dict[str, float] = field(default_factory=dict)
    """Area -> when somebody last took it up again, in seconds since the epoch."""
    budgets: dict[str, float] = field(default_factory=dict)
    """Area -> hours of slot time that its ideas may take in all."""
    priority: dict[str, int] = field(default_factory=dict)
    """Experiment -> its place among runs of one purpose: the higher the earlier, 0 for all that nobody moved."""
    answers: dict[str, tuple[str, str]] = field(default_factory=dict)
    """A person's idea -> (who answered, what)."""

    @property
    def standup(self) -> Standup | None:
        """The newest standup."""
        return next(reversed(self.standups.values()), None)

    def apply(self, fact: Fact) -> None:
        """Fold one fact of KINDS in."""
        body, subject = fact.body, fact.subject
        if fact.kind == "standup":
            self._standup(fact)
        elif fact.kind == "assignment":
            texts = (str(body["hypothesis"]), str(body["idea"]))
            self.assignments[subject] = Assignment(
                subject, str(body["agent"]), _names(body["areas"]), *texts, _number(body["gpu_hours"]), _number(body["deadline"]),
                str(body["why"]), fact.actor, fact.time,
            )  # fmt: skip
            self.current[body["agent"]] = subject
        elif fact.kind == "dismissal":
            self.current.pop(subject, None)
        elif fact.kind == "retired":
            self.retired[subject] = Retired(subject, _names(body["evidence"]), str(body["why"]), fact.actor, fact.time)
        elif fact.kind == "reopened":
            self.retired.pop(subject, None)
            self.reopened[subject] = fact.time
        elif fact.kind == "budget":
            if body["gpu_hours"] is None:
                self.budgets.pop(subject, None)
            else:
                self.budgets[subject] = float(body["gpu_hours"])
        elif fact.kind == "priority":
            self.priority[subject] = fact.id if body["first"] else -fact.id
        elif fact.kind == "answer":
            self.answers[subject] = (fact.actor, str(body["text"]))

    def _standup(self, fact: Fact) -> None:
        body: dict[str, Any] = fact.body
        if body["what"] == "opened":
            self.standups[fact.subject] = Standup(
                fact.subject, int(body["number"]), str(body["why"]), fact.time, float(body["deadline"]), list(_names(body["agents"])),
                int(body["finished"]),
            )  # fmt: skip
        elif fact.subject in self.standups:
            one = self.standups[fact.subject]
            one.reported, one.missing = list(_names(body["reported"])), list(_names(body["missing"]))
            one.aside = {str(name): str(why) for name, why in body["aside"].items()}
            one.claims, one.flagged, one.closed = int(body["claims"]), int(body["flagged"]), fact.time


def _number(value: Any) -> float | None:
    """Raises TypeError and ValueError for what is neither None nor a number."""
    return None if value is None else float(value)


def _names(value: Any) -> tuple[str, ...]:
    """Raises TypeError for what is no list."""
    if not isinstance(value, list):
        raise TypeError("a list of names")
    return tuple(map(str, value))
