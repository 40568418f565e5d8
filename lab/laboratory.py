"""The laboratory at work: carries out the workflow's steps, on the runs of `lab.runs`.

One object in the controller. Every method may be interrupted by death at any line: what it did is in the ledger, git or a run
folder, and calling it again does only what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab import areas, audit, backup, disowned, promotion, verify
from lab.attempt import without_comparison
from lab.executors import local
from lab.experiment import decide
from lab.files import read_json
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.records import Experiment
from lab.runs import Runs
from lab.slots import Slot
from lab.state import State, View, place
from lab.steps import Policy, Promote, ProposeRemoval, Queue, Rebase, Revert, StartAudit, Step, Write
from tasks.spec import Task
from worktrees.repo import Conflict, GitError, NothingChanged, Repo, Snapshot

FIRST_SEED = 1000


@dataclass
class Laboratory:
    """`chiefs` are the agents who may order confirmations and promotions; a person always may. With `alone` this is the one that
    serves: what it alone writes and did not is disowned."""

    home: Home
    task: Task
    policy: Policy
    repo: Repo
    slots: list[Slot]
    chiefs: set[str] = field(default_factory=set)
    home_slots: dict[str, int] = field(default_factory=dict)
    alone: bool = False

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.home.ledger)
        self.view = View(self.ledger)
        self.known, _ = self.ledger.head()
        self.mirrored = ""
        """The commit that the git ref was last seen at, when it agreed with the ledger."""
        self.runs = Runs(self.home, self.task, self.slots, self.view, self.refresh)
        self._settled: tuple[int, Policy] | None = None

    @property
    def state(self) -> State:
        return self.view.state

    def refresh(self) -> list[Fact]:
        """Fold in what the ledger got since, by whomever; what somebody else wrote in the laboratory's name is disowned."""
        new = self.view.refresh()
        if self.alone and self.known < self.state.last:
            fresh = self.ledger.facts(after=self.known)
            found = disowned.imposters(fresh, self.ledger.own)
            if found:
                self.ledger.append(disowned.KIND, disowned.body(found, fresh))
            self.known = fresh[-1].id  # not before: what could not be written is looked at again
            if found:
                new = [fact for fact in [*new, *self.view.refresh()] if fact.id not in self.state.disowned]
        return new

    def vet(self) -> None:
        """Before the first step: what was written since the head of the chain was last copied, perhaps while nobody served, is derived
        anew, and disowned where it does not follow. Nothing to do after an orderly end."""
        copied = (read_json(backup.folder(self.home) / "head.json") or {}).get("fact")
        after = copied if isinstance(copied, int) else 0
        if found := verify.unfounded(self.ledger, self.task, self.home.runs, self.repo, after) if after < self.known else {}:
            self.ledger.append(disowned.KIND, disowned.body(found, self.ledger.each(after=after)))
        self.refresh()
        pinned = ""
        for fact in disowned.counted(self.ledger, "session"):
            manifest = str(fact.body.get("manifest") or pinned)
            text = f"{self.home.data} was pinned anew by fact {fact.id} while nobody served: right if the data were lost then"
            if fact.id > after and pinned not in ("", manifest) and text not in self.state.alarms:
                self.write("alarm", "data", {"text": text})
            pinned = manifest

    def write(self, kind: str, subject: str, body: dict[str, Any], actor: str = "lab") -> None:
        self.ledger.append(kind, body, subject, actor)
        self.refresh()

    def attempt(
        self, experiment: Experiment, number: int, snapshot: Snapshot, again: dict[str, Any] | None = None, resubmitted: bool = False
    ) -> None:
        places = self.turned(snapshot)
        body = {
            "number": number,
            "parent": snapshot.parent,
            "commit": snapshot.commit,
            "diff": snapshot.diff,
            "changed": snapshot.changed,
            "ignored": snapshot.ignored[:200],
            "again": again,
            **({"resubmitted": True} if resubmitted else {}),
            **({"areas": places} if places else {}),
        }
        self.write("attempt", experiment.id, body, experiment.agent)

    def turned(self, snapshot: Snapshot) -> list[str]:
        """The areas of the declared knobs that a change sets."""
        files = {knob.file for knob in self.task.knobs} & set(snapshot.changed)
        before, after = ({path: self._file(commit, path) for path in files} for commit in (snapshot.parent, snapshot.commit))
        return areas.turned(self.task.knobs, before, after)

    def _file(self, commit: str, path: str) -> bytes:
        """A file of a commit; empty where it has none."""
        try:
            return self.repo.show_file(commit, path)
        except GitError:
            return b""

    # The workflow

    def step(self) -> None:
        """Collect results, then carry out steps until the facts call for no more."""
        local.collect()
        self.runs.reap()
        for _ in range(20):
            self.refresh()
            if self._settled == (now := (self.state.last, self.policy)):
                return  # nothing has happened since nothing was to be done
            steps = decide(self.state, self.task, self.policy)
            if not steps:
                self._settled = now
                return
            for step in steps:
                self._carry_out(step)
                if not isinstance(step, Queue):
                    break

    def _carry_out(self, step: Step) -> None:
        if isinstance(step, Queue):
            self._queue(step)
        elif isinstance(step, Write):
            self.write(step.kind, step.subject, step.body)
        elif isinstance(step, Rebase):
            self.rebase(self.state.experiments[step.experiment])
        elif isinstance(step, Promote):
            self.promote(self.state.experiments[step.experiment], "lab")
        elif isinstance(step, Revert):
            self._revert(self.state.experiments[step.experiment])
        elif isinstance(step, StartAudit):
            self.start_audit("lab", self.policy.bank)
        elif isinstance(step, ProposeRemoval):
            self._propose_removal(self.state.experiments[step.experiment], step.audit)

    def _queue(self, wanted: Queue) -> None:
        """Queue one run on a seed that nothing was run on before; in the place of a run that gave no evidence, on its seed, so that nobody
        throws unlucky seeds away by ending runs."""
        budget = self.runs.task_of(wanted.purpose).scale.budget.times(wanted.budget_factor)
        body: dict[str, Any] = {
            "experiment": wanted.experiment,
            "attempt": wanted.attempt,
            "purpose": wanted.purpose,
            "commit": wanted.commit,
            "seed": FIRST_SEED + self.ledger.count("run"),
            "splits": list(wanted.splits),
            "budget": budget.model_dump(),
            "agent": wanted.agent,
            "home_slot": self.home_slots.get(wanted.agent),
            "prompt": self.state.prompts.get(wanted.agent, ""),
            "assisted": wanted.agent in self.state.taken_over | self.state.typed_in,
            **({} if wanted.dial is None else {"dial": wanted.dial}),
        }
        if again := self.state.unspent.get(place(body)):
            body["seed"] = again[0]
        self.ledger.append_new("run", "R", body)
        self.refresh()

    def rebase(self, experiment: Experiment) -> str:
        """Carry the latest attempt to the present trunk as a new one; else a fact says why not, and that is returned.

        What was `improved` keeps its verdict, which holds where it was measured; what was not judged yet ends `inconclusive`.
        """
        attempt = experiment.attempts[-1]
        number = attempt.number + 1
        try:
            snapshot = self.repo.rebase(
                attempt.commit,
                attempt.parent,
                self.state.trunk,
                self.repo.kept(f"exp/{experiment.id}/{number}"),
                experiment.agent,
                f"{experiment.id}: {experiment.hypothesis.splitlines()[0][:200]}",
            )
        except (Conflict, NothingChanged) as error:
            files = error.files if isinstance(error, Conflict) else []
            why = f"conflicts with trunk in {', '.join(files)}" if files else "trunk has this change already"
            if experiment.accepted:
                lost = {"attempt": attempt.number, "trunk": self.state.trunk, "branch": self.repo.trunk_branch, "files": files, "why": why}
                self.write("unmerged", experiment.id, lost)
                return why
            reasoning = [
                f"cannot be carried to the present trunk {self.state.trunk[:8]}: {why}",
                "a verdict holds for its base commit only",
                "propose it again on the present trunk if it still makes sense",
            ]
            body = without_comparison(attempt, "inconclusive", reasoning)
            self.write("verdict", experiment.id, body)
            return reasoning[0]
        self.attempt(experiment, number, snapshot)
        if attempt.verdict and self.state.same(attempt.parent, snapshot.parent):  # trunk is back at the files it was judged on
            line = f"carried to {snapshot.parent[:8]}, whose files are those of {attempt.parent[:8]}: the verdict holds"
            reasoning = [*attempt.verdict["reasoning"], line]
            self.write("verdict", experiment.id, {**attempt.verdict, "attempt": number, "reasoning": reasoning})
        return ""

    def promote(self, experiment: Experiment, actor: str) -> str:
        """Trunk becomes the attempt's commit (its parent is trunk). The ledger names it first, then the ref follows."""
        attempt = experiment.attempts[-1]
        old = self.state.trunk
        body = {"commit": attempt.commit, "parent": old, "experiment": experiment.id, "why": f"promoted by {actor}"}
        self.write("trunk", attempt.commit, body, actor)
        self.mirror_trunk()
        return attempt.commit

    def _revert(self, experiment: Experiment) -> None:
        """Trunk gets its parent's files back by a commit on top, whose bank is the parent's."""
        newest = self.state.trunks[-1]
        why = f"reverted {experiment.id}: {promotion.why_reverted(experiment)}"
        snapshot = self._without(newest.experiment, newest.commit, self.repo.kept(f"exp/{experiment.id}/revert"), why)
        body = {
            "commit": snapshot.commit, "parent": newest.commit, "experiment": "", "why": why, "reverts": experiment.id,
            "bank": newest.parent,
        }  # fmt: skip
        self.write("trunk", snapshot.commit, body)
        self.mirror_trunk()

    # Audits

    def _without(self, experiment: str, trunk: str, ref: str, message: str) -> Snapshot:
        """A commit on top of `trunk` that undoes the promotion of an experiment. Raises Conflict and NothingChanged."""
        step = next(step for step in self.state.trunks if step.experiment == experiment)
        return self.repo.rebase(step.parent, step.commit, trunk, ref, "orgctl", message)

    def start_audit(self, actor: str, seeds: int) -> str:
        """Take each idea out of the present trunk by itself and order the runs of what is left. Returns the audit's id."""
        trunk, ideas = self.state.trunk, []
        earlier = [one for one in self.state.audits.values() if self._same_files(one.trunk, trunk)]
        known = {idea["experiment"]: idea for one in earlier for idea in one.ideas}
        for experiment in self.state.promotions():
            if experiment.id in known:  # its runs so far count for this audit too
                ideas.append(known[experiment.id])
                continue
            idea: dict[str, Any] = {"experiment": experiment.id, "commit": "", "files": [], "why": ""}
            ref = self.repo.kept(f"audit/{trunk[:16]}/{experiment.id}")
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

    def _same_files(self, audited: str, trunk: str) -> bool:
        """Is an audit's trunk the present one, or one of the same files (trunk came back to it)? What the ledger says is looked up."""
        return audited == trunk or (self.state.same(audited, trunk) and not self.repo.changed_paths(audited, trunk))

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
        self.attempt(removal, 1, self._without(experiment.id, found.trunk, self.repo.kept(f"exp/{removal.id}/1"), message))

    def mirror_trunk(self) -> None:
        """Make the git ref agree with the ledger: forward after a promotion, back when somebody else moved it (an alarm)."""
        self.refresh()
        wanted = self.state.trunk
        try:
            found = self.repo.trunk()
        except GitError:
            found = ""  # somebody deleted the branch
        if not wanted or wanted == found:
            self.mirrored = wanted
            return
        branch = self.repo.trunk_branch
        if found and self.mirrored != wanted and any(step.commit == wanted and step.parent == found for step in self.state.trunks):
            warning = self.repo.advance_trunk(found, wanted)
            self.mirrored = wanted
            if warning:
                self.write("alarm", branch, {"text": warning})
            return
        moved = f"moved to {found[:8]}" if found else "deleted"
        self.repo.restore_trunk(wanted)
        text = f"{branch} was {moved} by somebody else: put back to {wanted[:8]}, which the ledger names"
        self.write("alarm", branch, {"text": text})
