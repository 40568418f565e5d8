"""What a ledger of 100,000 facts costs: opening, looking, appending. Prints a table.

    python benchmarks/ledger.py                  # the figures of docs/laboratory.md
    python benchmarks/ledger.py --facts 20000

The ledger is written through `lab.ledger` with the kinds, proportions and sizes of facts of a long session of the sweep: every
idea a proposal, an attempt with its diff and a nominating run, a third of them nominated and confirmed on three fresh seeds
beside a baseline run, one in forty promoted, checked by its own bank and its parent run afresh. Bodies of results carry a log's
end and an account like those of real runs. Times are the median of several looks, in milliseconds, by the clock and of the
processor, which other programs disturb less; the page cache is warm.
"""

from __future__ import annotations

import argparse
import gc
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from lab import queue, similar
from lab.experiment import decide
from lab.home import Home
from lab.ledger import Ledger
from lab.shown import brief
from lab.state import View
from lab.steps import Policy
from org import board, status
from tasks.spec import load

SIGMA, BANK = 0.004, 9
"""A bank of one run more than asked for: one in thirty of the runs crashes."""
LOG = "".join(f"step {step:05d} | loss {9.2 / (1 + step / 40):.4f} | lr {0.02:.4f} | {53.1:.1f} ms\n" for step in range(0, 2000, 50))
ACCOUNT = {
    "tokens": 4194304, "steps": 1024, "amount": 4194304, "flops": 2.1e14, "flops_per_token": 5.0e7, "flops_unknown": "",
    "params": 3211264, "train_seconds": 61.2, "startup_seconds": 2.9, "data_wait_seconds": 0.4, "overtime_seconds": 0.0,
    "score_seconds": 9.1, "wall_seconds": 72.4, "peak_memory_bytes": 1288490188, "score_memory_bytes": 734003200,
    "host_memory_bytes": 644245094, "checkpoint_bytes": 12845056, "source_bytes": 41233, "tokens_per_second": 72000.0,
    "device": "cpu", "threads": 1, "host_load": 1.9, "contended": False, "position_loss": {"search": [0.1] * 8, "audit": [0.1] * 8},
}  # fmt: skip
HASHES = {name: name[0] * 64 for name in ("corpus", "tokenizer", "protected", "task", "torch", "python", "fence", "git")}
DIFF = """diff --git a/nanochat/optim.py b/nanochat/optim.py
index 83db48f..bf269f4 100644
--- a/nanochat/optim.py
+++ b/nanochat/optim.py
@@ -20,7 +20,7 @@ from nanochat import gpt

 # what the sweep turns
 EMBEDDING_LR = 0.3
-{name} = {old}
+{name} = {new}
 ADAM_BETA2 = 0.95
 MUON_MOMENTUM = 0.95
"""
APPENDER = """
import sys, time
from pathlib import Path
from lab.ledger import Ledger
ledger, count = Ledger(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    ledger.append("agent", {"what": "noted", "number": number}, "r1")
"""
Fact = tuple[str, str, dict[str, Any]]


