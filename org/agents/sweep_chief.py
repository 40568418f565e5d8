"""The sweep chief: hands out areas of the knob space, decides what is worth confirming, promotes what is `improved`.

Started by `sweep.py` for the role chief-scientist. Its decisions are pure functions of the ledger: nothing is
remembered but refusals and what was last told to whom, so a restarted chief goes on where it was.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

from rich.text import Text

from comms.mailbox import Message
from lab.areas import assigned, ideas
from lab.attempt import interleaved
from lab.cost import control
from lab.frontier import price
from lab.home import Home
from lab.ledger import Fact
from lab.records import BANK, Experiment
from lab.state import State
from lab.text import deviations, figure
from lab.verdict import STAGES, accepts_below, information, needs_control
from org.agents.console import FAINT, Section, keys_help, nominated_by, standing_section, verdict_line
from org.agents.worker import Asked, Worker, superseded
from org.events import subject_of
from org.role import CHIEF, SKEPTIC

LIKELY = 0.5
"""Chance of being accepted from which a nominee is confirmed at once."""
UNLIKELY = 0.15
"""Below this chance a nominee is not worth its runs, however long nothing better comes."""
PATIENCE = 4
"""Results without a better nominee after which one with a fair chance is confirmed all the same."""
DRY = 8
"""Tries in an area without a promising nomination after which it comes last."""
PROMISING = 2.0
"""Sigmas on one run that count as promising."""
RETIRE = 40
"""Tries in an area without a promising nomination after which it is retired, while another is left."""
EVIDENCE = 5
"""Experiments that are named when an area is retired."""
ANSWER = (
    "This organisation's researchers are optimisers: they turn the task's declared knobs and cannot carry out a sentence. Try it"
    " yourself in any agent's worktree (`orgctl exp propose`, edit, `orgctl exp run`), or start an organisation whose agents read."
)


@dataclass(frozen=True)
class Nominee:
    """A nominated experiment and what its confirmation is worth. `expected`: its gain after shrinkage, in sigmas."""

    experiment: str
    sigmas: float
    expected: float
    chance: float
    """Probability that the fresh runs of all stages get it accepted."""
    runs: float
    """Runs that confirming it costs; if it is accepted, the next trunk's bank and the fresh runs of its parent too."""
    age: int
    """Nominating runs that ended since its own."""

    @property
    def worth(self) -> float:
        """Expected gain a run."""
        return max(0.0, self.expected) * self.chance / self.runs


def prior_variance(state: State) -> float:
    """Variance of true gains among nominees, in sigmas squared: from the nominations so far, and four more of 4."""
    seen = [sigmas for one in state.experiments.values() if (sigmas := nominated_by(one)) is not None]
    return max(0.5, statistics.fmean([*(max(0.0, min(sigmas, 20.0) ** 2 - 1.25) for sigmas in seen), *[4.0] * 4]))


def nominees(state: State, bank: int = BANK, stages: Sequence[int] = STAGES) -> list[Nominee]:
    """Everything nominated and not yet decided on, the most worthwhile first. `bank`: baseline runs of a new trunk."""
    prior, noise = prior_variance(state), 1 + 1 / bank
    looks = planned(bank, stages)
    n, m, needed, _ = looks[-1]
    fresh = 1 / math.sqrt(information(n, m))
    ended = [run.ended or 0.0 for run in state.runs.values() if run.purpose == "nominate" and run.over]
    found = []
    for one in state.experiments.values():
        sigmas = nominated_by(one)
        if one.status != "nominated" or sigmas is None:
            continue
        sigmas = min(sigmas, 20.0)
        expected, doubt = sigmas * prior / (prior + noise), prior * noise / (prior + noise)
        chance = NormalDist().cdf((expected - needed * fresh) / math.hypot(math.sqrt(doubt), fresh))
        ratio = _cost(state, one)
        dear = needs_control(ratio)
        chance *= earned_share(state) if dear else 1.0
        likely = next((look for look in looks if look.needed / math.sqrt(information(look.n, look.m)) <= expected), looks[-1])
        runs = likely.runs + 2 * bank * chance  # a promotion: a new bank, and parent runs
        runs += bank * ratio + price(state, one.attempts[-1].parent, bank) if dear else 0.0
        mine = max((run.ended or 0.0 for run in one.runs), default=0.0)
        found.append(Nominee(one.id, sigmas, expected, chance, runs, sum(time > mine for time in ended)))
    return sorted(found, key=lambda nominee: (-nominee.worth, nominee.experiment))


