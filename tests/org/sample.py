"""A session's ledger with something of everything: a bank, ideas that won, lost and crashed, a run under way."""

from __future__ import annotations

from typing import Any

from lab.files import write_json
from lab.home import Home
from lab.ledger import Ledger

BUDGET = {"kind": "tokens", "amount": 1000}
FIRST, SECOND = "a" * 40, "b" * 40


class Story:
    """Writes facts as the laboratory does."""

    def __init__(self, home: Home, slots: int = 2) -> None:
        home.make()
        self.home = home
        self.ledger = Ledger(home.ledger, create=True)
        self.seed = 1000
        metric = {"name": "val_bpb", "unit": "bits per byte", "direction": "minimize"}
        scale = {"name": "cpu", "title": "GPT of depth 3 on one CPU core"}
        task = {"name": "nanochat", "title": "Pretrain a small GPT", "metric": metric, "scale": scale}
        write_json(home.task, task)
        session = {
            "name": "demo", "task": "nanochat", "scale": "cpu", "design": "chief", "program": "main", "device": "cpu",
            "org_hash": "0123456789abcdef", "slots": slots, "hashes": {},
        }  # fmt: skip
        self.ledger.append("session", session)
        self.trunk(FIRST, "", "", "the task as shipped")

    def trunk(self, commit: str, parent: str, experiment: str, why: str) -> None:
        body = {"commit": commit, "parent": parent, "experiment": experiment, "why": why}
        self.ledger.append("trunk", body, commit)

    def queue(self, purpose: str, commit: str, experiment: str = "", attempt: int = 0, agent: str = "lab") -> str:
        self.seed += 1
        splits = {"bank": ["search", "audit"], "nominate": ["search"]}.get(purpose, ["audit"])
        body = {
            "experiment": experiment, "attempt": attempt, "purpose": purpose, "commit": commit, "seed": self.seed,
            "splits": splits, "budget": BUDGET, "agent": agent, "home_slot": None,
        }  # fmt: skip
        return self.ledger.append_new("run", "R", body).subject

    def start(self, run: str, slot: int) -> None:
        self.ledger.append("start", {"slot": slot, "pid": 1, "started": 1.0, "device": "cpu"}, run)

    def end(self, run: str, metric: dict[str, float], status: str = "ok", reason: str = "") -> None:
        account = {"flops": 1e9}
        body = {"status": status, "reason": reason, "metric": metric, "account": account, "hashes": {}, "log_tail": ""}
        self.ledger.append("result", body, run)

    def done(self, metric: dict[str, float], purpose: str, commit: str, experiment: str = "", **more: Any) -> str:
        """Queue, start and end a run that went well."""
        run = self.queue(purpose, commit, experiment, **more)
        self.start(run, 0)
        self.end(run, metric)
        return run

    def bank(self, commit: str, values: list[float]) -> None:
        for value in values:
            self.done({"search": value + 0.01, "audit": value}, "bank", commit)

    def propose(self, agent: str, hypothesis: str, params: dict[str, Any] | None = None) -> str:
        body = {
            "agent": agent, "hypothesis": hypothesis, "mechanism": "because", "family": "optimiser",
            "direction": "improves", "min_effect": 0.01, "held_constant": "the rest", "params": params or {},
            "base": FIRST,
        }  # fmt: skip
        return self.ledger.append_new("proposal", "E", body, agent).subject

    def attempt(self, experiment: str, commit: str, number: int = 1, parent: str = FIRST) -> None:
        body = {
            "number": number, "parent": parent, "commit": commit, "diff": "d" * 40, "changed": ["nanochat/optim.py"],
            "ignored": [],
        }  # fmt: skip
        self.ledger.append("attempt", body, experiment, "r1")

    def verdict(self, experiment: str, verdict: str, effect: float | None = None, attempt: int = 1) -> None:
        wide = None if effect is None else 0.003
        body = {
            "attempt": attempt, "verdict": verdict, "effect": effect, "low": effect - wide if wide else None,
            "high": effect + wide if wide else None, "n": 3 if effect else 0, "m": 4 if effect else 0, "p": 0.001,
            "reasoning": [f"R0007 ended: {verdict}", "second", "third"],
        }  # fmt: skip
        self.ledger.append("verdict", body, experiment)


def tell(home: Home) -> Story:
    """E0001 promoted, E0002 neutral, E0003 crashed, E0004 running at a quarter of its budget on slot 1, slot 0 idle."""
    story = Story(home)
    story.bank(FIRST, [2.450, 2.452, 2.448, 2.450])
    for agent in ("chief", "r1", "r2"):
        story.ledger.append("agent", {"what": "started", "backend": "sweep", "role": "researcher"}, agent)
    won = story.propose("r1", "larger steps settle faster", {"MATRIX_LR": 0.031})
    story.attempt(won, SECOND)
    run = story.done({"search": 2.43}, "nominate", SECOND, won, attempt=1, agent="r1")
    bank = {"bank_mean": 2.46, "bank_sigma": 0.0016}
    nomination = {"attempt": 1, "nominated": True, "value": 2.43, "sigmas": 12.2, "run": run, **bank}
    story.ledger.append("nomination", nomination, won)
    story.ledger.append("confirm", {"attempt": 1}, won, "chief")
    for value in (2.431, 2.430, 2.432):
        story.done({"audit": value}, "confirm", SECOND, won, attempt=1, agent="r1")
    story.verdict(won, "improved", -0.019)
    story.ledger.append("promotion", {"attempt": 1, "from": FIRST, "to": SECOND}, won, "chief")
    story.trunk(SECOND, FIRST, won, "promoted by chief")
    story.bank(SECOND, [2.4312, 2.4309, 2.4321, 2.4318])
    neutral = story.propose("r2", "more momentum averages noise", {"MUON_MOMENTUM": 0.97})
    story.attempt(neutral, "c" * 40)
    story.done({"search": 2.459}, "nominate", "c" * 40, neutral, attempt=1, agent="r2")
    story.verdict(neutral, "neutral", -0.001)
    failed = story.propose("r1", "train without a warm-up")
    story.attempt(failed, "d" * 40)
    run = story.queue("nominate", "d" * 40, failed, 1, "r1")
    story.start(run, 1)
    story.end(run, {}, "crashed", "RuntimeError: loss is NaN")
    story.verdict(failed, "crashed")
    story.ledger.append("agent", {"what": "restarted", "exit": 1, "signal": None, "restarts": 1}, "r2")
    now = story.propose("r2", "wider heads", {"HEAD_DIM": 64})
    story.attempt(now, "e" * 40, parent=SECOND)
    run = story.queue("nominate", "e" * 40, now, 1, "r2")
    story.start(run, 1)
    write_json(home.runs / run / "counts.json", {"tokens": 250, "steps": 5, "amount": 1000, "done": False, "time": 1.0})
    return story
