"""Audits: trunk without each of its ideas, what no longer helps, whether effects add up, and how removals are proposed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import audit, commands
from lab.errors import UserError
from lab.home import Home
from lab.queue import waiting
from lab.report import write_report
from lab.steps import ProposeRemoval, StartAudit, Write
from lab.verdict import welch
from org.events import describe
from org.news import letters
from tests.lab.conftest import Bench
from tests.lab.story import TASK, Story
from tests.lab.test_promotion import Site

pytestmark = pytest.mark.slow  # five seconds together

JUDGED = {"attempt": 1, "verdict": "improved", "p": 1e-6, "n": 4, "m": 4, "sigma": 0.0017, "reasoning": []}
"""Far beyond 4 sigma, so that nobody asks for parents."""


def stack(story: Story, *shifts: float) -> list[str]:
    """Ideas that became trunk one on the other, each with its bank at this shift from the first baseline."""
    story.bank()
    names, parent = [], "t0"
    for number, shift in enumerate(shifts, start=1):
        name = story.idea(f"c{number}", parent)
        story.ledger.append("verdict", {**JUDGED, "effect": -0.02, "low": -0.021, "high": -0.019}, name)
        story.trunk(f"c{number}", parent, name)
        story.bank(f"c{number}", shift)
        story.tell(story.next()[0])
        names.append(name)
        parent = f"c{number}"
    return names


def order(story: Story, names: list[str], seeds: int = 4, **stuck: list[str]) -> str:
    """An audit of the present trunk; `stuck` ideas cannot be taken out alone."""
    ideas = [{"experiment": name, "commit": "" if name in stuck else f"without-{name}", "files": stuck.get(name, []),
              "why": "later ideas changed the same places in a.py" if name in stuck else ""} for name in names]  # fmt: skip
    body = {"trunk": story.state.trunk, "steps": len(story.state.trunks), "seeds": seeds, "by": "chief", "ideas": ideas}
    return story.ledger.append_new("audit_order", "A", body).subject


def runs(story: Story, name: str, shift: float, spread: float = 0.001) -> None:
    """All runs of trunk without an idea."""
    for index in range(4):
        value = 2.45 + shift + spread * (index - 1.5)
        story.run("audit", f"without-{name}", name, attempt=0, audit=value)


def test_an_audit_asks_for_fresh_seeds_of_trunk_without_each_idea_and_repeats_what_was_lost(story: Story) -> None:
    one, two = stack(story, -0.02, -0.04)
    order(story, [one, two])
    wanted = [("audit", f"without-{name}", name) for name in (one, two) for _ in range(4)]
    assert [(step.purpose, step.commit, step.experiment) for step in story.next()] == wanted
    runs(story, one, -0.03)
    for _ in range(3):
        story.run("audit", f"without-{two}", two, attempt=0, audit=2.42)
    story.run("audit", f"without-{two}", two, attempt=0, status="lost")
    assert [step.commit for step in story.next()] == [f"without-{two}"]
    running = story.run("audit", f"without-{two}", two, attempt=0, status="queued")
    assert story.next() == [], "waits for the last run"
    story.end(running, "ok", audit=2.4205)
    (step,) = story.next()
    assert isinstance(step, Write) and step.kind == "audit"


@pytest.mark.parametrize(
    ("shift", "word"),
    [(-0.01, "helps"), (-0.037, "barnacle"), (-0.05, "barnacle"), (-0.031, "unclear")],
    ids=["it is worth 30", "3 of 10 that would interest", "it harms", "9, where 10 would interest"],
)
def test_the_verdict_on_an_idea_is_what_its_interval_says_beside_the_smallest_effect(story: Story, shift: float, word: str) -> None:
    (one,) = stack(story, -0.04)
    identity = order(story, [one])
    runs(story, one, shift, 0.001 if word != "unclear" else 0.012)
    (step,) = story.next()
    (row,) = step.body["rows"]
    bank = story.state.bank().values("audit")
    test = welch([2.45 + shift + (0.001 if word != "unclear" else 0.012) * (index - 1.5) for index in range(4)], bank)
    assert (row["effect"], row["low"], row["high"]) == pytest.approx((test.effect, test.low, test.high))
    assert (row["verdict"], row["margin"], row["n"], row["m"]) == (word, TASK.min_effect, 4, 4)
    story.tell(step)
    assert story.state.audits[identity].result == step.body


def test_where_more_is_better_the_same_words_are_found_on_the_other_side() -> None:
    assert audit._word(0.02, 0.04, 0.01) == "helps"
    for least, most, word in ((-0.05, -0.02, "barnacle"), (0.001, 0.009, "barnacle"), (-0.01, 0.02, "unclear")):
        assert audit._word(least, most, 0.01) == word


def test_what_cannot_be_taken_out_alone_or_fails_is_said_and_holds_nobody_up(story: Story) -> None:
    one, two, three = stack(story, -0.02, -0.04, -0.06)
    order(story, [one, two, three], **{one: ["a.py"]})
    for _ in range(3):
        story.run("audit", f"without-{two}", two, attempt=0, status="crashed")
    runs(story, three, -0.04)
    (step,) = story.next()
    stuck, broken, fine = step.body["rows"]
    assert (stuck["verdict"], stuck["files"]) == (None, ["a.py"])
    assert broken["verdict"] == "unclear" and "crashed: why" in broken["why"] and fine["verdict"] == "helps"
    assert step.body["additive"]["alone"] is None and "cannot be told" in step.body["additive"]["said"]
    story.tell(step)
    text = "\n".join(audit.lines(story.state, story.state.audits["A0001"], "nats"))
    assert f"{one}: cannot be taken out alone: later ideas changed the same places in a.py" in text
    assert f"{two}: unclear: trunk without it fails: crashed: why" in text and text.count(one) == 1


def test_sums_of_effects_stand_beside_the_whole_gain_with_intervals(story: Story) -> None:
    one, two = stack(story, -0.02, -0.04)
    order(story, [one, two])
    runs(story, one, -0.02)
    runs(story, two, -0.02)
    (step,) = story.next()
    found = step.body["additive"]
    assert found["measured"][0] == pytest.approx(-0.04) and found["alone"][0] == pytest.approx(2 * (2.41025 - 2.43))
    assert found["gap"][0] == pytest.approx(found["measured"][0] - found["alone"][0]) and found["said"].startswith("additive")
    whole = welch(story.state.bank().values("audit"), story.state.bank("t0").values("audit"))
    assert found["measured"] == pytest.approx([whole.effect, whole.low, whole.high])
    assert found["reported"][0] == pytest.approx(-0.04), "each against its parent's bank"


@pytest.mark.parametrize(("shift", "said"), [(-0.038, "they overlap"), (0.04, "they need each other")])
def test_overlap_and_dependence_are_told_apart(story: Story, shift: float, said: str) -> None:
    names = stack(story, -0.02, -0.04)
    order(story, names)
    for name in names:
        runs(story, name, shift)
    assert said in story.next()[0].body["additive"]["said"]


def test_a_contrast_of_two_means_is_welchs_and_its_interval_covers_what_it_should() -> None:
    source = random.Random(4)
    a, b = [source.gauss(0, 1) for _ in range(5)], [source.gauss(0, 3) for _ in range(9)]
    test = welch(a, b)
    assert audit.contrast([(1.0, a), (-1.0, b)]) == pytest.approx([test.effect, test.low, test.high])
    assert audit.contrast([(1.0, [1.0])]) is None and audit.contrast([(0.0, []), (2.0, [1.0, 1.0])]) == [2.0, 2.0, 2.0]
    hits = 0
    for _ in range(2000):
        draws = [[source.gauss(mean, sigma) for _ in range(8)] for mean, sigma in ((1, 1), (2, 2), (3, 0.5))]
        found = audit.contrast(list(zip((2.0, -1.0, -1.0), draws, strict=True)))
        assert found is not None
        hits += found[1] <= 2 * 1 - 2 - 3 <= found[2]
    assert 0.93 < hits / 2000 < 0.97


def test_audits_come_by_themselves_every_so_many_promotions(story: Story) -> None:
    names = stack(story, -0.02)
    assert story.next(audit_every=2) == [] and story.next(audit_every=0) == []
    assert story.next(audit_every=1) == [StartAudit()]
    order(story, names)
    assert StartAudit() not in story.next(audit_every=1), "one is under way"
    runs(story, names[0], -0.01)
    story.tell(story.next()[0])
    assert story.next(audit_every=1) == []
    second = story.idea("c2", "c1")
    story.ledger.append("verdict", {**JUDGED, "effect": -0.02, "low": -0.021, "high": -0.019}, second)
    story.trunk("c2", "c1", second)
    assert StartAudit() not in story.next(audit_every=1), "not before it is known to stand"
    story.bank("c2", -0.04)
    story.tell(story.next()[0])
    assert story.next(audit_every=1) == [StartAudit()]


def test_a_bank_that_got_out_of_date_ends_the_audit_of_an_old_trunk(story: Story) -> None:
    (one,) = stack(story, -0.02)
    order(story, [one])
    story.trunk("c2", "c1", "")
    story.run("bank", "c2", attempt=0, search=2.4, audit=2.4, hashes={"torch": "newer"})
    (step,) = [step for step in story.next() if isinstance(step, Write)]
    assert step.body["why"] == "its trunk's bank is out of date" and step.body["rows"][0]["verdict"] == "unclear"
    story.tell(step)
    assert "out of date" in audit.lines(story.state, story.state.audits["A0001"], "nats")[0]


def test_audit_runs_come_after_parents_and_before_own_ideas(story: Story) -> None:
    own, mine, parent = (story.run(purpose, "c", status="queued") for purpose in ("nominate", "audit", "parent"))
    assert [run.id for run in waiting(story.state)] == [parent, mine, own]


def test_a_barnacle_is_proposed_for_removal_and_judged_by_its_audit_alone(story: Story) -> None:
    one, two = stack(story, -0.02, -0.04)
    order(story, [one, two])
    runs(story, one, -0.04)
    runs(story, two, -0.02)
    story.tell(story.next()[0])
    assert story.next() == [ProposeRemoval(one, "A0001")]
    body = {**dict.fromkeys(("mechanism", "family", "held_constant"), ""), "direction": "no-change", "hypothesis": "h",
            "agent": "lab", "min_effect": 0.01, "params": {"removes": one, "audit": "A0001"}, "base": "c2"}  # fmt: skip
    removal = story.ledger.append_new("proposal", "E", body).subject
    assert story.next() == [ProposeRemoval(one, "A0001")], "killed before it had an attempt"
    story.idea(f"without-{one}", "c2", 1, removal)
    (step,) = story.next(promotion="auto", confirmation="auto")
    assert (step.kind, step.subject, step.body["verdict"], step.body["p"]) == ("verdict", removal, "neutral", None)
    story.tell(step)
    assert story.next(promotion="auto", confirmation="auto") == [], "never done by itself"
    story.trunk(f"without-{one}", "c2", removal)
    state = story.state
    assert (state.experiments[one].status, state.experiments[removal].status) == ("removed", "promoted")
    assert state.promotions() == [state.experiments[two]]
    story.bank(f"without-{one}", -0.04)
    (check,) = story.next()
    assert check.body["holds"] and check.body["p"] > 0.05, "a removal need not be better"


def test_a_removal_whose_bank_is_worse_is_taken_back(story: Story) -> None:
    (one,) = stack(story, -0.02)
    body = {**dict.fromkeys(("mechanism", "family", "held_constant", "direction"), ""), "hypothesis": "h", "agent": "lab",
            "min_effect": 0.01, "params": {"removes": one, "audit": "A0001"}, "base": "c1"}  # fmt: skip
    removal = story.ledger.append_new("proposal", "E", body).subject
    story.idea("c2", "c1", 1, removal)
    story.trunk("c2", "c1", removal)
    story.bank("c2", -0.01)
    story.tell(story.next()[0])
    assert [step.experiment for step in story.next()] == [removal]
    story.ledger.append(
        "trunk", {"commit": "r", "parent": "c2", "experiment": "", "why": "w", "reverts": removal, "bank": "c1"}, "r"
    )
    state = story.state
    assert (state.experiments[one].status, state.experiments[removal].status) == ("promoted", "reverted")


# On a real repository


@pytest.fixture
def site(bench: Callable[..., Bench]) -> Site:
    """Two ideas on trunk, the second on the same line as the first, and a third elsewhere."""
    one = Site(bench())
    one.lab.step()
    one.end(2.45, "bank")
    for new, value in (("MOMENTUM = 1.0 * ", 2.43), ("MOMENTUM = 2.0 * ", 2.41), ("INIT = 2.0 * ", 2.39)):
        one.promote(one.idea(new[: new.index("= ") + 2], new), value)
    return one


def test_ideas_are_taken_out_in_git_and_what_conflicts_is_named_with_its_files(site: Site) -> None:
    trunk = site.lab.state.trunk
    with pytest.raises(UserError, match="r1 may not order audits"):
        site.ask("audit", actor="r1")
    with pytest.raises(UserError, match="from 2 to 64"):
        site.ask("audit", seeds=1)
    answer = site.ask("audit", seeds=3)
    first, second, third = answer["ideas"]
    assert (first["commit"], first["files"]) == ("", ["toy/model.py"])
    left = site.git("show", f"{third['commit']}:toy/model.py")
    assert "MOMENTUM = 2.0 * 1.0 * " in left and "INIT = 1.0" in left
    left = site.git("show", f"{second['commit']}:toy/model.py")
    assert "\nMOMENTUM = 1.0 * " in left and "INIT = 2.0 * 1.0" in left
    assert site.git("rev-parse", f"{second['commit']}^") == trunk == site.git("rev-parse", "org/trunk")
    assert site.git("rev-parse", f"refs/org/audit/{trunk[:16]}/E0002") == second["commit"]
    with pytest.raises(UserError, match="A0001 is under way"):
        site.ask("audit")
    site.lab.step()
    queued = [run for run in site.lab.state.runs.values() if run.purpose == "audit"]
    assert len(queued) == 6 and len({run.seed for run in site.lab.state.runs.values()}) == len(site.lab.state.runs)


def finished(site: Site) -> str:
    """An audit that finds a barnacle in the third idea; returns the removal it proposes."""
    site.ask("audit")
    site.lab.step()
    site.end(2.388, "audit")
    (removal,) = [one for one in site.lab.state.experiments.values() if one.removes == "E0003"]
    return removal.id


def test_a_removal_is_promoted_like_an_idea_and_trunk_is_without_it(site: Site) -> None:
    removal = finished(site)
    one = site.lab.state.experiments[removal]
    assert (one.status, one.agent, one.attempts[0].changed) == ("neutral", "lab", ["toy/model.py"]) and not one.runs
    assert site.lab.state.experiments["E0003"].status == "promoted", "the audit itself takes nothing out"
    site.ask("promote", removal)
    site.lab.step()
    site.end(2.39, "bank")
    state = site.lab.state
    assert (state.experiments["E0003"].status, state.experiments[removal].status) == ("removed", "promoted")
    assert "INIT = 1.0" in site.git("show", "org/trunk:toy/model.py")
    with pytest.raises(UserError, match="trunk has moved since A0001"):
        site.ask("promote", next(one.id for one in state.experiments.values() if one.removes == "E0002"))


def test_an_audit_on_more_seeds_is_allowed_counts_the_runs_so_far_and_supersedes(site: Site) -> None:
    site.ask("audit", seeds=2)
    site.lab.step()
    site.end(2.388, "audit")
    old = {one.removes: one.id for one in site.lab.state.experiments.values() if one.removes}
    assert "E0003" in old, "two runs without it were as good"
    with pytest.raises(UserError, match=r"A0001 has audited this trunk on 2 seeds .* --seeds 3`"):
        site.ask("audit", seeds=2)
    again = site.ask("audit")
    assert (again["audit"], again["seeds"], again["ideas"]) == ("A0002", 4, site.lab.state.audits["A0001"].ideas)
    site.lab.step()
    queued = [run for run in site.lab.state.runs.values() if run.purpose == "audit" and not run.over]
    assert len(queued) == 4, "two more of each idea that can be taken out"
    assert site.lab.state.experiments[old["E0003"]].status == "neutral", "what is under way supersedes nothing yet"
    site.end(2.42, "audit")
    state = site.lab.state
    row = next(row for row in (state.audits["A0002"].result or {})["rows"] if row["experiment"] == "E0003")
    assert row["n"] == 4
    assert state.experiments[old["E0003"]].status == "withdrawn" and "A0002 has audited this trunk again" in str(
        state.experiments[old["E0003"]].withdrawn
    )
    with pytest.raises(UserError, match="is withdrawn: only"):
        site.ask("promote", old["E0003"])
    anew = [one.removes for one in state.experiments.values() if one.removes and one.params["audit"] == "A0002"]
    assert row["verdict"] != "barnacle" and "E0003" not in anew
    site.lab.step()
    assert len(site.lab.ledger.facts("withdrawn")) == len(old)
    with pytest.raises(UserError, match=r"A0002 has audited this trunk on 4 seeds"):
        site.ask("audit")


def test_an_audit_after_a_revert_counts_the_runs_on_the_same_files_before_it(site: Site) -> None:
    trunk = site.lab.state.trunk
    site.ask("audit", seeds=2)
    site.lab.step()
    site.end(2.42, "audit")
    name = site.idea("LR = ", "LR = 1.0 * ")
    site.promote(name, 2.5)
    state = site.lab.state
    assert state.experiments[name].status == "reverted" and state.trunk != trunk
    before = state.audits["A0001"]
    again = site.ask("audit", seeds=3)
    assert again["ideas"] == before.ideas, "each taken out of the same files, so the same commits"
    site.lab.step()
    queued = [run for run in site.lab.state.runs.values() if run.purpose == "audit" and not run.over]
    commits = {idea["commit"] for idea in before.ideas if idea["commit"]}
    assert len(queued) == len(commits) and {run.commit for run in queued} == commits, "one more of each"
    for idea in (idea for idea in before.ideas if idea["commit"]):
        anew = site.lab._without(idea["experiment"], site.lab.state.trunk, f"refs/org/audit/test/{idea['experiment']}", "m").commit
        assert site.git("rev-parse", f"{anew}^{{tree}}") == site.git("rev-parse", f"{idea['commit']}^{{tree}}")
    site.end(2.42, "audit")
    rows = (site.lab.state.audits["A0002"].result or {})["rows"]
    assert [row["n"] for row in rows if row["n"]] == [3] * len(commits)


def test_a_ledger_that_calls_other_files_the_same_makes_no_audit_count_their_runs(site: Site) -> None:
    site.ask("audit", seeds=2)
    site.lab.step()
    site.end(2.42, "audit")
    old = site.lab.state
    other, before = old.trunks[1].commit, old.audits["A0001"]
    body = {"commit": other, "parent": old.trunk, "experiment": "", "why": "", "reverts": "E0003", "bank": old.trunk}
    site.lab.write("trunk", other, body)
    assert site.lab.state.same(other, before.trunk)
    again = site.ask("audit", seeds=3)
    commits = {idea["commit"] for idea in before.ideas if idea["commit"]}
    assert commits.isdisjoint(idea["commit"] for idea in again["ideas"])


def commanded(site: Site, monkeypatch: pytest.MonkeyPatch) -> Home:
    """As the commands look for it."""
    home = site.bench.home
    monkeypatch.setenv("ORGCTL_HOME", str(home.root))
    home.task.write_text(site.bench.task.model_dump_json())
    home.settings.touch()
    return home


def test_the_audit_is_told_by_command_report_mail_and_board(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    home = commanded(site, monkeypatch)
    tell = CliRunner().invoke
    assert "no audit was ordered yet" in tell(commands.app, ["exp", "audit", "--show"]).output
    site.ask("audit")
    assert "under way, 0 of 8 runs" in tell(commands.app, ["exp", "audit", "--show"]).output
    site.lab.step()
    site.end(2.388, "audit")
    removal = next(one.id for one in site.lab.state.experiments.values() if one.removes == "E0003")
    shown = tell(commands.app, ["exp", "audit", "--show"]).output
    assert "E0001: cannot be taken out alone: later ideas changed the same places in toy/model.py" in shown
    assert "E0003: barnacle; leaving it out " in shown and f"{removal} would take it out (neutral)" in shown
    assert "whole gain, bank of 4 against the first trunk's 4: -0.06" in shown
    (one,) = json.loads(tell(commands.app, ["exp", "audit", "--show", "--json"]).output)
    assert [row["verdict"] for row in one["result"]["rows"]] == [None, "barnacle", "barnacle"]
    assert f"orgctl exp promote {removal}" in tell(commands.app, ["exp", "show", removal]).output
    text = write_report(home, site.lab.state, site.bench.task, home.root / "out")[2].read_text()
    section = text[text.index("## Audits") : text.index("## Claims")]
    assert "| E0003 |" in section and "| barnacle |" in section and "cannot be taken out alone" in section
    fact = site.lab.ledger.facts("audit")[0]
    assert "E0003 barnacle" in str(describe(fact, site.lab.state))
    assert [name for name, *_ in letters(fact, site.lab.state, ["chief", "r1"], site.bench.task)] == ["chief", "r1"]


def test_a_reverted_promotion_is_shown_as_that(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(bench())
    home = commanded(site, monkeypatch)
    site.lab.step()
    site.end(2.45, "bank")
    name = site.idea("BATCH = ", "BATCH = 1 * ")
    site.promote(name, 2.45)
    tell = CliRunner().invoke
    assert [one["status"] for one in json.loads(tell(commands.app, ["exp", "list", "--json"]).output)] == ["reverted"]
    assert "reverted: its bank is not better than its parent's (p = " in tell(commands.app, ["exp", "show", name]).output
    text = write_report(home, site.lab.state, site.bench.task, home.root / "out")[2].read_text()
    assert f"{name} was reverted: the baseline stands." in text and "Nothing was promoted." in text
    assert "| reverted |" in text and "confirmed best (" not in text[text.index("## Baseline") : text.index("## Promoted")]
    (trunk,) = site.lab.ledger.facts("trunk")[2:]
    assert str(describe(trunk, site.lab.state)).startswith(f"reverted {name}: ")


def test_a_stack_without_ideas_cannot_be_audited(bench: Callable[..., Bench]) -> None:
    site: Any = Site(bench())
    with pytest.raises(UserError, match="nothing to leave out"):
        site.ask("audit")