class Planned(NamedTuple):
    """A stage that may accept: n fresh seeds against m baseline runs, the t it needs, and the runs spent by then."""

    n: int
    m: int
    needed: float
    runs: int


def planned(bank: int, stages: Sequence[int]) -> list[Planned]:
    """The stages of a confirmation that can accept. t by the normal quantile and its first correction for degrees of
    freedom. Raises ValueError without stages."""
    found, m = [], bank
    for before, n in zip([0, *stages], stages, strict=False):
        m += interleaved(m, n - before) if before else 0
        p = float(accepts_below(n, m, stages))
        if p:
            z = NormalDist().inv_cdf(1 - p)
            found.append(Planned(n, m, z + (z**3 + z) / (4 * (n + m - 2)), n + m - bank))
    if not found:
        raise ValueError("no stage of the confirmation accepts anything")
    return found


def _cost(state: State, experiment: Experiment) -> float:
    """The budget, as a multiple of the bank's, that its control would need; 1 when it needs none, or nobody knows."""
    attempt = experiment.attempt
    mine = [run for run in experiment.runs if run.purpose in ("nominate", "confirm")]
    return (control(mine, state.bank(attempt.parent)) if attempt else None) or 1.0


def earned_share(state: State) -> float:
    """How often what costs more compute turned out `improved` and not `bought`; a half before anything is known."""
    judged = [one.verdict for one in state.experiments.values() if needs_control(_cost(state, one))]
    return (judged.count("improved") + 1) / (judged.count("improved") + judged.count("bought") + 2)


def choose(found: Sequence[Nominee], confirming: int, most: int) -> Nominee | None:
    """Which nominee to confirm now, if any: the best, once it is likely or nothing better has come for a while."""
    if confirming >= most or not found:
        return None
    best = found[0]
    patient = best.age >= PATIENCE and best.chance >= UNLIKELY
    return best if best.chance >= LIKELY or patient else None


def without_promise(state: State, area: str) -> list[Experiment]:
    """The last tries in an area that brought no promising nomination, since one did, or since somebody took the area up again."""
    tries: list[Experiment] = []
    since = state.direction.reopened.get(area, 0.0)
    for one in state.experiments.values():
        if one.proposed >= since and area in one.family.split("+") and any(run.purpose == "nominate" and run.over for run in one.runs):
            good = one.status in ("improved", "unmerged", "promoted") or (nominated_by(one) or 0.0) >= PROMISING
            tries = [] if good else [*tries, one]
    return tries


def dry_areas(state: State, areas: Sequence[str]) -> set[str]:
    """Areas whose last DRY tries brought no promising nomination."""
    return {area for area in areas if len(without_promise(state, area)) >= DRY}


def shares(state: State, areas: Mapping[str, int], researchers: Sequence[str], me: str, now: float) -> dict[str, list[str]]:
    """The part of the areas that each researcher should have of me. Whom somebody else assigned, a person, keeps that till it is over."""
    told = {name: task for name in researchers if (task := assigned(state, name, now)) is not None and task.by != me}
    elsewhere = {area for task in told.values() for area in task.areas}
    left = {area: count for area, count in areas.items() if area not in elsewhere} or areas
    return deal(left, [name for name in researchers if name not in told], dry_areas(state, list(areas)))


def deal(areas: Mapping[str, int], researchers: Sequence[str], dry: set[str]) -> dict[str, list[str]]:
    """Areas (name -> number of knobs) to researchers: the largest first to whom has least, dry ones last.

    Nobody goes without: with too few areas, researchers share them.
    """
    parts: dict[str, list[str]] = {name: [] for name in researchers}
    order = sorted(areas, key=lambda area: (area in dry, -areas[area]))
    for area in order if researchers else []:
        least = min(researchers, key=lambda name: (sum(areas[one] for one in parts[name]), researchers.index(name)))
        parts[least].append(area)
    empty = [name for name in researchers if not parts[name]]
    return {name: part or [order[empty.index(name) % len(order)]] for name, part in parts.items()} if order else {}


def best_improved(state: State, minimize: bool) -> Experiment | None:
    """Of what is `improved` and waits for promotion, the one with the largest effect."""
    waiting = [one for one in state.experiments.values() if one.status == "improved"]

    def effect(one: Experiment) -> float:
        verdict = one.attempts[-1].verdict or {}
        value = verdict.get("effect")
        return float(value) if isinstance(value, int | float) else 0.0

    if not waiting:
        return None
    return min(waiting, key=effect) if minimize else max(waiting, key=effect)


