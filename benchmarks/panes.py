"""What seats cost: `up` until everybody is ready, looking at many panes, waking, and memory by backend. Prints tables.

    python benchmarks/panes.py                    # all of it, a few minutes
    python benchmarks/panes.py --only looking

`up` is the real command in a fresh folder with shells in all seats, from its start until every agent's own event is there. Looking is
one `Grid.observe`, and all agents' status with it, as the controller does it every second. Waking is from a message in the inbox of
an idle agent (the fake CLI of the tests) until its program has the line, looked after twice a second. Memory is the proportional
set size (Linux) of a pane's processes; claude, codex and chat talk to a model server on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab.home import Home
from lab.state import State
from org import status
from org.agents.event import read_events, write_event
from org.grid import Grid
from org.panes import PaneSpec

ORGCTL = [sys.executable, "-I", "-c", "import orgctl; orgctl.main()"]
TOY = Path(__file__).resolve().parent.parent / "tests" / "toytask"


def surroundings(folder: str) -> dict[str, str]:
    """A HOME of its own and no keys."""
    return {"PATH": os.environ["PATH"], "HOME": folder, "LANG": "C.UTF-8", "TERM": "xterm-256color", "SHELL": "/bin/sh"}


def ready(agents: int) -> float:
    """Seconds from `orgctl up` until all agents (one a slot) have said that they are there."""
    with tempfile.TemporaryDirectory(prefix="panes-") as folder:
        root, env = Path(folder) / "research", surroundings(folder)
        root.mkdir()
        name = f"b{uuid.uuid4().hex[:8]}"
        begun = time.monotonic()
        words = ["up", "--detach", "--name", name, "--task", str(TOY), "--design", "solo", "--backend", "shell", "--slots", str(agents)]
        try:
            subprocess.run([*ORGCTL, *words], cwd=root, env=env, check=True, capture_output=True)
            while not all(read_events(Home(root), f"r{number}") for number in range(1, agents + 1)):
                time.sleep(0.02)
            return time.monotonic() - begun
        finally:
            subprocess.run([*ORGCTL, "down"], cwd=root, env=env, check=False, capture_output=True)


def looking(panes: int, times: int = 50) -> tuple[float, float]:
    """Milliseconds of one look at all panes, and of all agents' status with it (medians)."""
    with tempfile.TemporaryDirectory(prefix="panes-") as folder:
        home = Home(Path(folder))
        grid = Grid(f"b{uuid.uuid4().hex[:8]}", home)
        wait = ["sleep", "1000"]
        names = [f"r{number}" for number in range(1, panes + 1)]
        try:
            board = PaneSpec("board", "board", wait, home.root, {})
            grid.ensure(board, [PaneSpec(name, "researcher", wait, home.root, {}) for name in names])
            for name in names:
                write_event(home, name, "working", "on something")
            looks, whole = [], []
            for _ in range(times):
                begun = time.perf_counter()
                grid.observe()
                looks.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                found = status.agents(home, grid, State(), time.time())
                whole.append(time.perf_counter() - begun)
                assert sum(row["state"] == "working" for row in found) == panes
            return 1000 * statistics.median(looks), 1000 * statistics.median(whole)
        finally:
            grid.kill()


