"""The controller: the one daemon of a session. Desired (the design) against observed (facts), then the smallest action.

Runs outside tmux (`org.daemon`). It may be killed at any instant and started again: nothing is remembered but the ledger, the
request files and what is seen by looking. Doing a duty twice equals doing it once.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from comms.mailbox import Mail
from comms.message import MailError
from lab.backup import back_up
from lab.errors import UserError
from lab.experiment import Policy
from lab.files import read_json, write_json
from lab.home import Home
from lab.laboratory import Laboratory
from lab.process import Identity
from lab.requests import Request, answer, waiting
from org import design as designs
from org import news, role, session
from org.agents import base
from org.grid import Grid, PaneSpec, PaneState
from org.status import derive
from tasks.spec import Task
from worktrees.repo import GitError, Repo

log = logging.getLogger("orgctl")
TICK = 0.5
LOOK_EVERY = 2.0
"""Seconds between looks at the panes; a dead agent is noticed within this time."""
BACKUP_EVERY = 3600.0
LONGEST_PAUSE = 30.0
"""Seconds after which a duty that fails is tried again at the latest."""
PEOPLE_REQUESTS = ("stop", "takeover", "release", "restart")


@dataclass
class Attendance:
    """What the controller knows about keeping one agent alive; lost at a restart without harm."""

    restarts: int = 0
    born: float = 0.0
    next_try: float = 0.0
    given_up: bool = False


@dataclass
class Duty:
    """Something to do every so many seconds. When it fails it is tried again, later each time, and said once."""

    name: str
    every: float
    act: Callable[[], None]
    due: float = 0.0
    failures: int = 0
    said: str = ""

    def attend(self, now: float) -> None:
        if now < self.due:
            return
        try:
            self.act()
            self.failures, self.said, self.due = 0, "", now + self.every
        except Exception as error:
            self.failures += 1
            self.due = now + min(LONGEST_PAUSE, max(self.every, TICK) * 2 ** min(self.failures, 6))
            if str(error) != self.said:
                known = isinstance(error, UserError | GitError | OSError)
                log.error("%s: %s", self.name, error, exc_info=None if known else error)
                self.said = str(error)


@dataclass
class Controller:
    """One session at work."""

    home: Home
    size: tuple[int, int] = (220, 50)
    stopping: bool = False
    leaving: bool = False
    keep_runs: bool = False
    attendance: dict[str, Attendance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.session = designs.read(self.home)
        self.design = self.session.design
        self.task = Task.model_validate_json(self.home.task.read_text())
        self.repo = Repo(self.home.root)
        self.seats = {seat.agent: seat for seat in self.design.seats(self.home)}
        process = self.design.process
        self.lab = Laboratory(
            self.home,
            self.task,
            Policy(
                process.bank,
                tuple(process.confirm_stages),
                process.queue_ahead,
                self.design.confirmation,
                self.design.promotion,
                process.audit_every,
            ),
            self.repo,
            session.slots_of(self.home, self.session),
            chiefs={seat.agent for seat in self.seats.values() if seat.role in (role.CHIEF, role.HUMAN)},
            home_slots={seat.agent: seat.slot for seat in self.seats.values() if seat.slot is not None},
        )
        self.grid = Grid(self.session.name, self.home)
        self.mail = Mail(self.home.comms)
        self.labels: dict[str, str] = {}

    # Duties

    def duties(self) -> list[Duty]:
        """What there is to do, in order. Each stands alone: a hung tmux or a full disk holds up only what needs it."""
        return [
            Duty("requests", 0.0, self._requests),
            Duty("laboratory", 0.0, self._laboratory),
            Duty("letters", 0.0, self._tell),
            Duty("heartbeat", LOOK_EVERY, self._heartbeat),
            Duty("trunk", LOOK_EVERY, self.lab.mirror_trunk),
            Duty("panes", LOOK_EVERY, self._attend),
            Duty("backup", BACKUP_EVERY, lambda: back_up(self.home, self.lab.ledger)),
        ]

    def _requests(self) -> None:
        self.lab.refresh()
        for request in waiting(self.home):
            self._take(request)

    def _laboratory(self) -> None:
        self.lab.refresh()
        self.lab.step()
        self.lab.runs.start(time.time())

    def _take(self, request: Request) -> None:
        try:
            if request.kind == "malformed":
                raise UserError("the request file is not valid: use the orgctl commands")
            if request.kind in PEOPLE_REQUESTS:
                answer(self.home, request, True, **self._person(request))
            elif request.kind in ("run", "confirm", "promote", "withdraw", "audit", "carry"):
                answer(self.home, request, True, **self.lab.take(request))
            else:
                raise UserError(f"unknown request {request.kind[:40]!r}")
        except (UserError, GitError) as error:
            answer(self.home, request, False, error=str(error))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            log.exception("request %s", request.id)
            text = f"the request could not be carried out ({type(error).__name__}): see .org/controller.log"
            answer(self.home, request, False, error=text)

    def _person(self, request: Request) -> dict[str, str]:
        if request.kind == "stop":
            self.stopping, self.keep_runs = True, bool(request.body.get("keep_runs"))
            return {}
        agent = str(request.body.get("agent", request.actor))
        if agent not in self.seats:
            raise UserError(f"there is no agent {agent[:40]!r} here: {', '.join(self.seats)}")
        if request.kind == "restart":
            self.attendance[agent] = Attendance()
            self.grid.respawn(self._pane(agent))
            self.lab.ledger.append("agent", {"what": "restarted", "why": "by request"}, agent)
        else:
            what = "taken_over" if request.kind == "takeover" else "released"
            self.lab.ledger.append("intervention", {"what": what}, agent, request.actor)
        return {"agent": agent}

    # Words

    def _tell(self) -> None:
        """Mail every agent what became of its experiments: nominations, verdicts, promotions. At least once each."""
        mark_file = self.home.org / "told.json"
        mark = int((read_json(mark_file) or {}).get("fact", 0))
        if mark >= self.lab.state.last:
            return
        for fact in self.lab.ledger.facts(after=mark):
            try:
                letters = news.letters(fact, self.lab.state, list(self.seats), self.task)
            except (KeyError, TypeError, ValueError, AttributeError):
                log.warning("fact %d (%s) is malformed: no letter about it", fact.id, fact.kind[:40])
                continue
            for name, kind, about, text in letters:
                try:
                    self.mail.send("lab", name, text, kind=kind, about=about)
                except (MailError, OSError) as error:  # one blocked inbox must not keep everybody's mail
                    log.error("letter to %s about %s: %s", name, about, error)
        write_json(mark_file, {"fact": self.lab.state.last})

    # Agents

    def _pane(self, agent: str) -> PaneSpec:
        seat = self.seats[agent]
        launch = base.load(seat.backend).launch(seat)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        env = {**base.seat_env(seat), "PATH": path, "TERM": "tmux-256color", **launch.env}
        return PaneSpec(agent, seat.role, launch.argv, launch.cwd, env)

    def _board(self) -> PaneSpec:
        return PaneSpec(
            "board",
            "board",
            [sys.executable, "-I", "-m", "org.board"],
            self.home.root,
            {"ORGCTL_HOME": str(self.home.root)},
        )

    def found_worktrees(self) -> None:
        """A worktree and branch for every agent that has a slot."""
        for seat in self.seats.values():
            if seat.slot is not None:
                note = self.repo.add_worktree(seat.agent, seat.worktree, self.lab.state.trunk)
                if note:
                    log.warning("%s", note)
            seat.folder.mkdir(parents=True, exist_ok=True)
            (self.home.comms / "inbox" / seat.agent / "new").mkdir(parents=True, exist_ok=True)
        (self.home.comms / "inbox" / "person" / "new").mkdir(parents=True, exist_ok=True)

    def seat_everybody(self) -> None:
        """Open the grid and start who is missing; touch nobody who is well."""
        before = self.grid.running()
        for name in self.grid.ensure(self._board(), [self._pane(name) for name in self.seats], self.size):
            if name in self.seats:
                what = "restarted" if before else "started"
                self.lab.ledger.append(
                    "agent", {"what": what, "backend": self.seats[name].backend, "role": self.seats[name].role}, name
                )
                self.attendance[name] = Attendance(born=time.monotonic())
        for name in self.seats:
            self.grid.log_to(name, self.seats[name].folder / "screen.log")

    def _attend(self) -> None:
        """Look at the panes; restart who died, slower each time, and give up on who dies again and again."""
        seen = self.grid.observe()
        if seen is None:
            if not self.grid.running():
                self.seat_everybody()
            return
        now = time.monotonic()
        for name in self.seats:
            pane = seen.get(name)
            record = self.attendance.setdefault(name, Attendance(born=now))
            if record.given_up or (pane is not None and not pane.dead):
                continue
            if pane is None:
                self.seat_everybody()
                return
            if record.next_try == 0.0:
                if now - record.born > self.design.process.restart.well_seconds:
                    record.restarts = 0
                wait = self.design.process.restart.wait(record.restarts)
                if wait is None:
                    record.given_up = True
                    last = [line.strip() for line in self.grid.capture(name).splitlines() if line.strip()]
                    body = {
                        "what": "gave_up",
                        "restarts": record.restarts,
                        "exit": pane.exit_status,
                        "screen": "\n".join(last[-5:]),
                    }
                    self.lab.ledger.append("agent", body, name)
                    continue
                record.next_try = now + wait
            elif now >= record.next_try:
                record.restarts, record.next_try, record.born = record.restarts + 1, 0.0, now
                self.found_worktrees()
                self.grid.respawn(self._pane(name))
                self.lab.ledger.append(
                    "agent",
                    {
                        "what": "restarted",
                        "exit": pane.exit_status,
                        "signal": pane.exit_signal,
                        "restarts": record.restarts,
                    },
                    name,
                )
        board = seen.get("board")
        if board is None or board.dead:
            self.grid.respawn(self._board()) if board else self.seat_everybody()
        self._label(seen)

    def _label(self, seen: dict[str, PaneState]) -> None:
        """Who sits where and how it goes, on the borders; one call of tmux, and only when something changed."""
        labels, states = {}, {}
        for name, seat in self.seats.items():
            events = base.read_events(self.home, name, 20)
            status = derive(name, seen.get(name), True, events, self.lab.state, time.time())
            parts = [name, seat.role, f"slot {seat.slot}" if seat.slot is not None else "", status.state, status.experiment or ""]
            labels[name], states[name] = " · ".join(part for part in parts if part), status.state
        if labels != self.labels:
            self.grid.label(labels, states)
            self.labels = labels

    def _heartbeat(self) -> None:
        me = Identity.of(os.getpid())
        if me:
            write_json(self.home.controller, {"pid": me.pid, "started": me.started, "heartbeat": time.time()})

    # The loop

    def run(self) -> None:
        """Serve until a request to stop, the time of `--for`, or a signal; only the signal leaves everything as it is."""
        self.lab.refresh()
        self.found_worktrees()
        self.seat_everybody()
        self.lab.ledger.append("session", {"up": time.time(), "policy": asdict(self.lab.policy)})
        self._heartbeat()
        duties = self.duties()
        while not self.stopping and not self.leaving:
            for duty in duties:
                if not self.stopping:
                    duty.attend(time.monotonic())
            until = read_json(self.home.until)
            if until and isinstance(until.get("time"), int | float) and time.time() >= until["time"]:
                self.stopping = True
            if not self.stopping and not self.leaving:
                time.sleep(TICK)
        if self.stopping:
            shut_down(self.home, self.lab, self.grid, self.keep_runs)


def shut_down(home: Home, lab: Laboratory, grid: Grid, keep_runs: bool) -> None:
    """Stop agents and (unless kept) runs; keep every fact."""
    grid.kill()
    lab.refresh()
    if not keep_runs:
        lab.runs.stop_all()
    lab.ledger.append("session", {"stopped": time.time(), "kept_runs": keep_runs})
    back_up(home, lab.ledger)
    home.until.unlink(missing_ok=True)
    home.controller.unlink(missing_ok=True)
