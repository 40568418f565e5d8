"""What the claude and codex backends lay down and start, and how they read screens and records, without the programs themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab.errors import UserError
from lab.home import Home
from org.agents import base, claude, codex
from org.agents.base import Seat
from org.agents.claude import KEY
from org.agents.cli import trying
from org.agents.conversations import Conversations
from org.agents.screens import claude_box, claude_retry, codex_box, codex_retry
from tests.conftest import until

SECRET = "sk-dummy-0123456789abcdef0123456789abcdef"
RULE = "─" * 80
BOTH = pytest.mark.parametrize("name", ["claude", "codex"])


@pytest.fixture
def seat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seat:
    for variable in [one for one in os.environ if one.startswith(("ANTHROPIC_", "OPENAI_", "CLAUDE", "CODEX"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 99.0.0\n")
    program.chmod(0o700)
    seat = Seat(Home(tmp_path / "research"), "r1", "researcher", "", 0, {"command": str(program)})
    seat.worktree.mkdir(parents=True)
    seat.skills.mkdir(parents=True)
    (seat.skills / "experiment.md").write_text("# How to make an experiment\n\nWith care.\n")
    seat.prompt.write_text('Say "hello",\n\tthen \\stop\x7f\n')
    return seat


def with_settings(seat: Seat, **more: Any) -> Seat:
    return Seat(seat.home, seat.agent, seat.role, seat.backend, seat.slot, {**seat.settings, **more})


@BOTH
def test_keys_are_handed_over_as_secrets_and_stand_in_no_file_and_on_no_command_line(seat: Seat, name: str) -> None:
    launch = base.load(name).launch(seat)
    assert launch.secrets == ({KEY: SECRET} if name == "claude" else {"OPENAI_API_KEY": SECRET})
    assert not any(SECRET in word for word in [*launch.argv, *launch.env.values()])
    files = [path for path in seat.home.root.rglob("*") if path.is_file()]
    assert len(files) > 4 and not any(SECRET[-20:] in path.read_text() for path in files)
    assert list(seat.worktree.iterdir()) == [] and not Path(os.environ["HOME"]).exists()


@BOTH
def test_a_launch_of_one_that_is_well_changes_nothing(seat: Seat, name: str) -> None:
    assert base.load(name).launch(seat) == base.load(name).launch(seat)


@BOTH
def test_skills_are_laid_down_as_the_cli_knows_them_and_go_when_the_role_has_them_no_more(
    seat: Seat, name: str
) -> None:
    base.load(name).launch(seat)
    folder = seat.folder / name / {"claude": "config", "codex": "home"}[name] / "skills"
    text = (folder / "experiment" / "SKILL.md").read_text()
    assert (
        text.startswith('---\nname: experiment\ndescription: "How to make an experiment"\n---\n')
        and "With care." in text
    )
    (folder / ".system").mkdir()
    (seat.skills / "experiment.md").rename(seat.skills / "other.md")
    base.load(name).launch(seat)
    assert sorted(path.name for path in folder.iterdir()) == [".system", "other"]


@BOTH
def test_with_the_users_own_login_no_key_is_passed_and_no_configuration_of_ours_takes_its_place(
    seat: Seat, name: str
) -> None:
    launch = base.load(name).launch(with_settings(seat, credentials="login"))
    assert launch.secrets == {} and not {"CLAUDE_CONFIG_DIR", "CODEX_HOME"} & set(launch.env)
    assert sum(len(word) + 1 for word in launch.argv) < 4000  # a command of tmux holds 14 kB
    assert not Path(os.environ["HOME"]).exists()


@BOTH
def test_what_is_missing_is_said_in_a_line_with_the_remedy(
    seat: Seat, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, settings = base.load(name), seat.settings
    assert backend.missing(settings) is None
    old = seat.home.root / "old"
    old.write_text("#!/bin/sh\necho 0.0.1\n")
    old.chmod(0o700)
    assert "too old" in str(backend.missing({"command": str(old)}))
    assert "correct the setting `command`" in str(backend.missing({"command": "/nowhere"}))
    assert "there is no such setting" in str(backend.missing({**settings, "modle": "x"}))
    assert "is a relative path, ./old: begin it with /" in str(backend.missing({"command": "./old"}))
    assert "no login" not in str(backend.missing(settings)) and "by hand" in str(
        backend.missing({**settings, "credentials": "login"})
    )
    monkeypatch.setenv("PATH", "/nowhere")
    assert "npm install -g" in str(backend.missing({}))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "_API_KEY" in str(backend.missing(settings))
    with pytest.raises(UserError, match=f"settings of backend {name}: effort"):
        backend.launch(with_settings(seat, effort="extreme"))


@BOTH
def test_a_budget_in_dollars_is_refused_where_the_price_of_the_model_is_not_known(
    seat: Seat, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, budget = base.load(name), {**seat.settings, "budget_dollars": 0.01}
    assert "the price of scripted is not known, so budget_dollars cannot be kept" in str(backend.missing({**budget, "model": "scripted"}))
    for fine in ({"model": "claude-opus-5-5"}, {"model": "gpt-6.1-sol"}, {}):
        assert backend.missing({**budget, **fine}) is None
    assert backend.missing({**seat.settings, "model": "scripted", "budget_tokens": 10}) is None
    here = "http://127.0.0.1:1/v1"
    assert "is not known, so budget_dollars" in str(backend.missing({**budget, "model": "claude-opus-5-5", "base_url": here}))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", here)
    monkeypatch.setenv("OPENAI_BASE_URL", here)
    assert "is not known, so budget_dollars" in str(backend.missing(budget))


def test_claude_may_do_what_a_researcher_does_and_not_more(seat: Seat) -> None:
    claude.BACKEND.launch(seat)
    allowed = json.loads((seat.folder / "claude" / "settings.json").read_text())["permissions"]
    assert {"Bash", "Read", f"Edit(/{seat.worktree}/**)"} <= set(allowed["allow"])
    assert {"WebFetch", "WebSearch", "AskUserQuestion", "SendMessage"} <= set(allowed["deny"])
    claude.BACKEND.launch(with_settings(seat, network=True))
    allowed = json.loads((seat.folder / "claude" / "settings.json").read_text())["permissions"]
    assert "WebFetch" in allowed["allow"] and "WebFetch" not in allowed["deny"]


def test_claude_is_known_by_its_record_below_a_script_that_starts_it_and_above_those_that_it_starts(seat: Seat) -> None:
    """Scripts of sh stand for the wrapper, for Claude Code in it and for one that this one has in its shell: each starts the next."""
    script = "sh -c 'sh -c \"sleep 100; true\"; true'; true"
    wrapper = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    try:
        below = until(lambda: len(found := psutil.Process(wrapper.pid).children(recursive=True)) == 3 and found, "all of them run")
        assert claude.BACKEND.told(seat, wrapper.pid) is None, "it is starting"
        sessions = seat.folder / "claude" / "config" / "sessions"
        sessions.mkdir(parents=True)
        own, child = (next(one for one in below if one.ppid() == parent) for parent in (wrapper.pid, below[0].pid))
        (sessions / f"{child.pid}.json").write_text('{"status": "busy"}')
        (sessions / f"{own.pid}.json").write_text('{"status": "idle"}')
        assert claude.BACKEND.told(seat, wrapper.pid) == base.Told("idle", None, "")
        (sessions / f"{own.pid}.json").write_text('{"status": "idle", "procStart": "1"}')  # of an earlier process of that number
        assert claude.BACKEND.told(seat, wrapper.pid) == base.Told("working", None, "")
    finally:
        os.killpg(wrapper.pid, signal.SIGKILL)
        wrapper.wait()


def test_codex_looks_below_a_home_of_its_own_and_its_shell_below_the_users(seat: Seat) -> None:
    launch = codex.BACKEND.launch(seat)
    policy = tomllib.loads((seat.folder / "codex" / "home" / "config.toml").read_text())["shell_environment_policy"]
    assert Path(launch.env["HOME"]).is_relative_to(seat.folder) and policy["set"]["HOME"] == os.environ["HOME"]
    login = codex.BACKEND.launch(with_settings(seat, credentials="login"))
    words = json.loads((seat.folder / "codex" / "argv.json").read_text())["argv"]
    assert "HOME" not in login.env and not any(word.startswith("shell_environment_policy.set.HOME") for word in words)


def test_subagents_of_codex_are_known_by_their_session_and_their_tokens_count_also_in_the_users_own_folder(seat: Seat) -> None:
    mine = Conversations.of(seat.folder, "codex")
    mine.add("main")
    mine.write()
    folder = Path(os.environ["HOME"]) / ".codex" / "sessions" / "2026" / "11" / "25"
    folder.mkdir(parents=True)

    def write(name: str, session: str, tokens: int) -> None:
        usage = {"type": "token_usage_record", "payload": {"usage": {"output_tokens": tokens}}}
        lines = [{"type": "session_meta", "payload": {"session_id": session}}, usage]
        (folder / f"rollout-2026-11-25T12-00-{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    write("01-main", "main", 1)
    write("01-sub", "main", 10)
    write("02-foreign", "foreign", 100)
    (folder / "rollout-2026-11-25T12-00-03-half.jsonl").write_text('{"type": "session_m')
    (folder / "rollout-2026-11-25T12-00-04-odd.jsonl").write_text('{"payload": [1]}\n')
    cost = codex.BACKEND.cost(with_settings(seat, credentials="login"))
    assert cost is not None and cost.output_tokens == 11


def test_claude_keeps_what_it_wrote_into_its_own_configuration(seat: Seat) -> None:
    path = seat.folder / "claude" / "config" / ".claude.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"theme": "light", "numStartups": 7, "projects": {str(seat.cwd): {"cost": 1}}}))
    claude.BACKEND.launch(seat)
    found = json.loads(path.read_text())
    assert (found["theme"], found["numStartups"]) == ("light", 7)
    assert found["projects"][str(seat.cwd)] == {
        "cost": 1,
        "hasTrustDialogAccepted": True,
        "hasCompletedProjectOnboarding": True,
    }


def test_claude_goes_on_with_a_conversation_that_has_words_and_else_begins_one_with_a_new_id(seat: Seat) -> None:
    first = claude.BACKEND.launch(seat).argv
    id = first[first.index("--session-id") + 1]
    mine = Conversations.of(seat.folder, "claude")
    mine.current = id  # its hooks were heard, so the id is taken, but nothing was said
    mine.write()
    second = claude.BACKEND.launch(seat).argv
    fresh = second[second.index("--session-id") + 1]
    assert fresh != id
    folder = seat.folder / "claude" / "config" / "projects" / "x"
    folder.mkdir(parents=True)
    (folder / f"{id}.jsonl").write_text('{"type":"mode"}\n{"type":"user"}\n')
    third = claude.BACKEND.launch(seat).argv
    assert third[-2:] == ["--resume", id] and "--system-prompt-snapshot" not in third
    seat.prompt.write_text("another role\n")
    assert "--system-prompt-snapshot" in claude.BACKEND.launch(seat).argv


def test_the_configuration_of_codex_is_toml_with_the_whole_prompt(seat: Seat) -> None:
    codex.BACKEND.launch(with_settings(seat, base_url="http://127.0.0.1:1/v1", effort="low"))
    found = tomllib.loads((seat.folder / "codex" / "home" / "config.toml").read_text())
    assert found["developer_instructions"] == seat.prompt.read_text()
    assert found["model_providers"]["orgctl"]["base_url"] == "http://127.0.0.1:1/v1"
    assert (found["sandbox_mode"], found["approval_policy"]) == ("danger-full-access", "never")
    assert found["projects"][str(seat.cwd)] == {"trust_level": "trusted"} and found["web_search"] == "disabled"


def test_tokens_of_claude_are_counted_once_a_message_with_subagents_and_over_conversations(seat: Seat) -> None:
    def line(id: str, output: int, hour: int = 0) -> str:
        usage = {
            "input_tokens": 10,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 20 + hour,
            "output_tokens": output,
        }
        usage |= {"cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": hour}}
        return (
            json.dumps(
                {"type": "assistant", "message": {"id": id, "model": "claude-opus-5", "usage": usage}},
                separators=(",", ":"),
            )
            + "\n"
        )

    launch = claude.BACKEND.launch(seat)
    first = launch.argv[launch.argv.index("--session-id") + 1]
    mine = Conversations.of(seat.folder, "claude")
    mine.add("second")
    mine.write()
    folder = seat.folder / "claude" / "config" / "projects" / "x"
    (folder / first / "subagents").mkdir(parents=True)
    (folder / f"{first}.jsonl").write_text(line("m1", 1) + line("m1", 50) + "half a li")
    (folder / first / "subagents" / "agent-1.jsonl").write_text(line("m2", 5))
    (folder / "second.jsonl").write_text(line("m1", 50) + line("m3", 7, hour=1000))
    (folder / "foreign.jsonl").write_text(line("m9", 9999))
    cost = claude.BACKEND.cost(seat)
    assert cost is not None
    assert (cost.input_tokens, cost.cached_tokens, cost.written_tokens, cost.output_tokens) == (30, 300, 1060, 62)
    assert cost.dollars == pytest.approx((30 * 5 + 300 * 0.5 + 60 * 6.25 + 1000 * 10 + 62 * 25) / 1e6)
    with open(folder / "second.jsonl", "a") as handle:
        handle.write(line("m4", 100))
    again = claude.BACKEND.cost(seat)
    assert again is not None and again.output_tokens == 162


def records(*kinds: tuple[str, float, dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a rollout, newest first."""
    made = []
    for kind, moment, more in kinds:
        stamp = f"2026-11-25T12:{int(moment) // 60:02d}:{moment % 60:06.3f}Z"
        made.append({"timestamp": stamp, "type": "event_msg", "payload": {"type": kind, **more}})
    return made[::-1]


