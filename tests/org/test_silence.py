"""A design without messages: agents cannot write to each other, a person can, and everybody reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import orgctl
from comms.mailbox import Mail
from comms.message import MailError
from lab.home import Home
from org.session import Wish, found
from tests.conftest import TOY


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Home]:
    """One session of `solo` and one of `chief`, with inboxes for r1 and r2."""
    made = {name: found(tmp_path / name, Wish(design=name, task=str(TOY), slots=2)) for name in ("solo", "chief")}
    for home in made.values():
        for agent in ("r1", "r2"):
            (home.comms / "inbox" / agent / "new").mkdir(parents=True)
    return made


def say(home: Home, *words: str, agent: str = "r1") -> str:
    env = {"ORGCTL_HOME": str(home.root), "ORGCTL_AGENT": agent}
    done = CliRunner().invoke(orgctl.app, [*words], env=env)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_agents_without_messages_are_refused_in_one_line_and_nothing_is_written(homes: dict[str, Home]) -> None:
    for words in (["mail", "send", "r2", "psst"], ["post", "all", "psst"]):
        with pytest.raises(MailError, match="agents work without messages here") as caught:
            say(homes["solo"], *words)
        assert "\n" not in str(caught.value)
    mail = Mail(homes["solo"].comms)
    assert mail.inbox("r2") == [] and mail.channel("all") == []
    say(homes["chief"], "mail", "send", "r2", "psst")
    assert [message.body.strip() for message in Mail(homes["chief"].comms).inbox("r2")] == ["psst"]


def test_the_laboratory_and_people_are_heard_all_the_same(homes: dict[str, Home]) -> None:
    home = homes["solo"]
    say(home, "mail", "send", "r1", "well done", agent="person")
    Mail(home.comms).send("lab", "r1", "E0001: improved", kind="verdict")
    read = say(home, "mail", "read")
    assert "well done" in read and "E0001: improved" in read
