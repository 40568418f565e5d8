"""A whole day, simulated: three standups of scripted agents on the toy task, with the real controller, ledger, git and runs."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from comms.mailbox import Mail
from comms.message import Message
from lab import client
from lab.areas import assigned, ideas
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.state import View
from org import reports
from tests.conftest import Org, until
from worktrees.repo import Repo

pytestmark = pytest.mark.slow

DESIGN = """
name: day
about: A chief and two researchers who follow a script.
agents:
  - {role: chief-scientist, backend: shell, slot: false}
  - {role: researcher, backend: shell, count: slots}
promotion: chief
confirmation: chief
process: {bank: 4, confirm_stages: [2, 4], queue_ahead: 1, standup: {after: 3, deadline: 30s}}
"""
IDEAS = {
    "schedule": [
        ("BATCH = 32", "larger batches average the noise of a gradient"),
        ("COOLDOWN = 0.8", "a long cooldown settles the last steps"),
        ("COOLDOWN = 0.4", "a moderate cooldown settles what remains"),
    ],
    "optimizer": [
        ("LR = 0.08", "four times the step size fits the curve within the budget"),
        ("MOMENTUM = 0.6", "averaged gradients move faster along flat directions"),
        ("LR = 0.16", "doubling the step size once more goes further"),
    ],
    "architecture": [
        ("INIT = 2.0", "sharper units at the start bend sooner"),
        ("INIT = 0.5", "softer units at the start share the work"),
    ],
}
"""Area -> what its researcher tries there, in order."""


@dataclass
class Agent:
    """A scripted agent: looks at its mail and the ledger again and again, and does what its role says."""

    home: Home
    name: str
    seen: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    view: View = field(init=False)

    @property
    def mail(self) -> Mail:
        return Mail(self.home.comms)

    def live(self, over: threading.Event) -> None:
        """Until the day is over; what the laboratory refuses is remembered and not tried again."""
        self.view = View(Ledger(self.home.ledger))  # a ledger belongs to the thread that opened it
        while not over.wait(0.15):
            self.view.refresh()
            for message in self.mail.take(self.name):
                self.seen.append(message.kind)
                self.heard(message)
            try:
                self.work()
            except UserError as error:
                self.refused.append(str(error))

    def heard(self, message: Message) -> None: ...

    def work(self) -> None: ...


@dataclass
class Researcher(Agent):
    """Tries what its area holds; `boasts` claims whatever was inconclusive or worse as an improvement."""

    boasts: bool = False
    tried: set[str] = field(default_factory=set)

    def work(self) -> None:
        state = self.view.state
        task = assigned(state, self.name, time.time())
        if task is None or any(not run.over for run in state.open.values() if run.agent == self.name):
            return
        for area in task.areas:
            for setting, why in IDEAS.get(area, []):
                if setting not in self.tried:
                    self.tried.add(setting)
                    self.attempt(area, setting, why)
                    return

    def attempt(self, area: str, setting: str, why: str) -> None:
        name = client.propose(self.home, self.name, f"{setting}: {why}", why, area, min_effect=0.002, view=self.view)
        worktree = self.home.worktrees / self.name
        Repo(self.home.root).reset_worktree(worktree, self.view.state.trunk, self.name)
        model = worktree / "toy" / "model.py"
        knob = setting.split(" = ")[0]
        model.write_text(re.sub(rf"^{knob} = .*$", setting, model.read_text(), flags=re.MULTILINE))
        client.run(self.home, self.name, name)

    def heard(self, message: Message) -> None:
        if message.kind != "standup":
            return
        state = self.view.state
        mine = [one for one in state.experiments.values() if one.agent == self.name and one.verdict]
        lines = [f"{one.id}: {one.verdict}." for one in mine]
        lost = [one for one in mine if one.verdict in ("worse", "inconclusive")]
        if self.boasts and lost and not self.said:
            lines.append(f"{lost[0].id} improved val_mse by 0.07.")
            self.said.append(lost[0].id)
        said = {"done": "\n".join(f"- {line}" for line in lines) or "- nothing finished", "next": "- go on in my area"}
        reports.submit(self.home, state, self.name, reports.render(message.about, self.name, said), 6000)


@dataclass
class Chief(Agent):
    """Confirms what is nominated, promotes what is improved, and at each standup directs its researchers."""

    parts: dict[str, str] = field(default_factory=dict)
    asked: set[tuple[str, str]] = field(default_factory=set)
    digests: list[str] = field(default_factory=list)

    def ask(self, kind: str, **body: Any) -> None:
        client.request(self.home, kind, self.name, body)

    def first(self, what: str, name: str) -> bool:
        """Was this not asked before?"""
        new = (what, name) not in self.asked
        self.asked.add((what, name))
        return new

    def work(self) -> None:
        state = self.view.state
        confirming = any(one.status == "confirming" for one in state.experiments.values())
        for one in state.experiments.values():
            if one.status == "nominated" and not confirming and self.first("confirm", one.id):
                client.confirm(self.home, self.name, one.id)
            elif one.status == "improved" and self.first(state.trunk, one.id):
                client.promote(self.home, self.name, one.id)

    def heard(self, message: Message) -> None:
        if message.kind == "digest":
            self.digests.append(message.body)
            self.direct()

    def direct(self) -> None:
        """A dead end is retired with its evidence, whoever was in it is sent elsewhere, and people are answered."""
        self.view.refresh()
        state = self.view.state
        bad = [
            one.id
            for one in state.experiments.values()
            if one.family == "schedule" and one.verdict in ("worse", "inconclusive", "neutral")
        ]
        if len(bad) > 1 and "schedule" not in state.direction.retired:
            self.ask(
                "retire", area="schedule", evidence=bad, why="neither batches nor cooldown help within this budget"
            )
            self.ask("assign", agent="r2", areas=["architecture"], why="the schedule is a dead end")
        for one in ideas(state):
            self.ask("answer", experiment=one.id, answer="the points are given: nothing of the data may change")


def test_a_day_with_three_standups(org: Org, tmp_path: Path) -> None:
    design = tmp_path / "day.yaml"
    design.write_text(DESIGN)
    org.up("--slots", "2", "--design", str(design))
    chief, r1, r2 = Chief(org.home, "chief"), Researcher(org.home, "r1"), Researcher(org.home, "r2", boasts=True)
    as_chief = {"ORGCTL_AGENT": "chief", "ORGCTL_HOME": str(org.root)}
    org("assign", "r1", "--area", "optimizer", "--why", "steps come first", env=as_chief)
    org("assign", "r2", "--area", "schedule", "--why", "what the budget is spent on", env=as_chief)
    assert "may not assign" in org(
        "assign", "r1", "--area", "data", "--why", "w", env={**as_chief, "ORGCTL_AGENT": "r1"}, code=2
    )
    over = threading.Event()
    threads = [threading.Thread(target=agent.live, args=(over,), daemon=True) for agent in (chief, r1, r2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(chief.digests) >= 1, "the first standup, by progress", 120)
        idea = org("idea", "train on the points in order of size", "--family", "data").split()[0]
        until(lambda: org.state.promotions(), "a promotion", 120)
        with contextlib.suppress(UserError):  # progress may have called it already
            client.request(org.home, "standup", "person", {})
        until(lambda: len(chief.digests) >= 2, "the second standup", 60)
        until(lambda: "schedule" in org.state.direction.retired, "the dead end is retired", 60)
        until(lambda: len(org.state.promotions()) >= 2, "a second promotion on top of the first", 150)
        until(
            lambda: any(one.family == "architecture" for one in org.state.experiments.values()),
            "r2 works where it was sent",
            60,
        )
        with contextlib.suppress(UserError):  # progress may have called it already
            client.request(org.home, "standup", "person", {})
        until(lambda: len(chief.digests) >= 3, "the third standup", 60)
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    state = org.state
    meetings = list(state.direction.standups.values())
    assert (
        len(meetings) >= 3
        and all(one.closed for one in meetings[:3])
        and meetings[0].why.endswith("experiments finished")
    )
    assert all(one.reported == ["r1", "r2"] for one in meetings[:3])
    # assignments were followed
    families = {
        agent: [one.family for one in state.experiments.values() if one.agent == agent] for agent in ("r1", "r2")
    }
    assert set(families["r1"]) == {"optimizer"}
    assert (
        families["r2"] == sorted(families["r2"], key=["schedule", "architecture"].index)
        and "architecture" in families["r2"]
    )
    # a false claim was caught and shown
    assert r2.said
    boast = next(text for text in chief.digests if f"{r2.said[0]} improved val_mse by 0.07" in text)
    flagged = boast.partition("## Said, but not borne out by the ledger")[2].partition("\n## ")[0]
    assert f"{r2.said[0]}'s verdict is {state.experiments[r2.said[0]].verdict}" in flagged
    assert not re.search(r"^- r1: ", flagged, re.MULTILINE), "the honest one is left alone"
    # a dead end is not tried again
    gone = state.direction.retired["schedule"]
    late = [one for one in state.experiments.values() if one.family == "schedule" and one.proposed > gone.time]
    assert not late and len(gone.evidence) >= 2
    with pytest.raises(UserError, match="area schedule was retired by chief"):
        client.propose(org.home, "r1", "quarter batches", "more steps", "schedule")
    # promotions stack
    first, second = state.promotions()[:2]
    assert second.attempts[-1].parent in {first.promoted, *(step.commit for step in state.trunks[1:])}
    assert state.trunks[1].experiment == first.id and state.trunks[2].parent == state.trunks[1].commit
    # people were answered, runs went on, and the record holds
    assert state.experiments[idea].status == "withdrawn" and "answered by chief" in str(
        state.experiments[idea].withdrawn
    )
    during = [
        run
        for run in state.runs.values()
        if run.started and meetings[1].opened - 5 < run.started < (meetings[1].closed or 0) + 5
    ]
    assert during, "a standup stops no runs"
    assert "## To decide" in org("standup", "show", "2") and "retired" in org("areas")
    rows = {row["area"]: row for row in json.loads(org("areas", "--json"))}
    assert sum(row["hits"] for row in rows.values()) >= 2 and rows["schedule"]["retired"] and rows["schedule"]["hits"] == 0
    org("down")
    assert "chain whole" in org("ledger", "verify")
