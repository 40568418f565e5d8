"""What the ledger says, as typed records: a pure fold of facts into experiments, runs, banks and the trunk's history.

Called by everyone who asks "what is believed?": the workflow, the queue, the board, the report, the agents. Nothing here is
stored; fold the same facts twice and get the same state. `View` keeps a fold up to date with a growing ledger, and the
state keeps indexes (open runs, banks), so that a look costs the same with ten runs and with thirty thousand.

Fact kinds (body keys in brackets); a baseline bank, a control and a frontier are runs of that purpose, a promotion is a trunk fact:
  session     [task, scale, org_hash, hashes, device, design, program, policy, up, stopped]   subject "" (several; later keys win)
  trunk       [commit, parent, experiment, why, reverts, bank]     subject = commit (a promotion names its experiment; what takes
              one back names that in `reverts`, and in `bank` the commit with the same files whose bank serves)
  checked     [commit, effect, low, high, p, n, m, holds]          subject E....   (a promoted commit's bank against its parent's)
  proposal    [agent, hypothesis, mechanism, family, direction, min_effect, held_constant, params, base, again]   subject E0001
  amendment   [those of hypothesis ... held_constant that are new, again]   subject E....   (before the first run only)
  attempt     [number, parent, commit, diff, changed, ignored, again]     subject E....   (snapshot or rebase; judged apart)
  run         [experiment, attempt, purpose, commit, seed, splits, budget, agent, home_slot, assisted]  subject R0001 (queued)
  start       [slot, pid, started, device]                         subject R....
  result      [status, reason, metric, account, hashes, log_tail, ended, flags, unsealed]   subject R....
  nomination  [attempt, nominated, value, bank_mean, bank_sigma, text]     subject E....
  confirm     [attempt]  (somebody ordered confirmation)           subject E....
  verdict     [attempt, verdict, effect, low, high, n, m, p, reasoning, ceg, ceg_low, ceg_high]    subject E....
  withdrawn   [why]                                                subject E....
  review      [finding, text]  anybody's opinion; changes no verdict   subject E....
  audit_order [trunk, steps, seeds, by, ideas]                     subject A0001   (what trunk is without each of its ideas)
  audit       [rows, additive, why]                                subject A....   (what came of it)
  carry_order [scale, seeds, by, ideas]                            subject C0001   (promoted ideas at the next scale)
  carry       [order, scale, effect, low, high, n, m, here, ratio, why]    subject E....   (what came of one of them)
  agent       [what, ...] started, restarted, stopped, gave_up     subject = agent name
  intervention[what, ...] taken over, released, person's action    subject = agent name
  alarm       [text]  something moved that nobody may move         subject = what
"""

from __future__ import annotations

import gc
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lab.ledger import Fact, Ledger

PURPOSES = ("bank", "confirm", "control", "frontier", "parent", "audit", "carry", "nominate")
"""In the order in which the queue serves them (confirm, control and frontier share a rank, and so do baselines for a bank that is
full). `frontier`: trunk on half and twice its budget, for all ideas that cost more than it (`lab.frontier`). `parent`: the parent
of a promoted idea once more, on fresh seeds, for the effect that is reported (`lab.claims`); `audit`: trunk without one of its
ideas (`lab.audit`); `carry`: at the next scale (`lab.carry`)."""
BANK = 8
"""Runs of a baseline bank before anything is compared with it, where the session does not say."""
OTHER_BUDGETS = ("control", "frontier", "carry")
"""Runs whose budget or scale differs on purpose: they say nothing about the environment of the others."""
NO_EVIDENCE = ("killed", "lost")
"""Ends of a run that say nothing about the candidate."""
COMPARED = ("corpus", "tokenizer", "protected", "task", "torch", "python", "driver")
"""Hashes and versions that must be equal for two runs to be compared, beside device, threads and budget. `protected` has the
evaluator and the feeder in it, `task` the scale."""
MANY = 10_000
"""Facts from which a ledger is long."""
FINDINGS = ("ok", "doubt", "leak")
"""What a review may find."""
TEXTS = ("hypothesis", "mechanism", "family", "direction", "min_effect", "held_constant")
"""What a proposal says, and an amendment may say anew."""
VERDICTS = ("improved", "bought", "neutral", "worse", "inconclusive", "invalid", "crashed")


