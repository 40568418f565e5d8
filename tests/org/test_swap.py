"""Roles and backends are swapped in a session that lives, and the ledger says so with both hashes."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

import orgctl
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Fact, Ledger
from lab.state import State
from org import design as designs
from org import role, swap
from org.events import describe
from org.session import Wish, found, reopen
from org.swap import Swap
from tests.conftest import ORGCTL, TOY, Org, until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return found(tmp_path / "research", Wish(task=str(TOY), name="t-swap", slots=2))


def apply(home: Home, wanted: Swap) -> list[str]:
    ledger = Ledger(home.ledger)
    try:
        return swap.apply(home, designs.read(home), wanted, ledger, "person")[1]
    finally:
        ledger.close()


def facts(home: Home, kind: str) -> list[Fact]:
    ledger = Ledger(home.ledger)
    try:
        return [fact for fact in ledger.facts() if fact.kind == kind]
    finally:
        ledger.close()


def test_a_session_that_begins_with_a_role_of_ones_own_is_named_like_any_other(tmp_path: Path) -> None:
    mine = tmp_path / "mine.md"
    mine.write_text("# Mine\n")
    made = found(tmp_path / "garden", Wish(task=str(TOY), slots=1, roles={"researcher": str(mine)}))
    assert designs.read(made).name == "garden"


def test_a_backend_is_swapped_for_an_agent_or_for_a_role(home: Home) -> None:
    before = designs.read(home)
    assert apply(home, Swap(backends={"researcher": "shell"})) == ["r1", "r2"]
    after = designs.read(home)
    assert [one.backend for one in after.design.agents] == ["sweep", "shell", "shell"]
    last = facts(home, "session")[-1].body
    assert last == {"org_hash": after.hash, "swapped_from": before.hash}
    assert {fact.subject: fact.body["backend"] for fact in facts(home, "agent")} == {n: ["sweep", "shell"] for n in ("r1", "r2")}
    assert apply(home, Swap(backends={"r1": "shell"})) == [], "it is so already"


def test_while_no_controller_serves_to_swap_is_for_people_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORGCTL_HOME", str(home.root))
    before = designs.read(home)

    def restart(actor: str) -> str:
        monkeypatch.setenv("ORGCTL_AGENT", actor)
        return str(CliRunner().invoke(orgctl.app, ["restart", "r2", "--backend", "shell"]).exception or "")

    assert restart("r1") == "r1 is an agent: to swap is for people, ask one"
    assert designs.read(home) == before and not facts(home, "agent")
    ledger = Ledger(home.ledger)
    ledger.append("intervention", {"what": "taken_over"}, "r1", "person")
    ledger.close()
    assert restart("r1") == "" and designs.read(home).design.agents[-1].backend == "shell"
    assert restart("r2") == restart("person") == "", "a person sits at a shell"


def test_a_role_text_is_swapped_for_one_agent_alone(home: Home, tmp_path: Path) -> None:
    mine = tmp_path / "mine.md"
    mine.write_text("# Mine\n")
    assert apply(home, Swap(roles={"r2": str(mine)})) == ["r2"]
    old, new = facts(home, "agent")[-1].body["role"]
    assert old == role.load("researcher", role.find()["researcher"]).hashes()["roles/researcher.md"] and new != old
    assert apply(home, Swap(roles={"researcher": str(mine)})) == ["r1", "r2"], "r1 had the shipped one"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Swap(backends={"r9": "shell"}), "no agent and no role here is called 'r9': choose one of chief, r1, r2, chief-scientist, res"),
        (Swap(backends={"r1": "magic"}), "unknown backend 'magic'"),
        (Swap(roles={"r1": "/no/such/file.md"}), "cannot be read"),
    ],
)
def test_a_wrong_swap_changes_nothing(home: Home, wanted: Swap, message: str) -> None:
    before, count = home.settings.read_bytes(), len(facts(home, "agent"))
    with pytest.raises(UserError, match=message):
        apply(home, wanted)
    assert home.settings.read_bytes() == before and len(facts(home, "agent")) == count


def test_another_design_still_needs_another_directory(home: Home) -> None:
    reopen(home.root, Wish(design="chief"))
    with pytest.raises(UserError, match="another organisation"):
        reopen(home.root, Wish(design="solo"))


def test_settings_and_budgets_are_swapped_when_the_design_is_named_again(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"

    def written(settings: str, budget: str) -> Wish:
        agents = f"agents:\n  - {{role: researcher, count: 2, backend: chat, settings: {{{settings}}}}}\n"
        mine.write_text(f"name: mine\nabout: x\n{agents}process: {{budget: {{{budget}}}}}\n")
        return Wish(design=str(mine), task=str(TOY), name="t-swap", slots=2)

    server = "provider: openai-chat, base_url: 'http://127.0.0.1:9/v1', model: m, budget_tokens"
    home = found(tmp_path / "research", written(f"{server}: 1000", ""))
    wish = written(f"{server}: 5000", "budget_dollars: 7")
    reopen(home.root, wish)
    wanted = wish.swap(designs.read(home))
    assert Swap.of(json.loads(json.dumps(asdict(wanted)))) == wanted and apply(home, wanted) == ["r1", "r2"]
    after = designs.read(home).design
    assert [one.settings["budget_tokens"] for one in after.agents] == [5000, 5000] and after.process.budget.budget_dollars == 7
    line = describe(facts(home, "agent")[-1], State())
    assert line == "r2 swapped by person: budget_tokens 1000 gives way to 5000"
    assert wish.swap(designs.read(home)) == Swap() and apply(home, wish.swap(designs.read(home))) == []
    with pytest.raises(UserError, match="r1: backend chat cannot start: settings of backend chat: budget_tokens"):
        apply(home, written(f"{server}: lots", "").swap(designs.read(home)))
    for wrong in ({"settings": {"r1": 3}}, {"budget": "much"}, {"roles": {"r1": 3}}):
        with pytest.raises(UserError, match="not valid"):
            Swap.of(wrong)
    with pytest.raises(UserError, match="the budget of all"):
        apply(home, Swap(budget={"budget_dollars": -1}))


def test_settings_of_one_backend_do_not_go_with_another_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, mine = tmp_path / "program", tmp_path / "mine.yaml"
    program.write_text("#!/bin/sh\necho 99.0.0\n")
    program.chmod(0o700)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "codex").symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "dummy")
    settings = f"{{model: claude-opus-5-5, command: {program}, flags: [--x], budget_dollars: 5, effort: high}}"
    agents = f"agents:\n  - {{role: researcher, count: 2, backend: claude, settings: {settings}}}\n"
    mine.write_text(f"name: mine\nabout: x\n{agents}")
    heard: list[str] = []
    wish = Wish(design=str(mine), task=str(TOY), name="t-swap", slots=2, backends={"r2": "codex"})
    home = found(tmp_path / "research", wish, heard.append)
    left = "its settings for claude do not go with codex and are left out: model, command, flags"
    assert heard == ["r2: codex may spend money", f"r2: {left}"]
    ledger, heard = Ledger(home.ledger), []
    after, changed = swap.apply(home, designs.read(home), Swap(backends={"r1": "codex"}), ledger, "person", heard.append)
    assert changed == ["r1"] and heard == ["r1: codex may spend money", f"r1: {left}"]
    assert [one.settings for one in after.design.agents] == [{"budget_dollars": 5, "effort": "high"}] * 2
    again = Wish(design=str(mine), task=str(TOY), name="t-swap", slots=2)
    assert again.swap(after) == Swap(), "the design's settings are for claude"
    back = Wish(design=str(mine), task=str(TOY), name="t-swap", slots=2, backends={"r1": "claude"})
    after, _ = swap.apply(home, after, back.swap(after), ledger, "person")
    assert after.design.agents[0].backend == "claude" and after.design.agents[0].settings["model"] == "claude-opus-5-5"
    for asked, backend, words in (("sweep", "sweep", "with sweep and"), ("auto", "claude", "for r1: claude"), ("codex", "codex", left)):
        wish, heard = Wish(design=str(mine), task=str(TOY), name="t-swap", slots=2, backends={"r1": asked}), []
        wanted = Swap.of(json.loads(json.dumps(asdict(wish.swap(after)))))
        after, changed = swap.apply(home, after, wanted, ledger, "person", heard.append)
        assert changed == ["r1"] and after.design.agents[0].backend == backend and any(words in line for line in heard), heard
        assert ("model" in after.design.agents[0].settings) == (backend == "claude") and after.design.agents[0].settings["effort"] == "high"
    ledger.close()


def said(org: Org, agent: str) -> str:
    return next(str(row["state"]) for row in org.status()["agents"] if row["agent"] == agent)


def test_option_words() -> None:
    assert swap.pairs(["chief=claude", "r1=shell"], "--backend") == {"chief": "claude", "r1": "shell"}
    for wrong in ("chief", "chief=", "=claude"):
        with pytest.raises(UserError, match="write NAME=VALUE"):
            swap.pairs([wrong], "--backend")


@pytest.mark.slow
def test_a_living_organisation_swaps_who_is_meant_and_touches_nobody_else(org: Org, tmp_path: Path) -> None:
    org.up("--slots", "2", "--backend", "shell")
    before = org.panes()
    mine = tmp_path / "mine.md"
    mine.write_text("# Mine\n")
    assert "swapped: r1" in org("restart", "r1", "--role", str(mine))
    after = until(lambda: (seen := org.panes()).get("r1", before["r1"]) != before["r1"] and seen, "r1 anew", 20)
    assert {name: after[name] for name in ("board", "chief", "r2")} == {name: before[name] for name in ("board", "chief", "r2")}
    assert org("prompt", "r1").startswith("# Mine") and org("prompt", "r2").startswith("# Researcher")
    (org.home.agents / "r1" / "prompt.md").write_text("You may do as you like.\n")
    shown = subprocess.run([*ORGCTL, "prompt", "r1"], cwd=org.root, env=org.env, capture_output=True, text=True)
    assert shown.stdout.startswith("# Mine") and "does not lie there any more" in shown.stderr
    assert "swapped: chief" in org("up", str(org.root), "--detach", "--backend", "chief=sweep", cwd=tmp_path), "from anywhere"
    until(lambda: said(org, "chief") not in ("starting", "dead", "failed"), "the sweep chief", 30)
    assert "swapped: chief" not in org("up", "--detach", "--backend", "chief=sweep")
    words = org("restart", "r2", "--backend", "auto")
    assert "backend auto for r2: sweep, the best that can start here; spends nobody's money (claude: " in words
    assert "swapped: r2 (sweep)" in words
    assert "is for people" in org("restart", "r2", "--role", str(mine), env={"ORGCTL_AGENT": "chief"}, code=2)


@pytest.mark.slow
def test_take_over_and_release_are_facts_and_runs_begun_meanwhile_are_assisted(org: Org) -> None:
    org.up("--slots", "1", "--design", "solo", "--backend", "shell")
    me = {"ORGCTL_AGENT": "r1"}
    org("takeover", "r1")
    until(lambda: org.status()["agents"][0]["state"] == "taken_over", "the border shows it", 10)
    propose = ["exp", "propose", "--hypothesis", "nothing", "--mechanism", "none", "--json"]
    name = json.loads(org(*propose, env=me))["experiment"]
    model = org.home.worktrees / "r1" / "toy" / "model.py"
    model.write_text(model.read_text() + "\n# assisted\n")
    org("exp", "run", name, env=me)
    until(lambda: org.state.experiments[name].attempts, "its attempt")
    until(lambda: [run for run in org.state.runs.values() if run.experiment == name], "its run", 60)
    assert all(run.assisted for run in org.state.runs.values() if run.experiment == name)
    org("takeover", "r1", "--toggle")
    assert "r1" not in org.state.taken_over
    assert "nobody had taken r1 over" in org("release", "r1")
