"""A chat agent's process, the pane's own: `python -I -m org.agents.chat`, started by the controller (`Chat.launch`).

Wires keys, screen, mail and loop together. The key is taken out of the environment before anything else runs, so
that no command of the model's finds it by accident, in /proc/PID/environ or elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import termios
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from comms.mailbox import MailError
from lab.errors import UserError
from lab.files import read_json
from lab.home import Home
from lab.text import clean
from org.agents.base import Seat
from org.agents.chat import earlier, folder, models, settings, summary, tools
from org.agents.chat.inbox import Inbox
from org.agents.chat.loop import Agent
from org.agents.chat.screen import Terminal
from org.agents.chat.transcript import Transcript, conversation
from org.agents.event import write_event

LOOK_EVERY = 1.0
"""Seconds between looks at the mail and the ledger."""
LEAVE_SECONDS = 5.0
"""How long this process may take to leave."""
LOCK_SECONDS = 10.0
"""How long the process before may take to leave."""
PR_SET_DUMPABLE = 4
HELP = """\
Type at any time: it goes to the model with its next request.
  Enter         send                     Ctrl-J   a new line
  Esc, Ctrl-C   stop model and tools     /cost    what was used so far
  /compact      sum up older turns       /quit    end this process"""


class Seated:
    """One agent in its pane."""

    def __init__(self, seat: Seat, access: settings.Access) -> None:
        self.seat = seat
        self.now: tuple[str, str, dict[str, Any]] = ("", "", {})
        self.ending = False
        place = folder(seat.folder)
        transcript = Transcript(place / "transcript.jsonl")
        self.screen = Terminal(self.submit, self.interrupt, self.status)
        self.inbox = Inbox(seat.home, seat.agent, transcript.mail)
        self.agent = Agent(
            access, system_prompt(seat), transcript, tools.Place(seat.agent, Path.cwd(), place / "shell.json"), models.connect(access),
            self.inbox, self.screen, self.say, place / "cost.json",
        )  # fmt: skip

    def say(self, state: str, text: str, **more: Any) -> None:
        if (state, text, more) != self.now:
            self.now = (state, text, more)
            write_event(self.seat.home, self.seat.agent, state, text, **more)
        self.screen.doing = text
        if self.screen.state != state or state != "working" or text != "thinks":
            self.screen.since = time.monotonic()
        self.screen.state = state
        self.screen.queued = self.agent.queue
        self.screen.refresh()

    def status(self) -> str:
        agent = self.agent
        used = summary.filled(agent.transcript.entries, agent.system)
        share = f"{used / 1000:.1f}k of {agent.access.window / 1000:.0f}k"
        money = "" if (cost := agent.spending.cost) is None or cost.dollars is None else f" · ${cost.dollars:.2f}"
        held = (
            " · taken over: mail waits"
            if self.inbox.taken_over
            else " · mail waits"
            if self.inbox.waiting and agent.held
            else ""
        )
        return f"{self.seat.agent} · {clean(agent.access.model, 40)} · {share}{money}{held}"

    def submit(self, text: str) -> None:
        word, agent = text.split()[0], self.agent
        if word == "/help":
            self.screen.note(HELP)
        elif word == "/cost":
            self.screen.note(agent.spending.told)
        elif word == "/compact":
            agent.wants_summary = True
            agent.wake.set()
        elif word == "/quit":
            self.leave()
        elif word.startswith("/") and word[1:].isalpha():
            self.screen.note(f"there is no command {clean(word, 30)}: /help /cost /compact /quit", "yellow")
        else:
            agent.tell(text)
            self.screen.queued = agent.queue
        self.screen.refresh()

    def interrupt(self) -> bool:
        return self.agent.interrupt()

    def leave(self) -> None:
        if self.screen.app.is_running and not self.screen.app.is_done:
            self.screen.app.exit()

    def end(self) -> None:
        """Leave for good: asked to, or the terminal is gone. What does not end by itself in time is cut off."""
        if not self.ending:
            self.ending = True
            asyncio.get_running_loop().call_later(LEAVE_SECONDS, os._exit, 1)
        self.leave()

    async def look(self) -> None:
        """Once a second: is there mail, has a person taken over, does the clock on the screen go on?"""
        trouble = ""
        while True:
            if not connected():
                self.end()
            changed = self.inbox.look()
            if self.inbox.trouble and self.inbox.trouble != trouble:
                self.screen.note(self.inbox.trouble, "yellow")
            trouble = self.inbox.trouble
            if not self.agent.working and self.agent.ready():
                self.agent.wake.set()
            if changed or self.agent.working:
                self.screen.refresh()
            await asyncio.sleep(LOOK_EVERY)

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.end)
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        earlier.show(self.screen, conversation(self.agent.transcript.entries))
        self.screen.note(f"in {Path.cwd()} · /help says what can be typed")
        tasks = [asyncio.create_task(self.look()), asyncio.create_task(self.agent.run())]
        for task in tasks:
            task.add_done_callback(lambda _: self.leave())  # neither ends by itself: a fault ends the process
        try:
            with contextlib.suppress(EOFError, OSError, termios.error):  # the terminal is gone
                if not self.ending:
                    await self.screen.app.run_async(handle_sigint=False)
        finally:
            failed = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await self.agent.close()
            write_event(self.seat.home, self.seat.agent, "stopped", "left")
            self.screen.close()
        for task in failed:
            task.result()


def connected() -> bool:
    """Is our terminal still there?"""
    try:
        os.tcgetpgrp(0)
    except OSError:
        return False
    return True


def system_prompt(seat: Seat) -> str:
    """What the controller laid down, or a line where nothing was."""
    with contextlib.suppress(OSError):
        text = seat.prompt.read_text(encoding="utf-8", errors="replace").strip()
        if text:
            return text
    return f"You are {seat.agent}, {seat.role} of a research organisation. `orgctl --help` says what can be done."


def shut() -> None:
    """Take secrets out of our own environment, where /proc/PID/environ shows what it was at the start too, and close our memory to
    other processes of this user (Linux)."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    for name in [name for name in os.environ if tools.SECRET.search(name)]:
        place = libc.getenv(name.encode())
        if place:
            ctypes.memset(place, 0, len(os.environb[name.encode()]))
        del os.environ[name]
    with contextlib.suppress(AttributeError):
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> int:
    """The pane's process. Exit code 2 and one line when it cannot begin."""
    home: Home | None = None
    name = os.environ.get("ORGCTL_AGENT", "")
    try:
        home = Home.find()
        if not name:
            raise UserError("ORGCTL_AGENT is not set: this process is started by orgctl, in a pane of its own")
        slot = os.environ.get("ORGCTL_SLOT", "")
        role = os.environ.get("ORGCTL_ROLE") or "researcher"
        seat = Seat(home, name, role, "chat", int(slot) if slot.isdigit() else None)
        access = settings.access(read_json(folder(seat.folder) / "settings.json") or {}, os.environ)
        shut()
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UserError("backend chat needs a terminal: it is started by orgctl, in a pane of its own")
        lock = FileLock(home.locks / f"chat-{name}.lock", timeout=LOCK_SECONDS)
        write_event(home, name, "starting", "imports its SDK")
        print(f"{name} ({role}): starts with {access.provider}, {clean(access.model, 60)} ...", flush=True)
        with lock:
            asyncio.run(Seated(seat, access).serve())
    except Timeout:
        return _fails(home, name, "another process of this agent goes on with its conversation: end that one first")
    except (UserError, MailError, OSError) as error:
        return _fails(home, name, clean(error, 500))
    return 0


def _fails(home: Home | None, name: str, text: str) -> int:
    print(text, file=sys.stderr)
    if home and name:
        write_event(home, name, "needs_person", text)
    return 2


if __name__ == "__main__":
    sys.exit(main())