def test_the_state_of_codex_follows_its_rollout_and_an_earlier_life_says_nothing() -> None:
    start = 1795608000.0  # 2026-11-25T12:00:00Z
    begun = ("task_started", 10.0, {})

    def state(
        *kinds: tuple[str, float, dict[str, Any]], began: float = start, events: Any = (), now: float = start + 100
    ) -> Any:
        return codex.state(iter(records(*kinds)), list(events), began, now)

    assert state(begun).state == "working"
    assert state(begun, ("turn_aborted", 12.0, {})) == base.Told("idle", start + 12, "interrupted")
    assert state(begun, ("task_complete", 13.0, {"last_agent_message": "a\nthe end"})).text == "the end"
    failed = {"error": {"message": '{"error": {"message": "odd prompt"}}', "codex_error_info": "other"}}
    assert state(begun, ("task_complete", 13.0, failed)) == base.Told("idle", start + 13, "model error: odd prompt")
    limited = {
        "error": {
            "message": "You've hit your usage limit. Try again in 2 minutes",
            "codex_error_info": "usage_limit_exceeded",
        }
    }
    assert state(begun, ("task_complete", 13.0, limited)).until == start + 133
    assert state(begun, ("task_complete", 13.0, limited), now=start + 134).state == "idle"
    asks = {"time": start + 11, "state": "needs_person", "text": "asks for permission: Bash rm"}
    assert state(begun, events=[asks]).state == "needs_person"
    assert state(begun, began=start + 100) is None
    assert state(begun, began=start + 100, events=[asks]) is None
    assert state(begun, began=start + 10.3) is None, "killed a moment after its turn began"
    late = {"time": start + 10.5, "begun": start + 10.1, "state": "working"}
    assert state(begun, began=start + 10.3, events=[late]) is None, "written by a hook that outlived it"
    assert state(began=start + 10.3, events=[{**late, "begun": start + 10.4}]).state == "working"