def reader(state: State, readers: Sequence[str]) -> str:
    """Who takes a person's idea up: whoever was given the fewest so far."""
    given = Counter(task.agent for task in state.direction.assignments.values() if task.idea)
    return min(readers, key=lambda name: (given[name], readers.index(name)))


class Chief(Worker):
    """Directs the sweep researchers of the design, by the same levers as any chief."""

    def __init__(self, home: Home, agent: str, role: str) -> None:
        super().__init__(home, agent, role)
        self.researchers = [one.name for one in self.design.agents if one.role not in (CHIEF, SKEPTIC) and one.backend == "sweep"]
        self.readers = [name for name in self.design.researchers if name not in self.researchers]
        self.refused: set[tuple[str, str, str]] = set()
        """(kind, experiment, agent or area, trunk) that was refused: asked again only on another trunk."""
        self.skipped: set[str] = set()
        self.promoting = ""

    @property
    def most(self) -> int:
        """Confirmations at a time: each promotion makes the others start again, so few."""
        slots = sum(one.slot is not None for one in self.design.agents)
        return 1 if slots <= 2 else 2

    @property
    def title(self) -> str:
        return f"directs {', '.join(self.researchers) or 'nobody'}"

    def heard(self, message: Message) -> None:
        if message.sender != "lab":
            self.note(f"mail from {message.sender}: {message.body}")

    def returned(self) -> None:
        """Nothing to put in order: a chief has no worktree."""

    def learned(self, facts: list[Fact]) -> None:
        for fact in facts:
            if fact.kind == "verdict" and self.now[0] != "starting":
                self.note(
                    f"{fact.subject}: {fact.body.get('verdict')}",
                    "green" if fact.body.get("verdict") == "improved" else "",
                )
            elif fact.kind == "trunk" and fact.body.get("experiment") and self.now[0] != "starting":
                self.note(
                    f"{fact.body['experiment']} is promoted: trunk {str(fact.body.get('commit'))[:8]}", "bold green"
                )
            elif fact.kind == "trunk" and fact.body.get("reverts") and self.now[0] != "starting":
                self.note(str(fact.body["why"]), "yellow")

    def candidates(self) -> list[Nominee]:
        """Nominees that may be confirmed, best first."""
        trunk, process = self.view.state.trunk, self.design.process
        return [
            one for one in nominees(self.view.state, process.bank, process.confirm_stages)
            if one.experiment not in self.skipped and ("confirm", one.experiment, trunk) not in self.refused
        ]  # fmt: skip

    def step(self) -> None:
        state = self.view.state
        self._direct(state)
        asked = [one for one in self.asked if one.kind not in ("assign", "answer", "retire")]
        if asked:
            self.say("working", f"asked to {asked[0].kind} {asked[0].experiment}")
            return
        if self._promote(state) or self._withdraw(state):
            return
        confirming = [one for one in state.experiments.values() if one.status == "confirming"]
        chosen = choose(self.candidates(), len(confirming), self.most) if self.design.confirmation == "chief" else None
        if chosen:
            self.say("working", f"orders confirmation of {chosen.experiment}")
            self.note(
                f"confirm {chosen.experiment}: {deviations(chosen.sigmas, signed=True)} σ on one run, "
                f"about {chosen.expected:+.1f} σ believed, chance {chosen.chance:.0%}", "cyan",
            )  # fmt: skip
            self.ask("confirm", chosen.experiment)
        elif confirming:
            self.say("waiting", f"{confirming[0].id} is being confirmed")
        elif any(not run.over for run in state.runs.values()):
            self.say("waiting", "for results")
        else:
            self.say("idle", "nothing to decide")

    def _direct(self, state: State) -> None:
        """Hand out areas, retire what gives nothing, answer people; one lever at a time, and none twice for the same reason."""
        if any(one.kind in ("assign", "answer", "retire") for one in self.asked):
            return
        counts = Counter(knob.area for knob in self.task.knobs)
        dry = dry_areas(state, list(counts))
        left = {area: count for area, count in counts.items() if area not in state.direction.retired}
        for name, part in shares(state, left, self.researchers, self.agent, time.time()).items():
            mine = assigned(state, name, time.time())
            if (mine is None or list(mine.areas) != part) and ("assign", name, state.trunk) not in self.refused:
                self.note(f"{name} takes {', '.join(part)}")
                resting = f"; dry for now, so dealt last: {', '.join(sorted(dry & set(left)))}" if dry & set(left) else ""
                why = f"its share of the knobs: {sum(left[area] for area in part)} of {sum(left.values())}{resting}"
                self.ask("assign", name, agent=name, areas=part, why=why)
                return
        for one in ideas(state):
            if self.readers and ("assign", one.id, state.trunk) not in self.refused:
                self.ask("assign", one.id, agent=reader(state, self.readers), idea=one.id, why="a person's idea, for an agent who reads")
                return
            if not self.readers and ("answer", one.id, state.trunk) not in self.refused:
                self.ask("answer", one.id, answer=ANSWER)
                return
        for area in left if len(left) > 1 else ():
            tried = without_promise(state, area)
            if len(tried) >= RETIRE and ("retire", area, state.trunk) not in self.refused:
                self.note(f"retires {area} after {len(tried)} tries", "yellow")
                why = f"the last {len(tried)} tries brought no nomination of {PROMISING:g} sigma or more"
                self.ask("retire", area, area=area, evidence=[one.id for one in tried if one.tried][-EVIDENCE:], why=why)
                return

    def _promote(self, state: State) -> bool:
        found = best_improved(state, self.minimize) if self.design.promotion == "chief" else None
        if found is None or ("promote", found.id, state.trunk) in self.refused:
            return False
        self.say("working", f"promotes {found.id}")
        self.ask("promote", found.id)
        return True

    def _withdraw(self, state: State) -> bool:
        for one in state.experiments.values():
            why = superseded(state, one) if one.status == "nominated" else None
            if why and ("withdraw", one.id, state.trunk) not in self.refused:
                self.note(f"withdraws {one.id}: {why}")
                self.ask("withdraw", one.id, why=why)
                return True
        return False

    def answered(self, asked: Asked, answer: dict[str, Any]) -> None:
        if answer.get("ok"):
            if answer.get("note"):
                self.note(str(answer["note"]))
            return
        self.refused.add((asked.kind, asked.experiment, self.view.state.trunk))
        self.note(f"{asked.kind} {asked.experiment} refused: {answer.get('error', '')}", "yellow")

    def skip(self) -> None:
        """Pass over the top nominee."""
        top = next(iter(self.candidates()), None)
        if top:
            self.skipped.add(top.experiment)
            self.note(f"passes over {top.experiment}", "yellow")

    # Showing

    def sections(self, width: int) -> list[Section]:
        state = self.view.state
        told = {name: assigned(state, name, time.time()) for name in self.researchers}
        people = [Text.assemble((f"{name} ", "bold"), (", ".join(one.areas), FAINT)) for name, one in told.items() if one]
        ranked = [
            Text.assemble(
                (f"{one.experiment} ", FAINT), subject_of(state.experiments[one.experiment], 40).ljust(30),
                (f" {deviations(one.sigmas, signed=True)} σ", "green" if one.sigmas >= 1 else ""),
                f"  believed {one.expected:+.1f}  chance {one.chance:.0%}",
            )
            for one in self.candidates()[:6]
        ]  # fmt: skip
        checks = [self._confirmation(one) for one in state.experiments.values() if one.status == "confirming"]
        decided = [one for one in reversed(state.experiments.values()) if one.runs_for("confirm") and one.verdict]
        past = [verdict_line(one) for one in decided[:8]]
        return [
            Section("assignments", people, least=1, rank=3), Section("being confirmed", checks, least=1, rank=0),
            Section("nominees", ranked, least=1, rank=2), Section("decided on fresh seeds", past, least=1, rank=3),
            standing_section(state, self.design.process.bank), self.log_section(),
            keys_help("p pause", "s pass over the top nominee", "q take over with a shell"),
        ]  # fmt: skip

    def _confirmation(self, one: Experiment) -> Text:
        runs = one.runs_for("confirm")
        values = [run.metric["audit"] for run in runs if run.status == "ok" and "audit" in run.metric]
        bank = self.view.state.bank(one.attempts[-1].parent).mean()
        mean = (
            f"mean {figure(statistics.fmean(values))} against {figure(bank)}" if values else "waits for its first run"
        )
        return Text.assemble(
            (f"{one.id} ", "cyan"), subject_of(one, 36).ljust(28), f" n {len(values)} of {len(runs)}  {mean}"
        )
