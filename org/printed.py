"""How what is going on reads: words and colours for `orgctl status`, the board, digests and consoles. Nothing here looks or derives.

`render` prints what `org.status.snapshot` has found.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.text import clean, deviations, figure
from org import cost

STYLES = {
    "starting": "yellow", "working": "green", "waiting": "cyan", "idle": "bright_black", "paused": "yellow",
    "needs_person": "bold orange1", "rate_limited": "yellow",
    "taken_over": "magenta", "dead": "red", "failed": "bold red", "unknown": "bright_black",
}  # fmt: skip


def in_words(state: str, until: float | None, now: float) -> str:
    """A state as people read it: with the time until which a rate limit holds, where that is known (seconds since the epoch)."""
    words = state.replace("_", " ")
    if state != "rate_limited" or until is None:
        return words
    form = "%H:%M:%S" if until - now < 3600 else "%H:%M" if until - now < 86400 else "%d %b %H:%M"
    return f"{words} until {time.strftime(form, time.localtime(until))}"


def span(seconds: float | None) -> str:
    """A time in two units at most: 45 s, 12 min, 3 h 20 min."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def bank_text(bank: dict[str, Any] | None) -> str:
    """2.4498 ± 0.0020 (n 4)"""
    if not bank or bank["mean"] is None:
        return "not measured yet"
    spread = f" ± {figure(bank['sigma'])}" if bank["sigma"] is not None else ""
    return f"{figure(bank['mean'])}{spread} (n {bank['n']})"


def best_text(best: dict[str, Any] | None) -> str:
    """2.4311  -0.76 %, 9.4 sigma  E0004 r1 MATRIX_LR=0.03"""
    if not best:
        return "nothing confirmed yet"
    parts = [figure(best["value"])]
    if best["percent"] is not None:
        parts.append(f"{best['percent']:+.2f} %" + (f", {deviations(best['sigmas'])} sigma" if best["sigmas"] else ""))
    if not best["measured"]:
        parts.append("(its own bank is being measured)")
    return "  ".join([*parts, f"{best['experiment']} {best['agent']}", best["what"]])


def render(found: dict[str, Any], console: Console | None = None) -> None:
    """Print a snapshot for people."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file has no edge to wrap at
    session, task, now = found["session"], found["task"], time.time()
    alive = found["controller"]["alive"]
    head = Text.assemble((clean(session["name"]), "bold"), f"  {task['title']}  scale {task['scale']}  ")
    if alive:
        head.append(f"begun {span(session['seconds'])} ago", "green")
    else:
        head.append("not running: `orgctl up` goes on", "red")
    console.print(head)
    metric = f"{task['metric']['name']} ({task['metric']['unit']}) on {found['split']}"
    console.print(Text(f"trunk {found['trunk'][:7]}  {metric}"))
    console.print(Text(f"baseline  {bank_text(found['baseline'])}"))
    console.print(Text(f"best      {best_text(found['best'])}"))
    counts = ", ".join(f"{count} {clean(name)}" for name, count in found["experiments"].items())
    console.print(Text(f"tried     {counts or 'none yet'}; {found['queued']} runs queued"))
    for row in found["slots"]:
        console.print(Text(f"slot {row['slot']}  {slot_text(row)}"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    spent = cost.total({row["agent"]: row.get("cost") for row in found["agents"]})
    columns = ["agent", "role", "state", "experiment", *(["cost"] if spent else []), "what it says"]
    for column in columns:
        table.add_column(column, no_wrap=column != "what it says")
    for row in found["agents"]:
        state = Text(in_words(row["state"], row.get("until"), now), STYLES.get(row["state"], ""))
        used = [cost.said(row.get("cost"))] if spent else []
        table.add_row(row["agent"], row["role"], state, row["experiment"] or "", *used, Text(row["text"]))
    console.print(table)
    if spent:
        console.print(Text(f"cost      {spent}"))
    for text in found["ideas"]:
        console.print(Text(f"idea of a person, unanswered  {text}", "yellow"))
    if found["unsealed"]:
        console.print(Text(f"unsealed  {found['unsealed']}", "yellow"))
    for text in found["controller"]["trouble"].values():
        console.print(Text(f"trouble  {text}", "bold red"))
    for text in found["alarms"]:
        console.print(Text(f"alarm  {text}", "bold red"))


def slot_text(row: dict[str, Any]) -> str:
    """What runs on a slot, in words."""
    if row["run"] is None:
        return "idle"
    far = "" if row["fraction"] is None else f" {row['fraction']:.0%}"
    who = f"{row['experiment']} {row['agent']} " if row["experiment"] else ""
    return f"{row['run']} {who}{row['purpose']} seed {row['seed']}: {row['phase']}{far}, {span(row['seconds'])}"
