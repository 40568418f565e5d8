"""The agents of a running session: in their panes, alive, labelled and, by `org.spending` and `org.words`, within their budgets and
awake. Called by the controller.

Everything is looked at anew each time and then the smallest thing is done, for each agent by itself: what is in the way of one, in its
folder, its inbox or its pane, stops nothing that is done for the others. What is kept here (`org.attendance`) is lost with the controller
without harm; what was counted, whose budget is spent, and who was swapped and not started since, is read off the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from comms.mailbox import Mail
from comms.message import MailError
from lab.disowned import counted
from lab.errors import UserError
from lab.files import make_folder
from lab.home import Home
from lab.laboratory import Laboratory
from lab.process import starved
from org import prompt, wake
from org.agents import base
from org.agents.cli import TRIES
from org.attendance import Attendance
from org.design import Design
from org.grid import Grid
from org.panes import PaneSpec, PaneState, check
from org.printed import in_words
from org.spending import Spending
from org.standup import POST
from org.status import AgentStatus, look
from org.touched import Touched
from org.words import Words
from tasks.spec import Task
from worktrees.repo import GitError, Repo

log = logging.getLogger("orgctl")
IN_THE_WAY = (UserError, MailError, GitError, OSError)
"""What may be wrong with one agent's folder, inbox, worktree or pane."""
STARVED = 10.0
"""Seconds within which a process that was killed and the kernel's word that memory ran out belong together: a large one ends slowly."""


