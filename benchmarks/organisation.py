"""Whole runs of the main job: what an organisation finds in a given time, and what running it costs. Prints tables.

    python benchmarks/organisation.py --minutes 15 --runs 3          # the figures of docs/first-run.md
    python benchmarks/organisation.py --minutes 10 --task tests/toytask
    python benchmarks/organisation.py --minutes 20 --task mytask --scale d4    # on as many GPUs as there are

Every run is `orgctl up` in a fresh folder, left alone for the given time and stopped. Improvement is measured by fresh runs: the
bank of the last trunk against the bank of the first. CPU shares are of one core, from the processes' own accounts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from lab.figures import idle_share
from lab.files import read_json
from lab.home import Home
from lab.ledger import Ledger
from lab.records import PURPOSES
from lab.state import State, fold
from lab.verdict import sigma_interval, welch
from tasks.spec import Task

ORGCTL = [sys.executable, "-I", "-c", "import orgctl; orgctl.main()"]


def facts(home: Home) -> State:
    ledger = Ledger(home.ledger)
    try:
        return fold(ledger.facts())
    finally:
        ledger.close()


def processes(home: Home, name: str) -> dict[str, psutil.Process]:
    """Controller, board and agents of a session that is up."""
    found = {"controller": psutil.Process(int((read_json(home.controller) or {})["pid"]))}
    command = ["tmux", "-L", f"orgctl-{name}", "list-panes", "-a", "-F", "#{@agent} #{pane_pid}"]
    for row in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        agent, pid = row.split()
        found[agent] = psutil.Process(int(pid))
    return found


def cpu_seconds(watched: dict[str, psutil.Process]) -> dict[str, float]:
    """Of the processes themselves: what their children used is left out, since the controller's children are the runs."""
    return {name: sum(process.cpu_times()[:2]) for name, process in watched.items()}


def stages(accounts: list[dict[str, Any]]) -> dict[str, float]:
    """Mean seconds of a run by what it did: start-up, training from its first batch on, evaluation, and the rest around them."""
    rows = []
    for account in accounts:
        startup, training, scoring = (float(account[f"{name}_seconds"] or 0) for name in ("startup", "train", "score"))
        rows.append((startup, training - startup, scoring, float(account["wall_seconds"]) - training - scoring))
    means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    return dict(zip(("start-up", "training", "evaluation", "rest"), means, strict=True)) if rows else {}


def machine(accounts: list[dict[str, Any]]) -> dict[str, str]:
    """What the runs say of device and speed: medians with the range, and how often somebody else was on the GPU."""

    def spread(values: list[float], unit: float, digits: int) -> str:
        if not values:
            return "unknown"
        return f"{statistics.median(values) / unit:.{digits}f} ({min(values) / unit:.{digits}f} to {max(values) / unit:.{digits}f})"

    def known(name: str) -> list[float]:
        return [float(account[name]) for account in accounts if account.get(name) is not None]

    counted = [account for account in accounts if account.get("tokens")]
    speeds = [account["tokens"] / (account["train_seconds"] - (account["startup_seconds"] or 0)) for account in counted]
    rows = {
        "device": " / ".join(sorted({str(account["device"]) for account in accounts})),
        "tokens/s from the first batch on, thousands": spread(speeds, 1e3, 0),
        "FLOPs a run, 1e15": spread(known("flops"), 1e15, 3),
        "clock, MHz": spread(known("clock_mhz"), 1, 0),
        "memory of the host a run, GiB": spread(known("peak_memory_bytes"), 2**30, 1),
    }
    if known("peak_device_memory_bytes"):
        contended = sum(bool(account.get("contended")) for account in accounts)
        rows["memory of the device a run, GiB"] = spread(known("peak_device_memory_bytes"), 2**30, 1)
        rows["runs beside somebody else on the GPU"] = f"{contended} of {len(accounts)}"
    return rows


