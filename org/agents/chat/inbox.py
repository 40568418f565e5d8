"""What reaches a chat agent from outside of its pane: mail, and whether a person has taken it over. Looked at about once a second.

A look is one listing of a folder and one query of the ledger. Mail is marked read only after it is in the transcript, so that it
is lost by no crash; what is in the transcript already is never shown twice.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable

from comms.mailbox import Mail, MailError, Message
from lab.disowned import KIND, passed_over
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.state import State
from lab.text import clean
from org.agents.hook import budget_letter, has_run

AT_ONCE = 10
"""Messages that are taken at a time; the others come with the next request."""


class Inbox:
    """One agent's outside world."""

    def __init__(self, home: Home, agent: str, known: Iterable[str]) -> None:
        """`known`: ids of messages that are in the transcript."""
        self.agent = agent
        self.mail = Mail(home.comms)
        self.known = set(known)
        self.waiting: list[Message] = []
        """New messages, oldest first."""
        self.trouble = ""
        self._folder = home.comms / "inbox" / agent / "new"
        self._names: list[str] = []
        self._home = home
        self._ledger: Ledger | None = None
        self._state = State()

    @property
    def taken_over(self) -> bool:
        return self.agent in self._state.taken_over

    @property
    def free(self) -> bool:
        """May the process give it leave to go on: no run of its own is awaited, and its budget is not spent."""
        return budget_letter(self._home, self.agent) is None and not has_run(self._home, self.agent)

    def look(self) -> bool:
        """Look once; True when something is new. Whatever goes wrong is in `trouble` until the next look."""
        self.trouble = ""
        before = self.taken_over, len(self.waiting)
        try:
            self._follow()
        except (UserError, sqlite3.Error, OSError) as error:
            self.trouble = f"the ledger cannot be read: {clean(error)}"
        try:
            names = sorted(os.listdir(self._folder)) if self._folder.is_dir() else []
            if names != self._names or self.mail.waiting(self.agent) > len(self.waiting):  # one that a person still writes, say
                found = self.mail.inbox(self.agent)
                for message in found:
                    if message.id in self.known:
                        self.mail.read(self.agent, message.id)  # the last life died between the two steps
                self.waiting = [message for message in found if message.id not in self.known]
                self._names = names
        except (MailError, OSError) as error:
            self.trouble = f"the mail cannot be read: {clean(error)}"
        return before != (self.taken_over, len(self.waiting))

    def _follow(self) -> None:
        if self._ledger is None:
            if not self._home.ledger.is_file():
                return
            self._ledger = Ledger(self._home.ledger)
        if (gone := passed_over(self._ledger.each(KIND))) != self._state.disowned:
            self._state = State(disowned=gone)
        for fact in self._ledger.each("intervention", after=self._state.last):
            try:
                self._state.apply(fact)
            except (KeyError, TypeError, ValueError, AttributeError):  # written by somebody who is not of ours
                self._state.last = fact.id

    def first(self) -> list[Message]:
        """What the next request should carry."""
        return self.waiting[:AT_ONCE]

    def arrived(self, messages: list[Message]) -> None:
        """These are in the transcript now: they count as read."""
        for message in messages:
            self.known.add(message.id)
            try:
                self.mail.read(self.agent, message.id)
            except (MailError, OSError) as error:
                self.trouble = clean(error)
        gone = {message.id for message in messages}
        self.waiting = [message for message in self.waiting if message.id not in gone]
