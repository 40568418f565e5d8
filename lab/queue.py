"""The order of requests: which queued run goes next on which free slot. Pure functions of facts; the controller calls them.

Idle slots serve anybody: bank first, then confirmations, controls, the frontier and replications, then what the reported effect
needs, audits and runs at the next scale, then own ideas; among those of one rank what a chief moved to the front, then by age. An
agent's home slot is a preference. Baselines for a bank that is full go in turn with the confirmations that asked for them.
"""

from __future__ import annotations

from lab.records import Run
from lab.slots import Slot
from lab.state import State, bank_of

HALT_SECONDS = 60.0
RANK = {
    "bank": 0, "confirm": 1, "control": 1, "frontier": 1, "replicate": 1, "parent": 2, "audit": 3, "carry": 3, "nominate": 4
}  # fmt: skip


def waiting(state: State) -> list[Run]:
    """Queued runs in the order in which they are served: by purpose, then as the chief ordered, then by age."""
    queued = [run for run in state.open.values() if run.status == "queued"]
    banks = {run.commit for run in queued if run.purpose == "bank"}
    full = {commit for commit in banks if sum(run.status == "ok" for run in bank_of(state, commit).runs) >= state.wanted}

    def rank(run: Run) -> int:
        return RANK.get("confirm" if run.purpose == "bank" and run.commit in full else run.purpose, 9)

    moved = state.direction.priority
    return sorted(queued, key=lambda run: (rank(run), -moved.get(run.experiment, 0), run.queued, run.id))


def pick(state: State, free: list[Slot]) -> list[tuple[Run, Slot]]:
    """Runs to start now, each with its slot. A run takes its home slot when that is free, else the first free slot. Own ideas wait
    while the baseline that they change fails."""
    left = {slot.index: slot for slot in free}
    chosen = []
    for run in waiting(state):
        if not left:
            break
        if run.purpose == "nominate" and _on_what_fails(state, run):
            continue
        index = run.home_slot if run.home_slot in left else min(left)
        chosen.append((run, left.pop(index)))
    return chosen


def _on_what_fails(state: State, run: Run) -> bool:
    """Does the baseline that this idea changes fail by itself? What fails with it would be taken for the idea's fault."""
    experiment = state.experiments.get(run.experiment)
    return bool(experiment and experiment.attempt and bank_of(state, experiment.attempt.parent).failure)


def halted(state: State, now: float) -> bool:
    """Were the last three runs to end all lost, the last less than a minute ago? Then the machine is at fault: wait."""
    ended = state.ended[-3:]
    return len(ended) == 3 and all(run.status == "lost" for run in ended) and now - (ended[-1].ended or 0.0) < HALT_SECONDS


def in_flight(state: State, agent: str) -> list[Run]:
    """An agent's own ideas that are queued or running: what its allowance counts."""
    return [run for run in state.open.values() if run.agent == agent and run.purpose == "nominate"]
