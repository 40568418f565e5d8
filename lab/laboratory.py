"""The laboratory at work: takes requests, carries out the workflow's steps, starts runs and collects their results.

One object in the controller. Every method may be interrupted by death at any line: what it did is in the ledger, git or a run
folder, and calling it again does only what is missing.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lab.client import PERSON
from lab.errors import UserError
from lab.executors import local
from lab.experiment import Policy, Promote, Queue, Rebase, Step, Write, decide, without_comparison
from lab.files import read_json
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.process import Identity
from lab.queue import halted, in_flight, pick
from lab.records import NO_EVIDENCE, Experiment, Run, State, View
from lab.requests import Request
from lab.runspec import RunSpec
from lab.slots import Slot, free
from tasks.spec import Budget, Task
from worktrees.repo import Conflict, GitError, NothingChanged, ProtectedChanged, Repo, Snapshot

FIRST_SEED = 1000
FREE_BYTES = 200_000_000
"""No run is started with less disk than this: it would fail, and through no fault of the candidate."""


@dataclass
class Laboratory:
    """`chiefs` are the agents who may order confirmations and promotions; a person always may."""

    home: Home
    task: Task
    policy: Policy
    repo: Repo
    slots: list[Slot]
    chiefs: set[str] = field(default_factory=set)
    home_slots: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.home.ledger)
        self.view = View(self.ledger)

    @property
    def state(self) -> State:
        return self.view.state

    def refresh(self) -> list[Fact]:
        """Fold in what the ledger got since, by whomever."""
        return self.view.refresh()

    def _write(self, kind: str, subject: str, body: dict[str, Any], actor: str = "lab") -> None:
        self.ledger.append(kind, body, subject, actor)
        self.refresh()

    # Requests

    def take(self, request: Request) -> dict[str, Any]:
        """Carry out an agent's or person's request. Returns the answer's body; raises UserError with the reason of a refusal."""
        self.refresh()
        identity = str(request.body.get("experiment", ""))
        experiment = self.state.experiments.get(identity)
        if experiment is None:
            raise UserError(f"there is no experiment {identity[:40]!r}: `orgctl exp list` shows them")
        actions = {
            "run": self._run,
            "confirm": self._confirm,
            "promote": self._promote_request,
            "withdraw": self._withdraw,
        }
        return actions[request.kind](experiment, request)

    def _run(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        if request.actor not in (experiment.agent, PERSON):
            raise UserError(f"{experiment.id} belongs to {experiment.agent}: propose your own")
        if experiment.withdrawn is not None:
            raise UserError(f"{experiment.id} was withdrawn: propose it anew")
        first = next((run for run in experiment.runs_for("nominate") if not run.over), None)
        if first is not None:  # asked twice, or the controller died before it answered
            return {"run": first.id, "commit": first.commit, "ignored": [], "changed": experiment.attempts[-1].changed}
        if experiment.attempts:
            raise UserError(
                f"{experiment.id} was submitted already ({experiment.status}): `orgctl exp show {experiment.id}`; "
                "a changed idea is a new proposal"
            )
        allowance = self.policy.queue_ahead
        if len(in_flight(self.state, experiment.agent)) >= allowance:
            raise UserError(
                f"{experiment.agent} has {allowance} runs queued or running, which is its allowance: wait for one to end"
            )
        worktree = self.home.worktrees / experiment.agent
        if not worktree.is_dir():
            raise UserError(f"{experiment.agent} has no worktree: only agents of this organisation run experiments")
        try:
            parent = self.repo.fork_point(self.repo.branch(experiment.agent), self.state.trunk)
            if parent not in {step.commit for step in self.state.trunks}:
                raise UserError(
                    f"{experiment.agent}'s branch is based on {parent[:8]}, which never was trunk here: "
                    "`git reset --hard org/trunk` in the worktree (keep your change aside), then run again"
                )
            snapshot = self.repo.snapshot(
                worktree,
                experiment.agent,
                f"refs/org/exp/{experiment.id}/1",
                parent,
                self.task.editable,
                self.task.protected,
                f"{experiment.id}: {experiment.hypothesis.splitlines()[0][:200]}",
            )
        except ProtectedChanged as error:
            raise UserError(
                f"{experiment.id} changes protected files ({', '.join(error.paths)}): put them back with "
                f"`git checkout org/trunk -- FILE`; only {', '.join(self.task.editable)} may change"
            ) from error
        except NothingChanged as error:
            raise UserError(
                f"{experiment.id}: nothing changed in {', '.join(self.task.editable)}: edit, then run again"
            ) from error
        except GitError as error:
            raise UserError(str(error)) from error
        for other in self.state.experiments.values():
            last = other.attempt.verdict if other.attempt else None
            if other.withdrawn is not None or (last and last["verdict"] == "inconclusive" and not last["n"]):
                continue  # nothing was measured of it
            for attempt in other.attempts:
                if attempt.parent == parent and attempt.diff == snapshot.diff:
                    raise UserError(
                        f"{experiment.id} is the same change as {other.id} ({other.status}): `orgctl exp show {other.id}`"
                    )
        self._attempt(experiment, 1, snapshot)
        self.step()
        run = self.state.experiments[experiment.id].runs_for("nominate")[0].id
        return {"run": run, "commit": snapshot.commit, "ignored": snapshot.ignored[:50], "changed": snapshot.changed}

    def _attempt(self, experiment: Experiment, number: int, snapshot: Snapshot) -> None:
        body = {
            "number": number,
            "parent": snapshot.parent,
            "commit": snapshot.commit,
            "diff": snapshot.diff,
            "changed": snapshot.changed,
            "ignored": snapshot.ignored[:200],
        }
        self._write("attempt", experiment.id, body, experiment.agent)

    def _may_decide(self, request: Request, what: str) -> None:
        if request.actor not in self.chiefs | {PERSON}:
            who = ", ".join(sorted(self.chiefs)) or "the laboratory itself, by this design's policy,"
            raise UserError(f"{request.actor} may not {what}: {who} does that here")

    def _confirm(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        self._may_decide(request, "order confirmations")
        attempt = experiment.attempt
        if attempt is None or attempt.nomination is None or attempt.verdict or experiment.withdrawn is not None:
            raise UserError(
                f"{experiment.id} is {experiment.status}, not nominated: only a nominated experiment can be confirmed"
            )
        if attempt.confirm_ordered:
            raise UserError(f"{experiment.id} is being confirmed already")
        self._write("confirm", experiment.id, {"attempt": attempt.number}, request.actor)
        return {"attempt": attempt.number}

    def _promote_request(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        self._may_decide(request, "promote")
        attempt = experiment.attempt
        if attempt is None or experiment.verdict != "improved" or experiment.promoted:
            raise UserError(
                f"{experiment.id} is {experiment.status}: only an experiment with the verdict `improved` can be promoted"
            )
        if attempt.parent != self.state.trunk:
            self._rebase(experiment)
            return {
                "commit": None,
                "note": f"trunk has moved since {experiment.id} was judged: it is confirmed again on the present trunk first",
            }
        return {"commit": self._promote(experiment, request.actor)}

    def _withdraw(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        if request.actor not in self.chiefs | {PERSON, experiment.agent}:
            raise UserError(
                f"{experiment.id} belongs to {experiment.agent}: only it, a chief or a person may withdraw it"
            )
        if experiment.verdict or experiment.promoted or experiment.withdrawn is not None:
            raise UserError(f"{experiment.id} is {experiment.status}: there is nothing to withdraw")
        self._write("withdrawn", experiment.id, {"why": str(request.body.get("why", ""))[:4000]}, request.actor)
        for run in experiment.runs:
            if run.status == "running":
                self._stop(run, "withdrawn", 5)
        return {}

    # The workflow

    def step(self) -> None:
        """Collect results, then carry out steps until the facts call for no more."""
        local.collect()
        self.reap()
        for _ in range(20):
            steps = decide(self.state, self.task, self.policy)
            if not steps:
                return
            for step in steps:
                self._carry_out(step)
                if not isinstance(step, Queue):
                    break
            self.refresh()

    def _carry_out(self, step: Step) -> None:
        if isinstance(step, Queue):
            self._queue(step)
        elif isinstance(step, Write):
            self._write(step.kind, step.subject, step.body)
        elif isinstance(step, Rebase):
            self._rebase(self.state.experiments[step.experiment])
        elif isinstance(step, Promote):
            self._promote(self.state.experiments[step.experiment], "lab")

    def _queue(self, wanted: Queue) -> str:
        """Queue one run on a seed that nothing was run on before; returns its id."""
        budget = self.task.scale.budget.times(wanted.budget_factor)
        body = {
            "experiment": wanted.experiment,
            "attempt": wanted.attempt,
            "purpose": wanted.purpose,
            "commit": wanted.commit,
            "seed": FIRST_SEED + len(self.state.runs),
            "splits": list(wanted.splits),
            "budget": budget.model_dump(),
            "agent": wanted.agent,
            "home_slot": self.home_slots.get(wanted.agent),
            "assisted": wanted.agent in self.state.taken_over,
        }
        fact = self.ledger.append_new("run", "R", body)
        self.refresh()
        return fact.subject

    def _rebase(self, experiment: Experiment) -> None:
        attempt = experiment.attempts[-1]
        number = attempt.number + 1
        try:
            snapshot = self.repo.rebase(
                attempt.commit,
                attempt.parent,
                self.state.trunk,
                f"refs/org/exp/{experiment.id}/{number}",
                experiment.agent,
                f"{experiment.id}: {experiment.hypothesis.splitlines()[0][:200]}",
            )
        except (Conflict, NothingChanged) as error:
            why = (
                f"conflicts with trunk in {', '.join(error.files)}"
                if isinstance(error, Conflict)
                else "trunk has this change already"
            )
            reasoning = [
                f"cannot be carried to the present trunk {self.state.trunk[:8]}: {why}",
                "a verdict holds for its base commit only",
                "propose it again on the present trunk if it still makes sense",
            ]
            body = without_comparison(attempt, "inconclusive", reasoning)
            self._write("verdict", experiment.id, body)
            return
        self._attempt(experiment, number, snapshot)
        self._write("confirm", experiment.id, {"attempt": number})

    def _promote(self, experiment: Experiment, actor: str) -> str:
        """Trunk becomes the attempt's commit (its parent is trunk). The ledger names it first, then the ref follows."""
        attempt = experiment.attempts[-1]
        old = self.state.trunk
        body = {"commit": attempt.commit, "parent": old, "experiment": experiment.id, "why": f"promoted by {actor}"}
        self._write("trunk", attempt.commit, body, actor)
        self.mirror_trunk()
        return attempt.commit

    def mirror_trunk(self) -> None:
        """Make the git ref agree with the ledger: forward after a promotion, back when somebody else moved it (an alarm)."""
        wanted = self.state.trunk
        try:
            found = self.repo.trunk()
        except GitError:
            found = ""  # somebody deleted the branch
        if not wanted or wanted == found:
            return
        branch = self.repo.trunk_branch
        if found and any(step.commit == wanted and step.parent == found for step in self.state.trunks):
            warning = self.repo.advance_trunk(found, wanted)
            if warning:
                self._write("alarm", branch, {"text": warning})
            return
        moved = f"moved to {found[:8]}" if found else "deleted"
        self.repo.restore_trunk(wanted)
        text = f"{branch} was {moved} by somebody else: put back to {wanted[:8]}, which the ledger names"
        self._write("alarm", branch, {"text": text})

    # Runs

    def start_runs(self, now: float) -> None:
        """Start queued runs on free slots; nothing while the machine itself makes runs fail, or the disk is full."""
        if halted(self.state, now):
            return
        if shutil.disk_usage(self.home.org).free < FREE_BYTES:
            raise UserError(f"less than {FREE_BYTES / 1e6:.0f} MB are free on the disk of {self.home.org}: no run is started")
        running = [run for run in self.state.runs.values() if run.status == "running"]
        for run, slot in pick(self.state, free(self.slots, running)):
            self._start(run, slot)

    def _start(self, run: Run, slot: Slot) -> None:
        folder = self.home.runs / run.id
        identity = _stray_runner(folder)
        if identity is None:
            shutil.rmtree(folder, ignore_errors=True)
            self._spec(run, slot).write(folder)
            identity = local.start(self.home, run.id)
        else:
            slot = RunSpec.read(folder).slot
        body = {"slot": slot.index, "pid": identity.pid, "started": identity.started, "device": slot.device}
        self._write("start", run.id, body)

    def _spec(self, run: Run, slot: Slot) -> RunSpec:
        experiment = self.state.experiments.get(run.experiment)
        parent = (
            next((item.parent for item in experiment.attempts if item.number == run.attempt), run.commit)
            if experiment
            else run.commit
        )
        factor = run.budget["amount"] / self.task.scale.budget.amount
        scale = self.task.scale.model_copy(
            update={
                "budget": Budget(**run.budget),
                "deadline_seconds": self.task.scale.deadline_seconds * max(1.0, factor),
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
            task=self.task.model_copy(update={"scale": scale}),
            budget=Budget(**run.budget),
            repo=self.repo.root,
            data=self.home.data,
            protected=self.home.protected,
            protected_hashes=self.state.session.get("protected", {}),
            slot=slot,
            org_hash=str(self.state.session.get("org_hash", "")),
        )

    def reap(self) -> None:
        """Write down the results of runs that ended; a run whose runner vanished without one has crashed."""
        for run in list(self.state.runs.values()):
            if run.status == "queued" and (why := self._needless(run)):
                self._result(run, {"status": "killed", "reason": why})
            if run.status != "running":
                continue
            if Identity(run.pid, run.process_started).alive():
                continue  # the runner's last deed is the result: what lies there before is not from it
            folder = self.home.runs / run.id
            found = read_json(folder / "result.json")
            if found is not None and found.get("run") == run.id:
                if found.get("status") == "killed":  # the laboratory did not ask for that
                    found = {**found, "status": "lost", "reason": "somebody else ended its runner"}
                self._result(run, found)
            else:
                local.bury(folder)
                log = folder / "runner.log"
                tail = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
                self._result(
                    run, {"status": "lost", "reason": "its runner vanished without a result", "log_tail": tail}
                )

    def _needless(self, run: Run) -> str | None:
        """Why a queued run need not be started any more."""
        experiment = self.state.experiments.get(run.experiment)
        if experiment is None:
            return None
        if experiment.withdrawn is not None:
            return "withdrawn before it started"
        judged = next((attempt for attempt in experiment.attempts if attempt.number == run.attempt and attempt.verdict), None)
        return "judged before it started" if judged else None

    def _result(self, run: Run, found: dict[str, Any]) -> None:
        status = found.get("status")
        try:
            metric = {str(key): float(value) for key, value in dict(found.get("metric") or {}).items()}
        except (TypeError, ValueError):
            status, metric, found = "invalid", {}, {**found, "reason": "its result.json holds no numbers"}
        if status == "ok" and not set(run.splits) <= set(metric):
            status, found = (
                "invalid",
                {**found, "reason": f"no value for split {', '.join(sorted(set(run.splits) - set(metric)))}"},
            )
        body = {
            "status": status if status in ("ok", "crashed", "invalid", "timeout", *NO_EVIDENCE) else "crashed",
            "reason": str(found.get("reason", ""))[:1000],
            "metric": metric,
            "account": dict(found.get("account") or {}),
            "hashes": dict(found.get("hashes") or {}),
            "log_tail": str(found.get("log_tail", ""))[-2000:],
            "ended": found.get("ended") if isinstance(found.get("ended"), int | float) else None,
        }
        self.ledger.append_once("result", body, run.id)
        self.refresh()

    def stop_runs(self, seconds: float = 10) -> None:
        """Stop every running run and write its result down."""
        running = [run for run in self.state.runs.values() if run.status == "running"]
        for run in running:
            Identity(run.pid, run.process_started).signal_group()
        for run in running:
            self._stop(run, "stopped with the organisation", seconds)

    def _stop(self, run: Run, why: str, seconds: float) -> None:
        """Stop one run; killed it is, also when its runner was too young to write that itself."""
        folder = self.home.runs / run.id
        local.stop(Identity(run.pid, run.process_started), seconds, folder)
        found = read_json(folder / "result.json")
        self._result(run, found if found and found.get("run") == run.id else {"status": "killed", "reason": why})


def _stray_runner(folder: Path) -> Identity | None:
    """A runner of this folder that a controller started without living to write it down."""
    if not (folder / "spec.json").is_file():
        return None
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            words = process.info["cmdline"] or []
            if "lab.runner" in words and words[-1] == str(folder):
                return Identity.of(process.pid)
    return None
