"""An agent's status and the picture of a session: derived from facts and looking; `unknown` is an honest answer."""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lab.errors import UserError
from lab.files import write_json
from lab.home import Home
from lab.process import Identity
from lab.state import State, fold
from org import board
from org.agents.event import write_event
from org.board import standing
from org.grid import Grid
from org.panes import PaneSpec, PaneState
from org.printed import in_words, render, span
from org.status import believed, derive, picture, snapshot
from tests.org.sample import FIRST, SECOND, Story, tell

NOW = 1000.0


def pane(**changes: Any) -> PaneState:
    plain: dict[str, Any] = {
        "agent": "r1", "role": "researcher", "pane_id": "%1", "window": "grid-1", "pid": 7, "dead": False,
        "exit_status": None, "exit_signal": None, "in_mode": False, "started": 900.0,
    }  # fmt: skip
    return PaneState(**{**plain, **changes})


def said(state: str, when: float, text: str = "") -> dict[str, Any]:
    return {"time": when, "state": state, "text": text, "pid": 7}


def test_an_agent_is_what_it_last_said_since_it_first_said_so() -> None:
    events = [said("idle", 910), said("working", 920, "one"), said("working", 950, "two")]
    found = derive("r1", pane(), True, events, State(), NOW)
    assert (found.state, found.since, found.text) == ("working", 920, "two")


@pytest.mark.parametrize("state", ["starting", "working", "waiting", "idle", "paused", "taken_over"])
def test_every_state_an_agent_may_claim_is_believed_while_its_process_lives(state: str) -> None:
    assert derive("r1", pane(), True, [said(state, 950)], State(), NOW).state == state


def test_a_failed_look_proves_nothing() -> None:
    found = derive("r1", None, False, [said("working", 950)], State(), NOW)
    assert found.state == "unknown"


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"dead": True, "exit_status": 0}, "dead", "left"),
        ({"dead": True, "exit_status": 3}, "failed", "status 3"),
        ({"dead": True, "exit_signal": "SIGKILL"}, "failed", "SIGKILL"),
        ({"dead": True}, "dead", "left"),
    ],
)
def test_a_process_that_ended_counts_more_than_its_last_word(changes: dict[str, Any], state: str, words: str) -> None:
    found = derive("r1", pane(**changes), True, [said("working", 950)], State(taken_over={"r1"}), NOW)
    assert found.state == state and words in found.text
    assert derive("r1", None, True, [said("working", 950)], State(), NOW).state == "dead"


def test_words_of_an_earlier_life_do_not_count() -> None:
    assert derive("r1", pane(), True, [said("working", 890)], State(), NOW).state == "starting"
    assert derive("r1", pane(), True, [], State(), NOW).state == "starting"
    assert derive("r1", pane(started=None), True, [said("working", 890)], State(), NOW).state == "working"


def test_a_takeover_is_shown_until_it_is_given_back() -> None:
    events = [said("working", 950)]
    assert derive("r1", pane(), True, events, State(taken_over={"r1"}), NOW).state == "taken_over"
    assert derive("r1", pane(), True, events, State(taken_over={"r2"}), NOW).state == "working"


def test_who_says_stopped_or_nonsense_and_lives_is_unknown() -> None:
    for state in ("stopped", "dead", "failed", "\x1b[31mvictorious"):
        found = derive("r1", pane(), True, [said(state, 950)], State(), NOW)
        assert found.state == "unknown" and "\x1b" not in found.text


def test_an_idle_agent_whose_run_is_going_on_is_waiting(tmp_path: Path) -> None:
    state = fold(tell(Home(tmp_path)).ledger.facts())
    found = derive("r2", pane(agent="r2"), True, [said("idle", 950)], state, NOW)
    assert (found.state, found.experiment) == ("waiting", "E0004") and "is running" in found.text
    assert derive("r1", pane(), True, [said("idle", 950)], state, NOW).state == "idle"


def test_what_an_agent_says_is_harmless_when_shown() -> None:
    events = [said("working", 950, "a\x1b]0;title\x07b\nc\x1b[2J\u202ed")]
    assert derive("r1", pane(), True, events, State(), NOW).text == "ab c d"


def test_the_snapshot_tells_the_standing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tell(home)
    found = snapshot(home, None)
    assert found["baseline"] == pytest.approx({"commit": FIRST, "mean": 2.45, "sigma": 0.001633, "n": 4}, abs=1e-5)
    assert found["bank"]["commit"] == found["trunk"] == SECOND and found["bank"]["mean"] == pytest.approx(2.4315)
    best = found["best"]
    assert [best[key] for key in ("experiment", "agent", "what")] == ["E0001", "r1", "MATRIX_LR=0.031"]
    assert best["measured"]
    assert best["gain"] == pytest.approx(-0.0185)
    assert best["percent"] == pytest.approx(-0.7551, abs=1e-3) and best["sigmas"] == pytest.approx(11.33, abs=0.01)
    assert found["experiments"] == {"promoted": 1, "neutral": 1, "crashed": 1, "running": 1}
    assert found["session"]["name"] == "demo" and found["task"]["metric"]["direction"] == "minimize"
    assert json.loads(json.dumps(found)) == found, "plain JSON, no NaN"
    assert "NaN" not in json.dumps(found)


def test_a_session_whose_runs_are_not_sealed_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path)
    story = tell(home)
    assert snapshot(home, None)["unsealed"] == ""
    run = story.queue("bank", SECOND)
    story.start(run, 0)
    told = {"status": "ok", "reason": "", "metric": {"audit": 2.43}, "account": {}, "hashes": {}, "log_tail": ""}
    story.ledger.append("result", {**told, "unsealed": "the kernel has no Landlock"}, run)
    found = snapshot(home, None)
    assert found["unsealed"] == "the kernel has no Landlock"
    shown = Console(file=io.StringIO(), width=160)
    render(found, shown)
    assert "unsealed  the kernel has no Landlock" in shown.file.getvalue()  # type: ignore[attr-defined]
    assert any("unsealed  the kernel" in line.plain for line in standing(found, 100, 9))


