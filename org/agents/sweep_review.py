"""Reviews by a sweep: what waits for its word is replicated through the laboratory, and called ok or doubtful by what came of it.

Called by the skeptic (`sweep_skeptic.py`) and, where partners review each other, by every researcher (`sweep.py`). All it may judge by is
what a program can read: the outcome of fresh runs, what the laboratory flagged, and whether the change is the knobs it says it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab import client, gate, replication
from lab.records import Experiment
from lab.similar import lines
from lab.state import State
from org.agents.worker import Asked, Worker

FLAGGED = 2
"""Flagged runs from which a change that no program can read is doubted. Of runs like the bank's one in a hundred is flagged; two or more
of ten are so for 4 changes in 1000 (binomial). A change of the task's declared knobs has no place for a leak, and one that is much
better leaves the bank's bands for that alone: its flags are quoted and no more."""


def due(state: State, reviewers: Mapping[str, Sequence[str]], me: str) -> list[Experiment]:
    """What is `improved`, not on trunk, mine to review, and has no finding of mine since; oldest first."""
    return [
        one for one in state.experiments.values()
        if one.status == "improved" and me in reviewers.get(one.agent, ()) and me not in gate.findings(one, [me])
    ]  # fmt: skip


def finding(experiment: Experiment, outcome: Mapping[str, Any], unit: str) -> tuple[str, str]:
    """(ok or doubt, why) for an experiment and the body of its fact `replication`."""
    told = replication.said(dict(outcome), unit)
    odd = [run for run in experiment.runs if run.flags and run.purpose in ("confirm", "replicate")]
    flagged = f"; {len(odd)} runs are flagged, such as {odd[0].id}: {odd[0].flags[0]}" if odd else ""
    if strays := stray_lines(experiment):
        return "doubt", f"{strays}; {told}{flagged}"
    if not experiment.params and len(odd) >= FLAGGED:
        return "doubt", f"no program can read what its change means; {told}{flagged}"
    read = "its change is the knobs that it names" if experiment.params else "no program can read what its change means"
    return ("ok" if outcome["holds"] else "doubt"), f"{told}; {read}{flagged}"


def stray_lines(experiment: Experiment) -> str:
    """What a change of knobs alters beyond one line for each knob; "" when nothing."""
    attempt = experiment.attempt
    if not experiment.params or attempt is None:
        return ""
    count, named = sum(map(len, lines(attempt.diff).values())), len(experiment.params)
    return f"{count} lines are added or removed where {named} knobs are named" if count > 2 * named else ""


class Reviews:
    """The reviewing half of one sweep agent."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.reviewers = worker.design.reviewers()
        settings = next((one.settings for one in worker.design.agents if one.name == worker.agent), {})
        seeds = settings.get("seeds", replication.SEEDS)
        self.seeds = seeds if type(seeds) is int and 2 <= seeds <= replication.MOST else replication.SEEDS
        self.refused: set[tuple[str, int]] = set()
        """(experiment, attempt) whose replication the laboratory refused: not asked again."""

    def refuse(self, asked: Asked, why: str) -> None:
        """The laboratory refused a replication."""
        one = self.worker.view.state.experiments.get(asked.experiment)
        if asked.kind == "replicate" and one is not None and one.attempts:
            self.refused.add((one.id, one.attempts[-1].number))
            self.worker.note(f"replication of {one.id} refused: {why}", "yellow")

    @property
    def due(self) -> list[Experiment]:
        return due(self.worker.view.state, self.reviewers, self.worker.agent)

    def step(self) -> str:
        """Do one thing that is due; says what it did, or what it waits for; "" when nothing is due."""
        worker, waits = self.worker, ""
        for one in self.due:
            number = one.attempts[-1].number
            mine = [order for order in one.replications if order.by == worker.agent]
            if mine and mine[-1].result is not None:
                word, why = finding(one, mine[-1].result, worker.task.metric.unit)
                client.review(worker.home, worker.agent, one.id, why, word, worker.view)
                worker.note(f"reviews {one.id}: {word}", "green" if word == "ok" else "yellow")
                worker.look()
                return f"has reviewed {one.id}: {word}"
            if any(asked.kind == "replicate" and asked.experiment == one.id for asked in worker.asked) or replication.ordered(one):
                waits = waits or f"{one.id} is being replicated"
            elif (one.id, number) not in self.refused:
                worker.note(f"orders a replication of {one.id} by {one.agent}", "cyan")
                worker.ask("replicate", one.id, seeds=self.seeds)
                return f"orders a replication of {one.id}"
        return waits
