"""The levers of who decides: assign, dismiss, reprioritise, retire, reopen, budget, answer, call a standup. Requests become facts.

The controller calls `take` for each such request. Who may use them follows from the design: its chief, its human seats and a person at
the keyboard; in a design without a chief only people. Nothing here is a result: it says where to go, never what was found.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import yaml

from lab import areas, asking
from lab.areas import PERSON
from lab.client import FAMILIES, FIELD_LIMIT, acknowledged
from lab.errors import UserError
from lab.files import write_atomic
from lab.laboratory import Laboratory
from lab.records import LABORATORY, Experiment
from lab.requests import Request
from lab.similar import measured
from org.design import Design
from org.hints import hit
from org.standup import Standups
from tasks.spec import Task

KINDS = ("assign", "dismiss", "reprioritise", "retire", "reopen", "budget", "answer", "standup")
WORDS = {
    "dismiss": "end an assignment", "retire": "retire an area", "reopen": "reopen an area", "budget": "set a budget",
    "answer": "answer an idea", "standup": "call a standup",
}  # fmt: skip
LONGEST_HOURS = 1e6
LONGEST_SECONDS = 366 * 86_400
EVIDENCE = 50


@dataclass
class Levers:
    """One session's."""

    lab: Laboratory
    design: Design
    task: Task
    standups: Standups

    def take(self, request: Request) -> dict[str, Any]:
        """Carry a request of KINDS out. Returns the answer's body; raises UserError with the reason of a refusal."""
        self.lab.refresh()
        asking.may_decide(request.actor, self.lab.chiefs, WORDS.get(request.kind, request.kind))
        if request.kind == "standup":
            return self.standups.call(request.actor)
        actions = {
            "assign": self._assign, "dismiss": self._dismiss, "reprioritise": self._reprioritise, "retire": self._retire,
            "reopen": self._reopen, "budget": self._budget, "answer": self._answer,
        }  # fmt: skip
        return actions[request.kind](request)

    def _write(self, kind: str, subject: str, body: dict[str, Any], request: Request) -> None:
        self.lab.ledger.append(kind, body, subject, request.actor)
        self.lab.refresh()

    # What people write

    def _text(self, request: Request, name: str, wanted: bool = True) -> str:
        text = request.body.get(name) or ""
        if not isinstance(text, str) or len(text) > FIELD_LIMIT:
            raise UserError(f"--{name}: up to {FIELD_LIMIT} characters of text")
        if wanted and not text.strip():
            raise UserError(f"--{name}: say it in a sentence; it goes on record")
        return text.strip()

    def _area(self, area: object) -> str:
        known = list({areas.spelled(one): one for one in [*FAMILIES, *self.task.areas()]}.values())  # as the task spells its own
        first, slash, part = str(area).partition("/")
        name = next((one for one in known if areas.spelled(one) == areas.spelled(first)), first) + slash + part
        if name not in known and not (areas.AREA.fullmatch(name) and name.partition("/")[0] in known):
            raise UserError(f"unknown area {name[:60]!r}: choose one of {', '.join(known)}, or a part of one, such as optimiser/momentum")
        return name

    def _experiment(self, name: object) -> Experiment:
        found = self.lab.state.experiments.get(str(name))
        if found is None:
            raise UserError(f"there is no experiment {str(name)[:40]!r}: `orgctl exp list` shows them")
        return found

    def _agent(self, name: object) -> str:
        if name not in self.design.names:
            raise UserError(f"there is no agent {str(name)[:40]!r} here: {', '.join(self.design.names)}")
        return str(name)

    @staticmethod
    def _hours(value: object, name: str, least: float) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not least <= value <= LONGEST_HOURS:
            raise UserError(f"{name}: give hours, a number from {least:g} to {LONGEST_HOURS:g}")
        return float(value)

    # Levers

    def _assign(self, request: Request) -> dict[str, Any]:
        body, now = request.body, time.time()
        agent = self._agent(body.get("agent"))
        if agent == self.design.chief:
            raise UserError(f"{agent} is the chief and assigned nothing: choose one of {', '.join(self.design.researchers)}")
        named = body.get("areas") or []
        if not isinstance(named, list) or len(named) > len(FAMILIES) + 20:
            raise UserError("--area: give areas by name")
        places = [self._area(area) for area in dict.fromkeys(map(str, named))]
        hypothesis, idea = self._text(request, "hypothesis", wanted=False), str(body.get("idea") or "")
        if idea and self._experiment(idea) not in areas.ideas(self.lab.state):
            raise UserError(f"{idea} is no idea of a person that waits for an answer: `orgctl idea` lists those")
        if not (places or hypothesis or idea):
            raise UserError("an assignment needs an --area, a --hypothesis or an --idea")
        self._fits(agent, places, idea)
        hours, seconds = self._hours(body.get("gpu_hours"), "--gpu-hours", 0.0001), body.get("seconds")
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (number and 0 < seconds <= LONGEST_SECONDS):
            raise UserError(f"--for: write a time such as 90s, 10m or 2h, up to {LONGEST_SECONDS // 3600}h")
        given = {
            "agent": agent, "areas": places, "hypothesis": hypothesis, "idea": idea, "gpu_hours": hours,
            "deadline": now + seconds if seconds else None, "why": self._text(request, "why"),
        }  # fmt: skip
        name = self._record(given, request.actor)
        into = [*places, *([self._experiment(idea).family] if idea else [])]
        gone = [areas.told(one) for area in into if (one := areas.dead_end(self.lab.state, area))]
        poor = [why for area in into if (why := areas.over_budget(self.lab.state, area, now))]
        return {"assignment": name, **given, "note": "; ".join([*gone, *poor])}

    def _record(self, given: dict[str, Any], actor: str) -> str:
        """Write an assignment as a fact and a file; returns its id."""
        fact = self.lab.ledger.append_new("assignment", "W", given, actor)
        self.lab.refresh()
        home, shown = self.lab.home, {"assignment": fact.subject, "by": actor, **given}
        write_atomic(home.org / "assignments" / f"{fact.subject}.yaml", yaml.safe_dump(shown, sort_keys=False, width=120), home.org)
        return fact.subject

    def _fits(self, agent: str, places: list[str], idea: str) -> None:
        """An optimiser follows areas of declared knobs and nothing else. Raises UserError for what it could not do."""
        seat = next(one for one in self.design.agents if one.name == agent)
        if seat.backend != "sweep":
            return
        knobs = self.task.areas()
        if idea and not self._experiment(idea).params:
            raise UserError(f"{agent} is an optimiser that turns declared knobs: give {idea} to another agent, or answer it")
        if not idea and not set(places) & set(knobs):
            raise UserError(f"{agent} is an optimiser that turns declared knobs: name an --area of {', '.join(knobs)}")

    def _dismiss(self, request: Request) -> dict[str, Any]:
        agent = self._agent(request.body.get("agent"))
        if areas.assigned(self.lab.state, agent, time.time()) is None:
            raise UserError(f"{agent} has no assignment")
        self._write("dismissal", agent, {"why": self._text(request, "why")}, request)
        return {"agent": agent}

    def _reprioritise(self, request: Request) -> dict[str, Any]:
        one = self._experiment(request.body.get("experiment"))
        queued = [run.id for run in one.runs if run.status == "queued"]
        if not queued:
            raise UserError(f"{one.id} is {one.status} and has no run that waits: `orgctl status` shows the queue")
        first = not request.body.get("last")
        self._write("priority", one.id, {"first": first}, request)
        return {"experiment": one.id, "first": first, "runs": queued}

    def _retire(self, request: Request) -> dict[str, Any]:
        area, state = self._area(request.body.get("area")), self.lab.state
        named = request.body.get("evidence") or []
        if not isinstance(named, list) or not named or len(named) > EVIDENCE:
            raise UserError(f"--evidence: name the experiments that show it, 1 to {EVIDENCE} of them")
        shown = [self._experiment(name) for name in dict.fromkeys(map(str, named))]
        for one in shown:
            if not areas.within(area, one.places):
                raise UserError(f"{one.id} is of {one.places} and shows nothing about {area}")
            if one.verdict is None:
                raise UserError(f"{one.id} is {one.status}: only what has a verdict is evidence")
            if not one.tried:
                raise UserError(f"{one.id} was never compared, so it shows nothing: `orgctl exp show {one.id}` says why")
            if one.stands or (one.verdict == "improved" and not one.reverted):
                raise UserError(f"{one.id} improved: an area that gives is no dead end")
        if area in state.direction.retired:
            raise UserError(f"{areas.told(state.direction.retired[area])}; `orgctl retire {area} --reopen` takes it up again")
        self._write("retired", area, {"evidence": [one.id for one in shown], "why": self._text(request, "why")}, request)
        gave = [one.id for one in self.lab.state.experiments.values() if areas.within(area, one.places) and hit(one)]
        return {"area": area, "evidence": [one.id for one in shown], "gave": gave}

    def _reopen(self, request: Request) -> dict[str, Any]:
        area = self._area(request.body.get("area"))
        if area not in self.lab.state.direction.retired:
            raise UserError(f"area {area} is not retired: `orgctl areas` shows which are")
        self._write("reopened", area, {"why": self._text(request, "why")}, request)
        return {"area": area}

    def _budget(self, request: Request) -> dict[str, Any]:
        area = self._area(request.body.get("area"))
        hours = self._hours(request.body.get("gpu_hours"), "GPU-HOURS", 0.0)
        self._write("budget", area, {"gpu_hours": hours}, request)
        return {"area": area, "gpu_hours": hours, "spent": areas.spent(self.lab.state, area, time.time())}

    def _answer(self, request: Request) -> dict[str, Any]:
        one, text = self._experiment(request.body.get("experiment")), self._text(request, "answer")
        if one not in areas.ideas(self.lab.state):
            raise UserError(f"{one.id} is no idea of a person that waits for an answer: `orgctl idea` lists those")
        facts = [("answer", one.id, {"text": text}), ("withdrawn", one.id, {"why": f"answered by {request.actor}: {text}"})]
        self.lab.ledger.append_all(facts, request.actor)
        self.lab.refresh()
        return {"experiment": one.id}

    # Who was told nothing

    def _free(self, agent: str) -> bool:
        """Is this a researcher whom nobody assigned?"""
        under = self.design.chief is not None and agent in self.design.researchers
        return under and areas.assigned(self.lab.state, agent, time.time()) is None

    def check_run(self, request: Request) -> None:
        """A researcher without an assignment follows the design's policy. Raises UserError for a nomination that does not. Where it takes
        what waits, a person's idea becomes its own by that."""
        policy, state = self.design.process.standup.unassigned, self.lab.state
        one = state.experiments.get(str(request.body.get("experiment", "")))
        if policy == "queue" and one is not None and one in areas.ideas(state) and self._free(request.actor):
            why = "it had no assignment and took up what waits, as this design says"
            idea = {"agent": request.actor, "areas": [], "hypothesis": "", "idea": one.id}
            self._record({**idea, "gpu_hours": None, "deadline": None, "why": why}, LABORATORY)
            return
        if policy == "own-ideas" or one is None or not self._free(one.agent):
            return
        if one.versions[0].actor == PERSON or request.actor in self.lab.chiefs | {PERSON}:
            return
        if policy == "replicate":
            near = [state.experiments[name] for name in acknowledged(one.again) if name in state.experiments]
            if any(measured(earlier) for earlier in near):
                return
            what = 'repeats what was measured before (`orgctl exp propose ... --again "replication of E0001"`)'
        else:
            what = "leaves its slot to what waits, ideas of people among it (`orgctl idea`)"
        raise UserError(f"{one.agent} has no assignment and by this design's policy `{policy}` {what}: ask {self.design.chief} for one")
