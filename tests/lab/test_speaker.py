"""In whose name a command may speak, asked at the door of the real program."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import orgctl
from lab import speaker
from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.takeover import taker
from org.session import Wish, found
from tests.conftest import ORGCTL, TOY

pytestmark = pytest.mark.slow  # whole controllers, or commands as processes

PROPOSE = ["exp", "propose", "--hypothesis", "larger steps", "--mechanism", "they get further"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A session of chief, r1 and r2 that was up once."""
    made = found(tmp_path / "research", Wish(task=str(TOY), slots=2))
    ledger = Ledger(made.ledger)
    ledger.append("session", {"up": 1.0, "agents": ["chief", "r1", "r2"]})
    ledger.close()
    for name in ("r1", "r2"):
        (made.comms / "inbox" / name / "new").mkdir(parents=True)
    return made


def say(home: Home, env: dict[str, str], *words: str, seat: str = "", role: str = "researcher") -> str:
    """Output of a command that is given `env`, below a shell in a seat if one is named; begins with its exit code."""
    own = " ".join(["env", "-u", "ORGCTL_AGENT", *(f"{key}={shlex.quote(value)}" for key, value in env.items())])
    seated = {"ORGCTL_AGENT": seat, "ORGCTL_ROLE": role} if seat else {}
    around = {"PATH": "/usr/bin:/bin", "HOME": str(home.root), "ORGCTL_HOME": str(home.root), **seated}
    done = subprocess.run(
        ["sh", "-c", f"{own} {shlex.join([*ORGCTL, *words])}; code=$?; echo; exit $code"], env=around, cwd=home.root, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    return f"{done.returncode} {done.stdout}{done.stderr}"


def facts(home: Home, kind: str) -> list[str]:
    ledger = Ledger(home.ledger)
    try:
        return [fact.actor for fact in ledger.facts(kind)]
    finally:
        ledger.close()


@pytest.mark.parametrize("name", ["lab", "trunk", "../worktrees/r2", "r1\nr2", "x" * 3000, "r9"])
def test_a_name_that_is_nobodys_writes_nothing(home: Home, name: str) -> None:
    for words in (PROPOSE, ["mail", "send", "r1", "hello"], ["post", "all", "hello"]):
        error = CliRunner().invoke(orgctl.app, words, env={"ORGCTL_AGENT": name, "ORGCTL_HOME": str(home.root)}).exception
        assert isinstance(error, UserError) and len(str(error)) < 200 and "\n" not in str(error)
        assert "is nobody of this organisation: unset it, name one of chief, r1, r2, or person" in str(error)
    assert not facts(home, "proposal") and not list((home.comms / "inbox" / "r1" / "new").iterdir())


def test_an_agent_speaks_for_nobody_else_but_in_a_seat_that_a_person_has(home: Home) -> None:
    as_chief = {"ORGCTL_AGENT": "chief"}
    refused = "this runs in r1's seat and may not speak as"
    assert f"{refused} chief" in say(home, as_chief, *PROPOSE, seat="r1") and not facts(home, "proposal")
    assert f"{refused} person" in say(home, {}, *PROPOSE, seat="r1")
    assert f"{refused} chief" in say(home, {**as_chief, "ORGCTL_ROLE": "human"}, "mail", "send", "r2", "hello", seat="r1")
    assert say(home, {"ORGCTL_AGENT": "r1"}, *PROPOSE, seat="r1").startswith("0") and facts(home, "proposal") == ["r1"]
    assert say(home, as_chief, "mail", "send", "r2", "hello").startswith("0"), "from nobody's seat"
    assert say(home, {}, "mail", "send", "r2", "hello", seat="r1", role="human").startswith("0"), "a human sits there"
    ledger = Ledger(home.ledger)
    ledger.append("intervention", {"what": "taken_over"}, "r1", "person")
    assert say(home, {}, "mail", "send", "r2", "hello", seat="r1").startswith("0")
    ledger.append("intervention", {"what": "released"}, "r1", "person")
    ledger.close()
    assert f"{refused} person" in say(home, {}, "mail", "send", "r2", "hello", seat="r1")


def test_what_is_disowned_counts_for_nothing_at_the_door(home: Home) -> None:
    ledger = Ledger(home.ledger)
    forged = [
        ledger.append("session", {"agents": ["mallory"]}).id, ledger.append("intervention", {"what": "taken_over"}, "r1", "person").id,
        ledger.append("session", {"agents": ["mallory"]}, actor="mallory").id,
    ]  # fmt: skip
    assert speaker.agents(ledger) == ["mallory"] and taker(ledger, "r1") == "person", "whoever reads it in that moment cannot know"
    ledger.append("disowned", {"facts": forged[:2], "why": ["forged", "forged"]})
    assert speaker.agents(ledger) == ["chief", "r1", "r2"] and taker(ledger, "r1") == ""
    ledger.close()
    assert "this runs in r1's seat and may not speak as chief" in say(home, {"ORGCTL_AGENT": "chief"}, *PROPOSE, seat="r1")
    assert say(home, {"ORGCTL_AGENT": "r2"}, *PROPOSE, seat="r2").startswith("0")


def test_in_another_program_of_the_repository_an_agent_reads_and_is_nobody(home: Home) -> None:
    vision = found(home.root, Wish(design="solo", task=str(TOY), slots=1, program="vision"))
    there = ("--program", "vision")
    for env in ({}, {"ORGCTL_AGENT": "r1"}, {"ORGCTL_AGENT": "person", "ORGCTL_ROLE": "human"}):  # r1 is somebody's name there too
        for words in (["idea", "larger steps"], PROPOSE, ["mail", "send", "r1", "hello"], ["mail", "read"], ["down"],
                      ["exp", "withdraw", "E0001", "--why", "w"], ["restart", "r1", "--backend", "shell"]):  # fmt: skip
            said = say(home, env, *there, *words, seat="r1")
            assert said.startswith("2") and ("this runs in r1@main's seat" in said or "is for people" in said), said
        assert say(home, env, *there, "exp", "list", seat="r1").startswith("0")
        assert say(home, env, *there, "search", "steps", seat="r1").startswith("0")
    assert not facts(vision, "proposal")
    assert not list((vision.comms / "inbox").glob("r1/new/*")) and not list(vision.requests.glob("*.json"))
    ledger = Ledger(home.ledger)
    ledger.append("intervention", {"what": "taken_over"}, "r1", "person")
    ledger.close()
    assert say(home, {}, *there, "idea", "larger steps", seat="r1").startswith("0") and facts(vision, "proposal") == ["person"]


def test_a_folder_among_the_worktrees_that_is_no_agents_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.worktrees / "scratch").mkdir()
    monkeypatch.chdir(home.worktrees / "scratch")
    monkeypatch.delenv("ORGCTL_AGENT", raising=False)
    error = str(CliRunner().invoke(orgctl.app, ["exp", "list"]).exception)
    assert error == ".org/worktrees/scratch is no agent's: work elsewhere, or set ORGCTL_AGENT to one of chief, r1, r2, or person"
    assert not CliRunner().invoke(orgctl.app, ["exp", "list"], env={"ORGCTL_AGENT": "person"}).exception


def test_help_and_the_examination_of_the_machine_are_for_whoever_asks(home: Home) -> None:
    env = {"ORGCTL_AGENT": "r9", "ORGCTL_HOME": str(home.root)}
    for words in (["exp", "propose", "--help"], ["--program", "main", "status", "--help"], ["doctor", "--json"]):
        assert "is nobody" not in str(CliRunner().invoke(orgctl.app, words, env=env).exception), words
    for words in (["status"], [*PROPOSE[:-1], "--help"], ["exp", "propose", "--hypothesis", "--help"]):
        assert "is nobody" in str(CliRunner().invoke(orgctl.app, words, env=env).exception), words


def test_an_organisation_elsewhere_is_none_of_an_agents_business(home: Home, tmp_path: Path) -> None:
    other = found(tmp_path / "other", Wish(task=str(TOY), slots=1, name="other"))
    there = {"ORGCTL_HOME": str(other.root)}
    assert say(home, there, *PROPOSE, seat="r1").startswith("0") and facts(other, "proposal") == ["person"]
