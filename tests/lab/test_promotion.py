"""A promotion stands when its own bank is better than its parent's; else trunk goes back, by a commit on top."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import gate, verify
from lab.claims import said
from lab.errors import UserError
from lab.home import Home
from lab.laboratory import Laboratory
from lab.ledger import Ledger
from lab.orders import Orders
from lab.queue import waiting
from lab.requests import Request
from lab.runs import Runs
from lab.shown import next_step
from lab.shown import story as story_of
from lab.slots import Slot
from lab.state import View
from lab.steps import Policy, Promote, Rebase, Revert, Write
from org.news import letters
from tests.conftest import until
from tests.lab.conftest import Bench
from tests.lab.story import BANK, TASK, Story, promoted


def reverted(story: Story) -> str:
    """A promotion whose bank was no better, taken back."""
    name = promoted(story, shift=0.0)
    (step,) = story.next()
    assert step == Revert(name)
    body = {"commit": "r1", "parent": "c1", "experiment": "", "why": "reverted", "reverts": name, "bank": "t0"}
    story.ledger.append("trunk", body, "r1")
    return name


def test_a_promotion_is_checked_once_when_its_bank_is_full(story: Story) -> None:
    name = promoted(story, checked=False)
    (step,) = story.next()
    assert isinstance(step, Write) and (step.kind, step.subject) == ("checked", name)
    assert step.body["holds"] and step.body["p"] < 0.05 and (step.body["n"], step.body["m"]) == (4, 4)
    assert step.body["low"] < step.body["effect"] < step.body["high"] and step.body["effect"] == pytest.approx(-0.004)
    story.tell(step)
    for _ in range(4):
        story.run("bank", "c1", attempt=0, search=2.6, audit=2.6)
    assert not any(isinstance(step, Revert) or getattr(step, "kind", "") == "checked" for step in story.next())
    assert story.state.experiments[name].status == "promoted"


def test_an_unfilled_bank_takes_nothing_back(story: Story) -> None:
    story.bank()
    name = story.idea()
    story.trunk("c1", "t0", name)
    for value in BANK[:3]:
        story.run("bank", "c1", attempt=0, search=value + 1, audit=value + 1)
    assert {(step.purpose, step.commit) for step in story.next()} == {("bank", "c1"), ("parent", "t0")}


@pytest.mark.parametrize(("shift", "holds"), [(-0.004, True), (-0.0015, False), (0.0, False), (0.01, False)])
def test_a_bank_that_is_not_better_at_one_sided_five_percent_takes_the_promotion_back(
    story: Story, shift: float, holds: bool
) -> None:
    name = promoted(story, shift=shift)
    assert (story.next() == [Revert(name)]) is not holds


def test_a_reverted_idea_is_told_apart_and_trunk_has_its_parents_bank(story: Story) -> None:
    name = reverted(story)
    state = story.state
    one = state.experiments[name]
    assert (one.status, one.stands, state.promotions(), state.trunk) == ("reverted", False, [], "r1")
    assert state.bank().values("audit") == BANK, "the same files need no second bank"
    assert story.next() == [], "no baseline is run again, no parent, and it is not promoted again"
    assert story.next(promotion="auto", confirmation="auto") == []
    assert said(state, name, TASK) == []
    story.run("bank", "r1", attempt=0, search=2.451, audit=2.451)
    assert len(story.state.bank("t0").runs) == 5, "later runs of either serve both"


def test_in_another_environment_the_bank_of_a_reverted_trunk_is_filled_anew(story: Story) -> None:
    reverted(story)
    story.run("bank", "r1", attempt=0, search=2.451, audit=2.451, hashes={"torch": "newer"})
    assert [(step.purpose, step.commit) for step in story.next()] == [("bank", "r1")] * 3


def test_an_idea_judged_on_the_old_trunk_is_carried_to_the_revert_and_promoted(story: Story) -> None:
    reverted(story)
    other = story.idea("c9", "t0")
    body = {"attempt": 1, "verdict": "improved", "effect": -0.1, "low": -0.11, "high": -0.09, "p": 1e-6, "n": 4, "m": 6,
            "sigma": 0.001, "reasoning": []}  # fmt: skip
    story.ledger.append("verdict", body, other)
    assert story.next(promotion="auto") == [Rebase(other)]
    story.idea("c10", "r1", 2, other)
    story.ledger.append("verdict", {**body, "attempt": 2}, other)
    assert story.next(promotion="auto") == [Promote(other)]


def test_parents_of_what_was_taken_back_are_not_run_any_more(story: Story, tmp_path: Path) -> None:
    name = promoted(story, shift=0.0)
    parent = story.run("parent", "t0", name, status="queued")
    assert [run.id for run in waiting(story.state)] == [parent]
    body = {"commit": "r1", "parent": "c1", "experiment": "", "why": "reverted", "reverts": name, "bank": "t0"}
    story.ledger.append("trunk", body, "r1")
    runs = Runs(Home(tmp_path), TASK, [], View(story.ledger))
    runs.view.refresh()
    runs.reap()
    assert runs.state.runs[parent].reason == "its promotion was taken back"


def test_everybody_hears_of_a_reverted_promotion_and_why(story: Story) -> None:
    name = reverted(story)
    fact = story.ledger.facts("trunk")[-1]
    found = letters(fact, story.state, ["chief", "r1"], TASK)
    assert [(agent, kind, about) for agent, kind, about, _ in found] == [("chief", "reverted", name), ("r1", "reverted", name)]
    assert "n = 4 against m = 4" in found[0][3] and "git reset --hard org/trunk" in found[0][3]


# On real repositories


class Site:
    """A laboratory without slots over a real repository: nothing runs but what the test says has run."""

    def __init__(self, bench: Bench, slots: list[Slot] | None = None, bank: int = 4) -> None:
        self.bench = bench
        trunk = bench.repo.trunk()
        ledger = Ledger(bench.home.ledger, create=True)
        rules = {"bank": bank, "stages": [2, 4]}
        ledger.append("session", {"protected": bench.hashes, "policy": rules, "chiefs": ["chief"]})
        ledger.append("trunk", {"commit": trunk, "parent": "", "experiment": "", "why": ""}, trunk)
        ledger.close()
        self.first = trunk
        self.worktree = bench.home.worktrees / "r1"
        bench.repo.add_worktree("r1", self.worktree, trunk)
        self.lab = self.open(slots, bank)

    def open(self, slots: list[Slot] | None = None, bank: int = 4) -> Laboratory:
        """As after a restart of the controller."""
        policy = Policy(bank=bank, stages=(2, 4))
        self.lab = Laboratory(self.bench.home, self.bench.task, policy, self.bench.repo, slots or [], {"chief"})
        self.lab.refresh()
        return self.lab

    @property
    def model(self) -> Path:
        return self.worktree / "toy" / "model.py"

    def ask(self, kind: str, experiment: str = "", actor: str = "chief", **body: Any) -> dict[str, Any]:
        return Orders(self.lab).take(Request("1", kind, actor, {"experiment": experiment, **body}))

    def idea(self, old: str, new: str, again: str = "") -> str:
        """An edit of the toy's model on the present trunk, handed in."""
        self.bench.repo.reset_worktree(self.worktree, self.lab.state.trunk, "r1")
        text = self.model.read_text()
        assert old in text
        self.model.write_text(text.replace(old, new, 1))
        keys = ("mechanism", "family", "direction", "held_constant")
        body = {**dict.fromkeys(keys, ""), "hypothesis": "h", "agent": "r1", "min_effect": 0.0, "params": {}}
        name = self.lab.ledger.append_new("proposal", "E", {**body, "base": self.lab.state.trunk}).subject
        self.ask("run", name, "r1", again=again)
        return name

    def accept(self, name: str) -> None:
        """A verdict that the data of the day were kind to."""
        number = len(self.lab.state.experiments[name].attempts)
        body = {"attempt": number, "verdict": "improved", "effect": -0.01, "low": -0.011, "high": -0.009, "p": 1e-4, "n": 4,
                "m": 4, "sigma": 0.0017, "reasoning": ["kind"]}  # fmt: skip
        self.lab.ledger.append("verdict", body, name)
        self.lab.refresh()

    def end(self, value: float, purpose: str) -> None:
        """All queued runs of a purpose end, near a value."""
        for run in self.lab.state.runs.values():
            if run.purpose == purpose and run.status == "queued":
                metric = dict.fromkeys(run.splits, value + 0.001 * (run.seed % 4))
                body = {"status": "ok", "reason": "", "metric": metric, "account": {}, "hashes": {}, "log_tail": ""}
                self.lab.ledger.append("result", body, run.id)
        self.lab.refresh()
        self.lab.step()

    def promote(self, name: str, value: float) -> None:
        self.accept(name)
        self.ask("promote", name)
        self.lab.step()
        self.end(value, "bank")

    def git(self, *args: str) -> str:
        return subprocess.run(["git", *args], cwd=self.bench.home.root, text=True, capture_output=True, check=True).stdout.strip()


