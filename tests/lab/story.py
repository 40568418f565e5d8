"""A ledger that a test tells line by line, and the steps of an idea's way that most stories share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.experiment import decide
from lab.ledger import Ledger
from lab.state import State, fold
from lab.steps import Policy, Write
from tasks.spec import Task

TASK = Task.model_validate(
    {
        "name": "t",
        "title": "t",
        "metric": {"name": "loss", "unit": "nats"},
        "editable": ["a.py"],
        "protected": ["b.py"],
        "train": ["{python}", "a.py"],
        "score": ["{python}", "b.py"],
        "min_effect": 0.01,
        "scale": {
            "name": "s",
            "title": "s",
            "device": "cpu",
            "budget": {"kind": "tokens", "amount": 1000},
            "deadline_seconds": 10,
            "memory_gib": 1,
        },
    }
)
BANK = [2.450, 2.452, 2.448, 2.451]
SMALL: dict[str, Any] = {"bank": 4, "stages": (2, 4)}
GOOD = (2.402, 2.399, 2.401, 2.400)
"""29 sigma better than the bank"""
CONTROLS = (2.380, 2.382, 2.381, 2.379)


class Story:
    """A ledger that a test tells line by line."""

    def __init__(self, path: Path) -> None:
        self.task = TASK
        self.ledger = Ledger(path / "ledger.db", create=True)
        self.ledger.append("session", {"task": "t", "policy": {"bank": 4}, "chiefs": ["chief"]})
        self.trunk("t0", "")

    @property
    def state(self) -> State:
        return fold(self.ledger.facts())

    def next(self, **policy: Any) -> list[Any]:
        return decide(self.state, self.task, Policy(**{**SMALL, **policy}))

    def trunk(self, commit: str, parent: str, experiment: str = "") -> None:
        self.ledger.append("trunk", {"commit": commit, "parent": parent, "experiment": experiment, "why": ""}, commit)

    def run(
        self,
        purpose: str,
        commit: str,
        experiment: str = "",
        attempt: int = 1,
        status: str = "ok",
        flops: float | None = 1e9,
        seconds: float = 10.0,
        startup: float | None = 3.0,
        flags: tuple[str, ...] = (),
        hashes: dict[str, str] | None = None,
        factor: float = 1.0,
        dial: int | None = None,
        **metric: float,
    ) -> str:
        body = {
            "experiment": experiment,
            "attempt": attempt,
            "purpose": purpose,
            "commit": commit,
            "seed": len(self.state.runs),
            "splits": list(metric),
            "budget": self.task.scale.budget.times(factor).model_dump(),
            "agent": "r1",
            "home_slot": 0,
            **({} if dial is None else {"dial": dial}),
        }
        name = self.ledger.append_new("run", "R", body).subject
        if status != "queued":
            self.end(name, status, flops, seconds, startup, flags, hashes, **metric)
        return name

    def end(
        self,
        name: str,
        status: str,
        flops: float | None = 1e9,
        seconds: float = 10.0,
        startup: float | None = 3.0,
        flags: tuple[str, ...] = (),
        hashes: dict[str, str] | None = None,
        **metric: float,
    ) -> None:
        self.ledger.append("start", {"slot": 0, "pid": 1, "started": 0.0, "device": "cpu"}, name)
        result = {
            "status": status,
            "reason": "why",
            "metric": metric,
            "account": {
                "flops": flops,
                "flops_unknown": "" if flops else "mine::op",
                "train_seconds": seconds + (startup or 0),
                "startup_seconds": startup,
            },
            "hashes": hashes or {},
            "log_tail": "",
            "flags": list(flags),
        }
        self.ledger.append("result", result, name)

    def bank(self, commit: str = "t0", shift: float = 0.0, **more: Any) -> None:
        for value in BANK:
            self.run("bank", commit, attempt=0, search=value + shift, audit=value + shift, **more)

    def frontier(self, half: float, double: float, **more: Any) -> None:
        """Trunk on half and twice its budget: four runs each around these means."""
        for factor, mean in ((0.5, half), (2.0, double)):
            for index in range(4):
                value = mean + 0.001 * (index - 1.5)
                self.run("frontier", "t0", attempt=0, factor=factor, flops=factor * 1e9, seconds=factor * 10, **{"audit": value, **more})

    def scale(self, **changes: Any) -> None:
        """Other budgets and targets from here on."""
        self.task = Task.model_validate({**TASK.model_dump(), "scale": {**TASK.scale.model_dump(), **changes}})

    def idea(self, commit: str = "c1", parent: str = "t0", attempt: int = 1, name: str | None = None) -> str:
        if name is None:
            body = dict.fromkeys(("mechanism", "family", "direction", "held_constant"), "")
            name = self.ledger.append_new(
                "proposal",
                "E",
                {**body, "hypothesis": "h", "agent": "r1", "min_effect": 0.0, "params": {}, "base": parent},
            ).subject
        self.ledger.append(
            "attempt",
            {"number": attempt, "parent": parent, "commit": commit, "diff": "", "changed": [], "ignored": []},
            name,
        )
        return name

    def tell(self, step: Any) -> None:
        assert isinstance(step, Write)
        self.ledger.append(step.kind, step.body, step.subject)


def nominated(story: Story, value: float = 2.40, **bank: Any) -> str:
    story.bank(**bank)
    name = story.idea()
    story.run("nominate", "c1", name, search=value)
    story.tell(story.next()[0])
    return name


def confirmed(story: Story, name: str, **more: Any) -> list[Any]:
    """What follows on four clearly better runs."""
    story.ledger.append("confirm", {"attempt": 1}, name)
    for value in GOOD:
        story.run("confirm", "c1", name, search=value, audit=value, **more)
    return story.next()


def promoted(story: Story, value: float = 2.4485, shift: float = -0.004, checked: bool = True) -> str:
    """An idea that was accepted with this mean and became trunk, whose new bank is full and (`checked`) was found better."""
    name = nominated(story)
    effect = value - 2.45025
    body = {"attempt": 1, "verdict": "improved", "effect": effect, "low": effect - 0.001, "high": effect + 0.001, "p": 1e-4,
            "n": 4, "m": 6, "sigma": 0.0017, "reasoning": []}  # fmt: skip
    story.ledger.append("verdict", body, name)
    story.trunk("c1", "t0", name)
    story.bank("c1", shift)
    if checked:
        story.tell(story.next()[0])
    return name
