"""The agent's loop: what is said goes to the model, what the model calls is done, until it has nothing more to call.

Driven by `__main__`, which tells it what a person types and when to look at the mail. It knows no terminal (`Screen`), no HTTP
(`models.Model`) and no keys, and keeps its whole memory in the transcript: a new process goes on where the last one died. A turn
is a task; an interrupt cancels it, wherever it is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from comms.mailbox import Message
from comms.quoted import BLOCK_LIMIT, block
from lab.text import clean
from org.agents.chat import summary, tools
from org.agents.chat.inbox import Inbox
from org.agents.chat.models import Model, Reply, Request, Trouble, whole
from org.agents.chat.settings import Access
from org.agents.chat.spending import Spending
from org.agents.chat.transcript import (
    CHARACTERS,
    Assistant,
    Call,
    Compacted,
    Result,
    Results,
    Said,
    Transcript,
    User,
    conversation,
    due,
)
from org.agents.cli import TRIES
from org.agents.hook import ANSWER, ANSWERS, LIMITED, asks_leave

BEGIN = (
    "Begin your round: read your mail and how the laboratory stands, then do what your role says. Mail that comes later is shown "
    "to you by itself. When there is nothing more to do now, or you wait for a run, end your turn without calling a tool: mail or "
    "a person starts the next one."
)
INTERRUPTED = "A person interrupted you here. Wait for what they say."
STOPPED = "A person interrupted this before it ended."
CUT = "Your answer was cut off at its longest length. Go on from there, in smaller pieces."
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between attempts; doubled from one to the other, less up to half at random, so that agents do not come back together."""
CUTS = 3
"""How often in one turn an answer that was cut off is gone on with."""


class Screen(Protocol):
    """What the loop shows, and whether a person is in the middle of a line."""

    @property
    def typing(self) -> bool: ...
    def said(self, piece: str) -> None: ...
    def thought(self, piece: str) -> None: ...
    def flush(self) -> None: ...
    def person(self, text: str) -> None: ...
    def mail(self, messages: Sequence[Message]) -> None: ...
    def called(self, call: Call) -> None: ...
    def printed(self, piece: str) -> None: ...
    def result(self, call: Call, result: Result, seconds: float) -> None: ...
    def note(self, text: str, style: str = "") -> None: ...


Say = Callable[..., None]
"""(state, text, **more): the agent's state from now on."""