def test_the_snapshot_tells_what_runs_where_and_how_far(tmp_path: Path) -> None:
    home = Home(tmp_path)
    story = tell(home)
    idle, busy = snapshot(home, None)["slots"]
    assert idle == {"slot": 0, "run": None}
    assert (busy["run"], busy["experiment"], busy["agent"], busy["purpose"]) == ("R0015", "E0004", "r2", "nominate")
    assert (busy["fraction"], busy["phase"]) == (0.25, "training")
    for counts, fraction, phase in (
        ({"tokens": 2000}, 1.0, "scoring"), ({"tokens": "many"}, None, "starting"), ({"steps": 3}, None, "starting"),
        ({"tokens": 0}, 0.0, "starting"),
    ):  # fmt: skip
        write_json(home.runs / "R0015" / "counts.json", counts)
        busy = snapshot(home, None)["slots"][1]
        assert (busy["fraction"], busy["phase"]) == (fraction, phase)
    story.end("R0015", {"search": 2.4})
    assert snapshot(home, None)["slots"][1] == {"slot": 1, "run": None}


def test_a_promotion_whose_bank_is_not_run_yet_is_shown_as_not_measured(tmp_path: Path) -> None:
    home = Home(tmp_path)
    story = tell(home)
    name = story.propose("r1", "more of the same")
    story.attempt(name, "f" * 40, parent=SECOND)
    story.verdict(name, "improved", -0.01)
    story.trunk("f" * 40, SECOND, name, "promoted by chief")
    found = snapshot(home, None)
    assert found["best"]["value"] == pytest.approx(2.4215) and not found["best"]["measured"]
    assert found["bank"]["mean"] is None


def test_an_empty_session_and_a_missing_ledger(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(UserError, match="orgctl up"):
        snapshot(home, None)
    found = picture(home, [], State(), believed(State()), NOW)
    assert found["best"] is None and found["slots"] == [] and not found["controller"]["alive"]
    render(found, Console(file=io.StringIO()))


def test_a_controller_is_alive_only_as_the_very_process_that_wrote_its_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tell(home)
    me = Identity.of(os.getpid())
    assert me
    write_json(home.controller, {"pid": me.pid, "started": me.started, "heartbeat": NOW})
    assert snapshot(home, None)["controller"]["alive"]
    write_json(home.controller, {"pid": me.pid, "started": me.started - 100, "heartbeat": NOW})
    assert not snapshot(home, None)["controller"]["alive"]
    home.controller.write_text('{"pid": "x"}')
    assert snapshot(home, None)["controller"] == {"alive": False, "pid": None, "heartbeat_age": None, "trouble": {}}


def test_agents_are_seen_in_a_real_grid_and_printed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tell(home)
    write_event(home, "gone", "working", "long ago")
    grid = Grid(f"t{uuid.uuid4().hex[:10]}", home)
    sleep = ["sleep", "1000"]
    roles = {"chief": "chief-scientist", "r2": "researcher"}
    specs = [PaneSpec(name, role, sleep, tmp_path, {}) for name, role in roles.items()]
    try:
        grid.ensure(PaneSpec("board", "board", sleep, tmp_path, {}), specs)
        write_event(home, "r2", "waiting", "R0015 is [bold]running[/bold]")
        found = snapshot(home, grid)
        states = {row["agent"]: (row["role"], row["state"]) for row in found["agents"]}
        assert states.pop("gone") == ("", "dead")
        assert states == {"chief": ("chief-scientist", "starting"), "r2": ("researcher", "waiting")}
    finally:
        grid.kill()
    out = io.StringIO()
    render(found, Console(file=out, width=160))
    text = out.getvalue()
    for words in ("demo", "2.4500 ± 0.0016 (n 4)", "E0001 r1", "R0015 E0004 r2 nominate", "R0015 is [bold]running[/"):
        assert words in text, words
    assert "not running" in text
    assert snapshot(home, None)["agents"][0]["state"] == "unknown"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0, "0 s"), (89, "89 s"), (600, "10 min"), (5400, "1 h 30 min"), (86400, "24 h 0 min")],
)
def test_times_are_said_as_people_say_them(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


def test_slots_without_a_count_in_the_session_are_those_that_were_used(tmp_path: Path) -> None:
    story = Story(Home(tmp_path), slots=0)
    story.start(story.queue("bank", FIRST), 3)
    assert [row["slot"] for row in snapshot(Home(tmp_path), None)["slots"]] == [3]


def test_a_rate_limit_is_shown_with_its_end_where_that_is_known(tmp_path: Path) -> None:
    home = Home(tmp_path)
    Story(home)
    write_event(home, "r1", "rate_limited", "too many requests", until=time.time() + 600)
    found = snapshot(home, None)
    row = {**found["agents"][0], "state": "rate_limited", "until": time.time() + 600}
    then = time.strftime("%H:%M:%S", time.localtime(row["until"]))
    out = io.StringIO()
    render({**found, "agents": [row]}, Console(file=out, width=160))
    assert f"rate limited until {then}" in out.getvalue()
    assert f"rate limited until {then}" in board.agents({"agents": [row]}, 100, 9, time.time())[0].plain
    assert in_words("rate_limited", None, 0.0) == "rate limited" and in_words("working", 5.0, 0.0) == "working"
    assert in_words("rate_limited", 7200.0, 0.0).endswith(time.strftime("%H:%M", time.localtime(7200.0)))
