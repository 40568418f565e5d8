"""A prepared tiny task, a checkpoint trained once, and runs started the way the laboratory starts them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from tasks import spec
from tests.nanochat.small import Small
from tests.nanochat.store import Store

ROOT = Path(__file__).resolve().parents[2]
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A small model of the tests' own, trained once, for the evaluator to score in variants."""
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def noise() -> ModuleType:
    """benchmarks/noise.py, which starts feeder, trainer and scorer as the laboratory does."""
    found = importlib.util.spec_from_file_location("noise", ROOT / "benchmarks" / "noise.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def task() -> spec.Task:
    return spec.load("nanochat", "tiny")


@pytest.fixture(scope="session")
def files(task: spec.Task) -> dict[str, bytes]:
    return spec.workspace_files(task, spec.folder("nanochat"))


@pytest.fixture(scope="session")
def data(noise: ModuleType, task: spec.Task, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder, filled by the task's `prepare` command with the protected files alone on its path."""
    work = tmp_path_factory.mktemp("prepare")
    noise.lay(task, files, work)
    words = noise.command(task.prepare, work, work / "data")
    subprocess.run(words, env=noise.environment(task, work, "protected"), check=True)
    return work / "data"


class TinyRun:
    """One run in a folder of its own. `edit` changes the experiment's source before it starts."""

    def __init__(self, noise: ModuleType, task: spec.Task, files: dict[str, bytes], data: Path, work: Path) -> None:
        self.noise, self.task, self.data, self.work = noise, task, data, work
        self.result: dict[str, Any] = {}
        work.mkdir(parents=True)
        noise.lay(task, files, work)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.work / "checkout" / "nanochat" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is found {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))

    def train(self, seed: int = 0) -> tuple[int, str]:
        """(exit code, log)."""
        with (self.work / "stdout.log").open("w+") as log:
            code = self.noise.train(self.task, self.work, self.data, seed, log.fileno())
        return code, (self.work / "stdout.log").read_text()

    def score(self, splits: tuple[str, ...] = ("search",)) -> dict[str, Any]:
        self.result = self.noise.score(self.task, self.work, self.data, 0, splits, subprocess.DEVNULL)
        return self.result

    @property
    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.work / "counts.json").read_text())
        return found


@pytest.fixture
def tiny_run(
    noise: ModuleType, task: spec.Task, files: dict[str, bytes], data: Path, tmp_path: Path
) -> Callable[[str], TinyRun]:
    return lambda name: TinyRun(noise, task, files, data, tmp_path / name)


@pytest.fixture(scope="session")
def trained(
    noise: ModuleType, task: spec.Task, files: dict[str, bytes], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyRun:
    """The baseline, trained and scored once: `result` has the splits search and audit. Not to be changed."""
    run = TinyRun(noise, task, files, data, tmp_path_factory.mktemp("trained") / "run")
    code, log = run.train()
    assert code == 0, log
    run.score(("search", "audit"))
    return run


@pytest.fixture
def scored(tiny_run: Callable[[str], TinyRun], trained: TinyRun) -> TinyRun:
    """A run with the trained checkpoint in place, whose source a test may still change before scoring."""
    run = tiny_run("run")
    shutil.copytree(trained.work / "out", run.work / "out")
    return run


@pytest.fixture
def store() -> Iterator[Store]:
    server = Store()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
