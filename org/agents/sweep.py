"""The `sweep` backend: an optimiser that does research on the task's declared knobs. No key, no GPU, spends nobody's
money.

The pane runs `python -I -m org.agents.sweep`; the role decides whether that is a researcher (here: a study whose
trials are experiments like anybody's), the chief (`sweep_chief.py`) or a skeptic (`sweep_skeptic.py`). What to try next is
decided in `study.py`, what to say of a partner's finding in `sweep_review.py`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.text import Text

from comms.mailbox import Message
from lab import areas, client, queue, similar
from lab.child import last_line, log_tail
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Fact
from lab.records import Experiment, Run
from lab.state import State
from lab.text import clean
from org import printed, status
from org.agents import base
from org.agents.console import (
    FAINT,
    Section,
    bar,
    keys_help,
    knob_line,
    nominating_value,
    outcome_line,
    show,
    standing_section,
)
from org.agents.space import Value
from org.agents.sweep_review import Reviews
from org.agents.worker import Asked, Worker, start, superseded
from org.role import CHIEF, SKEPTIC
from tasks.knobs import read_knobs, write_knobs
from tasks.spec import Task, TaskError
from worktrees.repo import Repo

ASSIGNMENT_SECONDS = 20.0
"""How long a researcher waits for the chief's word before it takes the whole knob space."""


class Sweep(base.Backend):
    """Part of orgctl itself: nothing to install, nothing to pay."""

    name = "sweep"

    def launch(self, seat: base.Seat) -> base.Launch:
        return base.Launch([sys.executable, "-I", "-m", "org.agents.sweep"], seat.cwd, {})


BACKEND = Sweep()


def values_at(repo: Repo, task: Task, commit: str) -> dict[str, Value]:
    """The knobs' values in a commit; a knob that is no literal there any more is left out."""
    found: dict[str, Value] = {}
    with tempfile.TemporaryDirectory(prefix="orgctl-knobs-") as folder:
        for file in {knob.file for knob in task.knobs}:
            target = Path(folder) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(repo.show_file(commit, file))
        for knob in task.knobs:
            try:
                found |= read_knobs(Path(folder), task.model_copy(update={"knobs": [knob]}))
            except TaskError:
                continue
    return found


def reason(state: State, near: list[similar.Near], agent: str) -> str:
    """Why a study tries settings again that were tried before; "" when they were not."""
    told = []
    for one in (near for near in near if near.same):
        before = state.experiments[one.experiment]
        parent = before.attempts[-1].parent if before.attempts else before.base
        if parent != state.trunk:
            told.append(f"{before.id} was on trunk {parent[:8]}, this is on {state.trunk[:8]}")
        elif before.agent != agent:
            told.append(f"{before.id} is {before.agent}'s: this study draws on its own trials alone")
        else:
            told.append(f"{before.id} told this study nothing ({similar.outcome(before)})")
    return "; ".join(told)[: client.FIELD_LIMIT]