def waking(times: int) -> list[float]:
    """Seconds from a message until the agent's program got the wake line, sorted."""
    from org.controller import TICK, Controller
    from org.session import Wish, found
    from tests.org.agents import fake_backend
    from tests.org.agents.fake_cli import received

    with tempfile.TemporaryDirectory(prefix="panes-") as folder:
        sys.path.insert(0, str(fake_backend.offer(Path(folder) / "site")))
        name = f"b{uuid.uuid4().hex[:8]}"
        home = found(Path(folder) / "research", Wish(design="solo", task=str(TOY), name=name, slots=1, backend="shell"))
        controller = Controller(home)
        design = controller.session.design
        agents = [one.model_copy(update={"backend": "fake"}) for one in design.agents]
        team, log = controller.team, home.agents / "r1" / "log"
        controller.lab.refresh()
        team.take(design.model_copy(update={"agents": agents}))
        try:
            team.found_worktrees()
            team.seat_everybody()
            took: list[float] = []
            for number in range(times):
                while team.status("r1", (team.grid.observe() or {}).get("r1")).state != "idle":
                    time.sleep(0.05)
                time.sleep(random.random() * TICK)
                begun = time.monotonic()
                team.mail.send("chief", "r1", f"number {number}")
                due = begun + random.random() * TICK
                while len(received(log)) <= number:
                    if time.monotonic() >= due:
                        team.wake()
                        due = time.monotonic() + TICK
                    time.sleep(0.01)
                took.append(time.monotonic() - begun)
                team.mail.take("r1")
                team.wake()
            return sorted(took)
        finally:
            team.grid.kill()


def memory(backend: str, seconds: float = 12.0) -> float:
    """MiB of one seat's processes, `seconds` after the organisation came up, its first turn over."""
    from tests.loopback import Server, Steps
    from tests.org.agents.real_cli import KEY, install

    with tempfile.TemporaryDirectory(prefix="panes-") as folder, Server({"r1": Steps("Nothing to do.")}) as server:
        root, env = Path(folder) / "research", surroundings(folder)
        root.mkdir()
        url, settings = server.url("r1"), {}
        if backend in ("claude", "codex"):
            settings = {"command": install(backend), "model": "scripted", "base_url": url + ("/v1" if backend == "codex" else "")}
        elif backend == "chat":
            settings = {"provider": "openai-chat", "model": "scripted", "base_url": url + "/v1"}
        seat = {"role": "researcher", "names": ["r1"], "backend": backend, "settings": settings}
        design = Path(folder) / "one.yaml"
        design.write_text(json.dumps({"name": "one", "about": "One seat.", "agents": [seat]}))
        name = f"b{uuid.uuid4().hex[:8]}"
        env |= {"ANTHROPIC_API_KEY": KEY.format("a"), "OPENAI_API_KEY": KEY.format("o")}
        words = ["up", "--detach", "--name", name, "--task", str(TOY), "--design", str(design), "--slots", "1"]
        try:
            subprocess.run([*ORGCTL, *words], cwd=root, env=env, check=True, capture_output=True)
            time.sleep(seconds)
            pane = (Grid(name, Home(root)).observe() or {})["r1"]
            tree = [psutil.Process(pane.pid), *psutil.Process(pane.pid).children(recursive=True)]
            return float(sum(process.memory_full_info().pss for process in tree)) / 2**20
        finally:
            subprocess.run([*ORGCTL, "down"], cwd=root, env=env, check=False, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("ready", "looking", "waking", "memory"))
    args = parser.parse_args()
    if args.only in (None, "ready"):
        print("| agents | `up` until all are ready, s (median of 3) |\n| --- | --- |")
        for agents in (1, 4, 8, 16):
            print(f"| {agents} | {statistics.median(ready(agents) for _ in range(3)):.1f} |", flush=True)
    if args.only in (None, "looking"):
        print("\n| panes | one look, ms | with every agent's status, ms |\n| --- | --- | --- |")
        for panes in (16, 100):
            one, whole = looking(panes)
            print(f"| {panes} | {one:.0f} | {whole:.0f} |", flush=True)
    if args.only in (None, "waking"):
        took = waking(50)
        print("\n| wakes | median, s | p99, s |\n| --- | --- | --- |")
        print(f"| {len(took)} | {statistics.median(took):.1f} | {took[math.ceil(0.99 * len(took)) - 1]:.1f} |", flush=True)
    if args.only in (None, "memory"):
        print("\n| backend | MiB a seat |\n| --- | --- |")
        for backend in ("shell", "sweep", "chat", "codex", "claude"):
            print(f"| {backend} | {memory(backend):.0f} |", flush=True)


if __name__ == "__main__":
    main()