def test_the_state_of_claude_is_its_own_records_with_what_the_hooks_know() -> None:
    def state(status: str, *events: dict[str, Any], now: float = 200.0, **more: Any) -> Any:
        return claude.state({"status": status, "statusUpdatedAt": 100_000, **more}, list(events), now)

    assert state("busy") == base.Told("working", 100.0, "")
    assert state("waiting", waitingFor="permission").text == "permission"
    limit = {"time": 101.0, "state": "rate_limited", "text": "usage limit", "until": 900.0}
    assert state("idle", limit) == base.Told("rate_limited", 101.0, "usage limit", 900.0)
    assert state("idle", limit, now=901.0).state == "idle"
    unknown = {**limit, "until": None}
    assert state("idle", unknown).state == "rate_limited" and state("idle", unknown, now=402.0).state == "idle"
    assert state("idle", {**limit, "time": 50.0}).state == "idle"  # it has worked since
    assert state("busy", limit).state == "working"
    assert state("sleeping") is None


CLAUDE = f"● Done.\n\n✻ Brewed for 1s\n{RULE}\n❯ {{}}\n{RULE}\n  ⏵⏵ don't ask on (shift+tab to cycle)\n"
CODEX = "• Done.\n\n› {}\n\n  scripted default · /w/r1\n  ← for agents · ? for shortcuts\n"