class Researcher(Worker):
    """Keeps as many experiments under way as the design allows, each a move of its study."""

    def __init__(self, home: Home, agent: str, role: str) -> None:
        super().__init__(home, agent, role)
        self.born = time.monotonic()
        self.areas: list[str] = []
        """Areas of knobs that it turns now; follows the ledger."""
        self.reviews = Reviews(self)
        """What its partner found and it has to review; nothing where the design has no partners."""
        self.values: dict[str, dict[str, Value]] = {}
        self.worktree = home.worktrees / agent
        self.dry_at = -1
        """Last fact when nothing untried was in sight."""

    @property
    def title(self) -> str:
        slot = os.environ.get("ORGCTL_SLOT", "")
        return (", ".join(self.areas) or "no assignment yet") + (f" · slot {slot}" if slot else "")

    def heard(self, message: Message) -> None:
        if message.sender != "lab":
            self.note(f"mail from {message.sender}: {message.body}")

    def learned(self, facts: list[Fact]) -> None:
        for fact in facts:
            if fact.kind == "trunk" and fact.body.get("experiment") and self.now[0] != "starting":
                self.note(f"trunk moved on: {fact.body['experiment']} was promoted", "green")
            elif fact.kind == "trunk" and fact.body.get("reverts") and self.now[0] != "starting":
                self.note(f"trunk went back: {fact.body['why']}", "yellow")

    # Deciding

    @property
    def mine(self) -> list[Experiment]:
        return [one for one in self.view.state.experiments.values() if one.agent == self.agent]

    def step(self) -> None:
        state = self.view.state
        waiting = [asked for asked in self.asked if asked.kind == "run"]
        self._tidy()
        self.reviews.step()
        unsent = [
            one
            for one in self.mine
            if one.status == "proposed" and one.params and not any(asked.experiment == one.id for asked in self.asked)
        ]
        theirs = next((one for one in self.mine if one.status == "proposed" and not one.params), None)
        busy = queue.in_flight(state, self.agent)
        if waiting:
            self.say("working", f"{waiting[0].experiment} is handed in")
        elif not state.trunk:
            self.say("waiting", "there is no trunk yet")
        elif not self._follow(state):
            self.say("waiting", f"for {self.design.chief} to say which knobs to turn" if self.design.chief else "every area is closed")
        elif theirs:  # a person's idea in this seat: its edits lie in the worktree until it is run
            self.say("paused", f"the worktree is a person's until {theirs.id} is run or withdrawn")
        elif unsent and len(busy) < self.design.process.queue_ahead:
            self._submit(unsent[0])
        elif len(busy) >= self.design.process.queue_ahead or self.dry_at == state.last:
            self._watch(busy)
        else:
            self._propose()

    def _follow(self, state: State) -> bool:
        """Take up the areas of its assignment, or what the design says without one, but for dead ends and spent budgets."""
        now = time.time()
        task = areas.assigned(state, self.agent, now)
        known = self.task.areas()
        if task is not None:
            known = [area for area in known if area in task.areas]
        elif self.design.chief:
            early = not state.direction.assignments and time.monotonic() - self.born < ASSIGNMENT_SECONDS
            known = [] if early or self.design.process.standup.unassigned != "own-ideas" else known
        found = [area for area in known if not areas.closed(state, self.agent, area, now)]
        if found != self.areas:
            self.areas, self.dry_at = found, -1
            self.note(f"{task.by} assigns: {', '.join(found)}" if task else f"turns {', '.join(found) or 'nothing'}", "cyan")
        return bool(found)

    def _tidy(self) -> None:
        """Take back what is queued and was overtaken by a promotion before it ran."""
        for run in queue.in_flight(self.view.state, self.agent):
            experiment = self.view.state.experiments[run.experiment]
            why = superseded(self.view.state, experiment) if run.status == "queued" else None
            if (
                why
                and experiment.withdrawn is None
                and not any(asked.experiment == experiment.id for asked in self.asked)
            ):
                self.note(f"takes back {experiment.id}: {why}")
                self.ask("withdraw", experiment.id, why=why)

    def _watch(self, busy: list[Run]) -> None:
        running = next((run for run in busy if run.status == "running"), None)
        if running:
            self.say("working", f"{running.experiment} runs as {running.id} on slot {running.slot}")
        elif busy:
            self.say("waiting", f"{busy[0].experiment} is queued as {busy[0].id}")
        else:
            self.say("idle", "nothing untried is in sight: waits for news")

    def _propose(self) -> None:
        from org.agents.study import Study, noise, seed_of, trials

        state = self.view.state
        for step in state.trunks:
            if step.commit not in self.values:
                self.values[step.commit] = values_at(self.repo, self.task, step.commit)
        study = Study(
            [knob for knob in self.task.knobs if knob.area in self.areas], state.trunk, self.values,
            trials(state, self.task, None if self.design.chief else [self.agent]), noise(state),
            seed_of([self.agent, self.seed_word]),
        )  # fmt: skip
        move = study.next()
        if move is None:
            self.dry_at = state.last
            return
        names = list(move.changes)
        knobs = {knob.name: knob for knob in self.task.knobs}
        parts = [f"{name} {show(study.now[name])} → {show(move.changes[name])}" for name in names]
        lowers = "lowers" if self.minimize else "raises"
        why = "; ".join(f"{name}: {knobs[name].why}" for name in names)
        said = {
            "hypothesis": f"{', '.join(parts)} {lowers} {self.task.metric.name}",
            "mechanism": f"{why}. Chosen because: {move.because}.",
        }
        identity = client.propose(
            self.home, self.agent, **said,
            family="+".join(dict.fromkeys(knobs[name].area for name in names)), min_effect=self.task.min_effect,
            held_constant="budget, data, evaluation, seed policy, and every other constant as on trunk",
            params=dict(move.changes), again=reason(state, similar.proposals(state, said, move.changes), self.agent),
            view=self.view,
        )  # fmt: skip
        self.look()
        self._submit(self.view.state.experiments[identity])

    def _submit(self, experiment: Experiment) -> None:
        """Trunk with the experiment's knobs into the worktree, committed, and handed in. The lab takes its snapshot
        from there.
        """
        self.returned()
        self.repo.reset_worktree(self.worktree, self.view.state.trunk, self.agent)
        try:
            changed = write_knobs(self.worktree, self.task, experiment.params)
        except TaskError as error:
            self.note(f"{experiment.id}: {error}", "red")
            self.ask("withdraw", experiment.id, why=str(error))
            return
        self.repo.commit_worktree(self.worktree, self.agent, f"{experiment.id}: {experiment.hypothesis}", changed)
        self.say("working", f"hands in {experiment.id}: {experiment.hypothesis}")
        self.ask("run", experiment.id)

    def answered(self, asked: Asked, answer: dict[str, Any]) -> None:
        if answer.get("ok"):
            return
        why = str(answer.get("error", "refused without a reason"))
        if asked.kind == "replicate":
            self.reviews.refuse(asked, why)
            return
        self.note(f"{asked.kind} {asked.experiment} refused: {why}", "yellow")
        if asked.kind == "run" and len(queue.in_flight(self.view.state, self.agent)) < self.design.process.queue_ahead:
            self.ask("withdraw", asked.experiment, why=f"refused by the laboratory: {why}")
        elif asked.kind == "run":
            self.rest_until = time.monotonic() + 2

    def skip(self) -> None:
        """Give up the experiment that is queued, else the one that runs."""
        busy = sorted(queue.in_flight(self.view.state, self.agent), key=lambda run: run.status == "running")
        if busy:
            self.note(f"skips {busy[0].experiment}", "yellow")
            self.ask("withdraw", busy[0].experiment, why="skipped by a person at the pane")

    def returned(self) -> None:
        """Commit what somebody left uncommitted, so that the next reset of the worktree keeps it under refs/org/lost."""
        if self.worktree.is_dir():
            self.repo.commit_worktree(self.worktree, self.agent, "Left by a person", self.task.editable)

    # Showing

    def sections(self, width: int) -> list[Section]:
        busy = queue.in_flight(self.view.state, self.agent)
        current = next((run for run in busy if run.status == "running"), busy[0] if busy else None)
        done = [one for one in reversed(self.mine) if nominating_value(one) is not None or one.verdict]
        results = [outcome_line(one, self.minimize) for one in done[:12]]
        later = [run for run in busy if run is not current]
        nexts = [
            Text.assemble(("next  ", FAINT), clean(self.view.state.experiments[run.experiment].hypothesis))
            for run in later
        ]
        return [
            *([self._trying(current, width)] if current else []),
            Section("", nexts, rank=5), Section("results", results, least=2, rank=2),
            standing_section(self.view.state, self.design.process.bank), self.log_section(),
            keys_help("p pause", "s skip", "q take over with a shell"),
        ]  # fmt: skip

    def _trying(self, run: Run, width: int) -> Section:
        """The experiment under way: which knobs, why, how far."""
        experiment = self.view.state.experiments[run.experiment]
        attempt = experiment.attempt
        before = self.values.get(attempt.parent if attempt else "", {})
        rows = [
            knob_line(name, show(before.get(name, "?")), show(value), width)
            for name, value in experiment.params.items()
        ]
        why = Text(clean(experiment.mechanism, 600), FAINT)
        if run.status != "running":
            far = Text(f"  {run.id} is queued", "yellow")
        else:
            seen = status.progress(self.home, run, time.time())
            share = seen.get("fraction")
            percent = "" if share is None else f" {share:4.0%}"
            far = Text.assemble(
                "  ",
                bar(share, min(30, width // 3)),
                f"{percent}  {clean(seen.get('phase', ''), 20)}  {printed.span(seen.get('seconds'))}",
            )
        said = last_line(log_tail(self.home.runs / run.id / "stdout.log", 400))
        lines = [*rows, far, *([Text("  " + clean(said), FAINT)] if said else []), Text("  ") + why]
        return Section(f"{experiment.id} on {run.id}", lines, least=len(rows) + 1, rank=0)


def main() -> int:
    """The pane's process. Exit code 2 when it cannot begin."""
    role = os.environ.get("ORGCTL_ROLE", "researcher")
    try:
        home, agent = Home.find(), os.environ["ORGCTL_AGENT"]
    except (UserError, KeyError) as error:
        print(f"{error}: this process is started by orgctl, in a pane of its own", file=sys.stderr)
        return 2
    if role == CHIEF:
        from org.agents.sweep_chief import Chief

        return start(Chief, home, agent, role)
    if role == SKEPTIC:
        from org.agents.sweep_skeptic import Skeptic

        return start(Skeptic, home, agent, role)
    return start(Researcher, home, agent, role)


if __name__ == "__main__":
    sys.exit(main())
