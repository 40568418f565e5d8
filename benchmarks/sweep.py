"""How well does the default organisation search? Whole sessions of the sweep backend on random landscapes.

python benchmarks/sweep.py [--worlds 40] [--runs 64]

Plays the real study, the real chief's choices and the laboratory's real workflow; only a run's value is drawn: a
quadratic bowl around an optimum that lies a random way from trunk, plus normal noise. One sigma of that noise is the
unit. Prints for each kind of world the loss that is left (share of what was there to gain), its mean over the
session, how often anything was promoted, and what the runs were spent on. Intervals are 95 %, over worlds.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab.experiment import decide
from lab.ledger import Fact
from lab.queue import in_flight, pick
from lab.slots import Slot
from lab.state import State
from lab.steps import Policy, Promote, Queue, Rebase, Revert, Write
from org.agents.space import Value, place
from org.agents.study import Study, noise, seed_of, trials
from org.agents.sweep_chief import best_improved, choose, deal, dry_areas, nominees
from org.agents.worker import superseded
from tasks.spec import Knob, Task

SIGMA = 0.006


@dataclass
class World:
    """A landscape. `away`: steps from trunk to the optimum (standard deviation); `steep`: median sigmas lost a step
    squared.
    """

    seed: int
    areas: int = 4
    knobs: int = 3
    away: float = 0.8
    steep: float = 1.5
    task: Task = field(init=False)
    start: dict[str, Value] = field(init=False)

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        knobs = [
            Knob(
                name=f"K{area}{index}",
                file="a.py",
                area=f"area{area}",
                low=0.25,
                high=4.0,
                log=True,
                why="it may matter",
            )
            for area in range(self.areas)
            for index in range(self.knobs)
        ]
        self.best = {knob.name: 2 + draw.gauss(0, self.away) for knob in knobs}
        self.curve = {knob.name: math.exp(draw.gauss(math.log(self.steep), 0.8)) for knob in knobs}
        self.start = {knob.name: 1.0 for knob in knobs}
        scale = {
            "name": "paper", "title": "on paper", "device": "cpu", "budget": {"kind": "tokens", "amount": 1},
            "deadline_seconds": 1, "memory_gib": 1,
        }  # fmt: skip
        self.task = Task.model_validate(
            {
                "name": "landscape", "title": "a bowl", "metric": {"name": "loss", "unit": "sigma"}, "editable": ["a.py"],
                "protected": ["b.py"], "train": ["x"], "score": ["x"], "scale": scale,
                "knobs": [knob.model_dump() for knob in knobs],
            }
        )  # fmt: skip

    def loss(self, values: dict[str, Value]) -> float:
        """Sigmas above the optimum."""
        return sum(self.curve[k.name] * (place(k, values[k.name]) - self.best[k.name]) ** 2 for k in self.task.knobs)


class Session:
    """One session: facts as the laboratory writes them, a clock that counts runs, agents that decide at once."""

    def __init__(self, world: World, chief: bool = True, researchers: int = 2) -> None:
        self.world, self.chief, self.state, self.facts = world, chief, State(), 0
        self.draw = random.Random(world.seed + 1)
        self.policy = Policy() if chief else Policy(confirmation="auto", promotion="auto")
        self.slots = [Slot(index, "cpu", None, "") for index in range(researchers)]
        self.agents = [f"r{index + 1}" for index in range(researchers)]
        self.values: dict[str, dict[str, Value]] = {"t0": dict(world.start)}
        self.clock, self.ends = 0.0, list[tuple[float, str]]()
        self.write("trunk", "t0", {"commit": "t0", "parent": "", "experiment": "", "why": "start"})

    def write(self, kind: str, subject: str, body: dict[str, object]) -> None:
        self.facts += 1
        self.state.apply(Fact(self.facts, self.clock, kind, subject, "lab", body, ""))

    def queue(self, wanted: Queue) -> None:
        number = len(self.state.runs) + 1
        body: dict[str, object] = {
            "experiment": wanted.experiment, "attempt": wanted.attempt, "purpose": wanted.purpose, "commit": wanted.commit,
            "seed": number, "splits": list(wanted.splits), "budget": {"kind": "tokens", "amount": 1}, "agent": wanted.agent,
            "home_slot": None,
        }  # fmt: skip
        self.write("run", f"R{number:04d}", body)

    def attempt(self, experiment: str) -> None:
        """The experiment's change on the present trunk."""
        one, base = self.state.experiments[experiment], self.state.trunk
        number = len(one.attempts) + 1
        commit = f"{experiment}.{number}"
        self.values[commit] = {**self.values[base], **one.params}
        body: dict[str, object] = {"number": number, "parent": base, "commit": commit, "diff": "", "changed": []}
        self.write("attempt", experiment, body)

    def promote(self, experiment: str) -> None:
        attempt, old = self.state.experiments[experiment].attempts[-1], self.state.trunk
        if attempt.parent != old:
            self.attempt(experiment)
            self.write("confirm", experiment, {"attempt": len(self.state.experiments[experiment].attempts)})
            return
        self.write("promotion", experiment, {"attempt": attempt.number, "from": old, "to": attempt.commit})
        step = {"commit": attempt.commit, "parent": old, "experiment": experiment, "why": "promoted"}
        self.write("trunk", attempt.commit, dict(step))

    def revert(self, experiment: str) -> None:
        newest = self.state.trunks[-1]
        commit = f"{newest.commit}-reverted"
        self.values[commit] = self.values[newest.parent]
        body: dict[str, object] = {"commit": commit, "parent": newest.commit, "experiment": "", "why": "reverted"}
        self.write("trunk", commit, {**body, "reverts": experiment, "bank": newest.parent})

    def workflow(self) -> None:
        while steps := decide(self.state, self.world.task, self.policy):
            for step in steps:
                if isinstance(step, Queue):
                    self.queue(step)
                elif isinstance(step, Write):
                    self.write(step.kind, step.subject, step.body)
                elif isinstance(step, Promote | Rebase):
                    self.promote(step.experiment)
                elif isinstance(step, Revert):
                    self.revert(step.experiment)
                if not isinstance(step, Queue):
                    break

    def lead(self) -> None:
        """What the chief does."""
        if found := best_improved(self.state, True):
            self.promote(found.id)
        for one in list(self.state.experiments.values()):
            if one.status == "nominated" and (why := superseded(self.state, one)):
                self.write("withdrawn", one.id, {"why": why})
        confirming = [one for one in self.state.experiments.values() if one.status == "confirming"]
        chosen = choose(nominees(self.state), len(confirming), 1 if len(self.slots) <= 2 else 2)
        if chosen:
            number = self.state.experiments[chosen.experiment].attempts[-1].number
            self.write("confirm", chosen.experiment, {"attempt": number})

    def research(self, agent: str) -> None:
        """What a researcher does."""
        task, state = self.world.task, self.state
        areas = Counter(knob.area for knob in task.knobs)
        part = deal(areas, self.agents, dry_areas(state, list(areas)))[agent] if self.chief else list(areas)
        while len(in_flight(state, agent)) < self.policy.queue_ahead:
            known = trials(state, task, None if self.chief else [agent])
            at = {step.commit: self.values[step.commit] for step in state.trunks}
            mine = [knob for knob in task.knobs if knob.area in part]
            move = Study(mine, state.trunk, at, known, noise(state), seed_of([agent, str(self.world.seed)])).next()
            if move is None:
                return
            identity = f"E{len(state.experiments) + 1:04d}"
            family = "+".join(dict.fromkeys(knob.area for knob in mine if knob.name in move.changes))
            body: dict[str, object] = {
                "agent": agent, "hypothesis": "h", "mechanism": "m", "family": family, "direction": "improves",
                "min_effect": 0.0, "held_constant": "", "params": move.changes, "base": state.trunk,
            }  # fmt: skip
            self.write("proposal", identity, body)
            self.attempt(identity)
            commit = state.experiments[identity].attempts[-1].commit
            self.queue(Queue("nominate", commit, identity, 1, agent, splits=("search",)))

    def turn(self) -> None:
        self.workflow()
        if self.chief:
            self.lead()
            self.workflow()
        for agent in self.agents:
            self.research(agent)
        busy = {run.slot for run in self.state.runs.values() if run.status == "running"}
        for run, slot in pick(self.state, [slot for slot in self.slots if slot.index not in busy]):
            self.write("start", run.id, {"slot": slot.index, "pid": 1, "started": 0.0})
            heapq.heappush(self.ends, (self.clock + 1 + self.draw.uniform(0, 0.1), run.id))

    def play(self, runs: int) -> list[float]:
        """Let so many runs end; returns trunk's loss after each."""
        losses: list[float] = []
        self.turn()
        while self.ends and len(losses) < runs:
            self.clock, identity = heapq.heappop(self.ends)
            value = SIGMA * (self.world.loss(self.values[self.state.runs[identity].commit]) + self.draw.gauss(0, 1))
            metric = {split: 2.4 + value + SIGMA * self.draw.gauss(0, 0.1) for split in ("search", "audit")}
            body = {"status": "ok", "reason": "", "metric": metric, "account": {}, "hashes": {}, "log_tail": ""}
            self.write("result", identity, dict(body))
            losses.append(self.world.loss(self.values[self.state.trunk]))
            self.turn()
        return losses


