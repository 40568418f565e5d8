"""The board, window 0 of the grid: what is believed, what runs, who does what, what happened. `python -I -m org.board`.

Reads facts and looks; never writes. It must cost next to nothing while runs share the machine: the ledger is folded
only when its last id moved, panes are looked at every few seconds, and a frame that would be the same is not drawn.
With `--once`, or without a terminal, it prints one frame and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import termios
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from lab.errors import UserError
from lab.home import Home
from lab.ledger import Ledger
from lab.state import State, View
from lab.text import clean
from org import chart, printed, status
from org.events import describe, subject_of
from org.grid import Grid

BEAT = 1.0
"""Seconds between looks, and between frames: what is shown of an agent is right within two."""
WIDE, TALL = 140, 30
"""From this size on sections stand in boxes side by side; below they are stacked."""
EVENTS = 60
OUTCOMES = {
    "promoted": "bold green", "reverted": "red", "removed": "magenta", "improved": "green", "confirming": "cyan",
    "nominated": "cyan", "running": "yellow", "queued": "bright_black", "proposed": "bright_black", "bought": "magenta",
    "neutral": "white", "worse": "red", "inconclusive": "white", "invalid": "bold red", "crashed": "bold red",
    "withdrawn": "bright_black", "unmerged": "yellow",
}  # fmt: skip
"""Colour of an experiment's status."""
FAINT = "grey58"


@dataclass
class Watch:
    """What the board knows, kept up to date by `look`."""

    home: Home
    grid: Grid | None
    view: View | None = None
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=EVENTS))
    notice: str = ""
    """Why what is shown may be old; "" when it is not."""
    agents: list[dict[str, Any]] = field(default_factory=list)
    facts: tuple[int, dict[str, Any]] | None = None
    """What `status.believed` said, and the last fact it knew of."""

    @property
    def state(self) -> State:
        return self.view.state if self.view else State()

    def look(self, now: float) -> dict[str, Any]:
        """The picture now (as `status.snapshot`). A ledger that cannot be read leaves the last one and a notice."""
        try:
            self._follow()
            self.notice = ""
        except UserError as error:
            self._forget(clean(error))
        except sqlite3.Error as error:
            self._forget(f"the ledger cannot be read now ({error}): this is what it said before")
        except (KeyError, TypeError, ValueError) as error:
            self.notice = f"the ledger holds a fact that this version cannot read ({type(error).__name__} {error})"
        with contextlib.suppress(UserError):
            self.agents = status.agents(self.home, self.grid, self.state, now)
        if self.facts is None or self.facts[0] != self.state.last:
            self.facts = self.state.last, status.believed(self.state)
        return status.picture(self.home, self.agents, self.state, self.facts[1], now)

    def _forget(self, notice: str) -> None:
        """Keep the state but not the connection: the file may have been replaced."""
        self.notice = notice
        if self.view is not None:
            self.view.ledger.close()

    def _follow(self) -> None:
        """Fold in what is new. A short probe comes first: the ledger itself waits up to 20 s for a lock."""
        if not self.home.ledger.is_file():
            raise UserError(f"no ledger at {self.home.ledger}: run `orgctl up`")
        probe = sqlite3.connect(f"{self.home.ledger.as_uri()}?mode=rw", uri=True, timeout=0.2)
        try:
            last = int(probe.execute("SELECT coalesce(max(id), 0) FROM facts").fetchone()[0])
        finally:
            probe.close()
        if self.view is None or self.notice or last < self.view.state.last:
            self._forget("")
            self.view = View(Ledger(self.home.ledger))
            self.events.clear()
        if last != self.view.state.last:
            for fact in self.view.refresh()[-4 * EVENTS :]:
                line = describe(fact, self.view.state) if fact.kind != "start" else None  # slots show what runs
                if line:
                    self.events.append((fact.time, line))


# sections: each a list of lines for a width and at most so many rows


def start(text: str, style: str) -> Text:
    """A line that begins in a style and goes on without it."""
    return Text(no_wrap=True, overflow="ellipsis").append(text, style)