class Agent:
    """One agent's conversation. All public methods but `run`, `close` and `compact` return at once."""

    def __init__(
        self, access: Access, system: str, transcript: Transcript, place: tools.Place, model: Model, inbox: Inbox,
        screen: Screen, say: Say, cost_file: Path,
    ) -> None:  # fmt: skip
        self.access, self.system, self.transcript, self.place = access, system, transcript, place
        self.model, self.inbox, self.screen, self.say = model, inbox, screen, say
        self.spending = Spending(access, transcript.entries, cost_file)
        self.queue: list[str] = []
        """What a person typed and the model has not been told."""
        self.stopped = ""
        """Why nothing is asked until a person or mail says something new."""
        self.task: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()
        self.partial = ""
        self.open: list[Call] = []
        self.closing = False
        self.person = False
        """A person's words are in the turn that is going on."""
        self.wants_summary = False
        """A person asked for a compaction."""
        self.answers = 0
        """How often it was told to go on in this turn."""

    # From outside

    @property
    def working(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def held(self) -> bool:
        """Nothing but a person's own words may start or enter a turn now."""
        return self.inbox.taken_over or self.screen.typing

    def tell(self, text: str) -> None:
        """A person said something: it goes into the next request."""
        self.queue.append(text)
        self.stopped = ""
        self.wake.set()

    def interrupt(self) -> bool:
        """Stop the model and its tools; False when nothing was going on."""
        if self.working and self.task is not None:
            self.task.cancel()
            return True
        return False

    def ready(self) -> bool:
        """Is there something to do?"""
        if self.queue:
            return True
        if self.held:
            return False
        if self.inbox.waiting:
            return True
        return not self.stopped and (not self.transcript.entries or due(conversation(self.transcript.entries)))

    async def run(self) -> None:
        """Work whenever there is something to do, until cancelled."""
        tools.clear(self.place)
        if self.transcript.entries and due(conversation(self.transcript.entries)):
            self.screen.note("goes on where its last process ended", "yellow")
        if not self.ready():
            self.say("idle", "nothing to do until somebody says something")
        while True:
            self.wake.clear()
            if self._spent() or not (self.wants_summary or self.ready()):
                await self.wake.wait()
                continue
            self.task = asyncio.create_task(self._compact_now() if self.wants_summary else self._turn())
            await asyncio.wait([self.task])
            if not self.task.cancelled():
                self.task.result()

    async def close(self) -> None:
        """End what runs; the next process goes on from here."""
        self.closing = True
        if self.interrupt() and self.task is not None:
            await asyncio.wait([self.task])
        self.transcript.close()

    # A turn

    async def _turn(self) -> None:
        self.stopped = ""
        self.person = False
        self.answers = 0
        failures = cuts = 0
        compacted = overlong = False
        try:
            while True:
                self._take_in()
                if not due(conversation(self.transcript.entries)) and not self._goes_on():
                    break
                if self._spent():
                    return
                try:
                    if overlong or (self._full() and not compacted):
                        await self.compact()
                        overlong, compacted = False, True
                    reply = await self._ask()
                except Trouble as trouble:
                    self.partial = ""
                    self.screen.flush()
                    if trouble.kind == "too_long" and not compacted:
                        overlong = True
                    elif trouble.kind == "passing":
                        failures += 1
                        await self._wait(trouble, failures)
                    else:
                        raise
                    continue
                failures, compacted = 0, False
                await self._do(reply)
                if not reply.cut or self.transcript.entries[-1].kind == "results":
                    continue
                cuts += 1
                if cuts <= CUTS:
                    self.transcript.append(User(text=CUT))
            self.say("idle", clean(self._last_words(), 200))
        except asyncio.CancelledError:
            if not self.closing:
                self._interrupted()
        except (Trouble, OSError) as error:
            self.stopped = clean(error, 500)
            self.screen.note(f"stopped: {self.stopped}", "bold red")
            self.screen.note("Say something to try again.", "red")
            self.say("needs_person", self.stopped)

    def _take_in(self) -> None:
        """Into the transcript with what was said since: a person's words, mail, a budget that nears its end, the first word."""
        if not self.transcript.entries and not self.inbox.taken_over:
            self.transcript.append(User(text=BEGIN))
        while self.queue:
            self.person = True
            self.transcript.append(User(text=self.queue[0], origin="person"))
            self.screen.person(self.queue.pop(0))
        if not self.held and (messages := self.inbox.first()):
            most = min(BLOCK_LIMIT, self.access.window // 8 * CHARACTERS)
            text = f"New mail:\n{block(messages, total=most)}"
            self.transcript.append(User(text=text, origin="mail", mail=tuple(one.id for one in messages)))
            self.screen.mail(messages)
            self.inbox.arrived(messages)
        warning = self.spending.warning
        known = any(
            isinstance(one, User) and one.origin == "budget" and one.text == warning for one in self.transcript.entries
        )
        if warning and not known:
            self.screen.note(warning, "yellow")
            self.transcript.append(User(text=warning, origin="budget"))

    def _goes_on(self) -> bool:
        """A question whether to go on is answered as it is with the CLIs, unless a person talks with it or a run of its own is awaited."""
        if self.person or self.held or self.answers >= ANSWERS or not asks_leave(self._last_words()) or not self.inbox.free:
            return False
        self.answers += 1
        self.transcript.append(User(text=ANSWER))
        self.screen.note("the process answers: go on")
        return True

    async def _ask(self) -> Reply:
        self.partial = ""

        def heard(kind: str, piece: str) -> None:
            if kind == "text":
                self.partial += piece
                self.screen.said(piece)
            else:
                self.screen.thought(piece)

        self._working("thinks")
        turns = conversation(self.transcript.entries)
        reply = await self.model.stream(self._request(turns), heard)
        self.screen.flush()
        blocks = tuple(one for one in whole(reply) if not isinstance(one, Said) or one.text.strip())
        entry = Assistant(
            blocks=blocks or (Said(text="(no answer)"),), model=self.access.model, stop=reply.stop, usage=reply.usage
        )
        self.open = list(entry.calls)
        self.partial = ""
        self.transcript.append(entry)
        self.spending.count(entry)
        return reply

    def _working(self, text: str) -> None:
        self.say("working", text, person=self.person)

    def _request(self, turns: Sequence[User | Assistant | Results]) -> Request:
        longest = min(self.access.settings.max_tokens, self.access.window // 5)
        return Request(self.system, turns, tools.offered(), longest, self.place.agent)

    async def _do(self, reply: Reply) -> None:
        """Do what was called, one after the other; each result is on disk before the next call begins."""
        while self.open:
            call = self.open[0]
            self._working(clean(f"{call.name} {next(iter(call.arguments.values()), '')}", 160))
            self.screen.called(call)
            began = time.monotonic()
            result = await tools.run(call, self.place, self.screen.printed)
            self.transcript.append(Results(results=(result,)))
            self.open.pop(0)
            self.screen.result(call, result, time.monotonic() - began)

    def _interrupted(self) -> None:
        """Leave a valid conversation behind: what was said so far, a result for every call, and that a person stepped in."""
        self.screen.flush()
        if self.partial.strip():
            self.transcript.append(
                Assistant(blocks=(Said(text=self.partial.rstrip()),), model=self.access.model, stop="interrupted")
            )
        if self.open:
            stopped = tuple(Result(id=call.id, text=STOPPED, failed=True) for call in self.open)
            self.transcript.append(Results(results=stopped))
        self.partial, self.open = "", []
        self.transcript.append(User(text=INTERRUPTED, origin="interrupt"))
        self.screen.note("interrupted", "bold yellow")
        self.say("idle", "interrupted by a person")

    async def _wait(self, trouble: Trouble, failures: int) -> None:
        """Before the next attempt: as long as the server asks, or twice as long as last time."""
        backoff = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
        seconds = max(trouble.after or 0.0, backoff)
        self.screen.note(f"{trouble.text}: again in {seconds:.0f} s", "yellow")
        state = "rate_limited" if LIMITED.search(trouble.text) else "working"
        text = f"{TRIES}{clean(trouble.text, 200)} (attempt {failures})"
        self.say(state, text, until=time.time() + seconds, person=self.person)
        await asyncio.sleep(seconds)

    def _last_words(self) -> str:
        texts = (
            one.text for one in reversed(self.transcript.entries) if isinstance(one, Assistant) and one.text.strip()
        )
        return next(texts, "")

    # Compaction

    async def compact(self) -> None:
        """Sum up the older turns. Raises Trouble when that fails, or when nothing is left to sum up."""
        entries = self.transcript.entries
        first = summary.cut(entries, self.access.window)
        if first is None:
            raise Trouble(
                "lasting", "the newest turn alone is over the model's window: set context_tokens to the true one"
            )
        self.screen.note("sums up the older part of the conversation …", "cyan")
        self._working("sums up the older part of the conversation")
        longest = min(self.access.settings.max_tokens, self.access.window // 8)
        asked = summary.request(entries, first, self.system, self.access.window, longest, self.place.agent)
        reply = await self.model.stream(asked, lambda kind, piece: None)
        text = "\n".join(block.text for block in reply.blocks if isinstance(block, Said)).strip()
        entry = Compacted(summary=text, first=first, model=self.access.model, usage=reply.usage)
        self.spending.count(entry)  # an empty one is tried again, and costs too
        if not text:
            raise Trouble("passing", "the summary is empty")
        self.transcript.append(entry)
        self.screen.note(
            f"summed up: {summary.filled(self.transcript.entries, self.system):,} tokens are left of it", "cyan"
        )

    async def _compact_now(self) -> None:
        """A person asked for it; a turn of its own, so that Esc stops it."""
        self.wants_summary = False
        try:
            await self.compact()
        except (Trouble, OSError) as error:
            self.screen.note(f"not summed up: {clean(error, 300)}", "yellow")
        except asyncio.CancelledError:
            self.screen.note("interrupted", "bold yellow")
        self.say("idle", clean(self._last_words(), 200))

    def _full(self) -> bool:
        """Is the conversation near the window, and is there something to sum up?"""
        full = summary.filled(self.transcript.entries, self.system) > summary.FULL * self.access.window
        return full and summary.cut(self.transcript.entries, self.access.window) is not None

    def _spent(self) -> bool:
        """Is the budget used up? Then nothing is asked any more, whoever speaks."""
        if self.spending.share < 1.0:
            return False
        if not self.stopped:
            self.stopped = f"its budget of {self.spending.budget} is used up"
            self.screen.note(f"{self.stopped}: raise it in the design, then `orgctl up --design FILE`", "bold yellow")
        self.say("paused", self.stopped)
        return True
