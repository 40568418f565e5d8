"""What does trunk buy for more compute, and what is left of an idea that spends it? Prints the frontier and two ideas against it.

python benchmarks/frontier.py --record frontier.jsonl          the cpu scale of nanochat, 42 runs

Trunk is the shipped source without its value embeddings. The ideas: put them back (their gates cost a little), and widen the model by
half. Every number comes from whole runs, started the way the laboratory starts them; runs that are in the record are not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ingredients import GPT, Patch, patched
from benchmarks.noise import command, environment, lay, score, train
from tasks import spec

TRUNK: list[Patch] = [(GPT, "VALUE_EMBEDDINGS = True", "VALUE_EMBEDDINGS = False")]
WIDER: Patch = (GPT, "(64 * depth, 128) if depth >= 4 else (32 * depth, 32)", "(64 * depth, 128) if depth >= 4 else (48 * depth, 32)")
SOURCES: dict[str, list[Patch]] = {"trunk": TRUNK, "value embeddings": [], "wider": [*TRUNK, WIDER]}


def measure(task: spec.Task, data: Path, name: str, factor: float, seed: int) -> dict[str, Any]:
    """One whole run on `factor` times the scale's budget: {name, factor, seed, audit, flops, seconds}. Raises SystemExit when it fails."""
    task = task.model_copy(update={"scale": task.scale.model_copy(update={"budget": task.scale.budget.times(factor)})})
    with tempfile.TemporaryDirectory(prefix="frontier-") as folder:
        work, begun = Path(folder), time.monotonic()
        lay(task, patched(spec.workspace_files(task, spec.folder(task.name)), SOURCES[name]), work)
        if train(task, work, data, seed, subprocess.DEVNULL):
            raise SystemExit(f"{name} at {factor:g}x, seed {seed}: training failed")
        seconds, counts = time.monotonic() - begun, json.loads((work / "counts.json").read_text())
        found = score(task, work, data, seed, ("audit",), subprocess.DEVNULL)
        if found["status"] != "ok":
            raise SystemExit(f"{name} at {factor:g}x, seed {seed}: {found['reason']}")
        spent = {"flops": counts["flops"], "seconds": seconds}
        return {"name": name, "factor": factor, "seed": seed, "audit": found["metric"]["audit"], **spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--seeds", type=int, default=8, help="runs of trunk and of each idea; half as many at 0.5x and 2x")
    parser.add_argument("--data", type=Path, help="prepared data to use, or to fill")
    parser.add_argument("--record", type=Path, default=Path("frontier.jsonl"), help="every run, a JSON line each")
    args = parser.parse_args()
    task = spec.load("nanochat", args.scale)
    records = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []

    with tempfile.TemporaryDirectory(prefix="frontier-data-") as folder:
        work, data = Path(folder), args.data or Path(folder) / "data"
        lay(task, spec.workspace_files(task, spec.folder("nanochat")), work)
        subprocess.run(command(task.prepare, work, data), env=environment(task, work, "protected"), check=True)

        def runs(name: str, factor: float, count: int) -> list[dict[str, Any]]:
            """The records of so many runs, done now where they are missing. Every arm has seeds of its own."""
            found = [one for one in records if (one["name"], one["factor"]) == (name, factor)]
            for index in range(len(found), count):
                made = measure(task, data, name, factor, 1000 * list(SOURCES).index(name) + round(100 * factor) + index)
                print(f"{name} at {factor:.4g}x: {made['audit']:.4f}, {made['seconds']:.0f} s", flush=True)
                with args.record.open("a") as handle:
                    handle.write(json.dumps(made) + "\n")
                records.append(made)
                found.append(made)
            return found[:count]

        trunk = {factor: runs("trunk", factor, args.seeds if factor == 1 else args.seeds // 2) for factor in (1, 0.5, 2)}
        ideas = {name: runs(name, 1, args.seeds) for name in SOURCES if name != "trunk"}
        print({name: found[0]["flops"] / trunk[1][0]["flops"] for name, found in ideas.items()}, len(trunk))


if __name__ == "__main__":
    main()
