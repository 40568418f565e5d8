"""One organisation of Claude Code, Codex, our own chat agent and a sweep, all real but their models: each does research of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Org, files_with, until
from tests.loopback import Server, researcher
from tests.org.agents.real_cli import KEY, install

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]


def test_four_kinds_of_agents_do_research_side_by_side(org: Org, tmp_path: Path) -> None:
    scripts = {
        "anna": researcher("toy/model.py", "LR", ["0.05"], "person", "a larger step gets further in so few of them"),
        "bert": researcher("toy/model.py", "INIT", ["0.5"], "person", "gentler slopes begin nearer to the curve, whose bends are wide"),
        "carl": researcher("toy/model.py", "MOMENTUM", ["0.5"], "person", "averages the noise of small batches away"),
    }
    programs = {name: install(name) for name in ("claude", "codex")}
    with Server(scripts) as server:
        design = tmp_path / "mixed.yaml"
        seats = [
            ("anna", "claude", {"command": programs["claude"], "model": "scripted", "base_url": server.url("anna")}),
            ("bert", "codex", {"command": programs["codex"], "model": "scripted", "base_url": server.url("bert") + "/v1"}),
            ("carl", "chat", {"provider": "openai-chat", "model": "scripted", "base_url": server.url("carl") + "/v1"}),
            ("dora", "sweep", {}),
        ]
        agents = [
            {"role": "researcher", "names": [name], "backend": backend, "settings": settings} for name, backend, settings in seats
        ]
        design.write_text(json.dumps({"name": "mixed", "about": "Four kinds of agents.", "agents": agents, "process": {"bank": 4}}))
        org.env |= {"ANTHROPIC_API_KEY": KEY.format("a"), "OPENAI_API_KEY": KEY.format("o")}
        org.up("--slots", "4", "--design", str(design))
        names = [name for name, _, _ in seats]

        def by() -> dict[str, int]:
            ran = [one.agent for one in org.state.experiments.values() if any(run.status == "ok" for run in one.runs)]
            return {name: ran.count(name) for name in names}

        until(lambda: min(by().values()) >= 1, "a measured experiment of everybody", 200)
        rows = {row["agent"]: row for row in org.status()["agents"]}
        assert {row["backend"] for row in rows.values()} == {"claude", "codex", "chat", "sweep"}
        assert not [row for row in rows.values() if row["state"] in ("failed", "dead", "needs_person", "unknown")], rows
        until(lambda: all((org.home.agents / name / "cost.json").exists() for name in names[:3]), "what they cost", 30)
        letters = org.home.comms / "inbox" / "person" / "new"

        def reported() -> set[str]:
            texts = [path.read_text() for path in letters.glob("*.md")]
            return {name for name in names[:3] if any(f"from: {name}" in text and "Measured:" in text for text in texts)}

        until(lambda: len(reported()) == 3, "each was woken by its result and reported it", 240)
        text = org("exp", "list")
        assert "LR 0.05 fits better" in text and "INIT 0.5" in text and "MOMENTUM 0.5" in text
        prompts = {run.agent: run.prompt for run in org.state.runs.values() if run.agent in names}
        assert len(set(prompts.values())) == 4 and all(prompts.values()), "everybody was told something else, and it is on record"
        for name in names[:3]:
            mine = [run for run in org.state.runs.values() if run.agent == name]
            assert not any(run.assisted for run in mine), "nobody typed"
        secret = KEY[:12]  # of all the dummy keys
        assert files_with(org.home.org, secret) == [], "a key lies there"