def session(count: int, seed: int = 0) -> Iterator[Fact]:
    """(kind, subject, body) of a session of at least `count` facts."""
    draw, task = random.Random(seed), load("nanochat", None)
    budget, knobs = task.scale.budget.model_dump(), task.knobs
    runs = experiments = written = 0

    def one(experiment: str, attempt: int, purpose: str, commit: str, mean: float) -> Iterator[Fact]:
        nonlocal runs
        runs += 1
        name, splits = f"R{runs:04d}", ["search"] if purpose == "nominate" else ["search", "audit"]
        yield "run", name, {
            "experiment": experiment, "attempt": attempt, "purpose": purpose, "commit": commit, "seed": 1000 + runs, "splits": splits,
            "budget": budget, "agent": f"r{runs % 4 + 1}", "home_slot": runs % 4, "assisted": False,
        }  # fmt: skip
        yield "start", name, {"slot": runs % 4, "pid": 1000 + runs, "started": 1.7e9, "device": "cpu"}
        yield "result", name, {
            "status": "ok" if draw.random() < 0.97 else "crashed", "reason": "",
            "metric": {split: draw.gauss(mean, SIGMA) for split in splits},
            "account": ACCOUNT, "hashes": HASHES, "flags": [], "unsealed": "", "log_tail": LOG[-2000:], "ended": 1.7e9 + runs,
        }  # fmt: skip

    def idea(trunk: str, mean: float) -> Iterator[Fact]:
        nonlocal experiments
        experiments += 1
        name, commit, knob = f"E{experiments:04d}", f"{draw.getrandbits(160):040x}", draw.choice(knobs)
        old, value = 0.02, round(draw.uniform(0.001, 0.1), 4)
        worth = draw.gauss(0.0, SIGMA)
        yield "proposal", name, {
            "agent": f"r{experiments % 4 + 1}", "hypothesis": f"{knob.name} {old} → {value} lowers val_bpb",
            "mechanism": f"{knob.name}: {knob.why}. Chosen because: the most hopeful single step of the area.", "family": knob.area,
            "direction": "improves", "min_effect": 0.002, "held_constant": "budget, data, evaluation and every other constant",
            "params": {knob.name: value}, "base": trunk, "again": None,
        }  # fmt: skip
        diff = DIFF.format(name=knob.name, old=old, new=value)
        body = {"number": 1, "parent": trunk, "commit": commit, "diff": diff, "changed": [knob.file], "ignored": [], "again": None}
        yield "attempt", name, body
        yield from one(name, 1, "nominate", commit, mean + worth)
        figures = {"attempt": 1, "effect": worth, "p": 0.3, "n": 1, "m": 4, "sigma": SIGMA, "low": None, "high": None}
        if worth < -0.4 * SIGMA:
            yield "nomination", name, {"attempt": 1, "nominated": True, "value": mean + worth, "sigmas": -worth / SIGMA,
                                       "bank_mean": mean, "bank_sigma": SIGMA, "run": f"R{runs:04d}"}  # fmt: skip
            yield "confirm", name, {"attempt": 1}
            yield from one("", 0, "bank", trunk, mean)
            for _ in range(3):
                yield from one(name, 1, "confirm", commit, mean + worth)
            figures |= {"n": 3, "low": worth - SIGMA, "high": worth + SIGMA}
        word = "improved" if worth < -1.9 * SIGMA else "inconclusive"
        yield "verdict", name, {**figures, "verdict": word, "reasoning": ["effect " + "x" * 90, "n = 3 " + "y" * 90, "z" * 70]}
        if word == "improved":
            yield "trunk", commit, {"commit": commit, "parent": trunk, "experiment": name, "why": "promoted by chief"}

    trunk, mean = "0" * 40, 1.6
    yield "session", "", {"name": "long", "task": task.name, "scale": task.scale.name, "slots": 4, "device": "cpu", "up": 1.7e9}
    yield "trunk", trunk, {"commit": trunk, "parent": "", "experiment": "", "why": "the task as shipped"}
    promoted, parent = "", trunk
    while written < count:
        if promoted or not experiments:
            for _ in range(BANK):
                yield from one("", 0, "bank", trunk, mean)
        if promoted:
            figures = {"effect": -SIGMA, "low": -1.5 * SIGMA, "high": -0.5 * SIGMA, "p": 1e-4, "n": BANK, "m": BANK}
            yield "checked", promoted, {"commit": trunk, **figures, "holds": True}
            for _ in range(BANK):
                yield from one(promoted, 1, "parent", parent, mean + 0.3 * SIGMA)
        promoted = ""
        for kind, subject, body in idea(trunk, mean):
            yield kind, subject, body
            written += 1
            if kind == "trunk":
                promoted, parent, trunk, mean = body["experiment"], trunk, subject, mean - 0.3 * SIGMA


def timed(act: Callable[[], Any], times: int = 5) -> tuple[float, float, float]:
    """Milliseconds: (median by the clock, worst by the clock, median of the processor)."""
    clock, processor = [], []
    for _ in range(times):
        began, used = time.perf_counter(), time.process_time()
        act()
        processor.append(1000 * (time.process_time() - used))
        clock.append(1000 * (time.perf_counter() - began))
    return statistics.median(clock), max(clock), statistics.median(processor)