@pytest.mark.parametrize(
    "screen, text",
    [
        (CLAUDE.format(""), ""), (CLAUDE.format("go on") + "\n\n\n", "go on"), (CLAUDE.format("two\n  lines"), "two\nlines"),
        (CLAUDE.format("\x1b[2mtry asking\x1b[22m"), ""), (CLAUDE.format("\x1b[38;5;2mgreen words\x1b[39m"), "green words"),
        (CLAUDE.format("\x1b[38;2;9;9;2mwords\x1b[0m"), "words"), (CLAUDE.format("\x1b[2mhint\x1b[0;1mwords\x1b[0m"), "words"),
        (CLAUDE.format("1. Yes"), None),
        (f"Do you want to make this edit?\n{RULE}\n❯ 1. Yes\n  2. No\n{RULE}\n Esc to cancel\n", None),
        (f"{RULE}\n Bash command\n\n   rm -r x\n\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n Esc to cancel · Tab to amend\n", None),
        (f"❯ earlier\n{RULE}\nsome table\n{RULE}\n", None), ("", None), ("bash$ ", None),
        (CLAUDE.format("") + f"{RULE}\n Bash command\n Do you want to proceed?\n ❯ 1. Yes\n   2. No\n", None),
    ],
)  # fmt: skip
def test_the_box_of_claude_is_read_or_it_is_not_certain(screen: str, text: str | None) -> None:
    assert claude_box(screen) == text


