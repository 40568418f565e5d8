"""Runs on slots: which are started, what came of them, and how they are stopped. The laboratory calls it at every step.

A run is a folder and a process identity; what this file knows about it is in the ledger, so that a restarted controller adopts
what still runs and collects what ended meanwhile.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from lab import limits, resized
from lab.errors import Unpinned, UserError
from lab.executors import local
from lab.files import read_json
from lab.flags import flags
from lab.home import Home
from lab.overlay import pinned, remove
from lab.process import Identity
from lab.queue import halted, pick
from lab.records import NO_EVIDENCE, Run
from lab.runspec import RunSpec, read_manifest
from lab.slots import Slot, free
from lab.state import State, View, bank_of
from tasks.spec import Budget, Task

FREE_BYTES = 200_000_000
"""No run is started with less disk than this: it would fail, and through no fault of the candidate."""

LARGEST_PROBE = 16.0
"""Times trunk's cost that a setting of the dial may have while nobody has measured it: an eighth of the budget then has twice the time."""


@dataclass
class Runs:
    """The runs of one session; `view` is the laboratory's own, `look` how it folds in what is new."""

    home: Home
    task: Task
    slots: list[Slot]
    view: View
    look: Callable[[], object] | None = None

    def refresh(self) -> None:
        (self.look or self.view.refresh)()

    @property
    def state(self) -> State:
        return self.view.state

    @cached_property
    def following(self) -> Task | None:
        """The task at the next scale of its ladder."""
        try:
            return Task.model_validate_json(self.home.next_task.read_text())
        except OSError:
            return None

    def task_of(self, purpose: str) -> Task:
        """The task as a run of this purpose gets it."""
        return self.following if purpose == "carry" and self.following else self.task

    def start(self, now: float) -> None:
        """Start queued runs on free slots; nothing while the machine itself makes runs fail. Raises UserError, and starts nothing, while
        the disk is full or a pinned file is not what it was: that would fail them, and through no fault of the candidates."""
        if halted(self.state, now):
            return
        if shutil.disk_usage(self.home.org).free < FREE_BYTES:
            raise UserError(f"less than {FREE_BYTES / 1e6:.0f} MB are free on the disk of {self.home.org}: no run is started")
        running = [run for run in self.state.open.values() if run.status == "running"]
        picked = pick(self.state, free(self.slots, running))
        if any(run.purpose != "carry" for run, _ in picked):
            self._check_pinned(carried=False)
        for run, slot in sorted(picked, key=lambda one: one[0].purpose == "carry"):
            if run.purpose == "carry":  # last: data of the next scale that are not right hold up nothing else
                self._check_pinned(carried=True)
            self._start(run, slot)

    def _data(self, carried: bool) -> tuple[Path, str]:
        """The folder of a run's data, and the hash of its manifest as pinned: by the session, or by the newest order to carry ideas."""
        if not carried:
            return self.home.data, str(self.state.session.get("manifest") or "")
        return self.home.next_data, next(reversed(self.state.carries.values())).manifest if self.state.carries else ""

    def _check_pinned(self, carried: bool) -> None:
        """Raises Unpinned when the manifest of the data (`carried`: of the next scale) or a protected file is not what was pinned."""
        data, manifest = self._data(carried)
        if manifest and read_manifest(data)[1] != manifest:
            raise Unpinned(
                f"{data}/manifest.json is not what was pinned when the data were made: no run {'is carried' if carried else 'is started'}"
                f" until it is restored (or remove {data}: `{self.home.command} {'exp carry' if carried else 'up'}` prepares it again)"
            )
        for name, expected in self.state.session.get("protected", {}).items():
            pinned(self.home.protected / name, expected)

    def _start(self, run: Run, slot: Slot) -> None:
        folder = self.home.runs / run.id
        for stray in _strays(folder):
            local.stop(stray, 0.0, folder)
        remove(folder)
        self._spec(run, slot).write(folder)
        identity = local.start(self.home, run.id)
        body = {"slot": slot.index, "pid": identity.pid, "started": identity.started, "device": slot.device}
        self.view.ledger.append("start", body, run.id)
        self.refresh()

    def _spec(self, run: Run, slot: Slot) -> RunSpec:
        parent = self._parent(run)
        task = self.task_of(run.purpose)
        factor = run.budget["amount"] / task.scale.budget.amount
        data, manifest = self._data(run.purpose == "carry")
        size = resized.cost_of(self.state, task, parent, run.dial) or LARGEST_PROBE
        scale = task.scale.model_copy(
            update={
                "budget": Budget(**run.budget),
                "deadline_seconds": task.scale.deadline_seconds * max(1.0, factor * size),
            }
        )
        return RunSpec(
            run=run.id,
            experiment=run.experiment,
            attempt=run.attempt,
            agent=run.agent,
            purpose=run.purpose,
            commit=run.commit,
            parent=parent,
            seed=run.seed,
            splits=run.splits,
            task=task.model_copy(update={"scale": scale}),
            budget=Budget(**run.budget),
            dial=run.dial,
            repo=self.home.root,
            data=data,
            protected=self.home.protected,
            protected_hashes=self.state.session.get("protected", {}),
            manifest=manifest,
            slot=slot,
            org_hash=str(self.state.session.get("org_hash", "")),
            limits=limits.baseline(bank_of(self.state, parent).runs) if run.purpose in ("nominate", "confirm", "replicate") else None,
        )

    def _parent(self, run: Run) -> str:
        """The trunk commit that the run's commit is compared with; its own for a bank."""
        experiment = self.state.experiments.get(run.experiment)
        attempts = experiment.attempts if experiment else []
        return next((item.parent for item in attempts if item.number == run.attempt), run.commit)

    def reap(self) -> None:
        """Write down the results of runs that ended; a run whose runner vanished without one is lost."""
        for run in list(self.state.open.values()):
            if run.status == "queued" and (why := self._needless(run)):
                self._result(run, {"status": "killed", "reason": why})
            if run.status != "running":
                continue
            if Identity(run.pid, run.process_started).alive():
                continue  # the runner's last deed is the result: what lies there before is not from it
            folder = self.home.runs / run.id
            found = self._left(run)
            if found is not None:
                if found.get("status") == "killed":  # the laboratory did not ask for that
                    found = {**found, "status": "lost", "reason": "somebody else ended its runner"}
                    self._ended_by_others(run)
                self._result(run, found)
            else:
                local.bury(folder)
                code = local.code(Identity(run.pid, run.process_started))
                how = f"was killed by signal {-code}" if code and code < 0 else "vanished"
                if code and code < 0:
                    self._ended_by_others(run)
                log = folder / "runner.log"
                tail = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
                self._result(
                    run, {"status": "lost", "reason": f"its runner {how} before it had written a result", "log_tail": tail}
                )

    def _ended_by_others(self, run: Run) -> None:
        of = f"{run.experiment}, {run.purpose}" if run.experiment else f"{run.purpose} of {run.commit[:8]}"
        text = f"{run.id} ({of}) was ended by somebody else: what stands in for it runs on its seed, {run.seed}, so nothing is gained"
        self.view.ledger.append("alarm", {"text": text}, run.id)

    def _needless(self, run: Run) -> str | None:
        """Why a queued run need not be started any more."""
        experiment = self.state.experiments.get(run.experiment)
        if run.purpose == "parent" and experiment is not None and experiment.reverted:
            return "its promotion was taken back"
        if experiment is None or run.purpose in ("replicate", "parent", "audit", "carry"):  # those are run because there is a verdict
            return None
        if experiment.withdrawn is not None:
            return "withdrawn before it started"
        judged = next((attempt for attempt in experiment.attempts if attempt.number == run.attempt and attempt.verdict), None)
        return "judged before it started" if judged else None

    def _result(self, run: Run, found: dict[str, Any]) -> None:
        body = as_recorded(run, found)
        body["flags"] = self._flags(run, body["metric"], body["account"]) if body["status"] == "ok" else []
        self.view.ledger.append_once("result", body, run.id, but=self.state.disowned)
        self.refresh()

    def _flags(self, run: Run, metric: dict[str, float], account: dict[str, Any]) -> list[str]:
        """What is odd about a candidate's run beside its parent's bank."""
        if run.purpose not in ("nominate", "confirm", "replicate"):
            return []
        return flags(metric, account, bank_of(self.state, self._parent(run)).runs)

    def stop_all(self, seconds: float = 10) -> None:
        """Stop every running run and write its result down."""
        running = [run for run in self.state.open.values() if run.status == "running"]
        for run in running:
            Identity(run.pid, run.process_started).signal_group()
        for run in running:
            self.stop(run, "stopped with the organisation", seconds)

    def stop(self, run: Run, why: str, seconds: float) -> None:
        """Stop one run; killed it is, also when its runner was too young to write that itself."""
        folder = self.home.runs / run.id
        local.stop(Identity(run.pid, run.process_started), seconds, folder)
        self._result(run, self._left(run) or {"status": "killed", "reason": why})

    def _left(self, run: Run) -> dict[str, Any] | None:
        """The result that the runner, which is over, has left. It writes that last and then ends with code 0: after any other end the
        file is somebody else's. (A controller that was started meanwhile does not hear how the runner ended, and reads it.)"""
        if local.code(Identity(run.pid, run.process_started)):
            return None
        found = read_json(self.home.runs / run.id / "result.json")
        return found if found is not None and found.get("run") == run.id else None


