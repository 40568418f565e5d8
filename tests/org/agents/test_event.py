"""Events and other records lie where agents can write: whatever stands there, nobody who reads them hangs or fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lab.home import Home
from org.agents.claude import transcripts
from org.agents.event import read_events, write_event
from org.agents.lines import LINE, Grown, backwards


def test_a_pipe_in_the_place_of_a_record_holds_nobody_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    path = home.agents / "r1" / "events.jsonl"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert read_events(home, "r1") == [] and list(Grown(path).new()) == [] and list(backwards(path)) == []
    with pytest.raises(OSError):
        write_event(home, "r1", "idle")
    (tmp_path / "projects" / "p").mkdir(parents=True)
    os.mkfifo(tmp_path / "projects" / "p" / "id.jsonl")
    assert transcripts(tmp_path, "id") == []


def test_times_that_no_clock_shows_are_passed_over(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_event(home, "r1", "idle", until=10**400)
    path = home.agents / "r1" / "events.jsonl"
    with open(path, "a") as handle:
        for time in ("1" + "0" * 400, "NaN", "Infinity", "-1", '"now"'):
            handle.write(f'{{"time": {time}, "state": "working"}}\n')
        handle.write("[" * 10_000 + "\n")
    (event,) = read_events(home, "r1", 20)
    assert event["state"] == "idle" and "until" not in event


def test_an_endless_line_is_passed_over_and_what_follows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"x" * (LINE + 10) + b"\n" + json.dumps({"a": 1}).encode() + b"\n{")
    assert list(Grown(path).new()) == [{"a": 1}]


def test_records_come_newest_first_and_only_those_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_text('{"type":"event_msg","n":1}\n{"type":"message","n":2}\n{"type":"event_msg","n":3}\n{"type":"event_msg", torn')
    assert [one["n"] for one in backwards(path)] == [3, 2, 1]
    assert [one["n"] for one in backwards(path, b'"event_msg"')] == [3, 1]
