"""One run, from clean checkout to `result.json`: `python -I -m lab.runner RUN_DIR`, one process a run.

It trusts nobody: training gets a bare environment and protected files by hash, counts come from the feeder and the
metric from the scorer, each in a folder that training was not told of, and nothing that training started outlives it.
Exit 0: `result.json` is written, whatever it says. 1: it could not be written. 2: no usable `spec.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from lab import child as stages
from lab.account import account, device_name
from lab.child import Child
from lab.disk import taken
from lab.errors import UserError
from lab.fence import Fence, describe, interpreter, prefix, system
from lab.files import read_json, write_json
from lab.overlay import lay_protected, remove
from lab.runspec import RunSpec
from worktrees.repo import GitError, Repo

POLL_SECONDS = 0.1
LOOK_SECONDS = 0.5
"""How often memory, disk, counts and forged files are looked at."""
DISK_GIB = 2.0
"""What training, and the model host after it, may write into all their folders together."""
EARLY_SECONDS, HASTE = 5.0, 5
"""At first, when memory grows fastest and short runs end, both happen five times as often."""
FEEDER_SECONDS = 10.0
"""The feeder gets this long to write its last counts once training has gone."""


class Stopped(Exception):
    """The run ends here with this status (crashed, invalid, timeout, killed) and reason; `log` holds the last words."""

    def __init__(self, status: str, reason: str, log: Path | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.log = status, reason, log


class Run:
    """A run on its way. `execute` returns the result as it is to be written."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self.folder, self.spec, self.task = folder, spec, spec.task
        self.started = time.time()
        self.killed = False
        self.counts: dict[str, Any] | None = None
        self.score: dict[str, Any] | None = None
        self.train: Child | None = None
        self.scorer: Child | None = None
        self.host_load: float | None = None
        self._feed_counts: Path | None = None
        self._mirror: tuple[int, int] | None = None
        self.log = folder / "stdout.log"

    # -- the stages, in order

    def execute(self) -> dict[str, Any]:
        """Go through all stages. What the task, the experiment or the machine does wrong ends up in the result."""
        status, reason, log = "ok", "", self.log
        metric: dict[str, float] = {}
        try:
            self._clear()
            self._train()
            self._score()
            metric = self._metric()
        except Stopped as stop:
            status, reason, log = stop.status, stop.reason, stop.log or self.log
        except (UserError, GitError, OSError, ValueError) as error:
            status, reason = "crashed", stages.last_line(" ".join(stages.clean(str(error)).split())) or repr(error)
        finally:
            stages.kill_descendants()
            for stage in (self.train, self.scorer):
                if stage:
                    stage.kill()
                    stage.close()
        return self._result(status, reason, metric, log)

    def _clear(self) -> None:
        """An empty folder but for what the controller and the executor left."""
        for path in self.folder.iterdir():
            if path.name not in ("spec.json", "runner.log"):
                remove(path)
        (self.folder / "out").mkdir()

    def _checkout(self, name: str) -> Path:
        """The experiment's commit with the protected files over it."""
        place = self.folder / name
        remove(place)
        Repo(self.spec.repo).export(self.spec.commit, place)
        lay_protected(self.spec.protected, self.spec.protected_hashes, place)
        return place

    def _sealed(self, name: str) -> tuple[Path, Path]:
        """(folder, protected files in it) for a stage that is ours: fresh, under a name that training was not told."""
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.folder))
        protected = folder / "protected"
        protected.mkdir()
        lay_protected(self.spec.protected, self.spec.protected_hashes, protected)
        return folder, protected

    def _words(self, folder: Path) -> dict[str, str]:
        """The words every stage may use in its command."""
        return {
            "python": sys.executable,
            "data": str(self.spec.data),
            "seed": str(self.spec.seed),
            "out": str(self.folder / "out"),
            "scale": str(stages.write_scale(folder, self.task.scale)),
            "budget": json.dumps(self.spec.budget.model_dump()),
        }

    def _start(
        self,
        command: list[str],
        place: Path,
        home: Path,
        log: str,
        fds: tuple[int, ...] = (),
        fence: Fence | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a stage in `place`, which is also its import path. `more` goes into its environment."""
        environment = {**stages.bare_environment(home, self.task.scale, self.spec.slot.cuda, place), **(more or {})}
        try:
            return Child(command, place, environment, self.folder / log, fds, self.spec.slot.cpus, fence)
        except subprocess.SubprocessError as error:
            raise UserError(f"{command[0]} cannot be fenced in or pinned: {error}") from error
        finally:
            if fence:
                fence.close()

    def _own(self) -> list[Path]:
        """The folders into which training may write."""
        return [self.folder / name for name in ("checkout", "out", "home", "tmp")]

    def _training_fence(self) -> Fence:
        """Training writes into its own folders and reads, besides, the machine's programs and the interpreter: neither
        targets nor keys, and nothing that was trained before and kept in a corner that agents can write to."""
        readable = [*system(), *interpreter(), self.folder / "scale.json"]
        if not self.task.feed or any("{data}" in word for word in self.task.train):
            readable.append(self.spec.data)
        own = self._own()
        for place in own:
            place.mkdir(exist_ok=True)
        return Fence(own, readable, [self.spec.repo, _user()], gpu=bool(self.spec.slot.cuda), apart=True)

    def _host_fence(self, folder: Path, checkout: Path) -> list[str]:
        """What the scorer puts before its model host: it reads its code and the checkpoint, and neither targets nor
        whatever else is kept here; it writes below one folder, which nobody else reads."""
        home = folder / "host"
        home.mkdir()
        readable = [*system(), *interpreter(), checkout, self.folder / "out"]
        hidden = [self.spec.repo, self.spec.data, self.folder, _user()]
        return prefix(home, readable, hidden, gpu=bool(self.spec.slot.cuda))

    def _train(self) -> None:
        """Checkout, feeder, training, until all of training is dead and the feeder has written its last counts."""
        checkout = self._checkout("checkout")
        self._stop_if_told()
        feeder: Child | None = None
        words = self._words(self.folder)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if self.task.feed:
                folder, protected = self._sealed("feed")
                self._feed_counts = folder / "counts.json"
                fed = {**self._words(folder), "feed": str(ours.fileno()), "counts": str(self._feed_counts)}
                command = stages.fill(self.task.feed, fed)
                feeder = self._start(command, protected, folder, "feed.log", (ours.fileno(),))
                words["feed"] = str(theirs.fileno())
            ours.close()
            fds = (theirs.fileno(),) if feeder else ()
            command = stages.fill(self.task.train, words)
            fence = self._training_fence()
            self.train = self._start(command, checkout, self.folder, "stdout.log", fds, fence)
            try:
                self._watch(self.train, feeder)
            finally:
                self.host_load = os.getloadavg()[0]
                stages.kill_descendants(spare=[feeder.pid] if feeder else [])
                self.train.kill()
                self.train.close()
                theirs.close()  # only now can the feeder see the end, unless training shut the connection down itself
                if feeder:
                    self._finish(feeder)
        self._look_at_disk(self._own())
        if self.train.returncode != 0:
            reason = self.train.why()
            if feeder and feeder.returncode != 0:
                reason += f" (the feeder: {feeder.why()})"
            raise Stopped("crashed", reason)
        if feeder and feeder.returncode != 0:
            raise Stopped("crashed", f"the feeder: {feeder.why()}", feeder.log)
        self._look_for_forgery()
        if feeder and (self.counts is None or not isinstance(self.counts.get("tokens"), int)):
            raise Stopped("invalid", "the feeder left no counts", feeder.log)

    def _watch(self, train: Child, feeder: Child | None) -> None:
        """Wait for training to end; raises Stopped when it must not go on."""
        spare = [feeder.pid] if feeder else []
        looked = 0.0
        while train.poll() is None:
            self._stop_if_told()
            if train.seconds > self.task.scale.deadline_seconds:
                raise Stopped("timeout", f"training ran over its deadline of {self.task.scale.deadline_seconds:g} s")
            if feeder and feeder.poll() not in (None, 0):
                raise Stopped("crashed", f"the feeder: {feeder.why()}", feeder.log)
            haste = HASTE if train.seconds < EARLY_SECONDS else 1
            if time.monotonic() - looked >= LOOK_SECONDS / haste:
                self._look_at_memory(train, spare)
                self._look_at_disk(self._own(), spare)
                self._look_for_forgery()
                self._read_counts()
                looked = time.monotonic()
            time.sleep(POLL_SECONDS / haste)

    def _finish(self, feeder: Child) -> None:
        """Let the feeder write its last counts, then end it."""
        deadline = time.monotonic() + FEEDER_SECONDS
        while feeder.poll() is None and time.monotonic() < deadline and not self.killed:
            time.sleep(POLL_SECONDS / HASTE)
        feeder.kill()
        stages.kill_descendants()
        feeder.close()
        self._read_counts()

    def _score(self) -> None:
        """A second checkout, made when nothing of training lives, and the scorer on it."""
        checkout = self._checkout("eval")
        self._stop_if_told()
        folder, protected = self._sealed("score")
        result = folder / "score.json"
        words = self._words(folder)
        words |= {"checkout": str(checkout), "splits": ",".join(self.spec.splits), "result": str(result)}
        command = stages.fill(self.task.score, words)
        fence = Fence([folder], gpu=bool(self.spec.slot.cuda), apart=True)  # and so the host, which is below it
        more = {"HOST_FENCE": json.dumps(self._host_fence(folder, checkout))}
        self.scorer = scorer = self._start(command, protected, folder, "score.log", fence=fence, more=more)
        limit = self.task.scale.score_seconds
        looked = 0.0
        while scorer.poll() is None:
            self._stop_if_told()
            if scorer.seconds > limit:
                raise Stopped("timeout", f"scoring ran over its limit of {limit:g} s", scorer.log)
            if time.monotonic() - looked >= LOOK_SECONDS / HASTE:
                self._look_at_memory(scorer)
                self._look_at_disk([folder])
                looked = time.monotonic()
            time.sleep(POLL_SECONDS / HASTE)
        self.score = read_json(result)
        stages.kill_descendants()
        scorer.close()
        if scorer.returncode != 0:
            raise Stopped("crashed", f"the scorer: {scorer.why()}", scorer.log)
        if self.score is None:
            raise Stopped("crashed", "the scorer left no result", scorer.log)
        self._look_for_forgery()
        write_json(self.folder / "score.json", self.score)

    def _metric(self) -> dict[str, float]:
        """The scorer's values for the splits asked for. Raises Stopped when it says invalid, or one is no number."""
        score = self.score or {}
        if score.get("status") != "ok":
            said = stages.last_line(stages.clean(str(score.get("reason", ""))))
            raise Stopped("invalid", said or "the scorer gave no reason", self.scorer.log if self.scorer else None)
        given = score.get("metric")
        values = given if isinstance(given, dict) else {}
        metric: dict[str, float] = {}
        for split in self.spec.splits:
            value = values.get(split)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Stopped("invalid", f"no {self.task.metric.name} for the split {split}")
            if not math.isfinite(value):
                raise Stopped("invalid", f"{self.task.metric.name} on the split {split} is {value}")
            metric[split] = float(value)
        return metric

    # -- looking

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Signal handler: end the run at the next look, cleanly."""
        self.killed = True

    def _stop_if_told(self) -> None:
        if self.killed:
            raise Stopped("killed", "stopped by a signal to the runner")

    def _read_counts(self) -> None:
        """Take over the feeder's counts, and show them to people in `counts.json`."""
        counts = read_json(self._feed_counts) if self._feed_counts else None
        if counts is None or counts == self.counts:
            return
        self.counts = counts
        if _written(self.folder / "counts.json") == self._mirror:  # else it stays for `_look_for_forgery` to find
            self._show_counts()

    def _show_counts(self) -> None:
        mirror = self.folder / "counts.json"
        remove(mirror)
        if self.counts is not None:
            write_json(mirror, self.counts)
        self._mirror = _written(mirror)

    def _look_at_memory(self, stage: Child, spare: list[int] | None = None) -> None:
        """Raises Stopped when what runs, but the feeder (`spare`), has more resident memory than the scale allows."""
        used, gib = stage.memory(spare or []), self.task.scale.memory_gib
        if used > gib * 2**30:
            status, when = ("crashed", "") if stage is self.train else ("invalid", " while scoring")
            raise Stopped(status, f"out of memory{when}: used {used / 2**30:.2f} GiB of {gib:g}", stage.log)

    def _look_at_disk(self, places: list[Path], spare: list[int] | None = None) -> None:
        """Raises Stopped when more than DISK_GIB has been written below `places`, or is held open by what runs."""
        written = taken(places, stages.below(os.getpid(), set(spare or [])), int(DISK_GIB * 2**30))
        if written > DISK_GIB * 2**30:
            raise Stopped("invalid", f"the disk fills: {written / 2**30:.2f} GiB written, of {DISK_GIB:g} allowed")

    def _look_for_forgery(self) -> None:
        """Training may not write what only the laboratory writes. Raises Stopped when it did."""
        for name in ("result.json", "score.json"):
            if os.path.lexists(self.folder / name):
                remove(self.folder / name)
                raise Stopped("invalid", f"forged: the experiment's code wrote {name} into the run's folder")
        if _written(self.folder / "counts.json") != self._mirror:
            self._show_counts()
            raise Stopped("invalid", "forged: the experiment's code wrote counts.json into the run's folder")

    # -- the end

    def _result(self, status: str, reason: str, metric: dict[str, float], log: Path) -> dict[str, Any]:
        ended = time.time()
        return {
            "run": self.spec.run, "status": status, "reason": reason, "metric": metric,
            "account": account(
                self.counts, self.score,
                train_seconds=self.train.seconds if self.train else None,
                score_seconds=self.scorer.seconds if self.scorer else None,
                wall_seconds=ended - self.started,
                peak_memory_bytes=self.train.peak_memory if self.train else None,
                device=device_name(self.spec.slot.cuda), threads=self.task.scale.threads, host_load=self.host_load,
            ),
            "hashes": environment_hashes(self.spec),
            "log_tail": stages.log_tail(log), "started": self.started, "ended": ended,
        }

    def tidy(self, status: str) -> None:
        """Keep logs and JSON, and of banks and confirmations that are ok the checkpoint."""
        keep = {"out"} if self.spec.keeps_checkpoint and status == "ok" else set()
        for path in self.folder.iterdir():
            if path.is_symlink() or (path.is_dir() and path.name not in keep):
                with contextlib.suppress(OSError):
                    remove(path)


def environment_hashes(spec: RunSpec) -> dict[str, str]:
    """What makes runs comparable: hashes of data (its manifest), protected files and task, and versions.

    The task's hash leaves the budget and its deadline out: a control has another one and is compared all the same.
    """
    manifest = read_json(spec.data / "manifest.json") or {}
    pinned = json.dumps(sorted(spec.protected_hashes.items()))
    task = spec.task.model_dump_json(exclude={"scale": {"budget", "deadline_seconds"}})
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = "absent"
    return {
        **{str(key): value for key, value in manifest.items() if isinstance(value, str)},
        "protected": hashlib.sha256(pinned.encode()).hexdigest(),
        "task": hashlib.sha256(task.encode()).hexdigest(),
        "org": spec.org_hash, "torch": torch, "python": platform.python_version(), "platform": platform.platform(),
        "fence": describe(),
    }


def _user() -> Path:
    """The user's home, with keys in it. "~", a place that is not there, for a user without one."""
    return Path(os.path.expanduser("~"))


def _written(path: Path) -> tuple[int, int] | None:
    """Which writing of a file this is: (inode, mtime in ns), None when there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def main(arguments: list[str]) -> int:
    """`python -I -m lab.runner RUN_DIR`."""
    if len(arguments) != 1:
        print("usage: python -I -m lab.runner RUN_DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).resolve()
    try:
        spec = RunSpec.read(folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    stages.become_subreaper()
    run = Run(folder, spec)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, run.stop)
    result = run.execute()
    try:
        run.tidy(result["status"])
        write_json(folder / "result.json", result)
    except OSError as error:
        where = f"{folder}/result.json"
        print(f"{where}: cannot be written: {error.strerror}: free disk space and run again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