def as_recorded(run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """The result fact that this `result.json` makes, less its flags; what is no result is `invalid` or `crashed`."""
    status = found.get("status")
    try:
        metric = {str(key): float(value) for key, value in dict(found.get("metric") or {}).items()}
    except (TypeError, ValueError):
        status, metric, found = "invalid", {}, {**found, "reason": "its result.json holds no numbers"}
    if status == "ok" and (missing := sorted(set(run.splits) - set(metric))):
        status, found = "invalid", {**found, "reason": f"no value for split {', '.join(missing)}"}
    return {
        "status": status if status in ("ok", "crashed", "invalid", "timeout", *NO_EVIDENCE) else "crashed",
        "reason": str(found.get("reason", ""))[:1000],
        "metric": metric,
        "account": dict(found.get("account") or {}),
        "flags": [],
        "unsealed": found["unsealed"] if isinstance(found.get("unsealed"), str) else None,
        "hashes": dict(found.get("hashes") or {}),
        "log_tail": str(found.get("log_tail", ""))[-2000:],
        "ended": found.get("ended") if isinstance(found.get("ended"), int | float) else None,
    }


def _strays(folder: Path) -> list[Identity]:
    """What runs in the name of a run that the ledger has not started: the runner of a controller that did not live to write it down,
    or a program that wants to be taken for one. Neither is believed; the run begins anew on its seed."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = process.info["cmdline"] or []
            if "lab.runner" in words and words[-1] == str(folder):
                found.append(Identity.of(process.pid))
    return [one for one in found if one is not None]
