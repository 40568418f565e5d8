"""The chat agent's parts: settings and credentials, a conversation that is valid whatever the file holds, tools, errors."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from comms.hand import QUIET
from lab.errors import UserError
from lab.home import Home
from lab.process import Identity
from org.agents import base
from org.agents.chat import messages, settings, summary, tools
from org.agents.chat.inbox import Inbox
from org.agents.chat.loop import Agent
from org.agents.chat.models import Reply, call, connect, trouble, whole
from org.agents.chat.screen import Terminal
from org.agents.chat.transcript import (
    Assistant,
    Call,
    Compacted,
    Result,
    Results,
    Said,
    Transcript,
    Usage,
    User,
    conversation,
)

KEY = {"ANTHROPIC_API_KEY": "k"}
LOCAL = {"provider": "openai-chat", "base_url": "http://127.0.0.1:8000/v1"}


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        ({"temprature": 1}, KEY, "temprature: there is no such setting; there are provider, model"),
        ({"provider": "other"}, KEY, "provider: Input should be 'anthropic'"),
        ({"budget_dollars": 0}, KEY, "budget_dollars: Input should be greater than 0"),
        ({"budget_dollars": 1, "model": "who-knows"}, KEY, "the price of who-knows is not known"),
        (
            {"budget_dollars": 1, "base_url": "http://127.0.0.1:1"},
            KEY,
            "is not known, so budget_dollars cannot be kept",
        ),
        ({}, {}, "no key: set ANTHROPIC_API_KEY or OPENAI_API_KEY"),
        ({}, {"ANTHROPIC_AUTH_TOKEN": "t", "OPENAI_ADMIN_KEY": "t"}, "no key"),
        ({"provider": "anthropic", "base_url": "http://127.0.0.1:1"}, {"OPENAI_API_KEY": "k"}, "set ANTHROPIC_API_KEY"),
        (LOCAL, {}, "needs the setting `model`"),
    ],
)
def test_what_is_missing_is_one_line_that_says_what_to_do(
    given: dict[str, Any], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError) as error:
        settings.access(given, environment)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_provider_is_chosen_by_the_key_and_only_its_variables_are_handed_over() -> None:
    both = {
        "ANTHROPIC_API_KEY": "a",
        "OPENAI_API_KEY": "o",
        "OPENAI_BASE_URL": "http://o",
        "OPENAI_ORG_ID": "x",
        "AWS_SECRET": "y",
    }
    assert settings.access({}, both).provider == "anthropic"
    assert settings.access({}, {"OPENAI_API_KEY": "o"}).provider == "openai-responses"
    assert settings.secrets(settings.read({}), both) == {"ANTHROPIC_API_KEY": "a"}
    assert settings.secrets(settings.read({"provider": "openai-chat"}), both) == {
        "OPENAI_API_KEY": "o",
        "OPENAI_BASE_URL": "http://o",
    }
    local = settings.access({**LOCAL, "model": "m"}, {})
    assert local.url == LOCAL["base_url"] and local.key == "none" and local.window == 32_000


def test_a_launch_shows_no_secret_and_a_process_without_a_key_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    home.make()
    home.settings.write_text("name: t\n")
    seat = base.Seat(home, "r1", "researcher", "chat", 0, {"provider": "anthropic"})
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-very-secret")
    launch = base.load("chat").launch(seat)
    assert launch.secrets["ANTHROPIC_API_KEY"] == "sk-very-secret"
    kept = b"".join(path.read_bytes() for path in seat.folder.rglob("*") if path.is_file())
    assert b"sk-very-secret" not in kept and "sk-very-secret" not in str((launch.argv, launch.env))
    assert launch.cwd == tmp_path and base.load("chat").cost(seat) is None
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **base.seat_env(seat)}
    done = subprocess.run(launch.argv, cwd=launch.cwd, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.strip() == "no key for provider anthropic: set ANTHROPIC_API_KEY"


CALLS = st.builds(Call, id=st.sampled_from(["a", "b", "c"]), name=st.just("t"), arguments=st.just({}))
SAID = st.builds(Said, text=st.text(max_size=3))
RESULTS = st.builds(Result, id=st.sampled_from(["a", "b", "c", "d"]), text=st.text(max_size=3))
ENTRIES = st.one_of(
    st.builds(User, text=st.text(max_size=3), origin=st.sampled_from(["person", "interrupt"])),
    st.builds(
        lambda said, calls: Assistant(blocks=(*said, *calls)),
        st.lists(SAID, max_size=2),
        st.lists(CALLS, max_size=3, unique_by=lambda call: call.id),
    ),
    st.builds(lambda results: Results(results=tuple(results)), st.lists(RESULTS, max_size=3)),
)


@settings_of_hypothesis(max_examples=60)
@given(st.lists(ENTRIES, max_size=12), st.integers(100, 2000))
def test_whatever_the_file_holds_each_call_has_one_result_right_behind_it(entries: list[Any], window: int) -> None:
    first = summary.cut(entries, window)
    if first is not None:
        assert 0 < first < len(entries)
        entries = [*entries, Compacted(summary="s", first=first)]
    turns = conversation(entries)
    for number, turn in enumerate(turns):
        if isinstance(turn, Assistant) and turn.calls:
            after = turns[number + 1]
            assert isinstance(after, Results) and [one.id for one in after.results] == list(
                dict.fromkeys(one.id for one in turn.calls)
            )
        if isinstance(turn, Results):
            before = turns[number - 1]
            assert number and isinstance(before, Assistant) and before.calls
    roles = [message["role"] for message in messages.anthropic(turns)]
    assert all(one != two for one, two in itertools.pairwise(roles)), "roles alternate"
    assert all(part.get("text", "x").strip() for message in messages.anthropic(turns) for part in message["content"])


def test_a_torn_line_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    transcript = Transcript(path)
    transcript.append(User(text="one", mail=("m1",)))
    transcript.append(
        Assistant(blocks=(Call(id="c", name="shell", arguments={"command": "ls"}),), usage=Usage(input=3, output=4))
    )
    transcript.close()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        again = Transcript(path)
        again.append(User(text="two"))
        again.close()
        texts = [entry.text for entry in Transcript(path).entries if isinstance(entry, User)]
        assert texts[-1] == "two" and len(texts) == (2 if length >= whole.index(b"\n") else 1), length
    assert Transcript(path).mail == {"m1"}


def test_caches_are_marked_on_the_last_two_messages_of_the_user() -> None:
    turns = [
        User(text="a"),
        Assistant(blocks=(Said(text="b"),)),
        User(text="c"),
        Assistant(blocks=(Said(text="d"),)),
        User(text="e"),
    ]
    marked = [
        message["content"][-1]["text"]
        for message in messages.anthropic(turns)
        if "cache_control" in message["content"][-1]
    ]
    assert marked == ["c", "e"]


def test_half_a_call_is_never_done() -> None:
    one = call("", "shell", '{"command": "rm -rf buil', [])
    assert one.id and one.broken and one.arguments == {}
    cut = whole(Reply((call("x", "shell", {"command": "rm -rf /tmp/x/"}, []),), "max_tokens", True, Usage()))[-1]
    assert isinstance(cut, Call) and "cut off" in cut.broken


# Tools


@pytest.fixture
def place(tmp_path: Path) -> tools.Place:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside.txt").write_text("outside\n")
    return tools.Place("r1", tmp_path / "tree", tmp_path / "note.json")


def done(place: tools.Place, name: str, **arguments: Any) -> Result:
    return asyncio.run(tools.run(Call(id="c", name=name, arguments=arguments), place, lambda piece: None))


def test_files_are_edited_inside_the_worktree_only_and_pieces_must_be_found_once(
    place: tools.Place, tmp_path: Path
) -> None:
    assert not done(place, "write", path="src/a.py", text="x = 1\ny = 1\n").failed
    file = place.worktree / "src" / "a.py"
    file.chmod(0o755)
    assert "occurs 2 times" in done(place, "edit", path="src/a.py", old=" = 1", new="").text
    assert "occurs 0 times" in done(place, "edit", path="src/a.py", old="z", new="").text
    assert done(place, "edit", path="src/a.py", old="y = 1", new="y = 2").text == "src/a.py: replaced at line 2"
    assert file.read_text() == "x = 1\ny = 2\n" and file.stat().st_mode & 0o777 == 0o755
    assert done(place, "view", path="src/a.py", first=2).text.split() == ["2", "y", "=", "2"]
    (place.worktree / "link").symlink_to(tmp_path / "outside.txt")
    for path in ("../outside.txt", str(tmp_path / "outside.txt"), "link"):
        assert "outside of your worktree" in done(place, "write", path=path, text="z").text
    assert (tmp_path / "outside.txt").read_text() == "outside\n"
    assert done(place, "view", path="/proc/self/environ").failed and done(place, "view", path="/dev/zero").failed
    assert done(place, "view", path=".").text == "link\nsrc/"


def test_wrong_calls_are_answered_with_what_the_tool_takes(place: tools.Place) -> None:
    assert "there are shell, view, edit, write" in done(place, "bash", command="ls").text
    assert "shell takes command, timeout" in done(place, "shell", cmd="ls").text
    assert "No such file" in done(place, "view", path="nope").text


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("shell", {"command": "echo a\0b"}),
        ("view", {"path": "a\0b"}),
        ("edit", {"path": "a\0b", "old": "x", "new": "y"}),
        ("write", {"path": "a\0b", "text": "x"}),
        ("view", {"path": "round"}),
        ("write", {"path": "round/a", "text": "x"}),
    ],
)
def test_arguments_that_the_system_does_not_take_are_the_models_to_put_right(
    place: tools.Place, name: str, arguments: dict[str, str]
) -> None:
    (place.worktree / "round").symlink_to("round")
    found = done(place, name, **arguments)
    assert found.failed and found.text
    assert not done(place, "write", path="plain.py", text="x\0y").failed, "a file may hold one"


@pytest.mark.slow
def test_long_output_keeps_both_ends_and_the_background_ends_with_the_call(place: tools.Place) -> None:
    found = done(place, "shell", command="sleep 300 & echo begin $!; seq 100000; echo end")
    assert found.text.startswith("begin") and found.text.endswith("end") and "characters are left out" in found.text
    assert len(found.text) < tools.OUTPUT + 100 and not found.failed
    left = Identity.of(int(found.text.split()[1]))
    assert left is None or not left.alive()
    late = done(place, "shell", command="trap '' TERM; echo here; sleep 30", timeout=0.3)
    assert late.failed and late.text.startswith("here") and "its timeout" in late.text


# Errors


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "after"),
    [
        (429, {}, {"retry-after": "7"}, "passing", 7.0),
        (429, {}, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, "passing", 0.0),
        (429, {"error": {"code": "insufficient_quota"}}, {}, "lasting", None),
        (503, {}, {}, "passing", None),
        (401, {}, {}, "lasting", None),
        (400, {"error": {"code": "context_length_exceeded"}}, {}, "too_long", None),
    ],
)
def test_errors_say_whether_trying_again_can_help(
    status: int, body: Any, headers: dict[str, str], kind: str, after: float | None
) -> None:
    response = httpx2.Response(status, headers=headers, request=httpx2.Request("POST", "http://127.0.0.1"))
    found = trouble(openai.APIStatusError("no", response=response, body=body))
    assert (found.kind, found.after) == (kind, after)


def test_the_model_sees_four_tools_with_their_words() -> None:
    found = {tool.name: tool for tool in tools.offered()}
    assert list(found) == ["shell", "view", "edit", "write"] and "orgctl" in found["shell"].about
    assert found["edit"].schema["required"] == ["path", "old", "new"]


def test_dollars_are_counted_by_list_prices_over_all_lives_and_end_the_budget(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t.jsonl")
    for _ in range(2):  # 100,000 tokens at $2 and 10,000 at $10 a million: $0.30 each
        transcript.append(
            Assistant(blocks=(Said(text="x"),), model="claude-sonnet-5-5", usage=Usage(input=100_000, output=10_000))
        )
    home = Home(tmp_path)
    heard: list[str] = []
    for budget, said in ((0.61, ""), (0.59, "paused")):
        chosen = settings.access({"budget_dollars": budget}, KEY)
        place = tools.Place("r1", tmp_path, tmp_path / "note.json")
        screen = Terminal(heard.append, lambda: False, str)
        agent = Agent(
            chosen, "", transcript, place, connect(chosen), Inbox(home, "r1", ()), screen,
            lambda state, text, **more: heard.append(state), tmp_path / "cost.json",
        )  # fmt: skip
        assert (cost := agent.spending.cost) and cost.dollars == pytest.approx(0.6)
        assert "90% of your budget of $" in agent.spending.warning
        assert agent._spent() == bool(said) and heard == ([said] if said else [])
        screen.close()


def test_mail_that_a_person_is_still_writing_by_hand_arrives_when_it_is_finished(tmp_path: Path) -> None:
    home = Home(tmp_path)
    inbox = Inbox(home, "r1", ())
    inbox.mail.inbox("r1")
    path = home.comms / "inbox" / "r1" / "new" / "idea.md"
    path.write_text("Try a longer warm-up.")
    inbox.look()
    assert inbox.waiting == []
    finished = path.stat().st_mtime - QUIET - 1
    os.utime(path, (finished, finished))
    assert inbox.look() and [one.body for one in inbox.waiting] == ["Try a longer warm-up."]
