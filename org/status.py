"""What is going on, derived from facts and from looking; nothing of it is stored.

`derive` tells an agent's state and is pure. `snapshot` is the whole picture as a JSON-able dictionary, for `orgctl
status`, the board and programs; how it reads is in `org.printed`. `unknown` is an honest answer: a failed probe proves nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from lab import areas
from lab.account import spent
from lab.errors import UserError
from lab.files import read_json
from lab.home import Home
from lab.ledger import Ledger
from lab.process import Identity
from lab.records import Run
from lab.state import State, View
from lab.text import clean
from org import cost
from org import design as designs
from org.agents.base import Seat, Told, load
from org.agents.cli import trying
from org.agents.event import STATES, known, read_events
from org.events import subject_of
from org.grid import Grid
from org.panes import BOARD, PaneState

log = logging.getLogger("orgctl")
OPEN = ("proposed", "queued", "running", "nominated", "confirming")
"""Statuses of an experiment that is still under way."""
CLOCK_SLACK = 1.5
"""Seconds by which an event may seem older than the process that wrote it: the kernel's start times are that coarse."""


@dataclass(frozen=True)
class AgentStatus:
    """One agent now. `since`: seconds since the epoch, None when nobody can tell; `experiment`: the one it has under
    way."""

    agent: str
    state: str
    """What it said (`org.agents.event.STATES`), or taken_over, dead (left or no pane), failed (ended badly), unknown."""
    since: float | None
    text: str
    experiment: str | None
    until: float | None = None
    """When a rate limit ends, in seconds since the epoch; None where that is not known."""


def derive(
    agent: str,
    pane: PaneState | None,
    looked: bool,
    events: list[dict[str, Any]],
    state: State,
    now: float,
    told: Told | None = None,
) -> AgentStatus:
    """An agent's status. Order of trust: the process, a person's intervention, what its backend reads in its records, the agent's
    own last word in this life.

    `looked`: False when tmux could not be asked, which makes the answer unknown. `events`: its last events, oldest
    first; those written before the process in the pane began belong to an earlier life and count for nothing.
    """
    experiment = _under_way(agent, state)
    last = events[-1] if events else None
    said = clean(last.get("text", "")) if last else ""
    when = _since(events, now)
    if not looked:
        return AgentStatus(agent, "unknown", None, "tmux could not be asked", experiment)
    if pane is None:
        return AgentStatus(agent, "dead", when, "has no pane", experiment)
    if pane.dead:
        if last and last["state"] == "paused" and last.get("ended"):  # by the process, for a spent budget: no fault of its own
            return AgentStatus(agent, "paused", when, said, experiment)
        if pane.exit_signal:
            return AgentStatus(agent, "failed", when, f"killed by {pane.exit_signal}", experiment)
        if pane.exit_status:
            return AgentStatus(agent, "failed", when, f"exited with status {pane.exit_status}", experiment)
        return AgentStatus(agent, "dead", when, "left", experiment)
    if agent in state.taken_over:
        return AgentStatus(agent, "taken_over", when, said or "a person has this pane", experiment)
    if told is not None:
        return _waiting(AgentStatus(agent, told.state, told.since, clean(told.text), experiment, told.until), state)
    if last is None or (pane.started is not None and last["time"] < pane.started - CLOCK_SLACK):
        return AgentStatus(agent, "starting", pane.started, "has said nothing yet", experiment)
    word = str(last["state"])
    if word not in STATES or word == "stopped":
        text = "said that it stopped, but its process lives" if word == "stopped" else f"says {clean(word, 30)!r}"
        return AgentStatus(agent, "unknown", when, text, experiment)
    until = last.get("until")
    until = float(until) if isinstance(until, int | float) else None
    return _waiting(AgentStatus(agent, word, when, said, experiment, until), state)


def _waiting(status: AgentStatus, state: State) -> AgentStatus:
    """An idle agent with a run under way waits for it."""
    run = next((run for run in state.open.values() if run.agent == status.agent), None)
    if status.state != "idle" or run is None:
        return status
    return replace(status, state="waiting", since=run.started or run.queued, text=f"{run.id} is {run.status}")


def _since(events: list[dict[str, Any]], now: float) -> float | None:
    """When the last state began: the first of the events in a row that say the same."""
    since = None
    for event in reversed(events):
        if event["state"] != events[-1]["state"]:
            break
        since = min(float(event["time"]), now)
    return since


def _under_way(agent: str, state: State) -> str | None:
    mine = (one.id for one in reversed(state.experiments.values()) if one.agent == agent and one.status in OPEN)
    return next(mine, None)


