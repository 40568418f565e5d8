"""What the ledger says: a pure fold of facts into the records of `lab.records`, with indexes over them.

Called by everyone who asks "what is believed?": the workflow, the queue, the board, the report, the agents. Nothing here is
stored; fold the same facts twice and get the same state. `View` keeps a fold up to date with a growing ledger, and the
state keeps indexes (open runs, banks), so that a look costs the same with ten runs and with thirty thousand.

Fact kinds (body keys in brackets); a baseline bank, a control and a frontier are runs of that purpose, a promotion is a trunk fact:
  session     [task, scale, org_hash, hashes, device, design, program, policy, up, agents, stopped]   subject "" (several; later keys win)
  trunk       [commit, parent, experiment, why, reverts, bank]     subject = commit (a promotion names its experiment; what takes
              one back names that in `reverts`, and in `bank` the commit with the same files whose bank serves)
  checked     [commit, effect, low, high, p, n, m, holds]          subject E....   (a promoted commit's bank against its parent's)
  proposal    [agent, hypothesis, mechanism, family, direction, min_effect, held_constant, params, base, again]   subject E0001
  amendment   [those of hypothesis ... held_constant that are new, again]   subject E....   (before the first run only)
  attempt     [number, parent, commit, diff, changed, ignored, again, resubmitted, areas]   subject E....   (a snapshot or rebase)
  run         [experiment, attempt, purpose, commit, seed, splits, budget, agent, home_slot, prompt, assisted, dial]  subject R0001 (queued)
  start       [slot, pid, started, device]                         subject R....
  result      [status, reason, metric, account, hashes, log_tail, ended, flags, unsealed]   subject R....
  nomination  [attempt, nominated, value, bank_mean, bank_sigma, text]     subject E....
  confirm     [attempt]  (somebody ordered confirmation)           subject E....
  control     [attempt, factor]  (somebody ordered its control)    subject E....   (what was `bought` without one is open again)
  verdict     [attempt, verdict, effect, low, high, n, m, p, reasoning, ceg, ceg_low, ceg_high]    subject E....
  unmerged    [attempt, trunk, branch, files, why]                  subject E....   (what was improved does not apply to that trunk)
  refused     [why]  protected files, or based on no trunk         subject E....   (handed in and not run; there is no attempt)
  withdrawn   [why]                                                subject E....
  review      [finding, text]  anybody's opinion; changes no verdict   subject E....
  replication_order [attempt, seeds, by]                           subject E....   (an improved change on fresh seeds once more)
  replication [attempt, by, against, effect, low, high, p, n, m, holds, why]   subject E....   (what came of it)
  audit_order [trunk, steps, seeds, by, ideas]                     subject A0001   (what trunk is without each of its ideas)
  audit       [rows, additive, why]                                subject A....   (what came of it)
  carry_order [scale, seeds, by, ideas, manifest]           subject C0001   (promoted ideas at the next scale)
  carry       [order, scale, effect, low, high, n, m, here, ratio, why]    subject E....   (what came of one of them)
  agent       [what, ...] started, restarted, gave_up, counted (what it has used), ...   subject = agent name
  intervention[what, at]  taken over, released, a turn that a person typed (`at`: when)   subject = agent name
  alarm       [text]  something moved that nobody may move         subject = what
  disowned    [facts, why]  written in the laboratory's name by somebody else (`lab.disowned`)   subject ""
and those of `lab.direction`: standup, assignment, dismissal, retired, reopened, budget, priority, answer
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lab import disowned
from lab.direction import KINDS, Direction
from lab.disowned import forged
from lab.ledger import Fact, Ledger
from lab.records import (
    BANK,
    NO_EVIDENCE,
    OTHER_BUDGETS,
    TEXTS,
    Attempt,
    Audit,
    Bank,
    Carry,
    Experiment,
    Replication,
    Review,
    Run,
    Trunk,
    Version,
)

MANY = 10_000
"""Facts from which a ledger is long."""


@dataclass
class State:
    """Everything folded. Dictionaries keep the order of the ledger."""

    session: dict[str, Any] = field(default_factory=dict)
    trunks: list[Trunk] = field(default_factory=list)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    audits: dict[str, Audit] = field(default_factory=dict)
    carries: dict[str, Carry] = field(default_factory=dict)
    direction: Direction = field(default_factory=Direction)
    serves: dict[str, str] = field(default_factory=dict)
    """Trunk commit -> the earlier one with the same files, whose bank serves."""
    unmerged: set[str] = field(default_factory=set)
    """Experiments that do not apply to the present trunk."""
    alarms: list[str] = field(default_factory=list)
    disowned: set[int] = field(default_factory=set)
    """Numbers of the facts that were left out of this fold (`lab.disowned`)."""
    taken_over: set[str] = field(default_factory=set)
    prompts: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what each agent was told at its latest start."""
    typed_in: set[str] = field(default_factory=set)
    """Agents in a turn that a person began by typing into their pane."""
    up: list[tuple[float, float | None]] = field(default_factory=list)
    """(since, until) of the times in which the organisation was up; until is None while it is."""
    environment: tuple[Any, ...] | None = None
    """Of the newest run that ended well, but for those on other budgets."""
    unsealed: str = ""
    """Why held-out text is within reach of training here, as the newest run that was looked at says; "" when it is not."""
    open: dict[str, Run] = field(default_factory=dict)
    """Runs that are queued or running."""
    ended: list[Run] = field(default_factory=list)
    """Runs that are over, in the order of their results."""
    ends: Counter[str] = field(default_factory=Counter)
    """Number of these by status."""
    unspent: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)
    """Seeds of runs that were ended without evidence and not repeated yet, by `place`."""
    slots: set[int] = field(default_factory=set)
    """Slots that any run was started on."""
    banks: dict[str, list[Run]] = field(default_factory=dict)
    """Baseline runs by commit, those of a revert with those of what it went back to."""
    banked: set[str] = field(default_factory=set)
    """Splits that any baseline run was scored on."""
    touched: dict[str, None] = field(default_factory=dict)
    """Experiments that facts were about since `tally` looked."""
    statuses: dict[str, str] = field(default_factory=dict)
    """What `tally` saw."""
    last: int = 0

    @property
    def trunk(self) -> str:
        """The commit that the ledger names as trunk; "" before the first."""
        return self.trunks[-1].commit if self.trunks else ""

    @property
    def split(self) -> str:
        """The split that verdicts are made on: audit, unless baselines were scored on search alone."""
        return "search" if self.banked == {"search"} else "audit"

    def bank(self, commit: str | None = None) -> Bank:
        """Bank of a trunk commit (default: the present trunk)."""
        wanted = commit or self.trunk
        return Bank(wanted, list(self.banks.get(self.serves.get(wanted, wanted), ())))

    def same(self, one: str, other: str) -> bool:
        """Are two trunk commits one baseline: the same, or a revert and what it went back to?"""
        return self.serves.get(one, one) == self.serves.get(other, other)

    @property
    def wanted(self) -> int:
        """Runs of a bank before anything is compared with it."""
        policy = self.session.get("policy")
        known = policy.get("bank") if isinstance(policy, dict) else None
        return known if isinstance(known, int) and known > 1 else BANK

    def promotions(self) -> list[Experiment]:
        """The ideas that trunk is made of, in its order."""
        found = [self.experiments[step.experiment] for step in self.trunks if step.experiment in self.experiments]
        return [experiment for experiment in found if experiment.stands and not experiment.removes]

    def tally(self) -> Counter[str]:
        """Number of experiments by status. Only those that something happened to are looked at anew."""
        for name in filter(self.experiments.__contains__, self.touched):
            self.statuses[name] = self.experiments[name].status
        self.touched.clear()
        return Counter(self.statuses.values())

    def believes(self, fact: Fact) -> bool:
        """Does this fact count? For whoever reads facts without the fold."""
        return fact.id not in self.disowned and not forged(fact)

    def apply(self, fact: Fact) -> None:
        """Fold one fact in. Unknown kinds and facts about unknown subjects are passed over (a newer version wrote them)."""
        body, subject = fact.body, fact.subject
        if fact.id in self.disowned:
            self.last = fact.id
            return
        if forged(fact):
            who = fact.actor[:40] or "nobody"
            self.alarms.append(f"fact {fact.id} ({fact.kind}) was written by {who}: only the laboratory writes those, it is passed over")
            self.last = fact.id
            return
        self.touched[subject] = None
        if fact.kind == "session":
            self.session = {**self.session, **body}
            if "up" in body and not (self.up and self.up[-1][1] is None):
                self.up.append((fact.time, None))
            elif "stopped" in body and self.up and self.up[-1][1] is None:
                self.up[-1] = (self.up[-1][0], fact.time)
        elif fact.kind == "trunk":
            words = (body["commit"], body["parent"], body["experiment"], body["why"], body.get("reverts", ""), body.get("bank") or "")
            if not all(isinstance(word, str) for word in words):
                raise TypeError("a step of trunk is told in words")
            step = Trunk(*words[:4], fact.time, words[4])
            self.trunks.append(step)
            self._approach()
            if bank := words[5]:
                self.serves[step.commit] = self.serves.get(bank, bank)
            if step.experiment in self.experiments:
                self.experiments[step.experiment].promoted = step.commit
                self.touched[step.experiment] = None
                self._remove(step.experiment, step.commit)
            if step.reverts in self.experiments:
                self.experiments[step.reverts].reverted = step.commit
                self.touched[step.reverts] = None
                self._remove(step.reverts, None)
        elif fact.kind == "proposal" and subject not in self.experiments:
            text = {key: body[key] for key in TEXTS}
            rest = {"agent": body["agent"], "params": dict(body["params"]), "base": body["base"]}
            first = Version(fact.time, fact.actor, text)
            self.experiments[subject] = Experiment(
                id=subject, proposed=fact.time, again=body.get("again"), versions=[first], **text, **rest
            )
        elif fact.kind == "run" and subject not in self.runs:
            run = Run(id=subject, queued=fact.time, **body)
            self.runs[subject] = self.open[subject] = run
            if run.seed in (seeds := self.unspent.get(place(body), [])):
                seeds.remove(run.seed)
            if run.purpose == "bank":
                self.banks.setdefault(self.serves.get(run.commit, run.commit), []).append(run)
            if run.experiment in self.experiments:
                self.experiments[run.experiment].runs.append(run)
            self.touched[run.experiment] = None
        elif fact.kind in ("start", "result") and subject in self.open:  # what has ended stays as it ended
            run = self.runs[subject]
            self.touched[run.experiment] = None
            if fact.kind == "start":
                run.status, run.started = "running", fact.time
                run.slot, run.pid, run.process_started = body["slot"], body["pid"], body["started"]
                self.slots.add(body["slot"])
            else:
                self._result(run, fact)
        elif fact.kind == "audit_order":
            self.audits[subject] = Audit(subject, body["trunk"], body["steps"], body["seeds"], body["by"], body["ideas"])
        elif fact.kind == "audit" and subject in self.audits:
            self.audits[subject].result = body
        elif fact.kind == "carry_order":
            self.carries[subject] = Carry(
                subject, body["scale"], body["seeds"], body["by"], list(body["ideas"]), str(body.get("manifest") or "")
            )
        elif fact.kind == "carry" and body["order"] in self.carries:
            self.carries[body["order"]].results[subject] = body
        elif fact.kind in KINDS:
            self.direction.apply(fact)
            idea = self.experiments.get(body["idea"]) if fact.kind == "assignment" else None
            if idea is not None and not idea.attempts:  # a person's idea is from now on that of who was told to try it
                idea.agent = body["agent"]
        elif fact.kind == "alarm":
            self.alarms.append(body["text"])
        elif fact.kind == disowned.KIND:
            self.alarms += map(disowned.alarm, body["why"])
        elif fact.kind == "agent":
            if isinstance(body.get("prompt"), str):
                self.prompts[subject] = body["prompt"]
        elif fact.kind == "intervention":
            self._intervention(subject, str(body["what"]))
        elif subject in self.experiments:
            self._experiment(self.experiments[subject], fact)
            if fact.kind == "unmerged":
                self.unmerged.add(subject)
        self.last = fact.id

    def _approach(self) -> None:
        """Trunk is another: what did not apply to the one before may apply to this one."""
        for name in self.unmerged:
            for attempt in self.experiments[name].attempts:
                attempt.apart = False
            self.touched[name] = None
        self.unmerged.clear()

    def _intervention(self, agent: str, what: str) -> None:
        if what in ("taken_over", "released"):
            (self.taken_over.add if what == "taken_over" else self.taken_over.discard)(agent)
        elif what in ("typed", "typed_end"):
            (self.typed_in.add if what == "typed" else self.typed_in.discard)(agent)

    def _result(self, run: Run, fact: Fact) -> None:
        body = fact.body
        metric, account, hashes = body["metric"], body["account"], body["hashes"]
        if not all(isinstance(one, dict) for one in (metric, account, hashes)):
            raise TypeError("a result holds objects")
        status, reason, tail = body["status"], body["reason"], body["log_tail"]
        run.flags, run.unsealed = list(body.get("flags") or []), body.get("unsealed")
        run.status, run.reason, run.log_tail, run.ended = status, reason, tail, float(body.get("ended") or fact.time)
        run.metric, run.account, run.hashes = metric, account, hashes
        self.open.pop(run.id, None)
        self.ended.append(run)
        self.ends[status] += 1
        if status in NO_EVIDENCE and run.started:
            self.unspent.setdefault(place(vars(run)), []).append(run.seed)
        if run.unsealed is not None:
            self.unsealed = run.unsealed
        if run.purpose == "bank":
            self.banked |= metric.keys()
        if run.status == "ok" and run.purpose not in OTHER_BUDGETS:
            self.environment = run.environment

    def _remove(self, identity: str, commit: str | None) -> None:
        """What a removal takes out of trunk, or (None) gives back to it."""
        gone = self.experiments.get(self.experiments[identity].removes)
        if gone is not None:
            gone.removed = commit
            self.touched[gone.id] = None

    @staticmethod
    def _experiment(experiment: Experiment, fact: Fact) -> None:
        body = fact.body
        if fact.kind == "attempt":
            # A later attempt is a confirmed idea on its way to a new trunk: nobody has to order that again.
            made = Attempt(**body, confirm_ordered=body["number"] > 1 and not body.get("resubmitted"))
            if not isinstance(made.diff, str) or not all(isinstance(area, str) for area in made.areas):
                raise TypeError("a diff is text, and so are areas")
            experiment.attempts.append(made)
        elif fact.kind == "withdrawn":
            experiment.withdrawn = body["why"]
        elif fact.kind == "review":
            found, judged = str(body["finding"] or ""), experiment.verdict or ""
            experiment.reviews.append(Review(fact.time, fact.actor, found, str(body["text"]), judged, len(experiment.attempts)))
        elif fact.kind == "refused":
            experiment.refusals.append(str(body["why"]))
        elif fact.kind == "replication_order":
            before = len(experiment.runs_for("replicate", body["attempt"]))
            experiment.replications.append(Replication(body["attempt"], body["seeds"], body["by"], before))
        elif fact.kind == "replication" and experiment.replications:
            experiment.replications[-1].result = body
        elif fact.kind == "amendment" and not experiment.attempts:  # what has run is not predicted any more
            said = {**experiment.versions[-1].text, **{key: body[key] for key in TEXTS if key in body}}
            experiment.versions.append(Version(fact.time, fact.actor, said))
            for key, value in said.items():
                setattr(experiment, key, value)
            experiment.again = body.get("again") or experiment.again
        elif fact.kind == "checked":
            experiment.check = body
        elif fact.kind in ("nomination", "confirm", "control", "verdict", "unmerged"):
            for attempt in experiment.attempts:
                if attempt.number == body["attempt"]:
                    if fact.kind == "nomination":
                        attempt.nomination = body
                    elif fact.kind == "verdict":
                        if not isinstance(body["verdict"], str) or not isinstance(body["effect"], int | float | None):
                            raise TypeError("a verdict is a word and a figure")
                        attempt.verdict = body
                    elif fact.kind == "unmerged":
                        attempt.unmerged, attempt.apart = {**body, "files": [str(name) for name in body["files"]]}, True
                    elif fact.kind == "control":
                        attempt.control_ordered = True
                        judged = attempt.verdict["verdict"] if attempt.verdict else ""
                        if judged == "bought" and not experiment.runs_for("control", attempt.number):
                            attempt.verdict = None  # the frontier alone said so, and the control decides in its place
                    else:
                        attempt.confirm_ordered = True