@pytest.mark.parametrize(
    "screen, text",
    [
        (CODEX.format("Ask Codex to do anything"), ""), (CODEX.format("go on") + "\n\n", "go on"),
        (CODEX.format("two\n  lines"), "two\nlines"),
        (CODEX.format("\x1b[2mAnything grey\x1b[22m"), ""),
        ("  Run this?\n\n  $ rm -r x\n\n› 1. Yes, proceed (y)\n  2. No (esc)\n\n  Press enter to confirm or esc to cancel\n", None),
        ("› earlier prompt\n\n• Working\n", None), ("", None),
    ],
)  # fmt: skip
def test_the_box_of_codex_is_read_or_it_is_not_certain(screen: str, text: str | None) -> None:
    assert codex_box(screen) == text


TRIED = "✻ Brewed for 1s\n\n❯ go on\n\n{}\n  ⎿  If it persists, check it.\n\n" + f"{RULE}\n❯ \n{RULE}\n  ⏵⏵ don't ask on\n"


@pytest.mark.parametrize(
    "line, found",
    [
        ("✻ API error · retrying in 1s · attempt 1/10", base.Retry("API error", 1, 10, 1.0)),
        ("✽ 529 Overloaded · retrying in 1m 5s · attempt 6/10", base.Retry("529 Overloaded", 6, 10, 65.0)),
        ("· 503 a · b · retrying… · attempt 3/10", base.Retry("503 a · b", 3, 10)),
        ("* Usage limit reached · retrying in 2h (8pm) · attempt 1/3", base.Retry("Usage limit reached", 1, 3, 7200.0)),
        ("✶ No response from the API after 2m · retrying once, waiting up to 4m", base.Retry("No response from the API after 2m", 1, 1)),
        ("✻ Brewing… (3s · esc to interrupt)", None),
        ("✻ Fixing the loader · retrying in 5s… (12s · esc to interrupt)", None),
        ("✻ Handling 429 · retrying the request when it fails", None),
        ("  ✻ 529 quoted · retrying in 1s · attempt 1/10", None),
    ],
)  # fmt: skip
def test_an_error_after_which_claude_tries_again_is_read_where_it_says_what_it_is_at(line: str, found: base.Retry | None) -> None:
    assert claude_retry(TRIED.format(line)) == found