@dataclass
class Run:
    """One training run and its evaluation. Metric values in the task's unit, keyed by split."""

    id: str
    experiment: str
    attempt: int
    purpose: str
    commit: str
    seed: int
    splits: list[str]
    budget: dict[str, Any]
    agent: str
    home_slot: int | None
    queued: float
    status: str = "queued"
    """queued, running, ok, crashed, invalid, timeout; killed (by the laboratory), lost (not by the laboratory)"""
    slot: int | None = None
    pid: int = 0
    process_started: float = 0.0
    started: float | None = None
    ended: float | None = None
    metric: dict[str, float] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    log_tail: str = ""
    flags: list[str] = field(default_factory=list)
    """What is odd about it beside the bank's runs (`lab.flags`)."""
    unsealed: str | None = None
    """Why held-out text was within its reach; "" when it was not, None when nobody looked."""
    assisted: bool = False
    """Queued while a person had the agent's pane."""

    @property
    def machine(self) -> tuple[Any, ...]:
        """What a run was measured with and on."""
        hashes = tuple(self.hashes.get(name) for name in COMPARED)
        return (*hashes, self.account.get("device"), self.account.get("threads"))

    @property
    def environment(self) -> tuple[Any, ...]:
        """(machine, kind and amount of the budget): runs of different ones are not compared, save those of OTHER_BUDGETS."""
        return (self.machine, self.budget.get("kind"), self.budget.get("amount"))

    @property
    def over(self) -> bool:
        return self.status not in ("queued", "running")

    @property
    def failed(self) -> bool:
        """Did it end badly? A run that the laboratory ended itself did not fail."""
        return self.over and self.status not in ("ok", "killed")

    @property
    def flops(self) -> float | None:
        value = self.account.get("flops")
        return float(value) if value else None

    @property
    def seconds(self) -> float | None:
        """Seconds of training less its start-up, in which there is no text to learn from."""
        whole, startup = self.account.get("train_seconds"), self.account.get("startup_seconds")
        return max(0.0, float(whole) - float(startup or 0.0)) if whole else None


@dataclass
class Attempt:
    """One commit of an experiment on one parent; a verdict holds for its parent only."""

    number: int
    parent: str
    commit: str
    diff: str
    changed: list[str]
    ignored: list[str] = field(default_factory=list)
    again: dict[str, Any] | None = None
    """{why, near}: why a change like that of the experiments `near` was run again."""
    nomination: dict[str, Any] | None = None
    confirm_ordered: bool = False
    verdict: dict[str, Any] | None = None


@dataclass(frozen=True)
class Version:
    """What a proposal said from `time` on (seconds since the epoch); `text` has the keys of TEXTS."""

    time: float
    actor: str
    text: dict[str, Any]


@dataclass(frozen=True)
class Review:
    """Somebody's opinion of an experiment. `finding`: one of FINDINGS, "" when the text says it all."""

    time: float
    actor: str
    finding: str
    text: str