def place(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run (its fields, or its fact's body) stands for: another one of the same place may stand in for it."""
    budget = run["budget"]
    named = (run["purpose"], run["commit"], run["experiment"], run["attempt"], run.get("dial"))
    return (*named, budget.get("kind"), budget.get("amount"))


def bank_of(state: State, commit: str) -> Bank:
    """The bank of a commit, less what was measured in another environment (a newer torch, another machine)."""
    bank = state.bank(commit)
    return Bank(commit, [run for run in bank.runs if run.status != "ok" or run.environment == state.environment])


def fold(facts: Iterable[Fact]) -> State:
    """The state that these facts describe."""
    known = list(facts)
    state = State(disowned=disowned.passed_over(known))
    for fact in known:
        state.apply(fact)
    return state


class View:
    """A state that follows a growing ledger: `refresh` folds only what is new, and all of it anew when facts were disowned."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.state = State()

    def refresh(self) -> list[Fact]:
        """Fold the new facts in and return those that count."""
        new = self.ledger.facts(after=self.state.last)
        if any(fact.kind == disowned.KIND for fact in new):
            gone = disowned.passed_over(self.ledger.each(disowned.KIND))
            if gone != self.state.disowned:
                self.state = State(disowned=gone)
                self._fold(self.ledger.facts())
                return [fact for fact in new if fact.id not in gone]
        self._fold(new)
        return [fact for fact in new if fact.id not in self.state.disowned]

    def _fold(self, new: list[Fact]) -> None:
        with _no_collector(self.state):
            for fact in new:
                try:
                    self.state.apply(fact)
                except (KeyError, TypeError, ValueError, AttributeError):  # written by somebody who is not of ours
                    self.state.alarms.append(f"fact {fact.id} ({fact.kind[:40]}) is malformed and was passed over")
                self.state.last = fact.id


@contextmanager
def _no_collector(state: State) -> Iterator[None]:
    """Fold a whole ledger without the garbage collector, which would look through all that was made again and again in vain.

    100,000 facts of benchmarks/ledger.py: 1.5 s of processor instead of 3.1. A long ledger's state lives on, so later looks leave
    it out too.
    """
    if state.last or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if state.last > MANY:
            gc.freeze()
        gc.enable()
