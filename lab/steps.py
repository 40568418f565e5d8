"""What the workflow can ask for: its rules and its steps, as data. `lab.experiment` names steps, `lab.laboratory` carries them out.

A step says what is wanted and holds no state, so that one that was named twice does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lab import gate, verdict
from lab.records import BANK, Experiment

BOTH = ("search", "audit")
"""Banks and confirmations read both splits: the gap between them is looked at, and scoring is cheap beside training."""


@dataclass(frozen=True)
class Policy:
    """How rigid this organisation's laboratory is; comes from the org design."""

    bank: int = BANK
    stages: tuple[int, ...] = verdict.STAGES
    queue_ahead: int = 2
    confirmation: str = "chief"
    promotion: str = "chief"
    audit_every: int = 0
    """Promotions after which the laboratory audits trunk by itself; 0: never."""
    reviewers: dict[str, list[str]] = field(default_factory=dict)
    """Agent -> those who review what it finds, where promotion is `skeptic` or `partner` (`lab.gate`)."""

    def promotes(self, experiment: Experiment) -> bool:
        """Does the laboratory by itself bring this `improved` experiment to trunk?"""
        return self.promotion != "chief" and gate.waits(self.promotion, self.reviewers, experiment) is None


@dataclass(frozen=True)
class Queue:
    """Ask for one more run."""

    purpose: str
    commit: str
    experiment: str = ""
    attempt: int = 0
    agent: str = "lab"
    budget_factor: float = 1.0
    dial: int | float | None = None
    splits: tuple[str, ...] = ("audit",)


@dataclass(frozen=True)
class Write:
    """Write a fact about an experiment (or an alarm)."""

    kind: str
    subject: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Rebase:
    """Carry the experiment's latest attempt to the present trunk as a new attempt, and confirm it there."""

    experiment: str


@dataclass(frozen=True)
class Promote:
    """Bring the latest attempt to trunk."""

    experiment: str


@dataclass(frozen=True)
class Revert:
    """Take back the promotion that trunk ends with."""

    experiment: str


@dataclass(frozen=True)
class StartAudit:
    """Take each promoted idea out of the present trunk, as a commit of its own, and order the audit of them."""


@dataclass(frozen=True)
class ProposeRemoval:
    """Propose to take an idea out of trunk, as an audit suggests."""

    experiment: str
    audit: str


Step = Queue | Write | Rebase | Promote | Revert | StartAudit | ProposeRemoval
