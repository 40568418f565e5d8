"""The real CLIs: their pinned versions, how they are installed for tests, and one of them at work in a pane as its backend says.

Installed once by npm into a cache of their own (0.4 GB each), without running any script of the packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.home import Home
from lab.ledger import Ledger
from org.agents import base
from org.agents.base import Seat, Told
from org.agents.cli import trying
from org.agents.event import read_events
from tests.conftest import end_server, until
from tests.loopback import Server

PINNED = {"claude": ("@anthropic-ai/claude-code", "2.1.330"), "codex": ("@openai/codex", "0.169.0")}
"""The one place where versions of the CLIs stand."""
PROGRAMS = {
    "claude": "node_modules/@anthropic-ai/claude-code-*/claude",
    "codex": "node_modules/@openai/codex-*/vendor/*/bin/codex",
}
"""The program itself, which spares a node process around it."""
KEY = "sk-loopback-{}-00000000000000000000000000"


def install(name: str) -> str:
    """Path of the pinned CLI. Skips the test where npm is missing or reaches no registry; that is tried once an hour."""
    package, version = PINNED[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orgctl-test-cli"
    place = cache / f"{name}-{version}"
    failed = cache / f".{name}-{version}.failed"
    if not place.is_dir():
        if failed.exists() and time.time() - failed.stat().st_mtime < 3600:
            pytest.skip(f"NOT TESTED WITH THE REAL {name.upper()}: npm could not install it: {failed.read_text()}")
        if shutil.which("npm") is None:
            pytest.skip(f"NOT TESTED WITH THE REAL {name.upper()}: npm is not installed")
        draft = cache / f".{name}-{version}-{uuid.uuid4().hex[:8]}"
        draft.mkdir(parents=True)
        words = [
            "npm",
            "install",
            "--prefix",
            str(draft),
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
            "--fetch-retries=1",
            "--fetch-timeout=60000",
        ]
        done = subprocess.run([*words, f"{package}@{version}"], capture_output=True, text=True, timeout=240, cwd=draft)
        if done.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            why = " ".join(done.stderr.split())[-300:]
            failed.write_text(why)
            pytest.skip(f"NOT TESTED WITH THE REAL {name.upper()}: npm could not install it: {why}")
        try:
            draft.rename(place)
        except OSError:  # somebody else was faster
            shutil.rmtree(draft, ignore_errors=True)
    return str(next(place.glob(PROGRAMS[name])))


@dataclass
class Sitting:
    """An agent of an organisation that is made by hand: a home with a ledger, a seat, a pane of its own, and no controller."""

    backend: base.Backend
    seat: Seat
    server: Server
    env: dict[str, str]
    socket: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}")

    @classmethod
    def of(
        cls, name: str, root: Path, server: Server, env: dict[str, str], settings: dict[str, Any] | None = None
    ) -> Sitting:
        home = Home(root)
        home.make()
        Ledger(home.ledger, create=True).close()
        home.settings.write_text("name: t\n")
        subprocess.run(["git", "init", "-q", str(root)], check=True, env=env)
        given = {"command": install(name), "model": "scripted", "base_url": server.url("r1"), **(settings or {})}
        if name == "codex":
            given["base_url"] += "/v1"
        seat = Seat(home, "r1", "researcher", name, 0, given)
        seat.worktree.mkdir(parents=True)
        subprocess.run(["git", "init", "-q", str(seat.worktree)], check=True, env=env)
        seat.folder.mkdir(parents=True)
        seat.skills.mkdir()
        (seat.skills / "experiment.md").write_text("# How an experiment is made\n\nWith care.\n")
        seat.prompt.write_text('You are r1. The "word" is xyzzy,\nand nothing else.\n')
        # A new pane gets PATH from the client that asks for it (tmux 3.x), as `org.tmux` gives it: not from its own -e.
        env = {**env, "PATH": base.path(), **{key: os.environ[key] for key in ("TZ",) if key in os.environ}}
        return cls(base.load(name), seat, server, env)

    def tmux(self, *words: str, text: str | None = None) -> str:
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *words]
        return subprocess.run(command, env=self.env, text=True, input=text, capture_output=True).stdout

    def start(self) -> None:
        """Launch it, or launch it again, as the controller does."""
        launch = self.backend.launch(self.seat)
        own = {"ANTHROPIC_API_KEY": "", "OPENAI_API_KEY": ""}
        env = {**self.env, **own, **base.seat_env(self.seat), **launch.env, **launch.secrets}
        env = {key: value for key, value in env.items() if value}
        words = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        if not self.tmux("list-panes", "-a"):
            self.tmux("new-session", "-d", "-s", "a", "-x", "110", "-y", "40", "--", "sleep", "100000")
            self.tmux("set-option", "-g", "remain-on-exit", "on")
        self.tmux("respawn-pane", "-k", "-t", "a", "-c", str(launch.cwd), *words, "--", *launch.argv)

    def stop(self) -> None:
        end_server(self.tmux)

    @property
    def pid(self) -> int:
        return int(self.tmux("display-message", "-p", "-t", "a", "#{pane_pid}"))

    def screen(self, *flags: str) -> str:
        return self.tmux("capture-pane", "-p", "-t", "a", *flags)

    def box(self) -> str | None:
        return self.backend.box(self.screen())

    def told(self) -> Told | None:
        """As `org.status.look` asks."""
        told = self.backend.told(self.seat, self.pid)
        return trying(told, self.backend.retry(self.screen()), time.time()) if told and told.state == "working" else told

    def until_state(self, state: str, seconds: float = 20.0) -> Told:
        """Wait for a state. A failure shows the screen."""
        deadline = time.monotonic() + seconds
        while True:
            told = self.told()
            if told and told.state == state:
                return told
            if time.monotonic() > deadline:
                pytest.fail(f"waited for {state}, is {told}:\n{self.screen()}")
            time.sleep(0.05)

    def events(self) -> list[dict[str, Any]]:
        return read_events(self.seat.home, "r1", 100)

    def say(self, text: str, before: str | None = "") -> None:
        """Type a line into its box and submit it, when the box can be seen to hold it, after what stood there before."""
        wanted = "".join(f"{before}{text}".split())

        def there() -> bool:
            return "".join((self.box() or "").split()) == wanted

        self.tmux("load-buffer", "-b", "x", "-", text=text)
        self.tmux("paste-buffer", "-p", "-r", "-d", "-b", "x", "-t", "a")
        until(there, f"{text!r} in the box, which holds {self.box()!r}:\n{self.screen()}", 10)
        self.tmux("send-keys", "-t", "a", "Enter")

    def key(self, name: str) -> None:
        self.tmux("send-keys", "-t", "a", name)

    def clear(self) -> None:
        """Empty its box: both put a prompt that came to nothing back into it."""

        def empty() -> bool:
            self.key("C-u")
            return self.box() == ""

        until(empty, "an empty box", 10)
