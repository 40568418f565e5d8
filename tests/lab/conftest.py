"""A bench for runs: the toy task in a real repository, with whatever an experiment's code is to do wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab.executors import local
from lab.home import Home
from lab.prepare import prepare
from lab.runspec import RunSpec
from lab.slots import Slot
from tasks.spec import Task, folder, load, workspace_files
from tests.conftest import TOY
from worktrees.repo import Repo

FUTURE = "from __future__ import annotations\n"


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


def first(code: str, path: str = "toy/train.py") -> str:
    """A file of the toy task that does `code` first."""
    text = (TOY / "workspace" / path).read_text()
    return text.replace(FUTURE, FUTURE + code + "\n", 1)


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