@pytest.fixture
def site(bench: Callable[..., Bench]) -> Site:
    one = Site(bench())
    one.lab.step()
    one.end(2.45, "bank")
    return one


def test_a_revert_is_a_commit_on_top_with_the_parents_files_and_history_stays_linear(site: Site) -> None:
    name = site.idea("MOMENTUM = ", "MOMENTUM = 1.0 * ")
    site.promote(name, 2.45)
    state = site.lab.state
    promoted = state.experiments[name].promoted
    assert promoted is not None and state.experiments[name].status == "reverted"
    assert [step.parent for step in state.trunks] == ["", site.first, promoted]
    assert site.git("rev-parse", "org/trunk") == state.trunk
    assert site.git("rev-list", "--parents", "org/trunk").split("\n")[0] == f"{state.trunk} {promoted}"
    assert site.git("rev-parse", "org/trunk^{tree}") == site.git("rev-parse", f"{site.first}^{{tree}}")
    assert site.git("log", "-1", "--format=%an %s") == f"orgctl {state.trunks[-1].why}"
    assert f"reverted {name}: its bank is not better than its parent's (p = 0" in state.trunks[-1].why
    assert not [run for run in state.runs.values() if run.purpose == "bank" and run.status == "queued"]
    assert site.git("status", "--porcelain") == "", "the person's own checkout followed"


