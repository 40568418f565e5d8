"""When a provider's limit ends, as the sentence with which it sent an agent away says it. Pure.

Vendors name it in three ways: seconds since the epoch (`usage limit reached|1795608925`), a span (`try again in 2 hours 5 minutes`), and a
moment on the clock (`resets 3:45pm (Europe/Berlin)`, `try again at Dec 3rd, 2026 6:34 AM`), which without a zone is meant on this machine.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

SPANS = {
    "ms": 0.001, "millisecond": 0.001, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600,
    "hour": 3600, "d": 86400, "day": 86400, "w": 604800, "week": 604800, "month": 30 * 86400,
}  # fmt: skip
"""Seconds of a unit; all but the one-letter ones may have an s."""
NUMBER = r"\d+(?:\.\d+)?"
UNIT = r"(?:milliseconds?|months?|minutes?|mins?|ms|m|seconds?|secs?|s|hours?|hrs?|h|days?|d|weeks?|w)(?![a-z])"
PART = re.compile(rf"({NUMBER})\s*({UNIT})", re.IGNORECASE)
IN = re.compile(rf"\b(?:in|after)\s+((?:{NUMBER}\s*{UNIT}[\s,]*(?:and\s+)?)+)", re.IGNORECASE)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
AT = re.compile(
    r"\b(?:resets?|again|until|available|renews?)\b:?\s+(?:(?:at|on)\s+)?"
    rf"(?:(?P<month>{'|'.join(MONTHS)})[a-z]*\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(?P<year>\d{{4}})\b)?(?:,?\s+(?:at\s+)?|(?=\W|$)))?"
    r"(?:(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::\d{2})?)?(?:\s*(?P<half>[ap])\.?m\b\.?)?"
    r"(?:\s*\((?P<zone>[^()\s]+)\)|\s+(?P<short>(?-i:UTC|GMT|[A-Z]{1,3}[SD]T|CES?T))\b)?)?",
    re.IGNORECASE,
)


def ends(text: str, now: float) -> float | None:
    """Seconds since the epoch at which the limit of this text ends, which was said at `now`. None: it does not say so, or in a way that
    is not known."""
    if found := re.search(r"\b(1[0-9]{9})\b", text):
        return float(found[1])
    for found in AT.finditer(text):
        with contextlib.suppress(ValueError, KeyError, OSError):  # no such day, no such zone
            if moment := _clock(found, now):
                return moment
    if found := IN.search(text):
        return now + sum(float(count) * _unit(unit.lower()) for count, unit in PART.findall(found[1]))
    return None


def _unit(word: str) -> float:
    return SPANS[word] if word in SPANS else SPANS[word.removesuffix("s")]


def _clock(found: re.Match[str], now: float) -> float | None:
    """The moment that a match of AT names: the next such one. Raises ValueError, KeyError or OSError for one that there is not."""
    hour, minute, half = int(found["hour"] or 0), int(found["minute"] or 0), (found["half"] or "").lower()
    if found["month"] is None and not (half or found["minute"]):
        return None  # a number alone is no time
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == "p" else 0)
    zone = _zone(found["zone"] or found["short"])
    today = datetime.fromtimestamp(now, zone)
    moment = today.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if found["month"] is None:
        # said in the course of that very minute it means the end of it
        return moment.timestamp() + 60 if 0 <= now - moment.timestamp() < 60 else _next_day(moment, now)
    month, day = MONTHS.index(found["month"].lower()) + 1, int(found["day"])
    moment = moment.replace(year=int(found["year"] or today.year), month=month, day=day)
    if found["year"] is None and moment.timestamp() < now - 86400:
        moment = moment.replace(year=today.year + 1)
    return moment.timestamp()


def _next_day(moment: datetime, now: float) -> float:
    return (moment if moment.timestamp() > now else moment + timedelta(days=1)).timestamp()


def _zone(name: str | None) -> tzinfo | None:
    """None: this machine's."""
    if name is None:
        return None
    return UTC if name.upper() in ("UTC", "GMT", "Z") else ZoneInfo(name)
