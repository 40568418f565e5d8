"""A bench for runs: the toy task in a real repository, with whatever an experiment's code is to do wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from lab import client
from lab.commands import app
from lab.errors import UserError
from lab.executors import local
from lab.home import Home
from lab.laboratory import Laboratory
from lab.ledger import Ledger
from lab.orders import Orders
from lab.prepare import prepare
from lab.records import Experiment
from lab.requests import Request, answer, waiting
from lab.runspec import RunSpec
from lab.slots import Slot
from lab.state import State, fold
from lab.steps import Policy
from tasks.spec import Task, folder, load, workspace_files
from tests.conftest import TOY, until
from tests.lab.story import Story
from worktrees.repo import Repo

FUTURE = "from __future__ import annotations\n"
IDEA = ("A step of 0.1 instead of 0.02 lowers val_mse", "200 steps of 0.02 are too short to arrive")


class Bench:
    """One research repository with one commit, and runs of it. `pinned` changes protected files before they are pinned,
    `committed` what the experiment commits, `scale` and `task` fields of the task `name` (at its size `size`)."""

    def __init__(
        self,
        root: Path,
        committed: dict[str, str] | None = None,
        pinned: dict[str, str] | None = None,
        scale: dict[str, Any] | None = None,
        task: dict[str, Any] | None = None,
        name: str = str(TOY),
        size: str | None = None,
    ) -> None:
        base = load(name, size)
        fields = {**base.model_dump(), **(task or {})}
        fields["scale"] = {**base.scale.model_dump(), **(scale or {})}
        self.task = Task.model_validate(fields)
        files = workspace_files(base, folder(name))
        files |= {path: text.encode() for path, text in (pinned or {}).items()}
        self.home = Home(root / "research")
        self.user = root / "user"
        self.user.mkdir(parents=True, exist_ok=True)
        self.hashes = {}
        for path in self.task.protected:
            place = self.home.protected / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(files[path])
            self.hashes[path] = hashlib.sha256(files[path]).hexdigest()
        files |= {path: text.encode() for path, text in (committed or {}).items()}
        self.repo = Repo.create(self.home.root, files, "the experiment")
        self.home.make()
        prepare(self.task, self.home.protected, self.home.data, self.home.org / "prepare.log", self.hashes)
        self.count = 0
        self.folder = self.home.runs

    def spec(self, seed: int = 1, purpose: str = "bank", splits: tuple[str, ...] = ("search",), **more: Any) -> RunSpec:
        """Write the spec of the next run; `self.folder` is its folder."""
        self.count += 1
        fields: dict[str, Any] = {
            "run": f"R{self.count:04d}", "experiment": "", "attempt": 0, "agent": "lab", "purpose": purpose,
            "commit": self.repo.trunk(), "parent": self.repo.trunk(), "seed": seed, "splits": list(splits),
            "task": self.task, "budget": self.task.scale.budget, "repo": self.home.root, "data": self.home.data,
            "protected": self.home.protected, "protected_hashes": self.hashes, "slot": Slot(0, "cpu", None, ""),
            "org_hash": "0" * 64,
        }  # fmt: skip
        spec = RunSpec.model_validate({**fields, **more})
        self.folder = self.home.runs / spec.run
        spec.write(self.folder)
        return spec

    def run(
        self, env: dict[str, str] | None = None, fenced: bool = True, seconds: float = 60, **spec: Any
    ) -> dict[str, Any]:
        """One whole run in a process of its own; the result. Without a fence as on a kernel that has none."""
        self.spec(**spec)
        unfenced = "import sys, lab.fence; lab.fence.ABI = 0; from lab.runner import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-I", *(["-m", "lab.runner"] if fenced else ["-c", unfenced]), str(self.folder)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.user), **(env or {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return result

    def log(self, name: str = "stdout.log") -> str:
        return (self.folder / name).read_text(errors="replace")

    def left(self) -> list[psutil.Process]:
        """Living processes of the last run, whoever their parent is now."""
        mark = str(self.folder) + os.sep
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME", "").startswith(mark) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


class Work:
    """A laboratory at work on a bench with two slots; the whole session in this process. `chief` may decide."""

    def __init__(self, one: Bench, policy: Policy) -> None:
        self.bench, self.home = one, one.home
        one.home.task.write_text(one.task.model_dump_json())
        self.trunk = one.repo.trunk()
        ledger = Ledger(one.home.ledger, create=True)
        ledger.append("session", {"protected": one.hashes, "policy": asdict(policy), "chiefs": ["chief"]})
        ledger.append("trunk", {"commit": self.trunk, "parent": "", "experiment": "", "why": ""}, self.trunk)
        self.lab = Laboratory(one.home, one.task, policy, one.repo, [Slot(0, "cpu", None, ""), Slot(1, "cpu", None, "")], {"chief"})

    def seat(self, agent: str, path: str, *changes: tuple[str, str]) -> None:
        """A worktree for an agent, in which a file has these texts replaced."""
        worktree = self.home.worktrees / agent
        if not worktree.exists():
            self.bench.repo.add_worktree(agent, worktree, self.trunk)
        text = (worktree / path).read_text()
        for before, after in changes:
            assert text.count(before) == 1, f"{path}: {before}"
            text = text.replace(before, after)
        (worktree / path).write_text(text)

    def submit(self, agent: str, hypothesis: str, mechanism: str = "it is worth more than it costs") -> str:
        """Propose what lies in the agent's worktree, and run it."""
        name = client.propose(self.home, agent, hypothesis, mechanism)
        self.ask("run", name, agent)
        return name

    def ask(self, kind: str, name: str, agent: str = "chief") -> dict[str, Any]:
        return Orders(self.lab).take(Request("1", kind, agent, {"experiment": name}))

    def until(self, done: Callable[[Experiment], object], name: str, seconds: float = 120) -> Experiment:
        """Let the laboratory work until this is so of an experiment."""

        def look() -> bool:
            self.lab.refresh()
            self.lab.step()
            self.lab.runs.start(time.time())
            return bool(done(self.lab.state.experiments[name]))

        until(look, f"the laboratory's word on {name}", seconds)
        return self.lab.state.experiments[name]

    def verdict(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """The verdict on an experiment, once it is there."""
        body = self.until(lambda one: one.verdict, name, seconds).attempts[-1].verdict
        assert body is not None
        return body


class Desk:
    """A session without slots: ideas are registered and queued, nothing runs. `r1` and `r2` have worktrees."""

    def __init__(self, one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.monkeypatch = one.home, monkeypatch
        one.home.settings.write_text("")
        one.home.task.write_text(one.task.model_dump_json())
        trunk = one.repo.trunk()
        ledger = Ledger(one.home.ledger, create=True)
        ledger.append("session", {"protected": one.hashes})
        ledger.append("trunk", {"commit": trunk, "parent": "", "experiment": "", "why": ""}, trunk)
        self.lab = Laboratory(one.home, one.task, Policy(), one.repo, [])
        for agent in ("r1", "r2"):
            one.repo.add_worktree(agent, one.home.worktrees / agent, trunk)
        monkeypatch.setenv("ORGCTL_HOME", str(one.home.root))
        self.sit("r1")

    def sit(self, agent: str) -> None:
        self.monkeypatch.setenv("ORGCTL_AGENT", agent)

    @property
    def state(self) -> State:
        return fold(Ledger(self.home.ledger).facts())

    def __call__(self, *words: str) -> str:
        """An `exp` command's output."""
        done = CliRunner().invoke(app, ["exp", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def refused(self, *words: str) -> str:
        with pytest.raises(UserError) as caught:
            self(*words)
        return str(caught.value)

    def propose(self, hypothesis: str = IDEA[0], mechanism: str = IDEA[1], *more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("propose", "--hypothesis", hypothesis, "--mechanism", mechanism, "--json", *more))
        return found

    def run(self, agent: str, name: str, text: str, again: str = "") -> dict[str, Any]:
        """Hand in an edit of the toy model; the laboratory's answer."""
        (self.home.worktrees / agent / "toy" / "model.py").write_text(text)
        return Orders(self.lab).take(Request(name, "run", agent, {"experiment": name, "again": again}))

    def asks(self, *words: str) -> str:
        """The output of an `exp` command that asks the laboratory, which answers as the controller would."""
        with ThreadPoolExecutor(1) as thread:
            said = thread.submit(self, *words)
            while not said.done():
                for request in waiting(self.home):
                    answer(self.home, request, True, **Orders(self.lab).take(request))
        return said.result()

    def bank(self, commit: str) -> None:
        """As if a bank of this commit had been run."""
        ledger = Ledger(self.home.ledger)
        budget = self.lab.task.scale.budget.model_dump()
        for seed in range(8):
            body = {
                "experiment": "", "attempt": 0, "purpose": "bank", "commit": commit, "seed": seed, "splits": ["search", "audit"],
                "budget": budget, "agent": "lab", "home_slot": None,
            }  # fmt: skip
            run = ledger.append_new("run", "R", body).subject
            metric = {"search": 0.25 + seed / 1000, "audit": 0.25 + seed / 1000}
            ledger.append("start", {"slot": 0, "pid": 1, "started": 0.0, "device": "cpu"}, run)
            ended = {"status": "ok", "reason": "", "metric": metric, "account": {}, "hashes": {}, "log_tail": ""}
            ledger.append("result", ended, run)

    def judged(self, name: str, word: str, effect: float | None, n: int = 1) -> None:
        """As if the laboratory had come to this verdict."""
        body = {"attempt": 1, "verdict": word, "effect": effect, "n": n, "reasoning": []}
        Ledger(self.home.ledger).append("verdict", body, name)


def first(code: str, path: str = "toy/train.py") -> str:
    """A file of the toy task that does `code` first."""
    text = (TOY / "workspace" / path).read_text()
    return text.replace(FUTURE, FUTURE + code + "\n", 1)


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """An empty ledger to tell a story into; for tests of what is decided from facts alone."""
    return Story(tmp_path)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches; kills whatever their runs have left."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(tmp_path / f"bench{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        for run in one.home.runs.iterdir():
            local.bury(run)


@pytest.fixture
def desk(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(bench(), monkeypatch)


@pytest.fixture
def model(desk: Desk) -> str:
    return (desk.home.worktrees / "r1" / "toy" / "model.py").read_text()
