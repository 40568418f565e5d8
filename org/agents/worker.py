"""One self-driven agent's process: follows the ledger and its mail, obeys keys, asks the controller without waiting,
draws.

The researcher (`sweep.py`) and the chief (`sweep_chief.py`) fill in `step` and `sections`. Nothing here may end the
agent but SIGTERM: no controller, a locked ledger and refusals are shown and waited out.
"""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rich.text import Text

from comms.mailbox import Mail, MailError, Message
from lab import client, requests
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.records import Experiment
from lab.state import State, View
from lab.text import clean
from org import design, reports
from org.agents import shell
from org.agents.console import FAINT, Keys, Screen, Section, headline, page, served
from org.agents.event import read_events, write_event
from tasks.spec import Task, TaskError
from worktrees.repo import GitError, Repo

LOOK_EVERY = 1.0
"""Seconds between looks at the ledger and the mail."""
TROUBLE_SECONDS = 3.0
"""After a failure that may pass, wait this long before the next step."""
PASSING = (UserError, GitError, TaskError, MailError, sqlite3.Error, OSError)
"""What may go wrong and come right again without us."""


MOVED = "trunk has moved: "
"""Opens the reason of a withdrawal that says nothing against the idea: it may be tried again on the new trunk."""


def superseded(state: State, experiment: Experiment) -> str | None:
    """Why an undecided experiment is not worth its runs any more: trunk has moved on one of its own knobs."""
    base = experiment.attempts[-1].parent if experiment.attempts else experiment.base
    steps = [step.commit for step in state.trunks]
    for step in state.trunks[steps.index(base) + 1 if base in steps else len(steps) :]:
        promoted = state.experiments.get(step.experiment)
        shared = sorted(set(promoted.params) & set(experiment.params)) if promoted and not promoted.reverted else []
        if promoted and shared:
            return f"{MOVED}{promoted.id}, promoted since, turned {', '.join(shared)} too"
    return None


@dataclass(frozen=True)
class Asked:
    """A request that the controller has not answered yet."""

    id: str
    kind: str
    experiment: str


