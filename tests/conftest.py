"""What tests share: organisations in a folder of their own, with a HOME of their own and none of the machine's keys."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lab.home import Home
from lab.ledger import Ledger
from lab.state import State, fold
from org import daemon

TOY = Path(__file__).parent / "toytask"
ORGCTL = [sys.executable, "-I", "-c", "import orgctl; orgctl.main()"]
T = TypeVar("T")
FAILED = pytest.StashKey[bool]()


def end_server(tmux: Callable[..., str]) -> None:
    """End the tmux server that `tmux` speaks to, and remove its socket: tmux leaves the file behind."""
    socket = tmux("display-message", "-p", "#{socket_path}").strip()
    tmux("kill-server")
    if socket:
        Path(socket).unlink(missing_ok=True)


def until(look: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """Wait for a fact: call `look` until it returns something true, and fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.05)


def files_with(folder: Path, secret: str) -> list[Path]:
    """The files below a folder in which a secret lies. What goes away meanwhile, in an organisation that goes on, is passed over."""
    found = []
    for at, _, names in os.walk(folder):
        for path in (Path(at, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and secret.encode() in path.read_bytes():
                    found.append(path)
    return found


@dataclass
class Org:
    """An organisation under test: a folder, an environment, and the real `orgctl` as a process."""

    root: Path
    name: str
    env: dict[str, str]

    @property
    def home(self) -> Home:
        return Home(self.root)

    @property
    def state(self) -> State:
        ledger = Ledger(self.home.ledger)
        try:
            return fold(ledger.facts())
        finally:
            ledger.close()

    def __call__(self, *args: str, code: int = 0, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
        """Run an orgctl command, check its exit code, return stdout (and stderr when it failed)."""
        done = subprocess.run(
            [*ORGCTL, *args], cwd=cwd or self.root, env={**self.env, **(env or {})}, text=True, capture_output=True,
            stdin=subprocess.DEVNULL, timeout=240,
        )  # fmt: skip
        assert done.returncode == code, f"orgctl {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def up(self, *args: str) -> str:
        return self("up", "--detach", "--name", self.name, "--task", str(TOY), *args)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("status", "--json"))
        return found

    def tmux(self, *args: str) -> str:
        command = ["tmux", "-L", f"orgctl-{self.name}", *args]
        return subprocess.run(command, env=self.env, text=True, capture_output=True).stdout

    def panes(self) -> dict[str, tuple[str, int]]:
        """agent -> (pane id, pid) of the panes whose process lives."""
        rows = self.tmux("list-panes", "-a", "-F", "#{@agent}|#{pane_id}|#{pane_pid}|#{pane_dead}").splitlines()
        cells = [row.split("|") for row in rows]
        return {cell[0]: (cell[1], int(cell[2])) for cell in cells if cell[3] == "0"}


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """An environment of its own: no keys, no agent variables, a fresh HOME."""
    home = tmp_path / "home"
    home.mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm-256color", "SHELL": "/bin/sh"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What went wrong the first time stands in the output, also where the second try passed (`make test` tries once more)."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"first try of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext[-8000:])
        for title, text in report.sections:
            terminalreporter.write_line(f"{title}\n{text[-4000:]}")


@pytest.fixture
def org(tmp_path: Path, clean_env: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Org]:
    """An empty folder in which an organisation may be started; stopped and killed afterwards. Of a test that failed, what the
    organisation looked like stands in the report."""
    root = tmp_path / "research"
    root.mkdir()
    one = Org(root, f"t{uuid.uuid4().hex[:10]}", clean_env)
    yield one
    if (root / ".org" / "org.yaml").exists():
        if request.node.stash.get(FAILED, False):
            for command in ("status",), ("exp", "list"):
                print(subprocess.run([*ORGCTL, *command], cwd=root, env=clean_env, capture_output=True, text=True).stdout[-4000:])
            for path in [one.home.org / "controller.log", *one.home.agents.glob("*/events.jsonl")]:
                print(path, path.read_text()[-1500:], sep="\n")
        done = subprocess.run([*ORGCTL, "down"], cwd=root, env=clean_env, capture_output=True, text=True, timeout=120)
        identity = daemon.alive(one.home)
        if identity:  # else it would seat everybody again
            identity.signal_group(signal.SIGKILL)
        one.tmux("kill-server")
        assert done.returncode == 0, done.stderr