@dataclass
class Team:
    """Everybody who has a seat."""

    home: Home
    design: Design
    task: Task
    repo: Repo
    lab: Laboratory
    grid: Grid
    mail: Mail
    size: tuple[int, int] = (220, 50)
    attendance: dict[str, Attendance] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    touched: Touched = field(default_factory=Touched)
    swapped: set[str] = field(default_factory=set)
    """Who was swapped and has not been started since."""
    kills: int = field(default_factory=starved)
    """What the kernel killed for want of memory so far, and when that was last seen to grow."""
    killed: float = -math.inf

    def __post_init__(self) -> None:
        self.take(self.design)
        self.spending = Spending(self.home, self.lab.ledger, self.grid, self.mail, self.attendance)
        self.words = Words(self.home, self.lab, self.grid, self.mail, self.attendance, list(self.seats))
        for fact in counted(self.lab.ledger, "agent"):
            what, record = fact.body.get("what"), self.attendance.setdefault(fact.subject, Attendance(born=time.monotonic()))
            if what == "budget_told":
                record.budget_told, record.budget_letter = fact.time, str(fact.body.get("letter") or "")
            elif what == "budget_raised":
                record.budget_told, record.budget_letter = None, ""
            elif what in ("budget_spent", "swapped", "started", "restarted"):
                record.given_up = what == "budget_spent"
            if what == "counted":
                self.spending.recall(fact)
            elif what == "swapped":
                self.swapped.add(fact.subject)
            elif what in ("started", "restarted"):
                self.swapped.discard(fact.subject)

    def count(self) -> str:
        """Write down what everybody has used, and hold them to their budgets."""
        return self.spending.count(self.seats, self.design)

    def take(self, design: Design) -> None:
        """Go on with this design: its agents sit here from now on."""
        self.design = design
        self.seats = {seat.agent: seat for seat in design.seats(self.home)}

    # Seats and panes

    def found_worktrees(self) -> None:
        """A worktree and branch for every agent that has a slot, a folder and an inbox for everybody. Raises what is in the way where it
        is in everybody's."""
        for name in ("person", POST):
            make_folder(self.home.comms / "inbox" / name / "new", self.home.org)
        failed = []
        for name in self.seats:
            try:
                self._found(name)
            except IN_THE_WAY as error:  # it is tried again before the agent starts, and shown then
                log.error("no place for %s: %s", name, error)
                failed.append(error)
        if len(failed) == len(self.seats):
            raise failed[0]

    def _found(self, agent: str) -> None:
        seat = self.seats[agent]
        if seat.slot is not None and (note := self.repo.add_worktree(agent, seat.worktree, self.lab.state.trunk)):
            log.warning("%s", note)
        make_folder(seat.folder, self.home.org)
        make_folder(self.home.comms / "inbox" / agent / "new", self.home.org)

    def pane(self, agent: str) -> PaneSpec:
        """What an agent's pane should run. Writes nothing."""
        seat = self.seats[agent]
        launch = base.load(seat.backend).launch(seat)
        env = {**base.seat_env(seat), "TERM": "tmux-256color", **launch.env, **launch.secrets}
        return PaneSpec(agent, seat.role, launch.argv, launch.cwd, env)

    def _prepared(self, agent: str) -> tuple[PaneSpec, str]:
        """The pane of an agent that is about to start, and the hash of the prompt that was laid down for it. Raises what is in the way."""
        told = prompt.lay_down(self.home, self.design, self.task, self.seats[agent])
        pane = self.pane(agent)
        check(pane)
        return pane, told

    def board(self) -> PaneSpec:
        argv = [sys.executable, "-I", "-m", "org.board"]
        return PaneSpec("board", "board", argv, self.home.root, {"ORGCTL_HOME": str(self.home.root), "ORGCTL_PROGRAM": self.home.program})

    def seat_everybody(self) -> None:
        """Open the grid and start who is missing; touch nobody who is well, nor who has no budget left."""
        before = self.grid.running()
        there, now = self.grid.observe() or {}, time.monotonic()
        prepared: dict[str, tuple[PaneSpec, str]] = {}
        for name in self.seats:
            record = self.attendance.setdefault(name, Attendance(born=now))
            waits = (record.given_up and (name in there or record.hindered != "")) or now < record.next_try
            if waits or _runs(there.get(name)):
                continue
            try:
                self._found(name)
                prepared[name] = self._prepared(name)
            except IN_THE_WAY as error:
                self._hindered(name, error, there.get(name))
        started = self.grid.ensure(self.board(), [pane for pane, _ in prepared.values()], self.size)
        for name in started:
            if name in self.seats:
                what = "restarted" if before else "started"
                self._began(name, what, prepared[name][1])
                self._anew(name)
        for name in self.seats:
            if name in there or name in started:
                self.grid.log_to(name, self.seats[name].folder / "screen.log")

    def swap(self, names: list[str]) -> dict[str, str]:
        """Start anew who was swapped, given up or not. Returns who cannot be now, and why: it is tried again."""
        for name in names:
            self.swapped.add(name)
            self._anew(name)
        return self.start_swapped()

    def start_swapped(self) -> dict[str, str]:
        """Start anew who was swapped and has not been started since: no controller served then, it died in between, or something was in
        the way. Returns who cannot be, and why: it is tried again as one that died is, and what it was before does not outlive that."""
        seen, failed = self.grid.observe() or {}, {}
        for name in [name for name in self.seats if name in self.swapped]:
            record = self.attendance.setdefault(name, Attendance(born=time.monotonic()))
            if record.given_up or time.monotonic() < record.next_try:
                continue
            try:
                self.restart(name, "swapped")
            except IN_THE_WAY as error:  # the others are well
                failed[name] = str(error)
                self._hindered(name, error, seen.get(name))
                if self.attendance[name].given_up and name in seen:  # or nobody would hold it to its budget
                    self.grid.end(name)
        return failed

    def restart(self, agent: str, why: str) -> None:
        """Start an agent's process anew, given up or not, and in a pane of its own also if it has none. Raises what is in the way, and then
        it is as it was."""
        self._found(agent)
        if agent in (self.grid.observe() or {}):
            self._respawn(agent, why=why)
            self._anew(agent)
        else:
            self._prepared(agent)
            self._anew(agent)
            self.seat_everybody()

    def _anew(self, agent: str) -> None:
        """A new life; what was said of a spent budget holds on, or each start would buy some minutes."""
        before = self.attendance.get(agent, Attendance())
        self.attendance[agent] = Attendance(
            born=time.monotonic(), budget_told=before.budget_told, budget_letter=before.budget_letter
        )

    def _respawn(self, agent: str, **more: Any) -> None:
        """Another process in the agent's pane, written down with `more`."""
        pane, told = self._prepared(agent)
        self.grid.respawn(pane)
        self._began(agent, "restarted", told, **more)
        self.grid.log_to(agent, self.seats[agent].folder / "screen.log")

    def _began(self, agent: str, what: str, told: str, **more: Any) -> None:
        seat = self.seats[agent]
        self.swapped.discard(agent)
        body = {"what": what, "backend": seat.backend, "role": seat.role, "prompt": told, "settings": dict(seat.settings), **more}
        self.lab.ledger.append("agent", body, agent)
        self.words.over(agent, time.time())  # with its process; another backend may have nothing that says so

    # Looking

    def attend(self) -> str:
        """Look at the panes; restart who died, slower each time, and give up on who dies again and again, or cannot be started. Returns who
        cannot be, and why; "" when nobody."""
        seen = self.grid.observe()
        if seen is None:
            if not self.grid.running():
                self.seat_everybody()
            return self._in_the_way()
        if self.swapped:
            self.start_swapped()
            seen = self.grid.observe() or seen
        now = time.monotonic()
        if (kills := starved()) != self.kills:
            self.kills, self.killed = kills, now
        missing = False
        for name in self.seats:
            record = self.attendance.setdefault(name, Attendance(born=now))
            pane = seen.get(name)
            if pane is not None and not pane.dead:
                if record.hindered and name not in self.swapped:  # it could be started after all
                    record.hindered, record.tries, record.next_try = "", 0, 0.0
                continue
            if record.given_up or (pane is not None and name in self.swapped):
                continue
            if pane is None:
                missing = missing or now >= record.next_try
                continue
            self._bring_back(name, pane, record, now)
        board = seen.get("board")
        if missing or board is None:
            self.seat_everybody()
            return self._in_the_way()
        if board.dead:
            self.grid.respawn(self.board())
        self.label(seen)
        return self._in_the_way()

    def _in_the_way(self) -> str:
        hindered = {name: record.hindered for name, record in self.attendance.items() if record.hindered and name in self.seats}
        return "; ".join(f"{name} cannot be started: {why}" for name, why in hindered.items())

    def _hindered(self, name: str, error: Exception, pane: PaneState | None) -> None:
        """An agent could not be started: it is tried again later and later, and given up in the end."""
        record = self.attendance[name]
        record.hindered, record.tries = str(error), record.tries + 1
        wait = self.design.process.restart.wait(record.tries)
        if wait is None:
            self._give_up(name, pane, record)
        else:
            record.next_try = time.monotonic() + wait

    def _give_up(self, name: str, pane: PaneState | None, record: Attendance) -> None:
        shown: list[str] = []
        with contextlib.suppress(UserError):  # with history: tmux's own word of the death scrolls the screen
            shown = self.grid.capture(name, 200).splitlines() if pane is not None else []
        last = [line.strip() for line in shown if line.strip() and not line.startswith("Pane is dead")]
        body = {
            "what": "gave_up", "restarts": record.restarts, "exit": pane.exit_status if pane else None,
            "signal": pane.exit_signal if pane else None, "memory": record.starved, "screen": "\n".join(last[-12:]),
            "hindered": record.hindered,
        }  # fmt: skip
        self.lab.ledger.append("agent", body, name)
        record.given_up = True

    def _bring_back(self, name: str, pane: PaneState, record: Attendance, now: float) -> None:
        if record.next_try == 0.0:
            pane = self._ended(name, pane)
            if now - record.born > self.design.process.restart.well_seconds:
                record.restarts = 0
            wait = self.design.process.restart.wait(record.restarts)
            record.starved = pane.exit_signal == "SIGKILL" and now - self.killed < STARVED
            if wait is None:
                self._give_up(name, pane, record)
            else:
                record.next_try = now + wait
        elif now >= record.next_try:
            how = {"exit": pane.exit_status, "signal": pane.exit_signal, "memory": record.starved, "restarts": record.restarts + 1}
            try:
                self._found(name)
                self._respawn(name, **how)
            except IN_THE_WAY as error:
                self._hindered(name, error, pane)
                return
            record.restarts, record.next_try, record.born = record.restarts + 1, 0.0, now
            record.hindered, record.tries = "", 0

    def _ended(self, name: str, pane: PaneState) -> PaneState:
        """The pane with how its process ended: tmux sees the terminal close first and hears of the exit later, at times only
        when it is made to look (`Grid.observe`). Waits at most a second: a signal is not told before tmux 3.3."""
        deadline = time.monotonic() + 1.0
        while pane.untold and time.monotonic() < deadline:
            time.sleep(0.05)
            pane = (self.grid.observe() or {}).get(name, pane)
        return pane

    def status(self, name: str, pane: PaneState | None, grid: Grid | None = None) -> AgentStatus:
        return look(self.home, self.seats[name], name, pane, True, self.lab.state, time.time(), grid)

    def label(self, seen: dict[str, PaneState]) -> None:
        """Who sits where and how it goes, on the borders; one call of tmux, and only when something changed."""
        labels, states, now = {}, {}, time.time()
        for name, seat in self.seats.items():
            status = self.status(name, seen.get(name), self.grid)
            trying = self.attendance.setdefault(name, Attendance()).waking
            held = f"mail waits: {why}" if (why := wake.held_up(trying, status.state)) else ""
            tells = status.state in ("needs_person", "rate_limited", "paused", "failed", "dead") or status.text.startswith(TRIES)
            why = self.attendance[name].hindered
            asks = f"cannot be started: {why}" if why else status.text if tells else ""
            parts = [
                name, seat.role, f"slot {seat.slot}" if seat.slot is not None else "",
                in_words(status.state, status.until, now), asks, status.experiment or "", held,
            ]  # fmt: skip
            labels[name], states[name] = " · ".join(part for part in parts if part), status.state
        if labels != self.labels:
            self.grid.label(labels, states)
            self.labels = labels
        minds = {name: base.load(seat.backend) for name, seat in self.seats.items() if seat.slot is not None}
        seats = {name: self.seats[name] for name, backend in minds.items() if backend.typed or backend.sent_on}
        for name, paths in self.touched.look(seats, states, self.task.editable, now).items():
            at_work = sorted(other for other, state in states.items() if state == "working")
            self.lab.ledger.append("agent", {"what": "touched", "paths": paths, "at_work": at_work}, name)

    def wake(self) -> str:
        """Wake who has mail and send on who has nothing to do. Twice a second. Returns who cannot be reached, and why; "" when nobody."""
        return self.words.wake(self.seats)


def _runs(pane: PaneState | None) -> bool:
    """Is the agent's own process there?"""
    return pane is not None and not pane.dead and not pane.placeholder