@dataclass
class Experiment:
    """A registered idea and all that became of it."""

    id: str
    agent: str
    hypothesis: str
    mechanism: str
    family: str
    direction: str
    min_effect: float
    held_constant: str
    params: dict[str, Any]
    base: str
    proposed: float
    attempts: list[Attempt] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    promoted: str | None = None
    """The trunk commit it became."""
    withdrawn: str | None = None
    again: dict[str, Any] | None = None
    """{why, near}: why an idea like the experiments `near` was proposed again."""
    versions: list[Version] = field(default_factory=list)
    """The proposal as registered, then each amendment; the last one is what the fields above say."""
    reviews: list[Review] = field(default_factory=list)
    check: dict[str, Any] | None = None
    """What the promoted commit's own bank said beside its parent's."""
    reverted: str | None = None
    """The trunk commit that took it back, because its bank was no better."""
    removed: str | None = None
    """The trunk commit that took it out after an audit."""

    @property
    def attempt(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def verdict(self) -> str | None:
        """The verdict on the latest attempt."""
        last = self.attempt
        return str(last.verdict["verdict"]) if last and last.verdict else None

    @property
    def stands(self) -> bool:
        """Is it part of trunk?"""
        return self.promoted is not None and self.reverted is None and self.removed is None

    @property
    def removes(self) -> str:
        """The experiment that this proposal of the laboratory would take out of trunk; "" for an idea."""
        return str(self.params.get("removes", "")) if self.agent == "lab" else ""

    @property
    def status(self) -> str:
        """proposed, queued, running, nominated, confirming, withdrawn, promoted, reverted, removed, or the verdict."""
        if self.promoted:
            return "promoted" if self.stands else "reverted" if self.reverted else "removed"
        last = self.attempts[-1] if self.attempts else None
        if last and last.verdict:
            return str(last.verdict["verdict"])
        if self.withdrawn is not None:
            return "withdrawn"
        if last is None:
            return "proposed"
        if last.confirm_ordered:
            return "confirming"
        if last.nomination:
            return "nominated"
        mine = [run for run in self.runs if run.attempt == last.number]
        return "running" if any(run.status == "running" for run in mine) else "queued"

    def runs_for(self, purpose: str, attempt: int | None = None) -> list[Run]:
        """Runs of one purpose, of one attempt (default: the latest)."""
        number = attempt if attempt is not None else (self.attempt.number if self.attempt else 0)
        return [run for run in self.runs if run.purpose == purpose and run.attempt == number]


@dataclass
class Trunk:
    """One step of trunk."""

    commit: str
    parent: str
    experiment: str
    why: str
    time: float
    reverts: str = ""
    """The experiment that it takes back."""


@dataclass
class Audit:
    """Trunk without each of its ideas in turn: what was ordered, and what came of it."""

    id: str
    trunk: str
    steps: int
    """Steps of trunk when it was ordered."""
    seeds: int
    by: str
    ideas: list[dict[str, Any]]
    """{experiment, commit, files, why}: `commit` is trunk without it; "" where it cannot be taken out alone, with the files."""
    result: dict[str, Any] | None = None


@dataclass
class Carry:
    """Promoted ideas on their way to the next scale."""

    id: str
    scale: str
    seeds: int
    by: str
    ideas: list[str]
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Experiment -> body of its fact `carry`."""


@dataclass
class Bank:
    """Finished baseline runs of one trunk commit on the full budget."""

    commit: str
    runs: list[Run]

    def values(self, split: str) -> list[float]:
        return [run.metric[split] for run in self.runs if run.status == "ok" and split in run.metric]

    def mean(self, split: str = "audit") -> float:
        """NaN while empty."""
        values = self.values(split)
        return statistics.fmean(values) if values else math.nan

    def sigma(self, split: str = "audit") -> float:
        """Sample standard deviation; NaN below two runs. (`statistics.stdev` does it in fractions, twenty times slower.)"""
        values = self.values(split)
        if len(values) < 2 or len(set(values)) == 1:
            return 0.0 if len(values) > 1 else math.nan
        mean = math.fsum(values) / len(values)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


@dataclass
class State:
    """Everything folded. Dictionaries keep the order of the ledger."""

    session: dict[str, Any] = field(default_factory=dict)
    trunks: list[Trunk] = field(default_factory=list)
    experiments: dict[str, Experiment] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    audits: dict[str, Audit] = field(default_factory=dict)
    carries: dict[str, Carry] = field(default_factory=dict)
    serves: dict[str, str] = field(default_factory=dict)
    """Trunk commit -> the earlier one with the same files, whose bank serves."""
    alarms: list[str] = field(default_factory=list)
    taken_over: set[str] = field(default_factory=set)
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

    def apply(self, fact: Fact) -> None:
        """Fold one fact in. Unknown kinds and facts about unknown subjects are passed over (a newer version wrote them)."""
        body, subject = fact.body, fact.subject
        self.touched[subject] = None
        if fact.kind == "session":
            self.session = {**self.session, **body}
            if "up" in body and not (self.up and self.up[-1][1] is None):
                self.up.append((fact.time, None))
            elif "stopped" in body and self.up and self.up[-1][1] is None:
                self.up[-1] = (self.up[-1][0], fact.time)
        elif fact.kind == "trunk":
            step = Trunk(
                body["commit"], body["parent"], body["experiment"], body["why"], fact.time, body.get("reverts", "")
            )
            self.trunks.append(step)
            if bank := body.get("bank"):
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
            self.carries[subject] = Carry(subject, body["scale"], body["seeds"], body["by"], list(body["ideas"]))
        elif fact.kind == "carry" and body["order"] in self.carries:
            self.carries[body["order"]].results[subject] = body
        elif fact.kind == "alarm":
            self.alarms.append(body["text"])
        elif fact.kind == "intervention":
            (self.taken_over.add if body["what"] == "taken_over" else self.taken_over.discard)(subject)
        elif subject in self.experiments:
            self._experiment(self.experiments[subject], fact)
        self.last = fact.id

    def _result(self, run: Run, fact: Fact) -> None:
        body = fact.body
        metric, account, hashes = dict(body["metric"]), dict(body["account"]), dict(body["hashes"])
        status, reason, tail = body["status"], body["reason"], body["log_tail"]
        run.flags, run.unsealed = list(body.get("flags") or []), body.get("unsealed")
        run.status, run.reason, run.log_tail, run.ended = status, reason, tail, float(body.get("ended") or fact.time)
        run.metric, run.account, run.hashes = metric, account, hashes
        self.open.pop(run.id, None)
        self.ended.append(run)
        self.ends[status] += 1
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
            made = Attempt(**body, confirm_ordered=body["number"] > 1)
            if not isinstance(made.diff, str):
                raise TypeError("a diff is text")
            experiment.attempts.append(made)
        elif fact.kind == "withdrawn":
            experiment.withdrawn = body["why"]
        elif fact.kind == "review":
            experiment.reviews.append(Review(fact.time, fact.actor, str(body["finding"] or ""), str(body["text"])))
        elif fact.kind == "amendment" and not experiment.attempts:  # what has run is not predicted any more
            said = {**experiment.versions[-1].text, **{key: body[key] for key in TEXTS if key in body}}
            experiment.versions.append(Version(fact.time, fact.actor, said))
            for key, value in said.items():
                setattr(experiment, key, value)
            experiment.again = body.get("again") or experiment.again
        elif fact.kind == "checked":
            experiment.check = body
        elif fact.kind in ("nomination", "confirm", "verdict"):
            for attempt in experiment.attempts:
                if attempt.number == body["attempt"]:
                    if fact.kind == "nomination":
                        attempt.nomination = body
                    elif fact.kind == "verdict":
                        if not isinstance(body["verdict"], str) or not isinstance(body["effect"], int | float | None):
                            raise TypeError("a verdict is a word and a figure")
                        attempt.verdict = body
                    else:
                        attempt.confirm_ordered = True


def bank_of(state: State, commit: str) -> Bank:
    """The bank of a commit, less what was measured in another environment (a newer torch, another machine)."""
    bank = state.bank(commit)
    return Bank(commit, [run for run in bank.runs if run.status != "ok" or run.environment == state.environment])


def fold(facts: Iterable[Fact]) -> State:
    """The state that these facts describe."""
    state = State()
    for fact in facts:
        state.apply(fact)
    return state


class View:
    """A state that follows a growing ledger: `refresh` folds only what is new."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.state = State()

    def refresh(self) -> list[Fact]:
        """Fold the new facts in and return them."""
        with _no_collector(self.state):
            new = self.ledger.facts(after=self.state.last)
            for fact in new:
                try:
                    self.state.apply(fact)
                except (KeyError, TypeError, ValueError, AttributeError):  # written by somebody who is not of ours
                    self.state.alarms.append(f"fact {fact.id} ({fact.kind[:40]}) is malformed and was passed over")
                self.state.last = fact.id
        return new


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
