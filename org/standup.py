"""The standup: ask everybody, collect reports, check them, write the digest. One duty of the controller; it never waits.

What is going on is in the ledger (`standup` opened, closed) and in the folder of the standup, so a controller that is killed in the
middle goes on where it was. Runs go on meanwhile. The choice that matters most: nobody can hold it up. By the deadline it closes with
what there is, and says who is missing and what was set aside.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from dataclasses import dataclass
from typing import Any

from comms.mailbox import Mail
from comms.message import MailError
from lab.areas import PERSON
from lab.direction import Standup
from lab.errors import UserError
from lab.files import make_folder, write_atomic
from lab.home import Home
from lab.laboratory import Laboratory
from lab.state import State
from org import meeting, reports
from org.decisions import Rules
from org.design import Design
from org.digest import Said, digest, examine
from org.recorded import Known
from org.reports import Report
from tasks.spec import Task
from worktrees.aside import set_aside

log = logging.getLogger("orgctl")
POST = "lab"
"""The mailbox to which a report may be sent."""
STRANGERS = 10
"""Reports of nobody who was asked that are named."""


@dataclass
class Collected:
    """What lies in a standup's folder."""

    reports: dict[str, Report]
    aside: dict[str, str]
    """File -> why it is no report."""


@dataclass
class Standups:
    """The standups of one session."""

    home: Home
    lab: Laboratory
    mail: Mail
    design: Design
    task: Task

    @property
    def state(self) -> State:
        return self.lab.state

    def attend(self) -> None:
        """Open a standup when one is due; collect and, in time, close the one that is open."""
        now = time.time()
        current = self.state.direction.standup
        if current is None or current.closed is not None:
            if why := meeting.due(self.design.process.standup, self.state, now):
                self.open(why, "lab")
            return
        self._take_mail(current)
        found = self.collect(current)
        if now >= current.deadline or set(found.reports) >= set(current.agents):
            self._close(current, found, now)

    def call(self, actor: str) -> dict[str, Any]:
        """Somebody asks for a standup now. Raises UserError while one is open."""
        current = self.state.direction.standup
        if current is not None and current.closed is None:
            left = max(0.0, current.deadline - time.time())
            raise UserError(f"standup {current.number} is open for {left:.0f} more seconds: then `orgctl standup show` has its digest")
        return {"standup": self.open(f"called by {actor}", actor)}

    def open(self, why: str, actor: str) -> int:
        """Open the next standup: from now on reports are taken. Returns its number."""
        number = len(self.state.direction.standups) + 1
        folder = reports.folder(self.home, number)
        try:
            if os.path.lexists(folder):  # nobody's report was due before
                set_aside(folder)
            make_folder(folder, self.home.org)
        except OSError as error:  # reports may come by mail all the same
            log.error("standup %d: %s", number, error)
        now = time.time()
        body = {
            "what": "opened", "number": number, "why": why, "agents": [name for name in self.design.names if name != self.design.chief],
            "deadline": now + meeting.seconds(self.design.process.standup.deadline), "finished": meeting.finished(self.state),
        }  # fmt: skip
        self.lab.ledger.append("standup", body, f"S{number:04d}", actor)
        self.lab.refresh()
        return number

    def _take_mail(self, current: Standup) -> None:
        """Mail to the laboratory from whom it asked is a report. It is marked as read when it lies in the folder."""
        try:
            letters = self.mail.inbox(POST)
        except MailError as error:
            log.warning("reports by mail: %s", error)
            return
        for message in letters:
            try:
                if message.sender in current.agents and message.time >= current.opened:
                    write_atomic(reports.folder(self.home, current.number) / f"{message.sender}.md", message.body, self.home.org)
                elif message.sender != PERSON:
                    log.info("mail of %s to the laboratory is no report", message.sender)
                self.mail.read(POST, message.id)
            except (MailError, OSError) as error:
                log.warning("mail %s: %s", message.id, error)

    def collect(self, current: Standup) -> Collected:
        """Every report that lies there now, and what was set aside with the reason."""
        limit = self.design.process.standup.limit
        found = Collected({}, {})
        folder = reports.folder(self.home, current.number)
        for agent in current.agents:
            try:
                report = reports.handed_in(self.home, current.number, agent, limit)
            except ValueError as error:
                found.aside[f"{agent}.md"] = str(error)
                continue
            if report is not None:
                found.reports[agent] = report
        known = {f"{agent}.md" for agent in current.agents} | {"digest.md"}
        there: list[str] = []
        with contextlib.suppress(OSError):  # who took it away or locked it must not keep the meeting open
            there = os.listdir(folder)
        strange = sorted(name for name in there if name not in known and not name.startswith("."))
        found.aside |= dict.fromkeys(strange[:STRANGERS], "is of nobody who was asked")
        return found

    def _close(self, current: Standup, found: Collected, now: float) -> None:
        """Check what was said, write the digest, and close."""
        said: list[Said] = []
        known = Known(self.state, self.task)
        for agent, report in found.reports.items():
            try:
                said.append(examine(agent, report, known, self.design.names, self.design.chief))
            except Exception as error:  # a report must not keep the meeting open
                log.exception("report of %s", agent)
                found.aside[f"{agent}.md"] = f"could not be checked ({type(error).__name__})"
        reported = [one.agent for one in said]
        missing = [agent for agent in current.agents if agent not in reported]
        page = digest(self.home, self.state, self.task, rules(self.design), said, missing, found.aside, now)
        try:
            write_atomic(reports.folder(self.home, current.number) / "digest.md", page, self.home.org)
        except OSError as error:  # the fact has the page too
            log.error("digest of standup %d: %s", current.number, error)
        body = {
            "what": "closed", "reported": reported, "missing": missing, "aside": found.aside,
            "claims": sum(one.claims for one in said), "flagged": sum(len(one.flagged) for one in said),
            "digest": hashlib.sha256(page.encode()).hexdigest(), "text": page,
        }  # fmt: skip
        self.lab.ledger.append("standup", body, current.id)
        self.lab.refresh()


def rules(design: Design) -> Rules:
    """What the digest needs of a design."""
    slots = sum(agent.slot is not None for agent in design.agents)
    return Rules(
        design.chief, design.promotion, design.confirmation, design.process.standup.unassigned, tuple(design.names),
        tuple(design.researchers), slots, design.reviewers(),
    )  # fmt: skip
