"""The controller: the one daemon of a session. Desired (the design) against observed (facts), then the smallest action.

Runs outside tmux (`org.daemon`). It may be killed at any instant and started again: nothing is remembered but the ledger, the
request files and what is seen by looking. Doing a duty twice equals doing it once.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from comms.mailbox import Mail
from comms.message import MailError
from lab import speaker
from lab.backup import back_up
from lab.errors import UserError
from lab.files import read_json, remove, write_json
from lab.home import Home
from lab.laboratory import Laboratory
from lab.orders import Orders
from lab.process import Identity
from lab.requests import Request, answer, waiting
from lab.steps import Policy
from lab.takeover import taker
from org import design as designs
from org import levers, news, people, role, session, swap
from org.agents import base
from org.grid import Grid
from org.standup import Standups
from org.team import Team
from tasks.spec import Task
from worktrees.repo import GitError, Repo

log = logging.getLogger("orgctl")
TICK = 0.5
LOOK_EVERY = 2.0
"""Seconds between looks at what need not be known at once."""
PANES_EVERY = 1.0
"""Seconds between looks at the panes: with the time that a look takes, the borders are right within two seconds."""
COUNT_EVERY = 10.0
"""Seconds between looks at what the agents cost."""
BACKUP_EVERY = 3600.0
LONGEST_PAUSE = 30.0
"""Seconds after which a duty that fails is tried again at the latest."""
PEOPLE_REQUESTS = ("stop", "takeover", "release", "restart", "swap")


@dataclass
class Duty:
    """Something to do every so many seconds. When it fails it is tried again, later each time, and said once."""

    name: str
    every: float
    act: Callable[[], str | None]
    """Returns in words what is wrong with one agent or request while the rest was done: that is shown, and puts nothing off."""
    due: float = 0.0
    failures: int = 0
    said: str = ""

    def attend(self, now: float) -> None:
        if now < self.due:
            return
        try:
            self._say(self.act() or "")
            self.failures, self.due = 0, now + self.every
        except Exception as error:
            self.failures += 1
            self.due = now + min(LONGEST_PAUSE, max(self.every, TICK) * 2 ** min(self.failures, 6))
            self._say(str(error), None if isinstance(error, UserError | GitError | OSError) else error)

    def _say(self, words: str, error: Exception | None = None) -> None:
        if words and words != self.said:
            log.error("%s: %s", self.name, words, exc_info=error)
        self.said = words


@dataclass
class Controller:
    """One session at work."""

    home: Home
    size: tuple[int, int] = (220, 50)
    stopping: bool = False
    leaving: bool = False
    keep_runs: bool = False
    duties: list[Duty] = field(default_factory=list)
    until: float | None = None
    """When to stop by itself, in seconds since the epoch."""
    told: int | None = None
    """The last fact that letters were written about; None until that is known."""
    carried_out: dict[str, tuple[bool, dict[str, Any]]] = field(default_factory=dict)
    """Request -> its answer, as long as that could not be written down."""

    def __post_init__(self) -> None:
        self.session = designs.read(self.home)
        self.design = self.session.design
        self.task = Task.model_validate_json(self.home.task.read_text())
        self.repo = Repo(self.home.root, self.home.program)
        seats = self.design.seats(self.home)
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
                self.design.reviewers(),
            ),
            self.repo,
            session.slots_of(self.home, self.session),
            chiefs={seat.agent for seat in seats if seat.role in (role.CHIEF, role.HUMAN)},
            home_slots={seat.agent: seat.slot for seat in seats if seat.slot is not None},
            alone=True,
        )
        self.lab.refresh()  # who is seated goes by what is known
        self.orders = Orders(self.lab)
        self.grid = Grid(self.session.name, self.home)
        self.mail = Mail(self.home.comms)
        self.team = Team(self.home, self.design, self.task, self.repo, self.lab, self.grid, self.mail, self.size)
        self.standups = Standups(self.home, self.lab, self.mail, self.design, self.task)
        self.levers = levers.Levers(self.lab, self.design, self.task, self.standups)
        self.duties = self._duties()

    # Duties

    def _duties(self) -> list[Duty]:
        """What there is to do, in order. Each stands alone: a hung tmux or a full disk holds up only what needs it."""
        return [
            Duty("requests", 0.0, self._requests),
            Duty("laboratory", 0.0, self._laboratory),
            Duty("standup", LOOK_EVERY, self.standups.attend),
            Duty("letters", 0.0, self._tell),
            Duty("heartbeat", LOOK_EVERY, self._heartbeat),
            Duty("trunk", LOOK_EVERY, self.lab.mirror_trunk),
            Duty("panes", PANES_EVERY, self.team.attend),
            Duty("wake", 0.0, self.team.wake),
            Duty("costs", COUNT_EVERY, self.team.count),
            Duty("backup", BACKUP_EVERY, lambda: back_up(self.home, self.lab.ledger)),
        ]

    def _requests(self) -> str:
        try:
            self.lab.refresh()
        except sqlite3.DatabaseError:  # nothing can be believed any more, but who wants it to end is heard
            self.leaving = self.leaving or any(request.kind == "stop" for request in waiting(self.home))
            raise
        trouble, pile = [], waiting(self.home)
        self.carried_out = {one.id: self.carried_out[one.id] for one in pile if one.id in self.carried_out}
        for request in pile:
            self.team.words.note_typed(request.time)  # what was asked for in a turn that a person began is assisted, however short it was
            try:
                self._take(request)
            except OSError as error:  # those that come after it have theirs
                trouble.append(f"request {request.id[:60]} cannot be answered: {error}")
        return "; ".join(trouble)

    def _laboratory(self) -> None:
        self.lab.refresh()
        self.lab.step()
        self.lab.runs.start(time.time())

    def _take(self, request: Request) -> None:
        """Carry a request out and answer it. Raises OSError when the answer cannot be written: then it alone is tried again."""
        if request.id not in self.carried_out:
            self.carried_out[request.id] = self._outcome(request)
        found, body = self.carried_out[request.id]
        answer(self.home, request, found, **body)
        del self.carried_out[request.id]

    def _outcome(self, request: Request) -> tuple[bool, dict[str, Any]]:
        """The answer to a request, with what was done of it: does it succeed, and the answer's body."""
        try:
            return True, self._carry_out(request)
        except (UserError, GitError) as error:
            return False, {"error": str(error)}
        except Exception as error:  # whatever it is: a request that is not answered would hold up all that come after it
            log.exception("request %s", request.id)
            return False, {"error": f"the request could not be carried out ({type(error).__name__}): see .org/controller.log"}

    def _carry_out(self, request: Request) -> dict[str, Any]:
        """What a request asks for; returns the answer's body."""
        if request.kind == "malformed":
            raise UserError("the request file is not valid: use the orgctl commands")
        self._check_speaker(request)
        if request.kind in PEOPLE_REQUESTS:
            return self._person(request)
        if request.kind in levers.KINDS:
            return self.levers.take(request)
        if request.kind in ("run", "confirm", "control", "promote", "withdraw", "replicate", "audit", "carry"):
            if request.kind == "run":
                self.levers.check_run(request)
            return self.orders.take(request)
        raise UserError(f"unknown request {request.kind[:40]!r}")

    def _check_speaker(self, request: Request) -> None:
        """Nobody speaks but agents and people, and a process that lives in an agent's seat for nobody else. Raises UserError."""
        speaker.check_name(request.actor, list(self.team.seats))
        seat = speaker.other_seat(self.home, request.actor, request.pid, request.time) if request.pid is not None else ""
        if seat in self.team.seats:
            model = base.load(self.team.seats[seat].backend).spends_money
            refused = seat not in self.lab.state.taken_over or (model and request.kind == "release")
        else:
            refused = speaker.is_guest(self.home, seat)
        if refused:
            text = f"a process in {seat}'s seat (pid {request.pid}) asked for a {request.kind[:40]} in the name of {request.actor}: refused"
            self.lab.ledger.append("alarm", {"text": text}, seat)
            raise UserError(f"this runs in {seat}'s seat and may not speak as {request.actor}")

    def _person(self, request: Request) -> dict[str, Any]:
        self._check_person(request)
        if request.kind == "stop":
            self.stopping, self.keep_runs = True, bool(request.body.get("keep_runs"))
            return {}
        if request.kind == "swap":
            return self._swap(request)
        agent = str(request.body.get("agent", request.actor))
        if agent not in self.team.seats:
            raise UserError(f"there is no agent {agent[:40]!r} here: {', '.join(self.team.seats)}")
        if request.kind == "restart":
            self.team.restart(agent, "by request")
            return {"agent": agent}
        had = taker(self.lab.ledger, agent)
        fresh = had in ("", agent) and had != request.actor if request.kind == "takeover" else bool(had)
        if fresh:
            what = "taken_over" if request.kind == "takeover" else "released"
            self.lab.ledger.append("intervention", {"what": what}, agent, request.actor)
            self.lab.refresh()
        return {"agent": agent, "had": had}

    def _check_person(self, request: Request) -> None:
        """An agent's own process may only say that its own seat was taken over and given back, and give back what it said itself. Under one
        user id this is a rule, not a lock: whoever forges a request is found in the ledger. Raises UserError."""
        seat = self.team.seats.get(request.actor)
        if seat is None or seat.backend == "shell":
            return
        own = request.kind in ("takeover", "release") and request.body.get("agent", request.actor) == request.actor
        if own and request.kind == "takeover" and base.load(seat.backend).spends_money:
            raise UserError(f"{request.actor} is a model: that a person has its pane is for the person to say, by Ctrl-b t")
        if own and request.kind == "release" and taker(self.lab.ledger, request.actor) not in ("", request.actor):
            raise UserError(f"a person has taken {request.actor} over: a person gives it back, by Ctrl-b t or in a terminal of their own")
        if not own:
            people.check(seat, request.actor in self.lab.state.taken_over, request.kind)

    def _swap(self, request: Request) -> dict[str, Any]:
        """Give agents another role text or backend, and start them anew. Answers who was changed, and what there is to say of it."""
        words: list[str] = []
        wanted = swap.Swap.of(request.body)
        self.session, changed = swap.apply(self.home, self.session, wanted, self.lab.ledger, request.actor, words.append)
        self.design = self.session.design
        self.team.take(self.design)
        self.standups.design = self.levers.design = self.design
        words += [f"{name} cannot be started: {why}" for name, why in self.team.swap(changed).items()]
        for line in words:
            log.info("%s", line)
        return {"changed": swap.told(self.design, changed), "words": words}

    # Words

    def _tell(self) -> None:
        """Mail every agent what became of its experiments: nominations, verdicts, promotions. At least once each."""
        mark_file, last = self.home.org / "told.json", self.lab.state.last
        if self.told is None:
            self.told = _marked(mark_file, last)
        if self.told >= last:
            return
        for fact in self.lab.ledger.facts(after=self.told):
            self.told = fact.id
            try:
                letters = news.letters(fact, self.lab.state, list(self.team.seats), self.task)
            except Exception:  # one fact must not keep the letters about all others
                log.warning("fact %d (%s) is malformed: no letter about it", fact.id, fact.kind[:40])
                continue
            for name, kind, about, text in letters:
                try:
                    self.mail.send("lab", name, text, kind=kind, about=about)
                except (MailError, OSError) as error:  # one blocked inbox must not keep everybody's mail
                    log.error("letter to %s about %s: %s", name, about, error)
        self.told = max(self.told, last)
        write_json(mark_file, {"fact": self.told}, self.home.org)

    def _heartbeat(self) -> None:
        me = Identity.of(os.getpid())
        if me:
            trouble = {duty.name: duty.said[:500] for duty in self.duties if duty.said}
            word = {"pid": me.pid, "started": me.started, "heartbeat": time.time(), "trouble": trouble}
            write_json(self.home.controller, word, self.home.org)

    def _over(self) -> bool:
        """Is the time of `--for` over? It is remembered: a file that is taken away later does not make it endless."""
        moment = (read_json(self.home.until) or {}).get("time")
        if isinstance(moment, int | float):
            self.until = moment
        return self.until is not None and time.time() >= self.until

    # The loop

    def run(self) -> None:
        """Serve until a request to stop, the time of `--for`, or a signal; only the signal leaves everything as it is."""
        self.lab.vet()
        self.team.swapped.update(swap.resume(self.home, self.session, self.task, self.lab.ledger, self.lab.state))
        self.lab.refresh()
        self.team.found_worktrees()
        self.team.seat_everybody()
        self.team.start_swapped()
        unassigned, chiefs = self.design.process.standup.unassigned, sorted(self.lab.chiefs)
        self.lab.ledger.append(
            "session",
            {
                "up": time.time(), "policy": asdict(self.lab.policy), "chiefs": chiefs, "unassigned": unassigned,
                "agents": list(self.team.seats),
            },
        )  # fmt: skip
        self._heartbeat()
        while not self.stopping and not self.leaving:
            for duty in self.duties:
                if not self.stopping:
                    duty.attend(time.monotonic())
            self.stopping = self.stopping or self._over()
            if not self.stopping and not self.leaving:
                time.sleep(TICK)
        try:
            self.team.spending.note()
        finally:  # a full disk keeps nobody at work
            if self.stopping:
                shut_down(self.home, self.lab, self.grid, self.keep_runs)


def _marked(path: Path, last: int) -> int:
    """The fact up to which letters were written before, as that lies on disk. What is no such mark says so: from the last fact on, since
    all old letters once more would bury the new ones."""
    mark = (read_json(path) or {}).get("fact")
    if isinstance(mark, int) and not isinstance(mark, bool) and 0 <= mark <= last:
        return mark
    if os.path.lexists(path):
        log.warning("%s does not say which letters were written: the next one is about what comes after fact %d", path, last)
        return last
    return 0


def shut_down(home: Home, lab: Laboratory, grid: Grid, keep_runs: bool) -> None:
    """Stop agents and (unless kept) runs; keep every fact."""
    grid.kill()
    lab.refresh()
    if not keep_runs:
        lab.runs.stop_all()
    lab.ledger.append("session", {"stopped": time.time(), "kept_runs": keep_runs})
    try:
        back_up(home, lab.ledger)
    except (OSError, sqlite3.Error) as error:
        log.error("backup: %s", error)
    remove(home.until, home.org)
    remove(home.controller, home.org)
