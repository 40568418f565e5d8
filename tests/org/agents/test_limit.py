"""When a limit ends, in the sentences that the vendors use and near misses of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from org.agents.limit import ends

NOW = "2026-11-30 04:34:10"
"""A Monday, on the clock of a machine in Berlin; 03:34:10 UTC."""


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def end(text: str) -> str | None:
    """On this machine's clock."""
    found = ends(text, datetime.fromisoformat(NOW).timestamp())
    return None if found is None else str(datetime.fromtimestamp(found))


@pytest.mark.parametrize(
    "text, moment",
    [
        ("You've hit your usage limit. Try again at 6:34 AM.", "2026-11-30 06:34:00"),
        ("You've hit your usage limit. Upgrade to Plus or try again at 7:15 PM.", "2026-11-30 19:15:00"),
        ("try again at 3:20 AM.", "2026-12-01 03:20:00"),
        ("try again at 4:34 AM.", "2026-11-30 04:35:00"),
        ("try again at 12:00 AM", "2026-12-01 00:00:00"), ("try again at 12:05 PM", "2026-11-30 12:05:00"),
        ("or try again at Dec 3rd, 2026 6:34 AM.", "2026-12-03 06:34:00"), ("try again at Mar 1st, 2027 11:00 PM", "2027-03-01 23:00:00"),
        ("You've hit your session limit · resets 3:45pm (UTC)", "2026-11-30 16:45:00"),
        ("You've hit your session limit · resets 3pm (America/New_York)", "2026-11-30 21:00:00"),
        ("limit reached ∙ resets 1:30\u202fAM", "2026-12-01 01:30:00"),
        ("weekly limit · resets Dec 3 at 3pm (UTC)", "2026-12-03 16:00:00"), ("weekly limit · resets Dec 3, 3pm", "2026-12-03 15:00:00"),
        ("spend limit reached · resets Dec 1", "2026-12-01 00:00:00"), ("resets Jan 2 at 9am", "2027-01-02 09:00:00"),
        ("resets at 18:20", "2026-11-30 18:20:00"), ("available until 18:20 UTC", "2026-11-30 19:20:00"),
        ("resets 3am GMT, then in 5 minutes", "2026-12-01 04:00:00"),
    ],
)  # fmt: skip
def test_a_moment_on_the_clock_is_the_next_one_here_or_in_the_zone_that_is_named(text: str, moment: str) -> None:
    assert end(text) == moment


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("try again in 5 minutes", 300), ("retry after 30s", 30), ("Please retry in 1m30s.", 90), ("try again in 2 hours 5 minutes", 7500),
        ("try again in 3 days 2 hours", 266400), ("in 2 days, 3 hours, and 1 minute.", 183660), ("in 2 months", 5184000),
        ("in 1.5s", 1.5), ("retry after 250ms", 0.25), ("in 1 week", 604800), ("in 1h2m3.5s", 3723.5), ("In 2 HOURS", 7200),
    ],
)  # fmt: skip
def test_a_span_is_counted_from_now_with_all_of_its_parts(text: str, seconds: float) -> None:
    assert ends(text, 1000.0) == 1000.0 + seconds


@pytest.mark.parametrize(
    "text",
    [
        "try later", "in 5 metres", "try again in a moment", "try again at 25:00 PM", "try again at 7", "try again at 18:75",
        "resets 3pm (Mars/Base)", "resets 3pm (../../etc/passwd)", "resets Feb 31 at 3pm", "resets at 13pm", "started at 3pm",
        "resets soon", "resets 3pm XST", "resets " + "9" * 400, "in 5 minuteses", "again Dec 3rd, 0000 6:34 AM",
    ],
)  # fmt: skip
def test_what_is_no_time_or_in_no_zone_that_is_known_says_nothing(text: str) -> None:
    assert end(text) is None


def test_seconds_since_the_epoch_are_taken_as_they_are() -> None:
    assert ends("limit reached|1795608925", 0.0) == 1795608925.0
