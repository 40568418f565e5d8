"""When a standup is due: by the clock, by progress, and not while one is going on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lab.home import Home
from lab.state import State, fold
from org.meeting import Standup, due, seconds
from tests.org.sample import tell


def opened(state: State, **body: object) -> None:
    """A standup in a folded state, as its fact would put it there."""
    from lab.ledger import Fact

    fields = {"what": "opened", "number": 1, "why": "w", "agents": ["r1"], "deadline": 0.0, "finished": 0, **body}
    state.apply(Fact(state.last + 1, float(str(body.get("time", time.time()))), "standup", "S0001", "lab", fields, ""))


def closed(state: State) -> None:
    from lab.ledger import Fact

    body = {"what": "closed", "reported": [], "missing": ["r1"], "aside": {}, "claims": 0, "flagged": 0}
    state.apply(Fact(state.last + 1, time.time(), "standup", "S0001", "lab", body, ""))


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Up since ten in the morning; three experiments are finished."""
    found = fold(tell(Home(tmp_path)).ledger.facts())
    found.up = [(time.mktime((2026, 5, 4, 10, 0, 0, 0, 0, -1)), None)]
    return found


def at(clock: str, day: int = 4) -> float:
    hours, minutes = map(int, clock.split(":"))
    return time.mktime((2026, 5, day, hours, minutes, 0, 0, 0, -1))


def test_without_a_rule_none_is_ever_due(state: State) -> None:
    assert due(Standup(), state, at("23:00", 9)) == ""


def test_every_hour_counts_from_the_last_one_or_from_when_the_organisation_came_up(state: State) -> None:
    rules = Standup(every="60m")
    assert [bool(due(rules, state, at(clock))) for clock in ("10:30", "10:59", "11:00")] == [False, False, True]
    opened(state, time=at("11:00"))
    assert due(rules, state, at("13:00")) == "", "one is going on"
    closed(state)
    assert [due(rules, state, at(clock)) for clock in ("11:59", "12:00")] == ["", "every 60m"]
    state.up.append((at("12:30"), None))
    assert due(rules, state, at("13:00")) == "", "nobody was up in between"


def test_a_time_of_day_comes_once_a_day_and_is_not_made_up_for(state: State) -> None:
    rules = Standup(at="09:00")
    assert due(rules, state, at("10:05")) == "", "it came up later that day"
    assert due(rules, state, at("08:59", 5)) == "" and due(rules, state, at("09:00", 5)) == "at 09:00"
    opened(state, time=at("09:00", 5))
    closed(state)
    assert due(rules, state, at("23:00", 5)) == "" and due(rules, state, at("09:01", 6)) == "at 09:00"


def test_progress_is_counted_from_the_last_standup(state: State) -> None:
    assert due(Standup(after=3), state, at("10:01")) == "3 experiments finished"
    assert due(Standup(after=4), state, at("10:01")) == ""
    opened(state, finished=3, time=at("10:01"))
    closed(state)
    assert due(Standup(after=3), state, at("10:02")) == ""


def test_the_rules_read_yaml_as_people_write_it() -> None:
    assert Standup.model_validate(yaml.safe_load("{every: 90, at: 10:30}")) == Standup(every="90", at="10:30")
    assert Standup.model_validate(yaml.safe_load("at: 09:00")).at == "09:00"
    assert (seconds("90"), seconds("90s"), seconds("1.5h")) == (5400, 90, 5400)


@pytest.mark.parametrize("bad", [{"every": "soon"}, {"every": "0m"}, {"at": "25:00"}, {"at": 2000}, {"after": -1}, {"deadline": ""},
                                 {"unassigned": "sleep"}, {"limit": 10}, {"colour": "red"}, {"every": True}])  # fmt: skip
def test_what_cannot_be_meant_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Standup.model_validate(bad)