def staircase(state: State) -> list[dict[str, Any]]:
    """Steps of trunk in order: {experiment, commit, time, value, sigma, n}. `value` is the mean of the step's own
    bank; while that has no run (n 0) it is the step before plus the verdict's effect, or None for the first."""
    steps: list[dict[str, Any]] = []
    split = state.split
    for trunk in state.trunks:
        bank = state.bank(trunk.commit)
        value: float | None = _finite(bank.mean(split))
        experiment = state.experiments.get(trunk.experiment)
        attempt = next((one for one in experiment.attempts if one.commit == trunk.commit), None) if experiment else None
        if value is None and steps and steps[-1]["value"] is not None and attempt and attempt.verdict:
            effect = attempt.verdict.get("effect")
            value = steps[-1]["value"] + effect if isinstance(effect, int | float) else None
        steps.append(
            {
                "experiment": trunk.experiment,
                "commit": trunk.commit,
                "time": trunk.time,
                "value": value,
                "sigma": _finite(bank.sigma(split)),
                "n": len(bank.values(split)),
            }
        )
    return steps


def standing(state: State) -> dict[str, Any]:
    """Baseline, present bank, and confirmed best: {split, baseline, bank, best, staircase}.

    `baseline` and `bank` are {commit, mean, sigma, n}; `best` (None before the first promotion) is the last step of
    trunk as {experiment, agent, what, value, gain, sigmas, percent, measured}: gain is value minus baseline in the
    metric's unit, sigmas and percent are its size by the baseline's sigma and mean, measured tells whether its own
    bank has a run.
    """
    steps = staircase(state)
    first = steps[0] if steps else None
    best = None
    if first and not state.same(first["commit"], state.trunk):
        last = next(step for step in steps if state.same(step["commit"], state.trunk))  # a revert has what it went back to
        experiment = state.experiments.get(last["experiment"])
        gain = last["value"] - first["value"] if last["value"] is not None and first["value"] is not None else None
        best = {
            "experiment": last["experiment"],
            "agent": experiment.agent if experiment else "",
            "what": subject_of(experiment) if experiment else "",
            "value": last["value"],
            "gain": gain,
            "sigmas": abs(gain) / first["sigma"] if gain is not None and first["sigma"] else None,
            "percent": 100 * gain / abs(first["value"]) if gain is not None and first["value"] else None,
            "measured": last["n"] > 0,
        }
    banks = [
        {"commit": step["commit"], "mean": step["value"] if step["n"] else None, "sigma": step["sigma"], "n": step["n"]}
        for step in (steps[0], steps[-1])
    ] if steps else [None, None]  # fmt: skip
    return {"split": state.split, "baseline": banks[0], "bank": banks[1], "best": best, "staircase": steps}


def progress(home: Home, run: Run, now: float) -> dict[str, Any]:
    """How far a running run is: {fraction (0 to 1 or None), phase (starting, training, scoring), seconds}. It is starting until it
    has had its first batch: on a GPU it compiles for half a minute before."""
    counts = read_json(home.runs / run.id / "counts.json") or {}
    done, amount = spent(counts, str(run.budget.get("kind"))), run.budget.get("amount")
    fraction = None
    if isinstance(done, int | float) and isinstance(amount, int | float) and amount > 0:
        fraction = max(0.0, min(1.0, done / amount))
    over = fraction is not None and (counts.get("done") or fraction >= 1)
    phase = "scoring" if over else "training" if fraction else "starting"
    return {"fraction": fraction, "phase": phase, "seconds": max(0.0, now - run.started) if run.started else 0.0}


def slots(home: Home, state: State, now: float) -> list[dict[str, Any]]:
    """Every slot and the run on it: {slot, run, experiment, agent, purpose, seed, fraction, phase, seconds}, run None
    when idle."""
    running = {run.slot: run for run in state.open.values() if run.status == "running"}
    count = state.session.get("slots")
    known = set(range(count if isinstance(count, int) else 0))
    known |= state.slots
    rows: list[dict[str, Any]] = []
    for index in sorted(known):
        run = running.get(index)
        row: dict[str, Any] = {"slot": index, "run": run.id if run else None}
        if run:
            row |= {"experiment": run.experiment, "agent": run.agent, "purpose": run.purpose, "seed": run.seed}
            row |= progress(home, run, now)
        rows.append(row)
    return rows


def look(
    home: Home, seat: Seat | None, agent: str, pane: PaneState | None, looked: bool, state: State, now: float, grid: Grid | None = None
) -> AgentStatus:
    """One agent's status now, from its events and its backend's records; with a `grid` also from what its screen alone tells, of one
    that is at work by its records: an error after which it tries again."""
    told = None
    if seat is not None and pane is not None and not pane.dead:
        try:
            backend = load(seat.backend)
            told = backend.told(seat, pane.pid)
            if grid is not None and told is not None and told.state == "working" and backend.typed:
                told = trying(told, backend.retry(grid.shown(pane)), now)
            if told is not None and told.until is not None and not known(told.until):
                told = replace(told, until=None)  # no clock shows it
        except Exception as error:  # whatever it is: a backend, which may be another package's, reads what an agent lets it see
            _note(agent, seat.backend, type(error).__name__)
            told = Told("unknown", None, f"the records of {seat.backend} cannot be read ({type(error).__name__})")
    return derive(agent, pane, looked, read_events(home, agent, 20), state, now, told)