class Worker(ABC):
    """An agent at work. Subclasses decide in `step`, hear of answers in `answered`, and show `sections`."""

    plan = "goes on with its study of the knobs."
    """What it tells a standup that it does next, where nobody assigned it."""

    def __init__(self, home: Home, agent: str, role: str) -> None:
        """Raises UserError when the home holds no valid session."""
        self.home, self.agent, self.role = home, agent, role
        self.design = design.read(home).design
        self.task = Task.model_validate_json(home.task.read_text(encoding="utf-8"))
        self.view = View(Ledger(home.ledger))
        self.repo = Repo(home.root, home.program)
        self.mail = Mail(home.comms)
        self.paused = False
        self.asked: list[Asked] = []
        self.log: deque[tuple[float, str, str]] = deque(maxlen=30)
        self.now = ("starting", "")
        self.rest_until = self.looked = 0.0
        self.seed_word = ""
        """The session's first fact: makes the same agent's choices differ between sessions and repeat within one."""

    @abstractmethod
    def step(self) -> None:
        """One decision, if one is due. Must not wait."""

    @abstractmethod
    def sections(self, width: int) -> list[Section]:
        """What the pane shows below the headline."""

    @abstractmethod
    def answered(self, asked: Asked, answer: dict[str, Any]) -> None:
        """The controller answered {"ok": bool, ...}."""

    @abstractmethod
    def skip(self) -> None:
        """The key `s`."""

    @abstractmethod
    def heard(self, message: Message) -> None:
        """A message arrived."""

    @abstractmethod
    def learned(self, facts: list[Fact]) -> None:
        """The ledger grew."""

    @property
    def title(self) -> str:
        """What the headline says this agent is at."""
        return ""

    @property
    def minimize(self) -> bool:
        return self.task.metric.direction == "minimize"

    # Saying

    def say(self, state: str, text: str) -> None:
        """The agent's state from now on; an event when it changed."""
        if (state, text) != self.now:
            self.now = (state, text)
            write_event(self.home, self.agent, state, text)
            if not self.screen.console.is_terminal:
                print(f"{self.agent} {state}: {clean(text)}", flush=True)

    def note(self, text: str, style: str = "") -> None:
        """A line for the pane's log."""
        if not self.log or self.log[-1][1] != text:
            self.log.append((time.time(), text, style))

    def log_section(self) -> Section:
        """The pane's own log, newest first."""
        lines = [
            Text.assemble((time.strftime("%H:%M:%S ", time.localtime(when)), FAINT), (clean(text, 300), style))
            for when, text, style in reversed(self.log)
        ]
        return Section("log", lines, least=1, rank=4)

    # Asking

    def ask(self, kind: str, experiment: str, **body: Any) -> None:
        """Ask the controller; `answered` is called when it has answered, at once or later."""
        try:
            answer = client.request(self.home, kind, self.agent, {"experiment": experiment, **body}, seconds=0)
        except UserError as error:
            self.answered(Asked("", kind, experiment), {"ok": False, "error": str(error)})
            return
        if "waiting" in answer:
            self.asked.append(Asked(str(answer["waiting"]), kind, experiment))
        else:
            self.answered(Asked("", kind, experiment), answer)

    def adopt(self) -> None:
        """Take up what an earlier life of this agent asked and nobody answered yet."""
        for request in requests.waiting(self.home):
            if request.actor == self.agent and isinstance(request.body.get("experiment"), str):
                self.asked.append(Asked(request.id, request.kind, request.body["experiment"]))

    def _collect(self) -> None:
        for asked in list(self.asked):
            answer = requests.wait_answer(self.home, asked.id, 0)
            if answer is not None:
                self.asked.remove(asked)
                self.answered(asked, answer)

    # Looking

    def look(self) -> None:
        """Follow the ledger and the mail. A fact that this version cannot read is passed over."""
        new = self.view.refresh()
        if new and not self.seed_word:
            self.seed_word = new[0].hash
        if new:
            self.learned(new)
        for message in self.mail.each(self.agent):
            if message.kind == "standup" and message.sender == "lab":
                self.report()
            else:
                self.heard(message)
        self._collect()

    def report(self) -> None:
        """Answer the standup that is open by what the ledger says of this agent's work; late, there is nothing to say."""
        meetings = list(self.view.state.direction.standups.values())
        if not meetings or meetings[-1].closed is not None or self.agent not in meetings[-1].agents:
            return
        since = meetings[-2].opened if len(meetings) > 1 else 0.0
        said = reports.own(self.view.state, self.agent, since, time.time(), self.task.metric.unit, self.plan)
        if self.paused:
            said["blocked"] = "- paused by a person."
        text = reports.render(meetings[-1].id, self.agent, said)
        reports.submit(self.home, self.view.state, self.agent, text, self.design.process.standup.limit)
        self.note(f"reports to standup {meetings[-1].number}")

    # Taking over

    def leave(self, keys: Keys, screen: Screen) -> None:
        """A person takes this seat: a shell until it ends. What they left uncommitted is committed, so that nothing is
        lost.
        """
        requests.ask(self.home, "takeover", self.agent, {})
        self.say("taken_over", "a person has taken this seat")
        keys.__exit__()
        screen.__exit__()
        folder = self.home.worktrees / self.agent
        folder = folder if folder.is_dir() else self.home.root
        banner = (
            f"You have taken over {self.agent}: runs started now count as assisted. `exit` gives the seat back.\n"
            "  orgctl exp propose --hypothesis ... --mechanism ...   then edit, then: orgctl exp run E0001\n"
            "  orgctl exp list    orgctl status    orgctl --help\n"
        )
        try:
            shell.visit(self.agent, folder, banner)
        finally:
            requests.ask(self.home, "release", self.agent, {})
            self.say("starting", "the person gave the seat back")
            keys.__enter__()
            screen.__enter__()
        self.returned()

    @abstractmethod
    def returned(self) -> None:
        """The person has left the seat."""

    # The loop

    def run(self) -> int:
        """Work until SIGTERM."""

        def stop(number: int, frame: FrameType | None) -> None:
            raise SystemExit(0)

        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        last = read_events(self.home, self.agent)
        if last and last[0]["state"] == "taken_over":  # this seat's process died under the person: their shell is gone
            requests.ask(self.home, "release", self.agent, {})
        self.screen = Screen()
        self.adopt()
        with Keys() as keys, self.screen:
            self.say("starting", "reads the ledger")
            while True:
                self._beat(keys)

    def _beat(self, keys: Keys) -> None:
        key = keys.read(0.25)
        try:
            if key:
                self._obey(key, keys)
            if time.monotonic() - self.looked >= LOOK_EVERY:
                self.looked = time.monotonic()
                self.look()
                if self.paused:
                    self.say("paused", "no new decisions: press p to go on")
                elif self.agent in self.view.state.taken_over:
                    self.say("taken_over", f"a person has taken this seat: `orgctl release {self.agent}` gives it back")
                elif time.monotonic() >= self.rest_until:
                    self.step()
            if self.screen.due:
                self._draw()
        except PASSING as error:
            self.note(f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error), "yellow")
            self.rest_until = time.monotonic() + TROUBLE_SECONDS

    def _obey(self, key: str, keys: Keys) -> None:
        if key == "p":
            self.paused = not self.paused
            self.say("paused" if self.paused else "waiting", "paused by a person" if self.paused else "goes on")
        elif key == "s":
            self.skip()
        elif key == "q":
            self.leave(keys, self.screen)

    def _draw(self) -> None:
        width, height = self.screen.size
        head = headline(self.agent, self.role, self.title, *self.now, served(self.home))
        self.screen.draw(page([head, *self.sections(width)], width, height))


def start(worker: type[Worker], home: Home, agent: str, role: str) -> int:
    """Run a worker; 2 and one line when it cannot even begin."""
    try:
        return worker(home, agent, role).run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
