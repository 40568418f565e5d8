"""The sweep skeptic: replicates what is `improved` on fresh seeds and says ok or doubt, before it may be trunk.

Started by `sweep.py` for the role skeptic. It has no ideas of its own; its slot serves the replications that it orders. Nothing is
remembered but refusals, so a restarted skeptic goes on where it was.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from comms.mailbox import Message
from lab.home import Home
from lab.ledger import Fact
from lab.replication import said
from lab.text import clean
from org.agents.console import FAINT, Section, keys_help, standing_section, verdict_line
from org.agents.sweep_review import Reviews
from org.agents.worker import Asked, Worker


class Skeptic(Worker):
    """Reviews everybody's findings."""

    plan = "reviews what is found improved."

    def __init__(self, home: Home, agent: str, role: str) -> None:
        super().__init__(home, agent, role)
        self.reviews = Reviews(self)

    @property
    def title(self) -> str:
        return "reviews what is improved"

    def heard(self, message: Message) -> None:
        if message.sender != "lab":
            self.note(f"mail from {message.sender}: {message.body}")

    def learned(self, facts: list[Fact]) -> None:
        for fact in facts:
            if fact.kind == "replication" and self.now[0] != "starting":
                self.note(f"{fact.subject}: {said(fact.body, self.task.metric.unit)}")

    def returned(self) -> None:
        """Commit what somebody left uncommitted, so that it is kept."""
        worktree = self.home.worktrees / self.agent
        if worktree.is_dir():
            self.repo.commit_worktree(worktree, self.agent, "Left by a person", self.task.editable)

    def step(self) -> None:
        told = self.reviews.step()
        self.say("working" if told else "idle", told or "nothing waits for a review")

    def answered(self, asked: Asked, answer: dict[str, Any]) -> None:
        if not answer.get("ok"):
            self.reviews.refuse(asked, str(answer.get("error", "")))

    def skip(self) -> None:
        """Nothing is skipped: a promotion waits for every review."""

    # Showing

    def sections(self, width: int) -> list[Section]:
        state = self.view.state
        waiting = [Text.assemble((f"{one.id} ", "cyan"), clean(one.hypothesis, 200)) for one in self.reviews.due]
        mine = [
            (one, review) for one in reversed(state.experiments.values()) for review in one.reviews if review.actor == self.agent
        ]
        done = [Text.assemble((f"{review.finding.ljust(6)} ", ""), verdict_line(one)) for one, review in mine[:10]]
        why = [Text(clean(mine[0][1].text, 400), FAINT)] if mine else []
        return [
            Section("waits for a review", waiting, least=1, rank=0), Section("reviewed", [*done, *why], least=2, rank=2),
            standing_section(state, self.design.process.bank), self.log_section(),
            keys_help("p pause", "q take over with a shell"),
        ]  # fmt: skip