@lru_cache(maxsize=100)
def _note(agent: str, backend: str, error: str) -> None:
    """Say once in the controller's log where an error came from: it is looked again every second."""
    log.info("the records of %s (%s) cannot be read: %s", agent, backend, error, exc_info=True)


def seats_of(home: Home) -> dict[str, Seat]:
    """Every agent's seat by name; empty while there is no valid session."""
    try:
        changed = home.settings.stat().st_mtime_ns
    except OSError:
        return {}
    return _seats(home, changed)


@lru_cache(maxsize=8)
def _seats(home: Home, changed: int) -> dict[str, Seat]:
    try:
        return {seat.agent: seat for seat in designs.read(home).design.seats(home)}
    except UserError:
        return {}


def agents(home: Home, grid: Grid | None, state: State, now: float) -> list[dict[str, Any]]:
    """Every agent that has a pane or a folder: AgentStatus as a dictionary, with `role` ("" without a pane), `backend`, `pane` and
    `cost` (`org.cost.read`)."""
    panes = grid.observe() if grid else None
    seated = [name for name in panes or {} if name != BOARD]
    seats = seats_of(home)
    try:
        folders = sorted(path.name for path in home.agents.iterdir() if path.is_dir())
    except OSError:
        folders = []
    found = []
    for name in dict.fromkeys([*seated, *folders]):
        pane = (panes or {}).get(name)
        status = look(home, seats.get(name), name, pane, panes is not None, state, now, grid)
        found.append(
            {
                **asdict(status),
                "role": pane.role if pane else "",
                "backend": seats[name].backend if name in seats else "",
                "pane": pane.pane_id if pane else None,
                "cost": cost.read(home, name),
            }
        )
    return found


def controller(home: Home, now: float) -> dict[str, Any]:
    """{alive, pid, heartbeat_age (seconds), trouble {duty: why it fails}} of the controller that serves this home."""
    identity, said = Identity.recorded(home.controller), read_json(home.controller) or {}
    beat, trouble = said.get("heartbeat"), said.get("trouble")
    if identity is None or not isinstance(beat, int | float):
        return {"alive": False, "pid": None, "heartbeat_age": None, "trouble": {}}
    alive = identity.alive()
    known = {clean(name, 40): clean(why, 300) for name, why in trouble.items()} if alive and isinstance(trouble, dict) else {}
    return {"alive": alive, "pid": identity.pid, "heartbeat_age": max(0.0, now - beat), "trouble": known}


def task_of(home: Home) -> dict[str, Any]:
    """{name, title, metric {name, unit, direction}, scale, scale_title} from the pinned task; empty texts where it is
    missing."""
    task = read_json(home.task) or {}
    metric, scale = task.get("metric"), task.get("scale")
    metric = metric if isinstance(metric, dict) else {}
    scale = scale if isinstance(scale, dict) else {}
    plain = {key: clean(metric.get(key, ""), 40) for key in ("name", "unit", "direction")}
    titles = {"scale": clean(scale.get("name", ""), 40), "scale_title": clean(scale.get("title", ""), 80)}
    names = {"name": clean(task.get("name", ""), 40), "title": clean(task.get("title", ""), 80)}
    return {**names, "metric": plain, **titles}


def believed(state: State) -> dict[str, Any]:
    """The part of a snapshot that follows from the ledger alone, so that it may be kept until the ledger grows."""
    return {
        "trunk": state.trunk,
        **standing(state),
        "queued": sum(run.status == "queued" for run in state.open.values()),
        "experiments": dict(state.tally().most_common()),
        "runs": dict((state.ends + Counter(run.status for run in state.open.values())).most_common()),
        "alarms": [clean(text, 300) for text in state.alarms[-5:]],
        "ideas": [f"{one.id} {clean(one.hypothesis, 100)}" for one in areas.ideas(state)],
        "unsealed": clean(state.unsealed, 200),
    }


def picture(home: Home, team: list[dict[str, Any]], state: State, facts: dict[str, Any], now: float) -> dict[str, Any]:
    """The whole of `snapshot`, from a folded state, what is `believed` by it, and `agents` that were looked at."""
    session = state.session
    keys = ("name", "task", "scale", "design", "program", "org_hash", "device")
    began = state.trunks[0].time if state.trunks else None
    return {
        "session": {**{key: session.get(key, "") for key in keys}, "home": str(home.root), "began": began,
                    "seconds": max(0.0, now - began) if began else None},
        "task": task_of(home),
        "controller": controller(home, now),
        "slots": slots(home, state, now),
        "agents": team,
        **facts,
    }  # fmt: skip


def snapshot(home: Home, grid: Grid | None) -> dict[str, Any]:
    """What is going on, JSON-able. Without a grid (no tmux) agents are unknown. Raises UserError when there is no
    ledger."""
    ledger = Ledger(home.ledger)
    try:
        view = View(ledger)
        view.refresh()
        now = time.time()
        return picture(home, agents(home, grid, view.state, now), view.state, believed(view.state), now)
    finally:
        ledger.close()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
