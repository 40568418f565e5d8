"""What does trunk buy for more compute, and what is left of an idea that spends it? Prints the frontier and two ideas against it.

python benchmarks/frontier.py --record frontier.jsonl          the cpu scale of nanochat, 32 runs

Trunk is the shipped source without its value embeddings. The ideas: put them back (their gates cost a little), and widen the model by
half. Every number comes from whole runs, started the way the laboratory starts them; runs that are in the record are not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.noise import command, environment, lay, whole
from benchmarks.patches import GPT, Patch
from lab import frontier, verdict
from lab.frontier import FACTORS, Frontier
from tasks import spec

TRUNK: list[Patch] = [(GPT, "VALUE_EMBEDDINGS = True", "VALUE_EMBEDDINGS = False")]
WIDER: Patch = (GPT, "(64 * depth, 128) if depth >= 4 else (32 * depth, 32)", "(64 * depth, 128) if depth >= 4 else (48 * depth, 32)")
SOURCES: dict[str, list[Patch]] = {"trunk": TRUNK, "value embeddings": [], "wider": [*TRUNK, WIDER]}


def measure(task: spec.Task, data: Path, name: str, factor: float, seed: int) -> dict[str, Any]:
    """One whole run on `factor` times the scale's budget: {name, factor, seed, audit, flops, seconds}. Raises SystemExit when it fails."""
    task = task.model_copy(update={"scale": task.scale.model_copy(update={"budget": task.scale.budget.times(factor)})})
    found = whole(task, data, seed, ("audit",), SOURCES[name])
    if found["status"] != "ok":
        raise SystemExit(f"{name} at {factor:g}x, seed {seed}: {found['reason']}")
    spent = {"flops": found["flops"], "seconds": found["train_seconds"]}
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

        trunk = {factor: runs("trunk", factor, args.seeds if factor == 1 else args.seeds // 2) for factor in (1, *FACTORS)}
        ideas = {name: runs(name, 1, args.seeds) for name in SOURCES if name != "trunk"}
        show(trunk, ideas)


def show(trunk: dict[float, list[dict[str, Any]]], ideas: dict[str, list[dict[str, Any]]]) -> None:
    """The curve, and each idea against the bank, against the curve at its cost, and its gain."""
    cost = {factor: fmean(one["flops"] for one in found) / fmean(one["flops"] for one in trunk[1]) for factor, found in trunk.items()}
    values = {factor: [one["audit"] for one in found] for factor, found in trunk.items()}
    curve = Frontier(tuple((cost[factor], verdict.moments(values[factor], "trunk")) for factor in sorted(trunk)))
    print("\n| FLOPs | audit | sigma | n |\n| --- | --- | --- | --- |")
    for spent, found in curve.points:
        print(f"| {spent:.3f}x | {found.mean:.4f} | {found.variance**0.5:.4f} | {found.n} |")
    print("\n| idea | FLOPs | against the bank | against trunk at its FLOPs | CEG |\n| --- | --- | --- | --- | --- |")
    for name, runs in ideas.items():
        mine, spent = [one["audit"] for one in runs], fmean(one["flops"] for one in runs) / fmean(one["flops"] for one in trunk[1])
        plain, beside, gain = verdict.welch(mine, values[1]), curve.beside(mine, spent, True), curve.gain(mine, spent, True)
        assert beside is not None
        cells = [f"{test.effect:+.3f} ({test.low:+.3f} to {test.high:+.3f})" for test in (plain, beside.test)]
        cells[1] += "" if beside.spent == spent else f", at {beside.spent:.2f}x"
        print(f"| {name} | {spent:.4f}x | {cells[0]} | {cells[1]} | {frontier.brief(gain.facts()) or gain.why} |")


if __name__ == "__main__":
    main()
