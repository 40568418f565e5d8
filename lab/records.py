"""What the ledger's facts are about, as typed records: experiments with their attempts, runs, banks, audits, and the steps of trunk.

Made by `lab.state`, which folds facts into them, and read by everyone who asks "what is believed?": the workflow, the queue, the board,
the report, the agents. A record decides nothing; what follows from its own fields alone is a property.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

PURPOSES = ("bank", "confirm", "control", "frontier", "replicate", "parent", "audit", "carry", "nominate")
"""In the order in which the queue serves them (confirm, control and frontier share a rank, and so do baselines for a bank that is
full). `frontier`: trunk on half and twice its budget, for all ideas that cost more than it (`lab.frontier`), and one short run of
each size that its dial gives it (`lab.resized`). `replicate`: an improved change once more, by order of a reviewer
(`lab.replication`). `parent`: the parent
of a promoted idea once more, on fresh seeds, for the effect that is reported (`lab.claims`); `audit`: trunk without one of its
ideas (`lab.audit`); `carry`: at the next scale (`lab.carry`)."""
LABORATORY = "lab"
"""Who writes what code of ours has found, measured or decided."""
OURS = (
    "session", "agent", "run", "start", "result", "nomination", "verdict", "checked", "replication", "audit", "carry", "unmerged",
    "refused", "alarm", "disowned",
)  # fmt: skip
"""Kinds of facts that only the laboratory itself writes."""
BANK = 8
"""Runs of a baseline bank before anything is compared with it, where the session does not say."""
BANK_FAILURES = 3
"""Baseline runs that may fail before the laboratory stops asking for more and raises an alarm."""
OTHER_BUDGETS = ("control", "frontier", "carry")
"""Runs whose budget or scale differs on purpose: they say nothing about the environment of the others."""
NO_EVIDENCE = ("killed", "lost")
"""Ends of a run that say nothing about the candidate."""
COMPARED = ("corpus", "tokenizer", "protected", "task", "torch", "python", "driver")
"""Hashes and versions that must be equal for two runs to be compared, beside device, threads and budget. `protected` has the
evaluator and the feeder in it, `task` the scale."""
FINDINGS = ("ok", "doubt", "leak")
"""What a review may find."""
TEXTS = ("hypothesis", "mechanism", "family", "direction", "min_effect", "held_constant")
"""What a proposal says, and an amendment may say anew."""
VERDICTS = ("improved", "bought", "neutral", "worse", "inconclusive", "invalid", "crashed")
STATES = (
    "proposed", "queued", "running", "nominated", "confirming", *VERDICTS, "unmerged", "promoted", "reverted", "removed", "withdrawn"
)  # fmt: skip
"""What `Experiment.status` may be. `unmerged`: improved where it was measured, and git cannot apply it to the present trunk."""


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
    prompt: str = ""
    """SHA-256 of what its agent was told at the start of its present life."""
    assisted: bool = False
    """Queued while a person had the agent's pane."""
    dial: int | float | None = None
    """What the task's dial was set to (`lab.resized`); None: what the scale says."""

    @property
    def machine(self) -> tuple[Any, ...]:
        """What a run was measured with and on."""
        hashes = tuple(self.hashes.get(name) for name in COMPARED)
        return (*hashes, self.account.get("device"), self.account.get("threads"))

    @property
    def environment(self) -> tuple[Any, ...]:
        """(machine, kind and amount of the budget): runs of different ones are not compared, save those of OTHER_BUDGETS."""
        found: tuple[Any, ...] | None = self.__dict__.get("_environment")
        if found is None:
            found = (self.machine, self.budget.get("kind"), self.budget.get("amount"))
            if self.over:  # what has ended stays as it ended, and the workflow asks at every step for all runs of trunk's history
                self.__dict__["_environment"] = found
        return found

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
    control_ordered: bool = False
    """By hand: it is run without waiting for the idea to beat the bank, and decides in the place of the frontier's first look."""
    verdict: dict[str, Any] | None = None
    resubmitted: bool = False
    """Edited by hand for a trunk that the attempt before does not apply to: another change, which begins anew with one run."""
    unmerged: dict[str, Any] | None = None
    """{trunk, branch, files, why}: why it cannot be carried to the trunk of that day."""
    apart: bool = False
    """Is that trunk still the present one? (On the next one the laboratory tries again.)"""
    areas: list[str] = field(default_factory=list)
    """Of the declared knobs that the change sets (`lab.areas.turned`); empty in ledgers that did not record it."""


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
    judged: str = ""
    """The verdict on the latest attempt when it was written."""
    attempt: int = 0
    """The latest attempt when it was written; 0 before the first."""