@pytest.mark.parametrize("moment", ["write", "mirror_trunk"], ids=["before the fact", "before the branch follows"])
@pytest.mark.slow
def test_a_revert_that_was_killed_half_way_is_finished_once(site: Site, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    name = site.idea("MOMENTUM = ", "MOMENTUM = 1.0 * ")
    with monkeypatch.context() as patch:
        patch.setattr(Laboratory, "_revert", lambda *_: die())
        with pytest.raises(KeyboardInterrupt):
            site.promote(name, 2.45)
    with monkeypatch.context() as patch:
        patch.setattr(site.lab, moment, lambda *_: die())
        with pytest.raises(KeyboardInterrupt):
            site.lab.step()
    kept = site.git("rev-parse", f"refs/org/exp/{name}/revert")
    assert len(site.lab.ledger.facts("trunk")) == (2 if moment == "write" else 3) and site.git("rev-parse", "org/trunk") != kept
    site.open()
    site.lab.mirror_trunk()
    site.lab.step()
    state = site.lab.state
    assert len(state.trunks) == 3 and state.trunk == kept == site.git("rev-parse", "org/trunk")
    assert not state.alarms and state.experiments[name].status == "reverted"


def die() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def apart(site: Site) -> tuple[Site, str, str]:
    """Two ideas that were improved on one trunk and change the same line; the first was promoted, the second refused."""
    first = site.idea("MOMENTUM = ", "MOMENTUM = 0.1 * ")
    second = site.idea("MOMENTUM = ", "MOMENTUM = 0.2 * ")
    site.promote(first, 2.40)
    assert site.lab.state.experiments[first].status == "promoted"
    site.accept(second)
    site.end(2.40, "nominate")
    before = site.git("rev-parse", "org/trunk"), site.git("for-each-ref", f"refs/org/exp/{second}"), site.lab.state.trunk
    with pytest.raises(UserError, match=r"conflicts with trunk in toy/model\.py; nothing was merged"):
        site.ask("promote", second)
    after = site.git("rev-parse", "org/trunk"), site.git("for-each-ref", f"refs/org/exp/{second}"), site.lab.state.trunk
    assert after == before and site.git("status", "--porcelain") == ""
    return site, first, second


def test_a_promotion_in_conflict_with_trunk_names_the_files_and_merges_nothing(apart: tuple[Site, str, str]) -> None:
    site, _, second = apart
    one = site.lab.state.experiments[second]
    assert (one.status, one.verdict, one.attempts[-1].verdict) == ("unmerged", "improved", one.attempts[0].verdict)
    assert "holds on " + site.first[:8] + " alone" in story_of(one) and "-0.01" in str(one.attempts[0].verdict)
    said = str(next_step(one))
    assert f"git cherry-pick -n {one.attempts[0].commit[:10]}; mend toy/model.py" in said and f"orgctl exp run {second}" in said
    with pytest.raises(UserError, match="git reset --hard org/trunk"):
        site.ask("promote", second)
    site.lab.step()
    assert len(site.lab.ledger.facts("unmerged")) == 1, "asking again changes nothing"
    (letter,) = letters(site.lab.ledger.facts("unmerged")[0], site.lab.state, ["chief", "r1"], TASK)
    assert letter[:3] == ("r1", "unmerged", second) and said in letter[3]


@pytest.mark.slow
def test_where_the_laboratory_promotes_by_itself_a_conflict_is_met_once_and_holds_up_nobody(apart: tuple[Site, str, str]) -> None:
    site, _, second = apart
    site.lab.policy = dataclasses.replace(site.lab.policy, promotion="auto")
    site.lab.step()
    assert len(site.lab.ledger.facts("unmerged")) == 1
    third = site.idea("BATCH = ", "BATCH = 2 * ")
    site.accept(third)
    site.lab.step()
    assert site.lab.state.experiments[third].status == "promoted" and site.lab.state.experiments[second].status == "unmerged"


@pytest.mark.slow
def test_what_conflicted_with_a_promotion_that_is_taken_back_is_promoted_on_its_old_verdict(site: Site) -> None:
    first = site.idea("MOMENTUM = ", "MOMENTUM = 0.1 * ")
    second = site.idea("MOMENTUM = ", "MOMENTUM = 0.2 * ")
    site.accept(first)
    site.ask("promote", first)
    site.accept(second)
    with pytest.raises(UserError, match="conflicts"):
        site.ask("promote", second)
    site.lab.step()
    site.end(2.45, "bank")
    assert site.lab.state.experiments[first].status == "reverted"
    assert site.lab.state.experiments[second].status == "improved", "on another trunk it may apply"
    assert site.ask("promote", second)["commit"] == site.lab.state.trunk


@pytest.mark.slow
def test_a_change_put_on_trunk_by_hand_begins_anew_without_the_reviews_of_the_old_one(apart: tuple[Site, str, str]) -> None:
    site, _, second = apart
    site.lab.ledger.append("review", {"finding": "ok", "text": ""}, second, "s")
    site.lab.refresh()
    rules = ("skeptic", {"r1": ["s"]}, site.lab.state.experiments[second])
    assert gate.waits(*rules) is None
    with pytest.raises(UserError, match="git reset --hard org/trunk"):
        site.bench.repo.reset_worktree(site.worktree, site.first, "r1")
        site.ask("run", second, "r1")
    old = site.lab.state.experiments[second].attempts[0].commit
    git = ["git", "-c", "user.name=r1", "-c", "user.email=r1@x"]
    subprocess.run([*git, "reset", "-q", "--hard", "org/trunk"], cwd=site.worktree, check=True)
    done = subprocess.run([*git, "cherry-pick", "-n", old], cwd=site.worktree, capture_output=True, text=True)
    assert done.returncode == 1 and "<<<<<<<" in site.model.read_text()
    site.model.write_text(site.git("show", f"{site.lab.state.trunk}:toy/model.py").replace("MOMENTUM = 0.1 * ", "MOMENTUM = 0.2 * ") + "\n")
    answered = site.ask("run", second, "r1")
    one = site.lab.state.experiments[second]
    assert (one.status, one.attempts[1].parent, len(one.attempts)) == ("queued", site.lab.state.trunk, 2)
    assert site.lab.state.runs[answered["run"]].purpose == "nominate" and not one.attempts[1].confirm_ordered
    assert site.git("rev-parse", f"refs/org/exp/{second}/2") == one.attempts[1].commit
    assert one.attempts[0].verdict is not None, "what was measured stays"
    site.accept(second)
    site.end(2.40, "nominate")
    assert "waits for the review" in str(gate.waits("skeptic", {"r1": ["s"]}, site.lab.state.experiments[second]))
    with pytest.raises(UserError, match="was submitted already"):
        site.ask("run", second, "r1")


@pytest.mark.slow
def test_a_verdict_on_the_files_that_trunk_went_back_to_holds(site: Site) -> None:
    other = site.idea("BATCH = ", "BATCH = 2 * ")
    name = site.idea("MOMENTUM = ", "MOMENTUM = 1.0 * ")
    site.promote(name, 2.45)
    assert site.lab.state.experiments[name].status == "reverted"
    site.accept(other)
    assert site.ask("promote", other)["commit"] == site.lab.state.trunk
    one = site.lab.state.experiments[other]
    assert one.status == "promoted" and len(one.attempts) == 2 and not one.runs_for("confirm")
    site.lab.step()
    assert "whose files are those of" in (one.attempts[1].verdict or {})["reasoning"][-1]
    with pytest.raises(UserError, match="--again"):
        site.idea("MOMENTUM = ", "MOMENTUM = 1.0 * ")
    again = site.idea("MOMENTUM = ", "MOMENTUM = 1.0 * ", "trunk is another now")
    assert site.lab.state.experiments[again].status == "queued", "on another trunk it may be tried again"


@pytest.mark.slow
def test_a_promoted_idea_whose_bank_fails_is_reverted_by_the_laboratory_at_work(bench: Callable[..., Bench]) -> None:
    site = Site(bench(), [Slot(0, "cpu", None, "")], bank=3)

    def work(done: Callable[[], bool], what: str) -> None:
        def turn() -> bool:
            site.lab.step()
            site.lab.runs.start(0.0)
            return done()

        until(turn, what, 120)

    def bank(commit: str) -> list[float]:
        return site.lab.state.bank(commit).values("audit")

    work(lambda: len(bank(site.first)) == 3, "the first bank")
    name = site.idea("LR = ", "LR = 0.001 * ")
    work(lambda: site.lab.state.experiments[name].verdict is not None, "the verdict of a first run that is bad")
    site.accept(name)
    commit = str(site.ask("promote", name)["commit"])
    work(lambda: site.lab.state.experiments[name].status == "reverted", "the promotion is taken back")
    state = site.lab.state
    check = state.experiments[name].check
    assert check is not None and check["effect"] > 0 and check["p"] > 0.05 and check["n"] == len(bank(commit)) == 3
    assert site.git("rev-parse", "org/trunk^{tree}") == site.git("rev-parse", f"{site.first}^{{tree}}")
    site.lab.step()
    assert not [run for run in state.runs.values() if run.purpose in ("bank", "parent") and not run.over]
    found = verify.verify(site.lab.ledger, site.lab.task, site.bench.home.runs, site.bench.repo, None)
    assert [line for line in found if f"(verdict {name})" not in line] == [], "all but the kind verdict follows from the runs"
