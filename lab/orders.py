"""What agents and people ask of the laboratory: run, confirm, control, promote, replicate, withdraw, audit, carry. Each order is
judged by who asks and by what is known, then carried out by `lab.laboratory`, or refused in a line that says what to do.

The controller calls `take` for each such request. Nothing here decides what is believed.
"""

from __future__ import annotations

import time
from typing import Any

from lab import areas, asking, audit, carry, controls, gate, replication, similar
from lab.attempt import bank_ready
from lab.client import PERSON, acknowledged, joined, repeated
from lab.errors import UserError
from lab.laboratory import Laboratory
from lab.queue import in_flight
from lab.records import Experiment
from lab.requests import Request
from lab.runspec import read_manifest
from lab.shown import next_step, unmerged
from lab.text import clean
from worktrees.repo import GitError, NothingChanged, ProtectedChanged


class Orders:
    """One session's. It remembers the changes that were run, so that a long ledger is not compared whole each time."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self.changes = similar.Changes()

    def take(self, request: Request) -> dict[str, Any]:
        """Carry out an agent's or person's request. Returns the answer's body; raises UserError with the reason of a refusal."""
        self.lab.refresh()
        if request.kind == "audit":
            return self._audit(request)
        if request.kind == "carry":
            return self._carry(request)
        identity = str(request.body.get("experiment", ""))
        experiment = self.lab.state.experiments.get(identity)
        if experiment is None:
            raise UserError(f"there is no experiment {identity[:40]!r}: `orgctl exp list` shows them")
        actions = {
            "run": self._run,
            "confirm": self._confirm,
            "control": self._control,
            "promote": self._promote,
            "withdraw": self._withdraw,
            "replicate": self._replicate,
        }
        return actions[request.kind](experiment, request)

    # Of one experiment

    def _run(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        if request.actor not in (experiment.agent, PERSON):
            free = f", until `orgctl assign {clean(request.actor, 40)} --idea {experiment.id}`" if experiment.agent == PERSON else ""
            raise UserError(f"{experiment.id} belongs to {experiment.agent}{free}: propose your own")
        if experiment.withdrawn is not None:
            raise UserError(f"{experiment.id} was withdrawn: propose it anew")
        first = next((run for run in experiment.runs_for("nominate") if not run.over), None)
        if first is not None:  # asked twice, or the controller died before it answered
            known = experiment.attempts[-1]
            return {"run": first.id, "commit": first.commit, "parent": known.parent, "ignored": [], "changed": known.changed}
        last = experiment.attempt
        by_hand = last is not None and not experiment.promoted and bool(last.unmerged and last.unmerged["files"])
        if last is not None and not by_hand:
            raise UserError(
                f"{experiment.id} was submitted already ({experiment.status}): `orgctl exp show {experiment.id}`; "
                "a changed idea is a new proposal"
            )
        allowance = self.lab.policy.queue_ahead
        if len(in_flight(self.lab.state, experiment.agent)) >= allowance:
            raise UserError(
                f"{experiment.agent} has {allowance} runs queued or running, which is its allowance: wait for one to end"
            )
        if why := areas.over_budget(self.lab.state, experiment.family, time.time()):
            raise UserError(f"{experiment.id} is not run: {why}")
        worktree = self.lab.home.worktrees / experiment.agent
        if not worktree.is_dir():
            raise UserError(
                f"{experiment.agent} has no worktree, only agents run experiments: `orgctl assign AGENT --idea {experiment.id} --why ...`"
            )
        number = last.number + 1 if last else 1
        try:
            parent = self.lab.repo.fork_point(self.lab.repo.branch(experiment.agent), self.lab.state.trunk)
            if parent not in {step.commit for step in self.lab.state.trunks}:
                raise self._refused(
                    experiment,
                    f"{experiment.agent}'s branch is based on {parent[:8]}, which never was trunk here: "
                    f"`git reset --hard {self.lab.repo.trunk_branch}` in the worktree (keep your change aside), then run again",
                )
            if by_hand and parent != self.lab.state.trunk:
                raise UserError(
                    f"{experiment.agent}'s branch is based on {parent[:8]}, and {experiment.id} was tried on an older trunk already: "
                    f"{next_step(experiment)}"
                )
            if parent != self.lab.state.trunk and bank_ready(self.lab.state, parent, self.lab.policy) is None:
                raise UserError(
                    f"{experiment.agent}'s branch is based on {parent[:8]}, an older trunk whose bank is not full or out of date: "
                    f"`git reset --hard {self.lab.repo.trunk_branch}` in the worktree (keep your change aside), then run again"
                )
            snapshot = self.lab.repo.snapshot(
                worktree,
                experiment.agent,
                self.lab.repo.kept(f"exp/{experiment.id}/{number}"),
                parent,
                self.lab.task.editable,
                self.lab.task.protected,
                f"{experiment.id}: {experiment.hypothesis.splitlines()[0][:200]}",
            )
        except ProtectedChanged as error:
            raise self._refused(
                experiment,
                f"{experiment.id} changes protected files ({', '.join(error.paths)}): put them back with "
                f"`git checkout {self.lab.repo.trunk_branch} -- FILE`; only {', '.join(self.lab.task.editable)} may change",
            ) from error
        except NothingChanged as error:
            raise UserError(
                f"{experiment.id}: nothing changed in {', '.join(self.lab.task.editable)}: edit, then run again"
            ) from error
        except GitError as error:
            raise UserError(str(error)) from error
        near = self.changes.near(self.lab.state, snapshot.diff, but=experiment.id)
        new = [one for one in near if one.experiment not in acknowledged(experiment.again)]
        again, places = str(request.body.get("again") or ""), self.lab.turned(snapshot)
        reason = repeated(self.lab.state, new, again)
        if request.actor != PERSON:
            reason = joined(reason, areas.entered(self.lab.state, experiment.agent, experiment.family, places, again, time.time()))
        self.lab.attempt(experiment, number, snapshot, reason, resubmitted=by_hand)
        self.lab.step()
        run = self.lab.state.experiments[experiment.id].runs_for("nominate")[0].id
        told = similar.shown(self.lab.state, near[: similar.SHOWN])
        return {
            "run": run, "commit": snapshot.commit, "parent": parent, "ignored": snapshot.ignored[:50], "changed": snapshot.changed,
            "similar": told,
        }  # fmt: skip

    def _refused(self, experiment: Experiment, why: str) -> UserError:
        """The refusal of what may not be run, which is a fact too: once, however often it is asked for."""
        if why not in experiment.refusals:
            self.lab.write("refused", experiment.id, {"why": why})
        return UserError(why)

    # Who may

    def _may_decide(self, request: Request, what: str, itself: bool = False) -> None:
        asking.may_decide(request.actor, self.lab.chiefs, what, itself)

    def _may_review(self, experiment: Experiment, request: Request, what: str) -> None:
        """For those who decide, and for those who review what the author finds."""
        asking.may_decide(request.actor, self.lab.chiefs, what, reviewers=self.lab.policy.reviewers.get(experiment.agent, ()))

    # Further on its way

    def _confirm(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        self._may_decide(request, "order confirmations", self.lab.policy.confirmation == "auto")
        attempt = experiment.attempt
        if attempt is None or attempt.nomination is None or attempt.verdict or experiment.withdrawn is not None:
            raise UserError(
                f"{experiment.id} is {experiment.status}, not nominated: only a nominated experiment can be confirmed"
            )
        if attempt.confirm_ordered:
            raise UserError(f"{experiment.id} is being confirmed already")
        self.lab.write("confirm", experiment.id, {"attempt": attempt.number}, request.actor)
        return {"attempt": attempt.number}

    def _control(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        self._may_review(experiment, request, "order controls")
        attempt = experiment.attempt
        bank = bank_ready(self.lab.state, attempt.parent, self.lab.policy) if attempt else None
        if why := controls.refusal(experiment, bank, self.lab.task):
            raise UserError(why)
        known = controls.charged(experiment, bank) if bank else None
        assert attempt and known and known.control  # what is refused lacks one of them
        self.lab.write("control", experiment.id, {"attempt": attempt.number, "factor": known.control}, request.actor)
        self.lab.step()
        asked = [run.id for run in self.lab.state.experiments[experiment.id].runs_for("control", attempt.number)]
        return {"attempt": attempt.number, "factor": known.control, "runs": asked}

    def _promote(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        self._may_decide(request, "promote", self.lab.policy.promotion != "chief" and not experiment.removes)
        attempt = experiment.attempt
        wanted = "neutral" if experiment.removes else "improved"
        if attempt and attempt.apart:
            raise UserError(f"{experiment.id} {unmerged(attempt)}. Next: {next_step(experiment)}")
        if attempt is None or experiment.verdict != wanted or experiment.promoted or experiment.withdrawn is not None:
            raise UserError(
                f"{experiment.id} is {experiment.status}: only an experiment with the verdict `{wanted}` can be promoted"
            )
        if request.actor != PERSON and (why := gate.waits(self.lab.policy.promotion, self.lab.policy.reviewers, experiment)):
            raise UserError(f"{experiment.id} cannot be promoted yet: {why}")
        if experiment.removes and not self.lab.state.same(attempt.parent, self.lab.state.trunk):
            raise UserError(f"trunk has moved since {experiment.params['audit']}: `orgctl exp audit` looks at it again")
        if attempt.parent != self.lab.state.trunk and (why := self.lab.rebase(experiment)):
            raise UserError(
                f"{experiment.id} {why}; nothing was merged, and its verdict holds where it was measured. Next: {next_step(experiment)}"
            )
        if experiment.verdict is None:
            return {
                "commit": None,
                "note": f"trunk has moved since {experiment.id} was judged: it is confirmed again on the present trunk first",
            }
        return {"commit": self.lab.promote(experiment, request.actor)}

    def _replicate(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        self._may_review(experiment, request, f"order a replication of {experiment.agent}'s {experiment.id}")
        seeds = asking.seeds(request.body.get("seeds"), replication.SEEDS, replication.MOST)
        if why := replication.refusal(experiment):
            raise UserError(why)
        body = {"attempt": experiment.attempts[-1].number, "seeds": seeds, "by": request.actor}
        self.lab.write("replication_order", experiment.id, body, request.actor)
        return {"seeds": seeds}

    def _withdraw(self, experiment: Experiment, request: Request) -> dict[str, Any]:
        if request.actor not in self.lab.chiefs | {PERSON, experiment.agent}:
            raise UserError(
                f"{experiment.id} belongs to {experiment.agent}: only it, a chief or a person may withdraw it"
            )
        if experiment.verdict or experiment.promoted or experiment.withdrawn is not None:
            raise UserError(f"{experiment.id} is {experiment.status}: there is nothing to withdraw")
        self.lab.write("withdrawn", experiment.id, {"why": str(request.body.get("why", ""))[:4000]}, request.actor)
        for run in experiment.runs:
            if run.status == "running":
                self.lab.runs.stop(run, "withdrawn", 5)
        return {}

    # Of trunk

    def _audit(self, request: Request) -> dict[str, Any]:
        self._may_decide(request, "order audits", bool(self.lab.policy.audit_every))
        seeds = asking.seeds(request.body.get("seeds"), self.lab.policy.bank, audit.SEEDS)
        if why := audit.refusal(self.lab.state, seeds):
            raise UserError(why)
        identity = self.lab.start_audit(request.actor, seeds)
        return {"audit": identity, "ideas": self.lab.state.audits[identity].ideas, "seeds": seeds}

    def _carry(self, request: Request) -> dict[str, Any]:
        self._may_decide(request, carry.WHAT)
        following = self.lab.runs.following
        why = carry.refusal(self.lab.task, following)
        if why or following is None:
            raise UserError(why or "there is no next scale")
        seeds = asking.seeds(request.body.get("seeds"), self.lab.policy.bank, carry.SEEDS)
        ideas = carry.wanted(self.lab.state, request.body.get("experiments"))
        _, manifest = read_manifest(self.lab.home.next_data)
        if not manifest:
            raise UserError(f"the data of scale {following.scale.name} are not prepared: `orgctl exp carry` does that first")
        pinned = next((one.manifest for one in reversed(self.lab.state.carries.values()) if one.manifest), manifest)
        why = carry.known(self.lab.state, following.scale.name, ideas, seeds)
        if why and pinned == manifest:  # else the data were made anew, and what is still to run goes on with those
            raise UserError(why)
        body = {"scale": following.scale.name, "seeds": seeds, "by": request.actor, "ideas": ideas, "manifest": manifest}
        order = self.lab.ledger.append_new("carry_order", "C", body, request.actor).subject
        self.lab.refresh()
        return {"carry": order, **body}
