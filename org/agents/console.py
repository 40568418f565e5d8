"""A sweep pane's terminal: single keys, the screen, and the pieces from which both pages are built.

Used by the researcher (`sweep.py`) and the chief (`sweep_chief.py`). Pages are lists of lines, so they can be tested
without a terminal; what does not fit is dropped from the least important section first. Without a terminal there are
no keys and no screen.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lab.home import Home
from lab.records import Experiment
from lab.state import State
from lab.text import clean, deviations, figure, interval
from org.agents.space import Value
from org.events import subject_of
from org.printed import bank_text, best_text
from org.status import controller, standing

BEAT = 0.5
"""Least seconds between two frames."""
FAINT = "grey58"
STATUS_STYLES = {
    "working": "bold green", "waiting": "cyan", "idle": FAINT, "paused": "bold yellow", "taken_over": "bold magenta",
    "starting": "yellow",
}  # fmt: skip
OUTCOMES = {
    "promoted": "bold green", "reverted": "red", "removed": "magenta", "improved": "green", "confirming": "cyan",
    "nominated": "cyan", "bought": "magenta", "worse": "red", "crashed": "bold red", "invalid": "bold red", "withdrawn": FAINT,
    "unmerged": "yellow",
}  # fmt: skip


class Keys:
    """Single keys from a terminal in cbreak mode. Use as a context: the terminal is given back as it was."""

    def __init__(self) -> None:
        self.descriptor = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._before: list[int | list[bytes | int]] | None = None

    def __enter__(self) -> Keys:
        if self.descriptor is not None:
            self._before = termios.tcgetattr(self.descriptor)
            tty.setcbreak(self.descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self.descriptor is not None and self._before is not None:
            with contextlib.suppress(termios.error):  # the terminal may be gone
                termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._before)

    def read(self, seconds: float) -> str:
        """The next key, or "" when none came within `seconds`."""
        if self.descriptor is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([self.descriptor], [], [], seconds)
        if not ready:
            return ""
        try:
            typed = os.read(self.descriptor, 1)
        except OSError:
            typed = b""
        if not typed:  # the terminal is gone: never ask it again, or this would spin
            self.descriptor = None
        return typed.decode("ascii", "ignore")


class Screen:
    """The alternate screen of a terminal; does nothing where there is none. Use as a context."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.live: Live | None = None
        self._shown: tuple[object, ...] = ()
        self._drawn = 0.0

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self.live = Live(console=self.console, screen=True, auto_refresh=False)
            self.live.start()
        self._shown = ()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    @property
    def size(self) -> tuple[int, int]:
        """(columns, rows) now."""
        size = self.console.size
        return size.width, size.height

    @property
    def due(self) -> bool:
        """Is there a terminal, and has the last frame stood for a beat?"""
        return self.live is not None and time.monotonic() - self._drawn >= BEAT

    def draw(self, lines: list[Text]) -> None:
        """Show these lines; a frame that would look the same is not drawn."""
        look = (self.size, *((line.plain, tuple(line.spans), line.style) for line in lines))
        self._drawn = time.monotonic()
        if self.live is not None and look != self._shown:
            self._shown = look
            self.live.update(Group(*lines), refresh=True)


@dataclass
class Section:
    """A titled part of a page. `least`: lines it keeps when space is short; `rank`: lower ones get the spare lines
    first.
    """

    title: str
    lines: list[Text]
    least: int = 1
    rank: int = 0


