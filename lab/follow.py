"""Following a run: a bar on a terminal, and whether there is anything left to wait for. Called by `exp run` and `exp wait`.

It looks at the ledger and at what the feeder has counted, and starts and stops nothing: who lets go costs nothing.
"""

from __future__ import annotations

import time

from lab.account import spent
from lab.files import read_json
from lab.home import Home
from lab.records import Experiment, Run
from lab.state import State, View
from lab.text import figure, printable

VERDICT_SECONDS = 5.0
"""How long `exp run` waits, after a run has ended, for what the laboratory makes of it: a bank may still be missing."""


def under_way(item: Experiment) -> str:
    """What is still to come, in words: runs of its own, or what the laboratory makes of them, for which it may need other runs (a bank
    that is not full, trunk's frontier); "" when there is nothing to wait for."""
    if any(not one.over for one in item.runs):
        return "still has runs going on"
    return "" if _judged(item) else "still waits for the laboratory, which may need baseline runs first,"


def _judged(item: Experiment) -> bool:
    """Has the laboratory said what it makes of the runs so far?"""
    attempt = item.attempt
    if attempt is None or attempt.verdict or attempt.apart or item.withdrawn is not None:
        return True
    return bool(attempt.nomination) and not attempt.confirm_ordered


def follow(home: Home, view: View, identity: str) -> Experiment | None:
    """A progress bar over the budget until the run is over, and the line it ended with. Returns its experiment once the laboratory has
    said what it makes of it, or is late with that; None when the person stopped watching, which stops nothing."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    view.refresh()
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
        ) as bar:
            shown = bar.add_task(f"{identity} queued", total=1.0)
            while not view.state.runs[identity].over:
                counts = read_json(home.runs / identity / "counts.json")
                budget = view.state.runs[identity].budget
                done = (spent(counts, budget["kind"]) or 0.0) / budget["amount"]
                bar.update(
                    shown, completed=min(1.0, done), description=f"{identity} {view.state.runs[identity].status}"
                )
                time.sleep(0.3)
                view.refresh()
    except KeyboardInterrupt:
        print(f"\nno longer watching; {identity} goes on. orgctl exp wait {view.state.runs[identity].experiment}")
        return None
    ended = view.state.runs[identity]
    values = ", ".join(f"{split} {figure(value)}" for split, value in ended.metric.items())
    print(printable(f"{identity} {ended.status} {values}{ended.reason}"))
    deadline = time.monotonic() + VERDICT_SECONDS
    while not _said(view.state, ended) and time.monotonic() < deadline:
        time.sleep(0.2)
        view.refresh()
    return view.state.experiments[ended.experiment]


def _said(state: State, run: Run) -> bool:
    """Has the laboratory said anything of the experiment of this run?"""
    attempt = state.experiments[run.experiment].attempt
    return attempt is not None and bool(attempt.nomination or attempt.verdict)
