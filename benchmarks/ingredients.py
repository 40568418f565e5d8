"""What is each ingredient of the baseline worth, and each idea beyond it? Leaves them out or puts them in one at a time and
prints a table in sigmas of the baseline.

python benchmarks/ingredients.py --seeds 5 --record ingredients.jsonl                   the cpu scale, an hour on two cores
python benchmarks/ingredients.py --scale d8 --seeds 1 --budget time:60 --data FOLDER    on a GPU; --only NAMES for some of them,
    --args '{"corpus": "files", "corpus_path": "text"}' for another text

Every number comes from whole runs: feeder, trainer and scorer as processes of their own, as the laboratory starts them. The patches
stand in `patches.py`. Runs that are in the record already are not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scipy import stats

from benchmarks.noise import command, environment, lay, whole
from benchmarks.patches import IDEAS, WITHOUT
from tasks import spec

CHANGES = {**WITHOUT, **{f"with {name}": patches for name, patches in IDEAS.items() if patches not in WITHOUT.values()}}


def measure(task: spec.Task, data: Path, name: str, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """One whole run with the change: what `noise.whole` says, and {name, scale, budget}.

    The checkpoint is copied to `keep`/NAME-SEED.pt.
    """
    kept = keep and keep / f"{name.replace(' ', '-')}-{seed}.pt"
    made = whole(task, data, seed, ("search", "audit"), CHANGES[name], keep=kept)
    return {"name": name, "scale": task.scale.name, "budget": task.scale.budget.model_dump(), **made}


def table(records: list[dict[str, Any]], split: str) -> None:
    """Mean and interval of every ingredient's difference from the baseline, by Welch's t; sorted by it."""
    by_name: dict[str, list[float]] = {}
    for record in records:
        if record["status"] == "ok":
            by_name.setdefault(record["name"], []).append(record["metric"][split])
    base = by_name.get("baseline", [])
    sigma = statistics.stdev(base) if len(base) > 1 else math.nan
    centre = statistics.mean(base) if base else math.nan
    print(f"\nbaseline on {split}: {centre:.4f}, sigma {sigma:.4f} (n = {len(base)})")
    print("| left out, or put in | n | mean | worse by | 95 % interval | in sigma |\n| --- | --- | --- | --- | --- | --- |")
    for name, values in sorted(by_name.items(), key=lambda item: -statistics.mean(item[1])):
        if name == "baseline":
            continue
        worse, interval = statistics.mean(values) - centre, ""
        if len(values) > 1 and len(base) > 1:
            low, high = stats.ttest_ind(values, base, equal_var=False).confidence_interval(0.95)
            interval = f"[{low:+.4f}, {high:+.4f}]"
        print(
            f"| {name} | {len(values)} | {statistics.mean(values):.4f} | {worse:+.4f} | {interval} | {worse / sigma:+.1f} |"
        )
    for record in records:
        if record["status"] != "ok":
            print(f"{record['name']}, seed {record['seed']}: {record['status']}: {record.get('reason', '')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each ingredient")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--baseline-seeds", type=int, default=0, help="runs of the baseline, if more")
    parser.add_argument("--only", default="", help="comma-separated names of ingredients; beside them the baseline")
    parser.add_argument(
        "--budget", default="", metavar="KIND:AMOUNT", help="instead of the scale's own, such as time:60"
    )
    parser.add_argument("--args", type=json.loads, default={}, help="JSON laid over the scale's args: another corpus, say")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the checkpoints here")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--data", type=Path, help="prepared data to use, or to fill")
    parser.add_argument(
        "--record",
        type=Path,
        default=Path("ingredients.jsonl"),
        help="every run, a JSON line each; runs in it are done",
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="begin no run after this many seconds; go on in another call"
    )
    args = parser.parse_args()
    begun = time.monotonic()
    task = spec.load("nanochat", args.scale)
    budget = task.scale.budget
    if args.budget:
        kind, _, amount = args.budget.partition(":")
        budget = spec.Budget.model_validate({"kind": kind, "amount": float(amount)})
    changed = {"budget": budget, "args": {**task.scale.args, **args.args}}
    task = task.model_copy(update={"scale": task.scale.model_copy(update=changed)})
    names = list(dict.fromkeys(["baseline", *(args.only.split(",") if args.only else CHANGES)]))
    if unknown := [name for name in names if name not in CHANGES]:
        raise SystemExit(f"no ingredient {unknown[0]!r}: choose from {', '.join(CHANGES)}")
    lines = args.record.read_text().splitlines() if args.record.exists() else []
    records = [
        r for r in map(json.loads, lines) if r["scale"] == args.scale and r["budget"] == task.scale.budget.model_dump()
    ]
    done = {(record["name"], record["seed"]) for record in records}
    wanted = [(name, args.first + i) for i in range(max(args.seeds, args.baseline_seeds)) for name in names]
    wanted = [one for one in wanted if one not in done and (one[1] < args.first + args.seeds or one[0] == "baseline")]

    with tempfile.TemporaryDirectory(prefix="ingredients-data-") as folder:
        work, data = Path(folder), args.data or Path(folder) / "data"
        lay(task, spec.workspace_files(task, spec.folder("nanochat")), work)
        subprocess.run(command(task.prepare, work, data), env=environment(task, work, "protected"), check=True)

        def one(what: tuple[str, int]) -> None:
            if time.monotonic() - begun > args.seconds:
                return
            record = measure(task, data, *what, args.keep)
            records.append(record)
            with args.record.open("a") as handle:
                handle.write(json.dumps(record) + "\n")
            value = record["metric"].get("audit", math.nan)
            print(
                f"{len(records):4d}  {what[0]}, seed {what[1]}: {record['status']} {value:.4f}, {record['train_seconds']:.0f} s",
                flush=True,
            )

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(one, wanted))
    for split in ("search", "audit"):
        table(records, split)


if __name__ == "__main__":
    main()
