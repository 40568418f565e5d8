"""One run, from clean checkout to `result.json`: `python -I -m lab.runner RUN_DIR`, one process a run.

It trusts nobody: training gets a bare environment and protected files by hash, counts come from the feeder and the
metric from the scorer, each in a folder that training was not told of, and nothing that training started outlives it.
Exit 0: `result.json` is written, whatever it says. 1: it could not be written. 2: no usable `spec.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from lab import child as stages
from lab.account import account, cpu_clock, device_name
from lab.child import Child
from lab.errors import Stopped, Unpinned, UserError
from lab.fence import Fence
from lab.files import read_json, write_json
from lab.gpus import Gauge, occupied
from lab.measure import measure, shown, splits_to_score
from lab.overlay import lay_protected, remove
from lab.runspec import RunSpec, read_manifest
from lab.seal import Seal
from lab.slots import usable_cores
from lab.watch import Watch, size
from worktrees.repo import GitError, Repo

POLL_SECONDS = 0.1
LOOK_SECONDS = 0.5
"""How often memory, disk, counts and forged files are looked at."""
EARLY_SECONDS, HASTE = 5.0, 5
"""At first, when memory grows fastest and short runs end, both happen five times as often."""
FEEDER_SECONDS = 10.0
"""The feeder gets this long to write its last counts once training has gone."""


class Run:
    """A run on its way. `execute` returns the result as it is to be written."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self.folder, self.spec = folder, spec
        self.task = spec.task if spec.dial is None else spec.task.resized(spec.dial)
        self.manifest, self.manifest_hash = read_manifest(spec.data)
        self.watch, self.seal = Watch(folder, spec), Seal(folder, spec, self.manifest)
        self.started = time.time()
        self.killed = False
        self.score: dict[str, Any] | None = None
        self.train: Child | None = None
        self.scorer: Child | None = None
        self.measured: dict[str, Any] = {}
        """Entries of the account that only we can see: sizes, the device's memory, the machine's load."""
        self.unsealed: str | None = None
        self.log = folder / "stdout.log"

    # -- the stages, in order

    def execute(self) -> dict[str, Any]:
        """Go through all stages. What the task, the experiment or the machine does wrong ends up in the result."""
        status, reason, log = "ok", "", None
        metric: dict[str, float] = {}
        try:
            self._clear()
            self._check_commit()
            self._train()
            self._score()
            metric = measure(self.task, self.spec.splits, self.score or {}, self._account())
        except Stopped as stop:
            status, reason, log = stop.status, stop.reason, stop.log
        except Unpinned as error:  # whoever changed it, the experiment did not: it is run again
            status, reason = "lost", str(error)
        except (UserError, GitError, OSError, ValueError) as error:
            status, reason = "crashed", stages.last_line(" ".join(stages.clean(str(error)).split())) or repr(error)
        finally:
            stages.kill_descendants()
            for stage in (self.train, self.scorer):
                if stage:
                    stage.kill()
                    stage.close()
        return self._result(status, reason, metric, log or self.log)

    def _clear(self) -> None:
        """An empty folder but for what the controller and the executor left."""
        for path in self.folder.iterdir():
            if path.name not in ("spec.json", "runner.log"):
                remove(path)
        (self.folder / "out").mkdir()
        if self.spec.manifest and self.manifest_hash != self.spec.manifest:
            raise Unpinned(f"{self.spec.data}/manifest.json is not what was pinned when the data were made: restore it")

    def _check_commit(self) -> None:
        """The commit differs from the trunk commit that it is compared with in editable files alone, whoever made it."""
        changed = Repo(self.spec.repo).changed_paths(self.spec.parent, self.spec.commit)
        if others := sorted(set(changed) - set(self.task.editable)):
            named = ", ".join(stages.clean(path) for path in others[:3])
            raise Stopped("invalid", f"forged: commit {self.spec.commit[:10]} changes {named}, which no experiment may change")

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
        stdin: int = subprocess.DEVNULL,
        fence: Fence | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a stage in `place`, which is also its import path. `more` goes into its environment."""
        environment = {**stages.bare_environment(home, self.task.scale, self.spec.slot.cuda, place), **(more or {})}
        try:
            return Child(command, place, environment, self.folder / log, fds, stdin, self.spec.slot.cpus, fence)
        except subprocess.SubprocessError as error:
            raise UserError(f"{command[0]} cannot be fenced in or pinned: {error}") from error
        finally:
            if fence:
                fence.close()

    def _train(self) -> None:
        """Checkout, feeder, training, until all of training is dead and the feeder has written its last counts."""
        checkout = self._checkout("checkout")
        self._stop_if_told()
        source = size(checkout / path for path in self.task.editable)
        self.measured["source_bytes"] = source
        self.watch.limit("source_bytes", source)
        feeder: Child | None = None
        cuda, launch = self.spec.slot.cuda, self.task.scale.launch
        words = {**self._words(self.folder), "gpus": str(self.task.scale.gpus)}
        fence = self.seal.training()
        self.unsealed = self.seal.broken(fence)
        if cuda:
            self.measured["contended"] = occupied(cuda)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if self.task.feed:
                folder, protected = self._sealed("feed")
                self.watch.counts_path = folder / "counts.json"
                fed = {**self._words(folder), "feed": str(ours.fileno()), "counts": str(self.watch.counts_path)}
                command = stages.fill(self.task.feed, fed)
                feeder = self._start(command, protected, folder, "feed.log", (ours.fileno(),))
                self.watch.spare.append(feeder.pid)
                words["feed"] = "0" if launch else str(theirs.fileno())
            ours.close()
            command = stages.fill([*launch, *self.task.train], words)
            fds, stdin = ((theirs.fileno(),), subprocess.DEVNULL) if feeder else ((), subprocess.DEVNULL)
            if feeder and launch:  # what is started in between hands on its standard input, and no other descriptor
                fds, stdin = (), theirs.fileno()
            more = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"} if launch else {}
            self.train = self._start(command, checkout, self.folder, "stdout.log", fds, stdin, fence, more)
            gauge = Gauge(cuda) if cuda else None
            if gauge and gauge.pid:
                self.watch.spare.append(gauge.pid)
            try:
                self._wait(self.train, feeder)
                self.measured["outlived"] = stages.outliving(set(self.watch.spare))
            finally:
                self.measured["host_load"] = os.getloadavg()[0]
                stages.kill_descendants(spare=[feeder.pid] if feeder else [])
                self.train.kill()
                self.train.close()
                theirs.close()  # only now can the feeder see the end, unless training shut the connection down itself
                if feeder:
                    self._finish(feeder)
                if gauge:
                    gauge.close()
                    self.measured["peak_device_memory_bytes"] = gauge.peak
                    self.measured["clock_mhz"] = gauge.clock
                    self.measured["contended"] = self.measured["contended"] or occupied(cuda)
        self._look_at_what_is_left(feeder)

    def _wait(self, train: Child, feeder: Child | None) -> None:
        """Wait for training to end; raises Stopped when it must not go on."""
        looked, clocks = 0.0, list[float]()
        while train.poll() is None:
            self._stop_if_told()
            if train.seconds > self.task.scale.deadline_seconds:
                raise Stopped("timeout", f"training ran over its deadline of {self.task.scale.deadline_seconds:g} s")
            if feeder and feeder.poll() not in (None, 0):
                raise Stopped("crashed", f"the feeder: {feeder.why()}", feeder.log)
            haste = HASTE if train.seconds < EARLY_SECONDS else 1
            if time.monotonic() - looked >= LOOK_SECONDS / haste:
                self.watch.training(train, self.seal.own)
                if not self.spec.slot.cuda and (clock := cpu_clock(self.spec.slot.cpus or usable_cores())):
                    clocks.append(clock)
                    self.measured["clock_mhz"] = statistics.median(clocks)
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
        self.watch.read_counts()

    def _look_at_what_is_left(self, feeder: Child | None) -> None:
        """After training: how it ended, and whether what it leaves is what it may leave."""
        assert self.train is not None
        self.watch.disk(self.seal.own)
        if self.train.returncode != 0:
            reason = self.train.why()
            if feeder and feeder.returncode != 0:
                reason += f" (the feeder: {feeder.why()})"
            raise Stopped("crashed", reason)
        if feeder and feeder.returncode != 0:
            raise Stopped("crashed", f"the feeder: {feeder.why()}", feeder.log)
        self.watch.forgery()
        counts = self.watch.counts
        if feeder and (counts is None or not isinstance(counts.get("tokens"), int)):
            raise Stopped("invalid", "the feeder left no counts", feeder.log)
        self.measured["checkpoint_bytes"] = size([self.folder / "out"])
        self.watch.limit("checkpoint_bytes", self.measured["checkpoint_bytes"])
        self.watch.limit("overtime_seconds", self._account()["overtime_seconds"])

    def _score(self) -> None:
        """A second checkout, made when nothing of training lives, and the scorer on it."""
        checkout = self._checkout("eval")
        self._stop_if_told()
        folder, protected = self._sealed("score")
        result = folder / "score.json"
        words = {**self._words(folder), "checkout": str(checkout), "result": str(result)}
        words["splits"] = ",".join(splits_to_score(self.task, self.spec.splits))
        command = stages.fill(self.task.score, words)
        more = {"HOST_FENCE": json.dumps(self.seal.hosts(folder, checkout))}
        fence = self.seal.scoring(folder)
        self.scorer = scorer = self._start(command, protected, folder, "score.log", fence=fence, more=more)
        looked = 0.0
        while scorer.poll() is None:
            self._stop_if_told()
            if time.monotonic() - looked >= LOOK_SECONDS / HASTE:
                self.watch.scoring(scorer, [folder])
                looked = time.monotonic()
            time.sleep(POLL_SECONDS / HASTE)
        self.score = read_json(result)
        stages.kill_descendants()
        scorer.close()
        if scorer.returncode != 0:
            raise Stopped("crashed", f"the scorer: {scorer.why()}", scorer.log)
        if self.score is None:
            raise Stopped("crashed", "the scorer left no result", scorer.log)
        self.log = scorer.log if self.score.get("status") != "ok" else self.log
        self.watch.forgery()
        write_json(self.folder / "score.json", shown(self.score, self.spec.splits))
        self.watch.limit("host_memory_bytes", self.score.get("host_memory_bytes"))

    # -- signals

    def stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Signal handler: end the run at the next look, cleanly."""
        self.killed = True

    def _stop_if_told(self) -> None:
        if self.killed:
            raise Stopped("killed", "stopped by a signal to the runner")

    # -- the end

    def _account(self) -> dict[str, Any]:
        return account(
            self.watch.counts,
            shown(self.score or {}, self.spec.splits),
            budget=self.spec.budget,
            train_seconds=self.train.seconds if self.train else None,
            score_seconds=self.scorer.seconds if self.scorer else None,
            wall_seconds=time.time() - self.started,
            peak_memory_bytes=self.train.peak_memory if self.train else None,
            device=device_name(self.spec.slot.cuda),
            threads=self.task.scale.threads,
            score_memory_bytes=self.scorer.peak_memory if self.scorer else None,
            **{"host_load": None, **self.measured},
        )

    def _result(self, status: str, reason: str, metric: dict[str, float], log: Path) -> dict[str, Any]:
        return {
            "run": self.spec.run, "status": status, "reason": reason, "metric": metric, "account": self._account(),
            "sealed": None if self.unsealed is None else not self.unsealed, "unsealed": self.unsealed,
            "hashes": self.spec.environment(self.manifest),
            "log_tail": stages.log_tail(log), "started": self.started, "ended": time.time(),
        }  # fmt: skip

    def tidy(self, status: str) -> None:
        """Keep logs and JSON, and of banks and confirmations that are ok the checkpoint."""
        keep = {"out"} if self.spec.keeps_checkpoint and status == "ok" else set()
        for path in self.folder.iterdir():
            if path.is_symlink() or (path.is_dir() and path.name not in keep):
                with contextlib.suppress(OSError):
                    remove(path)


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