def test_an_error_after_which_claude_tried_again_and_that_is_over_is_none() -> None:
    assert claude_retry(TRIED.format("✻ 529 Overloaded · retrying in 1s · attempt 6/10\n\n● Done.\n\n✻ Brewed for 9s")) is None


@pytest.mark.parametrize(
    "lines, found",
    [
        ("Reconnecting... 3/10 (10s • esc to interrupt)\n  └ Unexpected status 503: Overloaded, url: http://h/v1/\n    responses\n",
         base.Retry("Unexpected status 503: Overloaded", 3, 10)),
        ("Server is busy, reconnecting 1/10 (1m 2s • esc to interrupt)\n  └ Exceeded retry limit, last status: 429\n    Too many\n",
         base.Retry("Exceeded retry limit, last status: 429 Too many", 1, 10)),
        ("• Reconnecting... 2/5 (0s • esc to inter\n", base.Retry("Reconnecting", 2, 5)),
        ("Working (10s • esc to interrupt)\n", None),
        ("  Reconnecting... 3/10 (10s\n", None),
        ("• Reconnecting the data loader, step 3/5 (429 rows)\n", None),
    ],
)  # fmt: skip
def test_an_error_after_which_codex_tries_again_is_read_above_its_box(lines: str, found: base.Retry | None) -> None:
    assert codex_retry(f"› go on\n\n{lines}\n{CODEX.format('Ask Codex to do anything').removeprefix('• Done.')}") == found


@pytest.mark.parametrize("error, state", [("529 Overloaded", "rate_limited"), ("status: 429", "rate_limited"), ("500 boom", "working")])
def test_who_tries_again_is_rate_limited_or_works_with_the_error_for_all_to_see(error: str, state: str) -> None:
    told = trying(base.Told("working", 5.0, ""), base.Retry(error, 3, 10, 13.2), 100.0)
    assert told == base.Told(state, 5.0, f"tries again after: {error} (attempt 3 of 10)", 113.0)
    forged = claude_retry(TRIED.format(f"✻ {error} · retrying in 999999d · attempt 3/10"))
    assert trying(base.Told("working", 5.0, ""), forged, 100.0).until is None, "what no clock shows"
    assert trying(base.Told("working", 5.0, "x"), None, 100.0) == base.Told("working", 5.0, "x")


@pytest.mark.parametrize(
    "attempt, wait, state", [(1, 1.0, "working"), (2, 2.0, "working"), (1, 20.0, "rate_limited"), (3, 20.0, "working")]
)
def test_a_provider_that_asks_for_a_long_wait_at_once_is_a_limit_though_nobody_names_it(attempt: int, wait: float, state: str) -> None:
    assert trying(base.Told("working", 5.0, ""), base.Retry("API error", attempt, 10, wait), 100.0).state == state
