"""A small ledger written as the laboratory writes it, for tests of what agents decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.ledger import Ledger
from lab.state import State, fold
from tasks.spec import Knob, Task

SIGMA = 0.01


def knob(name: str, area: str = "optimiser", **more: Any) -> Knob:
    shape = more or {"low": 0.25, "high": 4.0, "log": True}
    return Knob(name=name, file="a.py", area=area, why="it may matter", **shape)


def task(*knobs: Knob, direction: str = "minimize") -> Task:
    scale = {
        "name": "paper", "title": "on paper", "device": "cpu", "budget": {"kind": "tokens", "amount": 1},
        "deadline_seconds": 1, "memory_gib": 1,
    }  # fmt: skip
    metric = {"name": "loss", "unit": "nats", "direction": direction}
    return Task.model_validate(
        {
            "name": "paper", "title": "on paper", "metric": metric, "editable": ["a.py"], "protected": ["b.py"],
            "train": ["x"], "score": ["x"], "scale": scale, "knobs": [one.model_dump() for one in knobs],
        }
    )  # fmt: skip


class Paper:
    """Facts in a real ledger; `state` folds it anew, as an agent that just started would."""

    def __init__(self, folder: Path, bank: tuple[float, ...] = (1.0, 1.02, 0.98, 1.0)) -> None:
        self.ledger = Ledger(folder / "ledger.db", create=True)
        self.trunk("t0", "", bank)

    @property
    def state(self) -> State:
        return fold(self.ledger.facts())

    def trunk(self, commit: str, experiment: str, bank: tuple[float, ...]) -> None:
        old = self.state.trunk
        self.ledger.append("trunk", {"commit": commit, "parent": old, "experiment": experiment, "why": ""}, commit)
        for value in bank:
            self.end(self.queue("bank", commit), value)

    def queue(self, purpose: str, commit: str, experiment: str = "", agent: str = "lab", attempt: int = 0) -> str:
        body = {
            "experiment": experiment, "attempt": attempt, "purpose": purpose, "commit": commit, "seed": 1,
            "splits": ["search", "audit"], "budget": {}, "agent": agent, "home_slot": None,
        }  # fmt: skip
        return self.ledger.append_new("run", "R", body).subject

    def end(self, run: str, value: float | None, flops: float = 1e9, status: str = "ok") -> None:
        self.ledger.append("start", {"slot": 0, "pid": 1, "started": 1.0}, run)
        metric = {} if value is None else {"search": value, "audit": value}
        body = {"status": status, "reason": "", "metric": metric, "account": {"flops": flops}, "hashes": {}}
        self.ledger.append("result", {**body, "log_tail": ""}, run)

    def propose(self, params: dict[str, Any], agent: str = "r1", family: str = "optimiser") -> str:
        body = {
            "agent": agent, "hypothesis": "h", "mechanism": "m", "family": family, "direction": "improves", "min_effect": 0.0,
            "held_constant": "", "params": params, "base": self.state.trunk,
        }  # fmt: skip
        return self.ledger.append_new("proposal", "E", body).subject

    def submit(self, experiment: str, number: int = 1) -> str:
        """An attempt on the present trunk and its queued run; returns the run."""
        self.attempt(experiment, number)
        agent = self.state.experiments[experiment].agent
        return self.queue("nominate", f"{experiment}.{number}", experiment, agent, number)

    def attempt(self, experiment: str, number: int = 1) -> None:
        body = {
            "number": number,
            "parent": self.state.trunk,
            "commit": f"{experiment}.{number}",
            "diff": "",
            "changed": [],
        }
        self.ledger.append("attempt", body, experiment)

    def tried(self, params: dict[str, Any], value: float | None, **more: Any) -> str:
        """A whole nominating run: value None for one that crashed. Returns the experiment."""
        ends = {key: more.pop(key) for key in ("flops",) if key in more}
        name = self.propose(params, **more)
        self.end(self.submit(name), value, status="ok" if value is not None else "crashed", **ends)
        return name

    def nominate(self, experiment: str, sigmas: float) -> None:
        body = {"attempt": 1, "nominated": True, "value": 0.9, "sigmas": sigmas, "bank_mean": 1.0, "bank_sigma": SIGMA}
        self.ledger.append("nomination", body, experiment)

    def verdict(self, experiment: str, word: str, effect: float, attempt: int = 1) -> None:
        body = {
            "attempt": attempt,
            "verdict": word,
            "effect": effect,
            "low": effect,
            "high": effect,
            "p": 0.001,
            "n": 3,
        }
        self.ledger.append("verdict", {**body, "m": 4, "sigma": SIGMA, "reasoning": []}, experiment)

    def promote(self, experiment: str, bank: tuple[float, ...], effect: float = -0.05) -> None:
        """Judge it `improved` and bring it to trunk."""
        self.ledger.append("confirm", {"attempt": 1}, experiment)
        self.verdict(experiment, "improved", effect)
        commit = f"{experiment}.1"
        self.trunk(commit, experiment, bank)
