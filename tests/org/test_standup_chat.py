"""A standup that an agent with a model answers: asked by mail, woken, heard, and held to the ledger. All real but the model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import Org, until
from tests.loopback import Conversation, Reply, Server, run
from tests.org.agents.real_cli import KEY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CLAIM = "E0001 improved val_mse by 0.07."


def reporter(talk: Conversation) -> Reply:
    """Does nothing until a standup asks it; then it reports what is not so, as the letter says how."""
    said = re.search(r"orgctl standup report", talk.last)
    if said and talk.turns[-1].role != "tool":
        return run(f'orgctl standup report --done "{CLAIM}" --learned "decay is needed" --next "half the decay"')
    return Reply("I have reported." if talk.turns[-1].role == "tool" else "I wait for what comes.")


def test_an_agent_with_a_model_is_asked_woken_heard_and_checked(org: Org, tmp_path: Path) -> None:
    with Server({"r1": reporter}) as server:
        design = tmp_path / "meets.yaml"
        settings = {"provider": "openai-chat", "model": "scripted", "base_url": server.url("r1") + "/v1"}
        agents = [
            {"role": "chief-scientist", "backend": "shell", "slot": False},
            {"role": "researcher", "backend": "chat", "settings": settings},
        ]
        rules = {"bank": 2, "standup": {"deadline": "4m"}}
        about = "One who decides and one with a model."
        design.write_text(json.dumps({"name": "meets", "about": about, "agents": agents, "process": rules}))
        org.env |= {"OPENAI_API_KEY": KEY.format("o")}
        org.up("--slots", "1", "--design", str(design))

        def state() -> str:
            return next(str(row["state"]) for row in org.status()["agents"] if row["agent"] == "r1")

        until(lambda: state() == "idle", "its first turn is over", 60)
        org("idea", "let the step size fall earlier")
        asked = len(server.talks)
        org("standup")
        until(lambda: (meeting := org.state.direction.standup) and meeting.closed, "it closes long before its deadline", 120)
        meeting = org.state.direction.standup
        assert meeting is not None and meeting.reported == ["r1"] and not meeting.missing and meeting.flagged == 1
        assert meeting.closed is not None and meeting.closed < meeting.deadline
        woken = [talk.last for talk in server.talks[asked:]]
        assert any("from lab to r1, standup about S0001" in text for text in woken), "the letter woke it, in a frame"
        page = org("standup", "show")
        claims = page.partition("## Said, but not borne out by the ledger")[2].partition("\n## ")[0]
        assert f'r1: "{CLAIM}" **' in claims and "E0001" in claims.partition("**")[2], page
        until(lambda: any("Standup 1" in talk.last for talk in server.talks), "the digest reaches it too", 60)
        assert "has r1's report" in "\n".join(talk.text for talk in server.talks)