def appends(path: Path, writers: int, count: int) -> float:
    """Facts a second that so many processes write together, one transaction each."""
    command = [sys.executable, "-c", APPENDER, str(path), str(count)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(writers)]
    for one in started:
        assert one.stdout and one.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for one in started:
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    assert [one.wait(300) for one in started] == [0] * writers
    return writers * count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orgctl-ledger-") as folder:
        home = Home(Path(folder))
        home.make()
        task = load("nanochat", None)
        home.task.write_text(task.model_dump_json())
        measure(home, list(session(options.facts))[: options.facts])


def measure(home: Home, facts: list[Fact]) -> None:
    """Write the facts and print the table."""
    ledger, task = Ledger(home.ledger, create=True), load("nanochat", None)
    began = time.perf_counter()
    for start in range(0, len(facts), 1000):
        ledger.append_all(facts[start : start + 1000])
    written = time.perf_counter() - began
    view = View(ledger)
    view.refresh()
    state, now = view.state, time.time()
    size = sum(path.stat().st_size for path in home.org.glob("ledger.db*")) / 1e6
    print(f"{len(facts)} facts: {len(state.experiments)} experiments, {len(state.runs)} runs, {len(state.trunks)} steps of trunk")
    print(f"{size:.0f} MB on disk; written in {written:.1f} s, a thousand in a transaction\n")
    row("opening", *timed(lambda: Ledger(home.ledger).close()))
    row("folding cold (every command, once)", *timed(lambda: View(ledger).refresh(), 3))
    stored = pickle.dumps(state)
    gc.disable()  # as folding does
    row(f"instead: reading a pickled fold of {len(stored) / 1e6:.0f} MB", *timed(lambda: pickle.loads(stored), 3))
    gc.enable()
    row("verifying the hash chain", *timed(ledger.verify, 1))

    def news() -> None:
        ledger.append("intervention", {"what": "released"}, "r1")
        view.refresh()

    row("append and refresh after one new fact", *timed(news, 50))
    looks: dict[str, Callable[[], Any]] = {
        "status: what is believed": lambda: status.believed(state),
        "status: slots": lambda: status.slots(home, state, now),
        "status: one agent": lambda: status.derive("r1", None, True, [], state, now),
        "board: experiments": lambda: board.experiments(state, 160, 20),
        "exp list (all)": lambda: [brief(one) for one in state.experiments.values()],
        "controller: what to do next, after a new fact": lambda: decide(state, task, Policy()),
        "controller: what to start": lambda: (queue.waiting(state), queue.halted(state, now), queue.in_flight(state, "r1")),
    }
    for name, look in looks.items():
        row(name, *timed(look, 20))
    text = {"hypothesis": "A longer warmup lowers val_bpb by 0.01", "mechanism": "Small first steps protect what starts at zero"}
    row("near-duplicates of a proposal in words", *timed(lambda: similar.proposals(state, text, {}), 3))
    row("near-duplicates of a proposal by knobs", *timed(lambda: similar.proposals(state, text, {"MATRIX_LR": 0.03}), 3))
    changes, diff = similar.Changes(), DIFF.format(name="MATRIX_LR", old=0.02, new=0.03)
    row("near-duplicates of a change, the first time", *timed(lambda: changes.near(state, diff), 1))
    row("near-duplicates of a change, after that", *timed(lambda: changes.near(state, diff), 5))
    watch = board.Watch(home, None, view)
    row("board: one frame after a new fact", *timed(lambda: frame(watch, ledger), 10))
    print()
    for writers in (1, 8):
        print(f"{appends(home.ledger, writers, 2000 // writers):8.0f} appends a second from {writers} process{'es' if writers > 1 else ''}")


def frame(watch: board.Watch, ledger: Ledger) -> None:
    """What the board does in a second in which something happened."""
    ledger.append("intervention", {"what": "released"}, "r1")
    console, now = Console(width=180, height=50), time.time()
    with console.capture():
        console.print(board.frame(watch, watch.look(now), 180, 50, now))


def row(name: str, median: float, worst: float, processor: float) -> None:
    print(f"{name:46s} {median:10.2f} ms   worst {worst:9.2f} ms   processor {processor:9.2f} ms", flush=True)


if __name__ == "__main__":
    main()