def head(found: dict[str, Any]) -> Text:
    """Task, scale, metric, trunk, age, and whether anybody is in charge."""
    session, task = found["session"], found["task"]
    metric = task["metric"]
    better = {"minimize": "lower is better", "maximize": "higher is better"}.get(metric["direction"], "")
    line = start(clean(session["name"] or "no session", 40), "bold")
    control = found["controller"]  # comes first: a narrow screen cuts the end
    if not control["alive"]:
        line.append("  ·  no controller: `orgctl up`", "bold red")
    elif control["heartbeat_age"] > 60:
        line.append(f"  ·  controller silent for {printed.span(control['heartbeat_age'])}", "bold red")
    else:
        line.append(f"  ·  begun {printed.span(session['seconds'])} ago", "green")
    for words in (task["title"], f"scale {task['scale']}" if task["scale"] else ""):
        line.append(f"  ·  {words}" if words else "")
    line.append(f"  ·  design {clean(session['design'], 30)}" if session["design"] else "")
    if metric["name"]:
        line.append(f"  ·  {metric['name']} ({metric['unit']}, {better})", FAINT)
    line.append(f"  ·  trunk {found['trunk'][:7]}" if found["trunk"] else "", FAINT)
    return line


def standing(found: dict[str, Any], width: int, rows: int) -> list[Text]:
    """Baseline bank, confirmed best, and the staircase of trunk."""
    best, bank = found["best"], found["bank"]
    first = start("baseline  ", FAINT).append(printed.bank_text(found["baseline"]), "bold")
    lines = [
        first.append(f"  on {found['split']}", FAINT),
        start("best      ", FAINT).append(printed.best_text(best), "bold green" if best else "default"),
    ]
    if best and bank and bank["commit"] != found["baseline"]["commit"]:
        lines.insert(1, Text.assemble(("bank now  ", FAINT), printed.bank_text(bank)))
    counts = start("tried     ", FAINT)
    for name, number in found["experiments"].items():
        counts.append(f"{number} ", "bold").append(f"{clean(name, 20)}  ", OUTCOMES.get(name, ""))
    lines.append(counts)
    ideas = found["ideas"]
    more = f"  and {len(ideas) - 1} more" if len(ideas) > 1 else ""
    lines += [Text(f"unanswered idea  {text}{more}", "yellow") for text in ideas[:1]]
    lines += [Text(f"unsealed  {text}", "yellow") for text in (found["unsealed"],) if text]
    lines += [Text(f"trouble   {text}", "bold red") for text in found["controller"]["trouble"].values()]
    lines += [Text(f"alarm     {text}", "bold red") for text in found["alarms"][-1:]]
    height = rows - len(lines)
    if height >= 3 and width >= 40:
        steps = [(step["time"], step["value"]) for step in found["staircase"] if step["value"] is not None]
        lines += [Text(line, "green") for line in chart.staircase(steps, time.time(), width, min(height, 9))]
    return lines[:rows]


