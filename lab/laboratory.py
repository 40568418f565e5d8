"""The laboratory at work: takes requests and carries out the workflow's steps, on the runs of `lab.runs`.

One object in the controller. Every method may be interrupted by death at any line: what it did is in the ledger, git or a run
folder, and calling it again does only what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab import audit, carry, promotion, similar
from lab.client import PERSON, acknowledged, repeated
from lab.errors import UserError
from lab.executors import local
from lab.experiment import (
    Policy,
    Promote,
    ProposeRemoval,
    Queue,
    Rebase,
    Revert,
    StartAudit,
    Step,
    Write,
    decide,
    without_comparison,
)
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.queue import in_flight
from lab.records import Experiment, State, View
from lab.requests import Request
from lab.runs import Runs
from lab.slots import Slot
from tasks.spec import Task
from worktrees.repo import Conflict, GitError, NothingChanged, ProtectedChanged, Repo, Snapshot

FIRST_SEED = 1000


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
        self.runs = Runs(self.home, self.task, self.slots, self.view)
        self.changes = similar.Changes()

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
        if request.kind == "audit":
            return self._audit_request(request)
        if request.kind == "carry":
            return self._carry_request(request)
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
        near = self.changes.near(self.state, snapshot.diff, but=experiment.id)
        new = [one for one in near if one.experiment not in acknowledged(experiment.again)]
        reason = repeated(self.state, new, str(request.body.get("again") or ""))
        self._attempt(experiment, 1, snapshot, reason)
        self.step()
        run = self.state.experiments[experiment.id].runs_for("nominate")[0].id
        told = similar.shown(self.state, near[: similar.SHOWN])
        return {
            "run": run, "commit": snapshot.commit, "ignored": snapshot.ignored[:50], "changed": snapshot.changed, "similar": told,
        }  # fmt: skip

    def _attempt(
        self, experiment: Experiment, number: int, snapshot: Snapshot, again: dict[str, Any] | None = None
    ) -> None:
        body = {
            "number": number,
            "parent": snapshot.parent,
            "commit": snapshot.commit,
            "diff": snapshot.diff,
            "changed": snapshot.changed,
            "ignored": snapshot.ignored[:200],
            "again": again,
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
        wanted = "neutral" if experiment.removes else "improved"
        if attempt is None or experiment.verdict != wanted or experiment.promoted:
            raise UserError(
                f"{experiment.id} is {experiment.status}: only an experiment with the verdict `{wanted}` can be promoted"
            )
        if experiment.removes and not self.state.same(attempt.parent, self.state.trunk):
            raise UserError(f"trunk has moved since {experiment.params['audit']}: `orgctl exp audit` looks at it again")
        if attempt.parent != self.state.trunk and (why := self._rebase(experiment)):
            raise UserError(
                f"{experiment.id} {why}; nothing was merged and it is `inconclusive` now: propose it again on the present trunk"
            )
        if experiment.verdict is None:
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
                self.runs.stop(run, "withdrawn", 5)
        return {}

    # The workflow

    def step(self) -> None:
        """Collect results, then carry out steps until the facts call for no more."""
        local.collect()
        self.runs.reap()
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
        elif isinstance(step, Revert):
            self._revert(self.state.experiments[step.experiment])
        elif isinstance(step, StartAudit):
            self._start_audit("lab", self.policy.bank)
        elif isinstance(step, ProposeRemoval):
            self._propose_removal(self.state.experiments[step.experiment], step.audit)

    def _queue(self, wanted: Queue) -> None:
        """Queue one run on a seed that nothing was run on before."""
        budget = self.runs.task_of(wanted.purpose).scale.budget.times(wanted.budget_factor)
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
        self.ledger.append_new("run", "R", body)
        self.refresh()

    def _rebase(self, experiment: Experiment) -> str:
        """Carry the latest attempt to the present trunk as a new one; else a verdict says why not, and that is returned."""
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
            return reasoning[0]
        self._attempt(experiment, number, snapshot)
        if attempt.verdict and self.state.same(attempt.parent, snapshot.parent):  # trunk is back at the files it was judged on
            line = f"carried to {snapshot.parent[:8]}, whose files are those of {attempt.parent[:8]}: the verdict holds"
            reasoning = [*attempt.verdict["reasoning"], line]
            self._write("verdict", experiment.id, {**attempt.verdict, "attempt": number, "reasoning": reasoning})
        return ""

    def _promote(self, experiment: Experiment, actor: str) -> str:
        """Trunk becomes the attempt's commit (its parent is trunk). The ledger names it first, then the ref follows."""
        attempt = experiment.attempts[-1]
        old = self.state.trunk
        body = {"commit": attempt.commit, "parent": old, "experiment": experiment.id, "why": f"promoted by {actor}"}
        self._write("trunk", attempt.commit, body, actor)
        self.mirror_trunk()
        return attempt.commit

    def _revert(self, experiment: Experiment) -> None:
        """Trunk gets its parent's files back by a commit on top, whose bank is the parent's."""
        newest = self.state.trunks[-1]
        why = f"reverted {experiment.id}: {promotion.why_reverted(experiment)}"
        snapshot = self._without(newest.experiment, newest.commit, f"refs/org/exp/{experiment.id}/revert", why)
        body = {
            "commit": snapshot.commit, "parent": newest.commit, "experiment": "", "why": why, "reverts": experiment.id,
            "bank": newest.parent,
        }  # fmt: skip
        self._write("trunk", snapshot.commit, body)
        self.mirror_trunk()

    # Audits

    def _without(self, experiment: str, trunk: str, ref: str, message: str) -> Snapshot:
        """A commit on top of `trunk` that undoes the promotion of an experiment. Raises Conflict and NothingChanged."""
        step = next(step for step in self.state.trunks if step.experiment == experiment)
        return self.repo.rebase(step.parent, step.commit, trunk, ref, "orgctl", message)

    def _audit_request(self, request: Request) -> dict[str, Any]:
        self._may_decide(request, "order audits")
        seeds = request.body.get("seeds") or self.policy.bank
        if type(seeds) is not int or not 2 <= seeds <= audit.SEEDS:
            raise UserError(f"--seeds: give a whole number from 2 to {audit.SEEDS}")
        if why := audit.refusal(self.state):
            raise UserError(why)
        identity = self._start_audit(request.actor, seeds)
        return {"audit": identity, "ideas": self.state.audits[identity].ideas, "seeds": seeds}

    def _carry_request(self, request: Request) -> dict[str, Any]:
        self._may_decide(request, "carry ideas to the next scale")
        following = self.runs.following
        why = carry.refusal(self.task, following)
        if why or following is None:
            raise UserError(why or "there is no next scale")
        seeds = request.body.get("seeds") or self.policy.bank
        if type(seeds) is not int or not 2 <= seeds <= carry.SEEDS:
            raise UserError(f"--seeds: give a whole number from 2 to {carry.SEEDS}")
        standing = {one.id for one in self.state.promotions()}
        named = request.body.get("experiments") or sorted(standing)
        ideas = list(dict.fromkeys(str(name) for name in named)) if isinstance(named, list) else []
        if other := next((name for name in ideas if name not in standing), None):
            raise UserError(f"{other[:40]!r} is no promoted idea of this trunk: `orgctl exp list --status promoted` shows them")
        if not ideas:
            raise UserError("trunk holds no promoted idea: there is nothing to carry")
        if not (self.home.next_data / "manifest.json").is_file():
            raise UserError(f"the data of scale {following.scale.name} are not prepared: `orgctl exp carry` does that first")
        body = {"scale": following.scale.name, "seeds": seeds, "by": request.actor, "ideas": ideas}
        order = self.ledger.append_new("carry_order", "C", body, request.actor).subject
        self.refresh()
        return {"carry": order, **body}

    def _start_audit(self, actor: str, seeds: int) -> str:
        """Take each idea out of the present trunk by itself and order the runs of what is left. Returns the audit's id."""
        trunk, ideas = self.state.trunk, []
        for experiment in self.state.promotions():
            idea: dict[str, Any] = {"experiment": experiment.id, "commit": "", "files": [], "why": ""}
            ref = f"refs/org/audit/{trunk[:16]}/{experiment.id}"
            try:
                idea["commit"] = self._without(experiment.id, trunk, ref, f"trunk {trunk[:8]} without {experiment.id}").commit
            except Conflict as error:
                idea |= {"files": error.files, "why": f"later ideas changed the same places in {', '.join(error.files)}"}
            except NothingChanged:
                idea["why"] = "later ideas have undone it already"
            ideas.append(idea)
        body = {"trunk": trunk, "steps": len(self.state.trunks), "seeds": seeds, "by": actor, "ideas": ideas}
        identity = self.ledger.append_new("audit_order", "A", body, actor).subject
        self.refresh()
        return identity

    def _propose_removal(self, experiment: Experiment, identity: str) -> None:
        """An experiment of the laboratory's own that takes a barnacle out: who promotes otherwise decides about it."""
        found = self.state.audits[identity]
        row = next(row for row in found.result["rows"] if row["experiment"] == experiment.id) if found.result else {}
        removal = audit.removal_of(self.state, found, row)
        if removal is None:
            body = {
                "agent": "lab", "hypothesis": f"trunk is no worse without {experiment.id}",
                "mechanism": f"{identity} found that it no longer helps by more than the smallest effect of interest",
                "family": "removal", "direction": "no-change", "min_effect": row["margin"],
                "held_constant": "everything else on trunk", "params": {"removes": experiment.id, "audit": identity},
                "base": found.trunk,
            }  # fmt: skip
            name = self.ledger.append_new("proposal", "E", body).subject
            self.refresh()
            removal = self.state.experiments[name]
        message = f"{removal.id}: trunk without {experiment.id}"
        self._attempt(removal, 1, self._without(experiment.id, found.trunk, f"refs/org/exp/{removal.id}/1", message))

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
