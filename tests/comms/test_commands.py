"""Mail on the command line: whose inbox an agent may open, and which channels there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comms import commands
from comms.mailbox import Mail
from comms.message import LIMIT_BYTES, MailError


@pytest.fixture
def box(tmp_path: Path) -> Mail:
    made = Mail(tmp_path / ".org" / "comms")
    made.send("lab", "r1", "Your run ended.")
    made.take("r2")
    return made


def run(box: Mail, *words: str, agent: str | None = None, role: str | None = None, given: bytes = b"") -> str:
    home = str(box.root.parent.parent)
    done = CliRunner().invoke(commands.app, [*words], input=given, env={"ORGCTL_HOME": home, "ORGCTL_AGENT": agent, "ORGCTL_ROLE": role})
    if done.exception is not None:
        raise done.exception
    return done.output


def test_an_agent_takes_nobody_else_s_mail(box: Mail) -> None:
    for words in (("mail", "read"), ("mail", "inbox"), ("mail", "sent")):
        with pytest.raises(MailError, match="r2 may not open the mail of r1"):
            run(box, *words, "--agent", "r1", agent="r2", role="researcher")
    assert box.waiting("r1") == 1, "it is new still"
    assert "Your run ended." in run(box, "mail", "inbox", "--agent", "r1", agent="r1")
    assert "Your run ended." in run(box, "mail", "inbox", "--agent", "r1"), "a person sees all"
    assert "Your run ended." in run(box, "mail", "read", "--agent", "r1", agent="ada", role="human"), "also in a seat"


def test_the_channels_are_listed(box: Mail) -> None:
    assert "no channel yet" in run(box, "channel")
    box.post("r1", "all", "One.")
    box.post("r2", "all", "Two.")
    box.post("r2", "speed", "Three.")
    assert json.loads(run(box, "channel", "--json")) == [{"channel": "all", "messages": 2}, {"channel": "speed", "messages": 1}]
    assert "all  2 messages" in run(box, "channel") and "| Three." in run(box, "channel", "speed")
    assert "`orgctl channel` lists the channels" in run(box, "channel", "sped")


def test_a_mistyped_name_founds_no_mailbox(box: Mail) -> None:
    first = box.inbox("r1")[0].id
    for words in (("mail", "read"), ("mail", "inbox"), ("mail", "ack", first)):
        with pytest.raises(MailError, match="nobody here is called 'r9': choose one of r1, r2"):
            run(box, *words, "--agent", "r9")
    with pytest.raises(MailError, match="nobody here is called 'r9'"):
        run(box, "mail", "read", agent="r9")
    with pytest.raises(MailError, match="nobody here is called 'r9': write to one of r1, r2"):
        run(box, "mail", "send", "r9", "Hello?")
    assert box.places() == ["r1", "r2"]


def test_a_conversation_has_a_name(box: Mail) -> None:
    for name in ("", "  "):
        with pytest.raises(MailError, match="without a name"):
            run(box, "thread", name)


def test_what_is_piped_in_is_text_or_refused(box: Mail) -> None:
    run(box, "mail", "send", "r1", "-", given="café".encode())
    with pytest.raises(MailError, match=r"no UTF-8 text \(byte 3\): nothing was sent"):
        run(box, "mail", "send", "r1", "-", given=b"caf\xe9")
    with pytest.raises(MailError, match="larger than"):
        run(box, "mail", "send", "r1", "-", given=b"x" * (LIMIT_BYTES + 1))
    assert [message.body for message in box.inbox("r1")][1:] == ["café"]
