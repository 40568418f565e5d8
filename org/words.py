"""What goes into the panes of agents, and what people typed there: who has mail is woken, who has nothing to do is sent on, and the turns
that people began are written down. Called by `org.team`, whose `attendance` it shares.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field

from comms.mailbox import Mail
from comms.message import MailError
from lab.disowned import counted
from lab.home import Home
from lab.laboratory import Laboratory
from lab.requests import waiting
from org import nudge, wake
from org.agents import base
from org.agents.base import Seat
from org.agents.event import read_events
from org.attendance import Attendance
from org.grid import Grid
from org.panes import PaneState
from org.status import AgentStatus, look
from org.typed import LAG, Typed, What

log = logging.getLogger("orgctl")


@dataclass
class Words:
    """What is said to everybody, and by people in everybody's pane."""

    home: Home
    lab: Laboratory
    grid: Grid
    mail: Mail
    attendance: dict[str, Attendance]
    """The team's own."""
    agents: InitVar[list[str]]
    typed: dict[str, Typed] = field(init=False)

    def __post_init__(self, agents: list[str]) -> None:
        self.typed = {name: Typed(self.home, name) for name in agents}
        for fact in counted(self.lab.ledger, "intervention"):
            if fact.subject in self.typed and fact.body.get("what") == "typed":
                at = fact.body.get("at")
                self.typed[fact.subject].noted = at if isinstance(at, float) else fact.time

    def wake(self, seats: Mapping[str, Seat]) -> str:
        """Type a line where mail waits for an idle agent, and send on those that have nothing to do. Twice a second. Returns who cannot be
        reached, and why; "" when nobody."""
        self.note_typed()
        reached = {name: base.load(seat.backend) for name, seat in seats.items()}
        if not any(backend.typed or backend.sent_on for backend in reached.values()):
            return ""
        seen, trouble = self.grid.observe() or {}, []
        for name, backend in reached.items():
            pane = seen.get(name)
            if pane is None or pane.dead or not (backend.typed or backend.sent_on):
                continue
            try:
                self._reach(seats[name], backend, pane)
            except Exception as error:  # whatever it is: a backend, which may be another package's, reads what an agent lets it see
                trouble.append(f"{name} cannot be woken: {error}")
        return "; ".join(trouble)

    def _reach(self, seat: Seat, backend: base.Backend, pane: PaneState) -> None:
        name = seat.agent
        record = self.attendance.setdefault(name, Attendance())
        status = look(self.home, seat, name, pane, True, self.lab.state, time.time())
        if backend.typed:
            self.end_typed(name, status)
        if backend.sent_on and record.budget_told is None:
            self._send_on(seat, record, status)
        if backend.typed:
            self._wake(name, backend, record, status, pane)

    def _wake(self, name: str, backend: base.Backend, record: Attendance, status: AgentStatus, pane: PaneState) -> None:
        unread, first = self.mail.waiting(name), self.mail.oldest(name)
        if record.budget_told is not None:  # only for the letter that says so; a prompt in a pane taken over hands over nothing
            first = f"{record.budget_letter}.md"
            unread = int(bool(record.budget_letter) and (self.mail.folders(name)[0] / first).exists())
        if not unread and record.waking == wake.IDLE:
            return
        now = time.time()
        heard, typed = _heard(self.home, name), self.grid.clients_on(name)
        box = backend.box(self.grid.capture(name, escapes=True)) if status.state in wake.CALM else None  # last: it is what Enter meets
        sight = wake.Sight(status.state, unread, box, heard, typed, pane.in_mode, first)
        move, record.waking = wake.decide(sight, record.waking, now)
        if move == "paste":
            self.grid.paste(name, wake.LINE)
        elif move == "enter":
            self.grid.enter(name)
        elif move == "undelivered":
            body = {"what": "undelivered", "unread": unread, "why": record.waking.why}
            self.lab.ledger.append("agent", body, name)

    def _send_on(self, seat: Seat, record: Attendance, status: AgentStatus) -> None:
        """The process's word to an agent that is idle with nothing under way."""
        name, now = seat.agent, time.time()
        if status.state != "idle" or seat.role in nudge.NEVER:
            record.idle_since = None
            return
        mine = sum(one.agent == name for one in self.lab.state.experiments.values())
        if mine != record.proposals:
            record.words, record.proposals = 0, mine
        record.idle_since = record.idle_since or now
        due = record.words < nudge.MOST and now - record.idle_since >= nudge.wait(record.words)
        if due and not self.mail.waiting(name):
            try:
                self.mail.send("org", name, nudge.text(self.lab.state, name, seat.role), kind="process")
            except (MailError, OSError) as error:
                log.error("a word to %s: %s", name, error)
            record.idle_since, record.words = now, record.words + 1

    # What people type

    def note_typed(self, until: float | None = None) -> None:
        """Write down the turns that people began by typing into a pane, by then (seconds since the epoch). None: all there are, but
        not beyond the oldest request that waits, since whether that was made in such a turn is asked when it is taken."""
        for typed in self.typed.values():
            typed.read()
        if until is None:  # asked for after the events were read: no turn is over before what was asked for in it is seen
            until = min((request.time for request in waiting(self.home) if request.time is not None), default=None)
        for name, typed in self.typed.items():
            self._note(name, typed.moves(until))
            if name in self.lab.state.typed_in and typed.begun is None and not typed.ahead:  # told by one that looked at it otherwise
                self._note(name, [("typed_end", time.time())])

    def _note(self, name: str, moves: list[tuple[What, float]]) -> None:
        for what, moment in moves:
            if what == "typed" or name in self.lab.state.typed_in:
                self.lab.ledger.append("intervention", {"what": what, "at": moment}, name, "person")
                self.lab.refresh()

    def over(self, name: str, now: float) -> None:
        """The turn that a person began in an agent's pane, if any, is over."""
        self.typed[name].over(now)
        self.note_typed()

    def end_typed(self, name: str, status: AgentStatus) -> None:
        """An interrupt and an error of the API end a turn and are no event of every CLI: its own records say that it is idle."""
        begun, now = self.typed[name].begun, time.time()
        if begun is None or status.state not in (*wake.CALM, "rate_limited", "dead", "failed"):
            return
        dated = status.state != "waiting" and status.since is not None  # one that waits is dated by its run
        if (status.since or 0.0) >= begun if dated else now - begun > LAG:
            self.over(name, now)


def _heard(home: Home, name: str) -> float | None:
    """When an agent last took in a prompt, by its events."""
    events = read_events(home, name, 50)
    return next((float(event["time"]) for event in reversed(events) if event.get("hook") == "UserPromptSubmit"), None)
