"""A full-screen agent CLI that calls no model, with the bad manners of real ones; it logs all it receives as JSON lines.

    python -I tests/org/agents/fake_cli.py --log received.jsonl --state state.json --persona swallow

Log: {"time", "event", "text"} with event ready, typed (each key or paste that went into the box), submit, approved, denied (of the
dialog), lost (typed while no box was there), exit. State file, as claude's `sessions/<pid>.json`: {"pid", "status": busy | idle |
waiting, "waitingFor", "since", "until"}. `box` reads the input box off a captured screen and `Fake` is the backend of it all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from pathlib import Path
from typing import Any

PERSONAS = {
    "plain": "behaves",
    "swallow": "ignores the first Enter of each message: the text stays in the box",
    "deaf": "ignores every Enter",
    "gate": "shows a permission dialog as soon as it is ready; Enter approves it, Esc denies it, what is typed meanwhile is lost",
    "gate-later": "shows that dialog once it has been given a message",
    "draft": "has half a sentence of somebody's in its box at the start",
    "ghost": "shows a suggestion in grey in its empty box",
    "crash": "prints an error and exits with status 3 before it is ready",
    "limited": "answers a message with a usage limit that ends in an hour, and goes idle",
    "flood": "prints without end, also while idle",
    "busy": "never finishes its first message",
    "retries": "never finishes its first message, since its provider turns it away again and again, which nothing but its screen says",
    "slow": "loses all that is typed in its first 0.7 seconds",
}
RULE = "─" * 40
GHOST = "try asking me something"


def box(screen: str) -> str | None:
    """The text in its box: what stands after "❯ " between the last two rules, lines after the first indented by two. None when there is
    no such box. The suggestion of `ghost` is text on a plain capture: it has to be told by its colour (`capture(escapes=True)`)."""
    lines = [line.rstrip() for line in screen.split("\n")]
    rules = [index for index, line in enumerate(lines) if line == RULE]
    if len(rules) < 2 or not lines[rules[-2] + 1].startswith("❯"):
        return None
    inside = lines[rules[-2] + 1 : rules[-1]]
    return "\n".join([inside[0].removeprefix("❯").removeprefix(" "), *(line.removeprefix("  ") for line in inside[1:])])


class Cli:
    def __init__(self, persona: str, log: Path | None, state: Path | None, work: float) -> None:
        self.persona, self.log_file, self.state_file, self.work = persona, log, state, work
        self.born = time.monotonic()
        self.text = "I was about to say that" if persona == "draft" else ""
        self.lines: list[str] = [f"fake agent, persona {persona}"]
        self.dialog = ""
        self.status, self.since, self.until = "idle", time.time(), None
        self.done_at: float | None = None
        self.swallowed = False
        self.queue: list[str] = []
        self.flooded = 0

    def log(self, event: str, text: str = "") -> None:
        if self.log_file:
            with open(self.log_file, "a", encoding="utf-8") as handle:
                handle.write(json.dumps({"time": time.time(), "event": event, "text": text}) + "\n")

    def become(self, status: str, until: float | None = None) -> None:
        if status != self.status:
            self.since = time.time()
        self.status, self.until = status, until
        if self.state_file:
            record = {
                "pid": os.getpid(), "status": status, "waitingFor": self.dialog or None, "since": self.since, "until": until,
            }  # fmt: skip
            draft = self.state_file.with_name(self.state_file.name + ".draft")
            draft.write_text(json.dumps(record))
            draft.replace(self.state_file)

    def draw(self) -> None:
        columns, rows = os.get_terminal_size()
        if self.dialog:
            below = [RULE, self.dialog, "❯ 1. Yes", "  2. No (esc)"]
        else:
            ghost = f"\x1b[2m{GHOST}\x1b[22m" if self.persona == "ghost" and not self.text else ""
            shown = [self.text[start : start + columns - 2] for start in range(0, len(self.text), columns - 2)] or [""]
            shown = [part for line in shown for part in line.split("\n")]
            inside = [f"❯ {shown[0]}{ghost}", *(f"  {line}" for line in shown[1:])]
            below = [RULE, *inside[: rows - 6], RULE, {"busy": "esc to interrupt"}.get(self.status, "? for shortcuts")]
        above = self.lines[-(rows - len(below) - 1) :]
        sys.stdout.write("\x1b[H\x1b[2J" + "\r\n".join([line[:columns] for line in above] + below))
        sys.stdout.flush()

    def ask(self) -> None:
        self.dialog = "Run `git push --force`? It needs your permission."
        self.become("waiting")

    def submit(self, text: str) -> None:
        self.log("submit", text)
        self.lines += [f"> {line}" for line in text.split("\n")]
        if self.persona == "limited":
            self.lines.append("Usage limit reached. Your limit resets in 1 h.")
            self.become("idle", time.time() + 3600)
            return
        if self.persona == "gate-later":
            self.ask()
            return
        self.lines += ["! 529 overloaded, next try in 9 s, 2 of 10"] if self.persona == "retries" else []
        self.become("busy")
        self.done_at = None if self.persona in ("busy", "retries") else time.monotonic() + self.work

    def enter(self) -> None:
        if self.dialog:
            self.log("approved", self.dialog)
            self.lines.append(f"approved: {self.dialog}")
            self.dialog = ""
            self.become("idle")
        elif self.persona == "deaf" or (self.persona == "swallow" and self.text and not self.swallowed):
            self.swallowed = True
            self.log("swallowed")
        elif self.text:
            text, self.text, self.swallowed = self.text, "", False
            if self.status == "busy":
                self.queue.append(text)
            else:
                self.submit(text)

    def escape(self) -> None:
        if self.dialog:
            self.log("denied", self.dialog)
            self.dialog = ""
            self.become("idle")
        elif self.status == "busy":
            self.lines.append("interrupted")
            self.done_at = None
            self.become("idle")

    def typed(self, text: str) -> None:
        if self.dialog or (self.persona == "slow" and time.monotonic() - self.born < 0.7):
            self.log("lost", text)
        else:
            self.text += text
            self.log("typed", text)

    def feed(self, data: str) -> None:
        for part in re.split(r"(\x1b\[200~.*?\x1b\[201~|\r|\x1b(?!\[)|\x7f|\x03)", data, flags=re.DOTALL):
            if part.startswith("\x1b[200~"):
                self.typed(part[6:-6].replace("\r", "\n"))
            elif part == "\r":
                self.enter()
            elif part == "\x1b":
                self.escape()
            elif part == "\x7f":
                self.text = self.text[:-1]
            elif part == "\x03":
                self.text = ""
            elif part:
                self.typed(part)

    def tick(self) -> bool:
        """Time passes; True when the screen has to be drawn again."""
        if self.persona == "flood":
            self.lines = [*self.lines[-200:], *(f"line {self.flooded + number} of no end" for number in range(50))]
            self.flooded += 50
            return True
        if self.done_at is not None and time.monotonic() >= self.done_at:
            self.done_at = None
            self.lines.append("done.")
            self.become("idle")
            if self.queue:
                self.submit(self.queue.pop(0))
            return True
        return False

    def run(self) -> None:
        if self.persona == "crash":
            print("fatal: no credentials found, run `fake login`", file=sys.stderr)
            self.log("exit")
            sys.exit(3)
        before = termios.tcgetattr(0)
        tty.setraw(0)
        signal.signal(signal.SIGWINCH, lambda *_: self.draw())
        try:
            sys.stdout.write("\x1b[?1049h\x1b[?2004h")
            self.become("idle")
            if self.persona == "gate":
                self.ask()
            self.draw()
            self.log("ready")
            held = b""
            while True:
                ready, _, _ = select.select([0], [], [], 0.03)
                if ready:
                    data = os.read(0, 65536)
                    if not data or b"\x04" in data:
                        break
                    held += data
                    if held.count(b"\x1b[200~") > held.count(b"\x1b[201~"):
                        continue  # the rest of a paste is on its way
                    self.feed(held.decode("utf-8", "replace"))
                    held = b""
                if self.tick() or ready:
                    self.draw()
        finally:
            sys.stdout.write("\x1b[?2004l\x1b[?1049l")
            sys.stdout.flush()
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            self.log("exit")


def received(log: Path, event: str = "submit") -> list[str]:
    """Texts of one kind of event in a log, oldest first."""
    try:
        records: list[dict[str, Any]] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    return [record["text"] for record in records if record["event"] == event]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persona", choices=PERSONAS, default="plain")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--work", type=float, default=0.2, help="seconds that a message takes")
    given = parser.parse_args()
    Cli(given.persona, given.log, given.state, given.work).run()


if __name__ == "__main__":
    main()
