"""A chat agent in a real tmux pane against a loopback model server, with a HOME of its own, a dummy key and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.home import Home
from lab.ledger import Ledger
from org.agents import base
from org.agents.event import read_events
from tests.conftest import end_server, until
from tests.loopback import Server

NAME = "r1"


class Pane:
    """One agent r1. `start` may be called again: the conversation is gone on with."""

    def __init__(self, root: Path, server: Server, settings: dict[str, Any]) -> None:
        self.home = Home(root)
        self.home.make()
        self.home.settings.write_text("name: t\n")
        Ledger(self.home.ledger, create=True).close()
        self.seat = base.Seat(self.home, NAME, "researcher", "chat", 0, settings)
        self.seat.worktree.mkdir(parents=True)
        self.seat.folder.mkdir(parents=True)
        self.seat.prompt.write_text("You are r1, and this is all you were told.")
        self.server = server
        self.socket = f"chat-{uuid.uuid4().hex[:10]}"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8", "TERM": "tmux-256color"}

    def tmux(self, *args: str) -> str:
        return subprocess.run(["tmux", "-L", self.socket, *args], env=self.env, text=True, capture_output=True).stdout

    def start(self, size: tuple[int, int] = (80, 20)) -> None:
        provider = self.seat.settings.get("provider", "anthropic")
        vendor, tail = ("ANTHROPIC", "") if provider == "anthropic" else ("OPENAI", "/v1")
        before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "OPENAI_"))]:
            del os.environ[name]
        os.environ |= {f"{vendor}_API_KEY": self.server.key(NAME), f"{vendor}_BASE_URL": self.server.url(NAME) + tail}
        try:
            launch = base.load("chat").launch(self.seat)
        finally:
            os.environ.clear()
            os.environ.update(before)
        env = {**self.env, **base.seat_env(self.seat), **launch.env, **launch.secrets}
        words = ["env", "-i", *(f"{key}={value}" for key, value in env.items()), *launch.argv]
        if self.tmux("list-panes"):
            self.tmux("respawn-pane", "-k", "-c", str(launch.cwd), "--", *words)
            return
        self.tmux(
            "-f", "/dev/null", "set-option", "-g", "remain-on-exit", "on", ";", "new-session", "-d", "-x", str(size[0]),
            "-y", str(size[1]), "-c", str(launch.cwd), "--", *words,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return int(self.tmux("display-message", "-p", "#{pane_pid}"))

    @property
    def dead(self) -> bool:
        return self.tmux("display-message", "-p", "#{pane_dead}").strip() == "1"

    @property
    def screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-J", "-S", "-500")

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)
        self.keys("Enter")

    @property
    def entries(self) -> list[dict[str, Any]]:
        path = self.seat.folder / "chat" / "transcript.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def state(self) -> str:
        found = read_events(self.home, NAME)
        return str(found[0]["state"]) if found else ""

    def is_(self, state: str, seconds: float = 20.0) -> dict[str, Any]:
        """Wait until it says that state; its event."""
        until(lambda: self.state == state, f"{state}, but it is {self.state}\n{self.screen}", seconds)
        return read_events(self.home, NAME)[0]

    def shows(self, text: str, seconds: float = 20.0) -> None:
        until(lambda: text in self.screen, f"{text!r} on the screen", seconds)


@contextmanager
def seated(root: Path, server: Server, start: bool = True, **settings: Any) -> Iterator[Pane]:
    pane = Pane(root, server, settings)
    try:
        if start:
            pane.start()
        yield pane
    finally:
        end_server(pane.tmux)