def mean(values: list[float]) -> str:
    reach = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.2f} ± {reach:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--runs", type=int, default=64)
    options = parser.parse_args()
    kinds: list[tuple[str, dict[str, float]]] = [
        ("12 knobs, 0.8 steps away", {}), ("12 knobs, 0.5 steps away", {"away": 0.5}), ("8 knobs", {"knobs": 2}),
    ]  # fmt: skip
    for name, shape in kinds:
        for chief in (True, False):
            left, over, promoted, spent = [], [], 0, Counter[str]()
            for seed in range(options.worlds):
                world = World(seed, **shape)  # type: ignore[arg-type]
                session = Session(world, chief)
                losses, begin = session.play(options.runs), world.loss(world.start)
                left.append(losses[-1] / begin)
                over.append(statistics.fmean(losses) / begin)
                promoted += bool(session.state.promotions())
                spent += Counter(run.purpose for run in session.state.runs.values() if run.over)
            shares = ", ".join(f"{count / options.worlds:.0f} {purpose}" for purpose, count in spent.most_common())
            line = f"{name:26s} {'chief' if chief else 'solo':5s} left {mean(left)}  over the session {mean(over)}"
            print(f"{line}  promoted in {promoted}/{options.worlds}  runs: {shares}", flush=True)


if __name__ == "__main__":
    main()