def page(sections: Sequence[Section], width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` cells: every section's least, then more by rank while it fits."""
    wanted = [section for section in sections if section.lines]
    given = {id(section): 0 for section in wanted}
    left = height
    for step in (lambda s: min(s.least, len(s.lines)), lambda s: len(s.lines)):
        for section in sorted(wanted, key=lambda s: s.rank):
            cost = 1 if section.title and not given[id(section)] else 0
            more = min(step(section) - given[id(section)], left - cost)
            if more > 0:
                given[id(section)] += more
                left -= more + cost
    lines: list[Text] = []
    for section in wanted:
        count = given[id(section)]
        if count:
            if section.title:
                lines.append(Text(f"── {section.title} ".ljust(width, "─"), FAINT))
            lines += section.lines[:count]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def headline(agent: str, role: str, doing: str, state: str, text: str, trouble: str) -> Section:
    """Who this is and what it is at; `trouble`, if any, takes the place of the text."""
    first = Text.assemble((agent, "bold"), (f" · {role} · ", FAINT), clean(doing, 80), "  ")
    first.append(state.replace("_", " "), STATUS_STYLES.get(state, ""))
    return Section("", [first, Text(trouble, "bold yellow") if trouble else Text(clean(text, 300), FAINT)], least=2)


def keys_help(*keys: str) -> Section:
    return Section("", [Text(" · ".join(keys), FAINT)], rank=9)


def bar(fraction: float | None, width: int) -> Text:
    """A progress bar of `width` cells."""
    done = round(width * min(max(fraction or 0.0, 0.0), 1.0))
    return Text.assemble(("━" * done, "green"), ("━" * (width - done), "grey23"))


def knob_line(name: str, old: str, new: str, width: int) -> Text:
    """One row of the table of what is tried."""
    return Text.assemble(
        "  ",
        clean(name, 30).ljust(min(22, width // 3)),
        (clean(old, 14).rjust(10), FAINT),
        "  →  ",
        (clean(new, 14), "bold yellow"),
    )


def show(value: Value) -> str:
    """A knob's value for people: three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def nominated_by(experiment: Experiment) -> float | None:
    """Sigmas of the bank by which its first run was better, if that nominated it."""
    for attempt in experiment.attempts:
        if attempt.nomination and attempt.nomination.get("nominated", True):
            value = attempt.nomination.get("sigmas")
            return float(value) if isinstance(value, int | float) else None
    return None


def sigmas_of(experiment: Experiment, minimize: bool) -> float | None:
    """Sigmas of the bank by which its first run was better (negative: worse); None when nothing was compared."""
    nominated = nominated_by(experiment)
    found = experiment.attempts[0].verdict if experiment.attempts and nominated is None else None
    if found and isinstance(found.get("effect"), int | float) and found.get("sigma"):
        return float(found["effect"]) / float(found["sigma"]) * (-1 if minimize else 1)
    return nominated


def outcome_line(experiment: Experiment, minimize: bool) -> Text:
    """What became of an experiment: id, change, value of its run, sigmas against the bank, status."""
    value, sigmas = nominating_value(experiment), sigmas_of(experiment, minimize)
    style = "" if sigmas is None else "green" if sigmas >= 1 else "red" if sigmas <= -1 else ""
    against = "" if sigmas is None else f"{deviations(sigmas, signed=True)} σ"
    shown = "" if value is None else figure(value)
    return Text.assemble(
        (f"{experiment.id} ", FAINT), subject_of(experiment, 30).ljust(30), f" {shown:>8} ", (f"{against:>8} ", style),
        (experiment.status, OUTCOMES.get(experiment.status, "")),
    )  # fmt: skip


def verdict_line(experiment: Experiment) -> Text:
    """What fresh seeds said of an experiment: effect, interval, n."""
    body = experiment.attempts[-1].verdict or {}
    against = f"{interval(body.get('low'), body.get('high'))} n {body.get('n', '?')}"
    return Text.assemble(
        (f"{experiment.id} ", FAINT), subject_of(experiment, 28).ljust(28),
        f" {figure(body.get('effect'), signed=True)} {against} ",
        (experiment.status, OUTCOMES.get(experiment.status, "")),
    )  # fmt: skip


def nominating_value(experiment: Experiment) -> float | None:
    """The metric of its first finished run on split search."""
    return next(
        (run.metric["search"] for run in experiment.runs if run.purpose == "nominate" and "search" in run.metric), None
    )


def standing_section(state: State, bank_wanted: int) -> Section:
    """What is believed: trunk, its bank, the confirmed best."""
    found = standing(state)
    count = len(state.bank().values("audit"))
    filling = f"  bank {count} of {bank_wanted} runs" if count < bank_wanted else ""
    lines = [
        Text.assemble(
            ("trunk ", FAINT),
            state.trunk[:8],
            (f"  {len(state.promotions())} promoted  bank ", FAINT),
            bank_text(found["bank"]),
            (filling, "yellow"),
        ),
        Text.assemble(("best  ", FAINT), (best_text(found["best"]), "green" if found["best"] else FAINT)),
    ]
    return Section("standing", lines, least=2, rank=1)


def served(home: Home) -> str:
    """ "" while a controller serves this home, else what to do."""
    found = controller(home, time.time())
    return "" if found["alive"] else "no controller: requests wait until `orgctl up`"