def one(folder: Path, minutes: float, options: argparse.Namespace) -> dict[str, Any]:
    """One session from nothing; returns its figures (seconds, shares, metric values)."""
    name = f"bench-{os.getpid()}-{folder.name}"
    home = Home(folder)
    folder.mkdir(parents=True)
    init = [*ORGCTL, "init", str(folder), "--task", options.task, "--name", name, "--design", options.design]
    if options.scale:
        init += ["--scale", options.scale]
    if options.slots:
        init += ["--slots", str(options.slots)]
    began = time.time()
    subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
    prepared = time.time()
    subprocess.run([*ORGCTL, "up", str(folder), "--detach"], check=True, stdout=subprocess.DEVNULL)
    ready = time.time()
    watched = processes(home, name)
    before, looked = cpu_seconds(watched), time.time()
    memory: dict[str, int] = {}
    while time.time() < ready + minutes * 60:
        time.sleep(min(5.0, max(0.0, ready + minutes * 60 - time.time())))
        memory = {key: process.memory_info().rss for key, process in watched.items() if process.is_running()}
    after, end = cpu_seconds(watched), time.time()
    state = facts(home)
    subprocess.run([*ORGCTL, "down"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    task = Task.model_validate_json(home.task.read_text())
    finished = sorted(run.ended for run in state.runs.values() if run.status == "ok" and run.ended)
    slots = int(state.session["slots"])
    measured = [step for step in state.trunks if len(state.bank(step.commit).values("audit")) >= 2]
    first, last = state.bank(measured[0].commit), state.bank(measured[-1].commit)
    gain = welch(last.values("audit"), first.values("audit"), minimize=task.metric.direction == "minimize") if len(measured) > 1 else None
    promoted = [step.time for step in state.trunks if step.experiment]
    purposes = [run.purpose for run in state.runs.values() if run.status == "ok"]
    accounts = [run.account for run in state.runs.values() if run.status == "ok"]
    return {
        "prepare": prepared - began, "up": ready - prepared, "first run": finished[0] - ready if finished else None,
        "first promotion": (promoted[0] - ready) / 60 if promoted else None, "ideas": len(state.experiments),
        "verdicts": {word: sum(item.verdict == word for item in state.experiments.values()) for word in ("improved", "bought", "worse")},
        "runs": {word: purposes.count(word) for word in PURPOSES},
        "failed": sum(run.status in ("crashed", "invalid", "timeout") for run in state.runs.values()),
        "stages": stages(accounts), "machine": machine(accounts), "finished": len(accounts), "promoted": len(promoted),
        "baseline": (first.mean(), first.sigma(), len(first.values("audit"))), "sigma": sigma_interval(first.values("audit")),
        "best": (last.mean(), last.sigma(), len(last.values("audit"))), "gain": gain,
        "idle": idle_share(state, slots, ready, end), "shares": {key: (after[key] - before[key]) / (end - looked) for key in watched},
        "memory": memory, "load": os.getloadavg()[1],
    }  # fmt: skip


def show(rows: list[dict[str, Any]], minutes: float) -> None:
    def line(label: str, cells: list[str]) -> None:
        print(f"| {label} | " + " | ".join(cells) + " |")

    line(f"{minutes:g} minutes each", [f"run {number}" for number in range(1, len(rows) + 1)])
    print("|" + " --- |" * (len(rows) + 1))
    line("baseline, mean ± sigma (n)", ["{:.4f} ± {:.4f} ({})".format(*row["baseline"]) for row in rows])
    line("sigma of the baseline, 95 % interval", ["{:.4f} to {:.4f}".format(*row["sigma"][1:]) for row in rows])
    line("confirmed best, mean ± sigma (n)", ["{:.4f} ± {:.4f} ({})".format(*row["best"]) for row in rows])
    gains = ["none" if row["gain"] is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["gain"][:3]) for row in rows]
    line("difference, 95 % interval", gains)
    line("in sigma of the baseline", ["" if row["gain"] is None else f"{abs(row['gain'].effect) / row['baseline'][1]:.1f}" for row in rows])
    line("promotions", [str(row["promoted"]) for row in rows])
    line("first promotion after, minutes", ["never" if row["first promotion"] is None else f"{row['first promotion']:.1f}" for row in rows])
    line("ideas", [str(row["ideas"]) for row in rows])
    line("improved / bought / worse", [" / ".join(str(value) for value in row["verdicts"].values()) for row in rows])
    line("runs: " + " / ".join(PURPOSES), [" / ".join(str(row["runs"][word]) for word in PURPOSES) for row in rows])
    line("runs that failed", [str(row["failed"]) for row in rows])
    line("runs an hour, finished ones", [f"{row['finished'] / minutes * 60:.0f}" for row in rows])
    line("seconds a run", [f"{sum(row['stages'].values()):.1f}" for row in rows])
    line("of them " + " / ".join(rows[0]["stages"]), [" / ".join(f"{part:.1f}" for part in row["stages"].values()) for row in rows])
    for name in dict.fromkeys(name for row in rows for name in row["machine"]):
        line(name, [row["machine"].get(name, "") for row in rows])
    line("slot idle share", [f"{row['idle']:.1%}" for row in rows])
    line("`orgctl init` with data, seconds", [f"{row['prepare']:.1f}" for row in rows])
    line("`orgctl up` to all panes, seconds", [f"{row['up']:.1f}" for row in rows])
    line("first finished run after that, seconds", [f"{row['first run']:.1f}" for row in rows])
    for name in rows[0]["shares"]:
        line(f"CPU share of {name}, memory", [f"{row['shares'][name]:.2%}, {row['memory'].get(name, 0) / 2**20:.0f} MiB" for row in rows])
    line("load average (5 min) at the end", [f"{row['load']:.1f}" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--task", default="nanochat")
    parser.add_argument("--scale")
    parser.add_argument("--design", default="chief")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--keep", type=Path, help="Keep the sessions in this folder.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = options.keep or Path(scratch)
        rows = []
        for number in range(1, options.runs + 1):
            rows.append(one(place.resolve() / f"run{number}", options.minutes, options))
            print(f"run {number} of {options.runs} is done", file=sys.stderr, flush=True)
        show(rows, options.minutes)


if __name__ == "__main__":
    main()
