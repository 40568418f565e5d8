"""The controller: the one daemon of a session. Desired (the design) against observed (facts), then the smallest action.

Runs outside tmux as `python -I -m org.controller ROOT`. It may be killed at any instant and started again: nothing is remembered
but the ledger, the request files and what is seen by looking. Doing a tick twice equals doing it once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from comms.mailbox import Mail
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
PEOPLE_REQUESTS = ("stop", "takeover", "release", "restart")


@dataclass
class Attendance:
    """What the controller knows about keeping one agent alive; lost at a restart without harm."""

    restarts: int = 0
    born: float = 0.0
    next_try: float = 0.0
    given_up: bool = False


@dataclass
class Controller:
    """One session at work."""

    home: Home
    size: tuple[int, int] = (220, 50)
    stopping: bool = False
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
            ),
            self.repo,
            session.slots_of(self.home, self.session),
            chiefs={seat.agent for seat in self.seats.values() if seat.role in (role.CHIEF, role.HUMAN)},
            home_slots={seat.agent: seat.slot for seat in self.seats.values() if seat.slot is not None},
        )
        self.grid = Grid(self.session.name, self.home)
        self.mail = Mail(self.home.comms)
        self.looked = self.backed_up = 0.0
        self.labels: dict[str, str] = {}

    # One tick

    def tick(self) -> None:
        """Everything once: requests, results and verdicts, runs, words, panes."""
        self.lab.refresh()
        for request in waiting(self.home):
            self._take(request)
        if self.stopping:
            return
        self.lab.step()
        self.lab.start_runs()
        self._tell()
        now = time.monotonic()
        if now - self.looked >= LOOK_EVERY:
            self.looked = now
            self.lab.mirror_trunk()
            self._attend()
            self._heartbeat()
        if now - self.backed_up >= BACKUP_EVERY:
            self.backed_up = now
            back_up(self.home, self.lab.ledger)

    def _take(self, request: Request) -> None:
        try:
            if request.kind == "malformed":
                raise UserError("the request file is not valid: use the orgctl commands")
            if request.kind in PEOPLE_REQUESTS:
                answer(self.home, request, True, **self._person(request))
            elif request.kind in ("run", "confirm", "promote", "withdraw"):
                answer(self.home, request, True, **self.lab.take(request))
            else:
                raise UserError(f"unknown request {request.kind[:40]!r}")
        except (UserError, GitError) as error:
            answer(self.home, request, False, error=str(error))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            log.exception("request %s", request.id)
            answer(
                self.home,
                request,
                False,
                error=f"the request could not be carried out ({type(error).__name__}): see .org/controller.log",
            )

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
        """Mail every agent what became of its experiments: verdicts, promotions, ends of runs. At least once each."""
        mark_file = self.home.org / "told.json"
        mark = int((read_json(mark_file) or {}).get("fact", 0))
        if mark >= self.lab.state.last:
            return
        for fact in self.lab.ledger.facts(after=mark):
            for name, kind, about, text in news.letters(fact, self.lab.state, list(self.seats), self.task):
                self.mail.send("lab", name, text, kind=kind, about=about)
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
        """Serve until asked to stop. A user-level failure (full disk, git trouble) is logged and tried again."""
        self.lab.refresh()
        self.found_worktrees()
        self.lab.reap()
        self.seat_everybody()
        self._heartbeat()
        failures = 0
        while not self.stopping:
            began = time.monotonic()
            try:
                self.tick()
                failures = 0
            except (UserError, GitError, OSError) as error:
                failures += 1
                log.error("%s", error)
            except Exception:
                failures += 1
                log.exception("tick failed")
                if failures >= 20:
                    raise
            pause = TICK if not failures else min(30.0, TICK * 2**failures)
            until = began + pause
            while not self.stopping and time.monotonic() < until:
                time.sleep(max(0.0, min(TICK, until - time.monotonic())))
        shut_down(self.home, self.lab, self.grid, self.keep_runs)


def shut_down(home: Home, lab: Laboratory, grid: Grid, keep_runs: bool) -> None:
    """Stop agents and (unless kept) runs; keep every fact."""
    grid.kill()
    lab.refresh()
    if not keep_runs:
        lab.stop_runs()
    lab.ledger.append("session", {"stopped": time.time(), "kept_runs": keep_runs})
    back_up(home, lab.ledger)
    home.controller.unlink(missing_ok=True)


def alive(home: Home) -> Identity | None:
    """The controller that serves this home, if one does."""
    found = read_json(home.controller)
    if not found:
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        identity = Identity(int(found["pid"]), float(found["started"]))
        return identity if identity.alive() else None
    return None


def start(home: Home, size: tuple[int, int], seconds: float = 30) -> Identity:
    """Start the controller as a daemon and wait until it serves. Raises UserError with its last words when it does not."""
    log_path = home.org / "controller.log"
    with open(log_path, "ab") as handle:
        child = subprocess.Popen(
            [sys.executable, "-I", "-m", "org.controller", str(home.root), str(size[0]), str(size[1])],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
            cwd=home.root,
        )
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        identity = alive(home)
        if identity:
            return identity
        if child.poll() is not None:
            break
        time.sleep(0.05)
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    raise UserError(f"the controller did not start: {lines[-1] if lines else 'it said nothing'} (log: {log_path})")


def main() -> int:
    parser = argparse.ArgumentParser(description="The controller of one session (started by `orgctl up`).")
    parser.add_argument("root", type=Path)
    parser.add_argument("columns", type=int)
    parser.add_argument("rows", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    home = Home(options.root)
    lock = FileLock(home.locks / "controller.lock", timeout=0)
    try:
        with lock:
            controller = Controller(home, (options.columns, options.rows))

            def stop(number: int, frame: FrameType | None) -> None:
                controller.stopping = True

            signal.signal(signal.SIGTERM, stop)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            controller.run()
    except Timeout:
        print(f"another controller serves {home.root} already", file=sys.stderr)
        return 3
    except (UserError, GitError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