def slots(found: dict[str, Any], width: int, rows: int) -> list[Text]:
    """One line a slot: a bar while something runs."""
    lines = []
    bar_width = max(8, min(30, width // 4))
    for row in found["slots"]:
        line = start(f"{row['slot']:>2} ", FAINT)
        if row["run"] is None:
            line.append("·" * bar_width, "grey30").append(" idle", FAINT)
        else:
            done = round((row["fraction"] or 0) * bar_width)
            line.append("━" * done, "green").append("━" * (bar_width - done), "grey30")
            line.append(f" {row['fraction']:>4.0%} " if row["fraction"] is not None else "   – ")
            line.append(f"{row['run']} ", "bold").append(f"{row['experiment']} {row['agent']} {row['purpose']} ")
            line.append(f"seed {row['seed']} · {row['phase']} · {printed.span(row['seconds'])}", FAINT)
        lines.append(line)
    if lines and found["queued"]:
        lines[0].append(f"   +{found['queued']} queued", FAINT)
    return _cut(lines, rows) or [Text("no slot has been used yet", FAINT)]


def agents(found: dict[str, Any], width: int, rows: int, now: float) -> list[Text]:
    """One line an agent: what it is doing, since when."""
    lines = []
    wide = max((len(row["agent"]) for row in found["agents"]), default=5)
    for row in found["agents"]:
        style = printed.STYLES.get(row["state"], "")
        line = start("● ", style).append(f"{row['agent']:<{wide}} ", "bold")
        line.append(f"{printed.in_words(row['state'], row.get('until'), now):<10} ", style)
        line.append(f"{printed.span(now - row['since']) if row['since'] else '':>8} ", FAINT)
        line.append(f"{row['experiment'] or '':<6}").append(row["text"])
        lines.append(line)
    return _cut(lines, rows) or [Text("nobody yet", FAINT)]


def _cut(lines: list[Text], rows: int) -> list[Text]:
    """At most so many lines; the last says how many are missing."""
    if len(lines) <= rows:
        return lines
    return [*lines[: rows - 1], Text(f"and {len(lines) - rows + 1} more", FAINT)]


def experiments(state: State, width: int, rows: int) -> list[Text]:
    """A line for each of the last experiments, newest first, under a headline."""
    roomy = width >= 120
    what = max(16, min(44, width - 62))
    title = f"{'id':<7}{'agent':<8}{'what':<{what}} {'value':>9} {'against bank':>21}  {'status':<13}"
    lines = [Text(title + ("hypothesis" if roomy else ""), FAINT)]
    for experiment in islice(reversed(state.experiments.values()), max(0, rows - 1)):
        value, gap = chart.measured(experiment, state)
        line = start(f"{experiment.id:<7}", "bold").append(f"{clean(experiment.agent, 7):<8}")
        line.append(f"{subject_of(experiment, what):<{what}} ").append(f"{value:>9} {gap:>21}  ")
        line.append(f"{experiment.status:<13}", OUTCOMES.get(experiment.status, ""))
        if roomy:
            line.append(clean(experiment.hypothesis, 160), FAINT)
        lines.append(line)
    return lines if len(lines) > 1 else [Text("no idea has been proposed yet", FAINT)]


def news(events: deque[tuple[float, str]], rows: int) -> list[Text]:
    """The last events, newest last."""
    lines = []
    for when, text in list(events)[-rows:] if rows > 0 else []:
        good = " promoted:" in text or " improved:" in text
        loud = "bold red" if text.startswith("ALARM") else "green" if good else ""
        lines.append(start(time.strftime("%H:%M:%S ", time.localtime(when)), FAINT).append(text, loud))
    return lines or [Text("nothing has happened yet", FAINT)]


# frames


def frame(watch: Watch, found: dict[str, Any], columns: int, rows: int, now: float) -> RenderableType:
    """The whole screen."""
    title = start("orgctl  ", "bold cyan").append_text(head(found))
    if watch.notice:
        title = start(f"! {watch.notice}", "bold yellow")
    if columns < WIDE or rows < TALL:
        return _stacked(watch, found, title, columns, rows, now)
    room = rows - 3 - 14 - 4  # for slots and agents, after the head, eight experiments, four events and borders
    team = min(len(found["agents"]) or 1, max(room - len(found["slots"]), room // 2))
    busy = min(len(found["slots"]) or 1, room - team)
    top = max(10, busy + team + 4)
    left, right = columns // 2, columns - columns // 2
    table = min(16, max(4, rows - 3 - top - 8)) + 2
    page, upper, side = Layout(), Layout(size=top), Layout()
    side.split_column(
        Layout(_box("slots", slots(found, right - 4, busy)), size=top - team - 2),
        Layout(_box("agents", agents(found, right - 4, team, now))),
    )
    upper.split_row(Layout(_box("standing", standing(found, left - 4, top - 2)), size=left), side)
    happened = rows - 3 - top - table
    page.split_column(
        Layout(Panel(title, box=box.ROUNDED, border_style="cyan"), size=3),
        upper,
        Layout(_box("experiments", experiments(watch.state, columns - 4, table - 2)), size=table),
        Layout(_box("what happened", news(watch.events, happened - 2))),
    )
    return page


def _stacked(watch: Watch, found: dict[str, Any], title: Text, columns: int, rows: int, now: float) -> RenderableType:
    """Sections below each other without boxes, cut to what fits: standing and slots first."""
    left = rows - 1
    parts: list[Text] = [title]
    sizes = {"standing": 4, "slots": min(4, len(found["slots"]) or 1), "agents": min(6, len(found["agents"]) or 1)}
    rest = max(0, left - sum(sizes.values()) - 5)
    sizes["experiments"] = min(rest - rest // 3, len(watch.state.experiments) + 1)
    sizes["news"] = rest - sizes["experiments"]
    made = {
        "standing": standing(found, columns, 4),
        "slots": slots(found, columns, sizes["slots"]),
        "agents": agents(found, columns, sizes["agents"], now),
        "experiments": experiments(watch.state, columns, sizes["experiments"]) if sizes["experiments"] > 1 else [],
        "news": news(watch.events, sizes["news"]),
    }
    for name, lines in made.items():
        if lines and len(parts) < rows - 1:
            parts.append(Text(f"── {name} ".ljust(columns, "─"), "grey37"))
            parts += lines
    for line in parts:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*parts[:rows])


def _box(title: str, lines: list[Text]) -> Panel:
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Panel(Group(*lines), title=title, title_align="left", box=box.ROUNDED, border_style="grey42")


def _grid(home: Home) -> Grid | None:
    """The grid this process sits in, told by tmux's own variable; None outside one."""
    socket = Path(os.environ.get("TMUX", "").split(",")[0]).name
    if not socket.startswith("orgctl-"):
        return None
    with contextlib.suppress(UserError):
        return Grid(socket.removeprefix("orgctl-"), home)
    return None


@contextlib.contextmanager
def _quiet_keys() -> Any:
    """Keys typed on the board are not echoed into it; Ctrl-C does not end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        before = termios.tcgetattr(0)
    except termios.error:
        yield
        return
    quiet = termios.tcgetattr(0)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(0, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSANOW, before)


def _mark(found: dict[str, Any], now: float) -> str:
    """What a frame shows of a picture, at the precision at which it shows it."""
    runs = [
        (row["run"], round(100 * (row.get("fraction") or 0)), printed.span(row.get("seconds"))) for row in found["slots"]
    ]
    team = [(row["agent"], row["state"], row["text"], row["experiment"], row["since"], row.get("until")) for row in found["agents"]]
    ages = [printed.span(now - row["since"]) for row in found["agents"] if row["since"]]
    return repr((runs, team, ages, head(found).plain))


def watch_forever(watch: Watch, console: Console) -> None:
    """Draw a frame a second, and at once when the size changes; skip those that would look the same."""
    with _quiet_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        shown: object = None
        while True:
            now = time.time()
            size = shutil.get_terminal_size()
            found = watch.look(now)
            mark = _mark(found, now), size, watch.notice, watch.state.last
            if mark != shown:
                live.update(frame(watch, found, size.columns, size.lines, now), refresh=True)
                shown = mark
            deadline = time.monotonic() + BEAT
            while time.monotonic() < deadline and shutil.get_terminal_size() == size:
                time.sleep(BEAT / 4)
            with contextlib.suppress(termios.error):
                termios.tcflush(0, termios.TCIFLUSH)


def main() -> int:
    parser = argparse.ArgumentParser(description="The board of a session (started by `orgctl up` in window 0).")
    parser.add_argument("--once", action="store_true", help="print one frame and end")
    options = parser.parse_args()
    try:
        home = Home.find()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    watch = Watch(home, _grid(home))
    console = Console(highlight=False)
    if options.once or not console.is_terminal:
        now = time.time()
        console.print(frame(watch, watch.look(now), console.width, console.height, now), height=console.height)
        return 0
    with contextlib.suppress(BrokenPipeError):
        watch_forever(watch, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