@dataclass
class Replication:
    """An order to run an improved change once more on fresh seeds, and what came of it."""

    attempt: int
    seeds: int
    by: str
    before: int
    """Runs of earlier replications of the same attempt: they take no part."""
    result: dict[str, Any] | None = None


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
    replications: list[Replication] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Why what was handed in was not run: protected files that were changed, code that is based on no trunk."""
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
    def places(self) -> str:
        """Its family and, joined to it by `+`, the areas that its changes turned out to belong to."""
        return "+".join([self.family, *dict.fromkeys(area for one in self.attempts for area in one.areas)])

    @property
    def verdict(self) -> str | None:
        """The verdict on the latest attempt."""
        last = self.attempt
        return str(last.verdict["verdict"]) if last and last.verdict else None

    @property
    def accepted(self) -> bool:
        """Was its code found `improved`, on whatever trunk, the last time that it was judged?"""
        judged = [one.verdict["verdict"] for one in self.attempts if one.verdict and one.number >= self.edited]
        return judged[-1:] == ["improved"]

    @property
    def edited(self) -> int:
        """Number of the attempt that its code is of: later ones are the same change, carried by git."""
        return max((one.number for one in self.attempts if one.resubmitted), default=1)

    @property
    def tried(self) -> bool:
        """Has it a verdict that says something of the idea? Not where nothing was compared, since it could not be carried to trunk, say."""
        judged = self.attempt.verdict if self.attempt else None
        return judged is not None and not (judged["verdict"] == "inconclusive" and not judged.get("n"))

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
        """proposed, queued, running, nominated, confirming, withdrawn, unmerged, promoted, reverted, removed, or the verdict."""
        if self.promoted:
            return "promoted" if self.stands else "reverted" if self.reverted else "removed"
        last = self.attempts[-1] if self.attempts else None
        if last and last.apart and self.withdrawn is None:
            return "unmerged"
        if self.removes and self.withdrawn is not None:  # another audit has looked since
            return "withdrawn"
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
    manifest: str = ""
    """SHA-256 (hex) of the next scale's manifest of data when it was ordered; "" in ledgers that did not pin it."""
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Experiment -> body of its fact `carry`."""


@dataclass
class Bank:
    """Finished baseline runs of one trunk commit on the full budget."""

    commit: str
    runs: list[Run]

    @property
    def failure(self) -> Run | None:
        """The last baseline run that failed, where so many did that the laboratory has given the bank up; else None."""
        failed = [run for run in self.runs if run.status in ("crashed", "invalid", "timeout")]
        good = sum(run.status == "ok" for run in self.runs)
        return failed[-1] if len(failed) >= BANK_FAILURES and len(failed) > good else None

    def values(self, split: str) -> list[float]:
        return [run.metric[split] for run in self.runs if run.status == "ok" and split in run.metric]

    def mean(self, split: str = "audit") -> float:
        """NaN while empty."""
        values = self.values(split)
        return math.fsum(values) / len(values) if values else math.nan

    def sigma(self, split: str = "audit") -> float:
        """Sample standard deviation; NaN below two runs. (`statistics.stdev` does it in fractions, twenty times slower.)"""
        values = self.values(split)
        if len(values) < 2 or len(set(values)) == 1:
            return 0.0 if len(values) > 1 else math.nan
        mean = math.fsum(values) / len(values)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
