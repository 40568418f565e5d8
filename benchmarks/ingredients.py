"""What is each ingredient of the baseline worth? Leaves them out one at a time and prints a table in sigmas of the baseline.

python benchmarks/ingredients.py --seeds 5 --record ingredients.jsonl                   the cpu scale, an hour on two cores
python benchmarks/ingredients.py --scale d8 --seeds 1 --budget time:60 --data FOLDER    on a GPU; --only NAMES for some of them,
    --args '{"corpus": "files", "corpus_path": "text"}' for another text

Every number comes from whole runs: feeder, trainer and scorer as processes of their own, as the laboratory starts them. An ingredient
is left out by a patch of the shipped source, which must fit. Runs that are in the record already are not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
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

from benchmarks.noise import command, environment, lay, score, train
from tasks import spec

GPT, OPTIM, TRAIN = "nanochat/gpt.py", "nanochat/optim.py", "nanochat/train.py"
ROTATION = "rotate_norm(qk, cos, sin, QK_MULTIPLIER)"
PLAIN = "torch.cat((a * c + b * s, b * c - a * s), dim=-1).chunk(2, dim=2)"
MUON = "[Muon(parameters) for parameters in matrices.values()]"
STREAM = "residual[layer] * x + again[layer] * x0"
SCORED = ("status", "reason", "metric", "parts", "params", "agreement", "host_memory_bytes", "checkpoint_bytes")
COUNTED = ("tokens", "steps", "seconds", "startup_seconds", "data_wait", "flops", "flops_per_token", "flops_unknown", "metered")
Patch = tuple[str, str, str]
WITHOUT: dict[str, list[Patch]] = {
    "baseline": [],
    "rotary positions": [
        (GPT, ROTATION, "rotate_norm(qk, torch.ones_like(cos), torch.zeros_like(sin), QK_MULTIPLIER)")
    ],
    "QK-norm": [
        (
            GPT,
            f"        q, k = {ROTATION}\n",
            "        (a, b), c, s = qk.chunk(2, dim=-1), cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)\n"
            f"        q, k = {PLAIN}\n",
        ),
    ],
    "QK multiplier": [(GPT, "QK_MULTIPLIER = 1.2", "QK_MULTIPLIER = 1.0")],
    "relu^2 (gelu)": [(GPT, 'ACTIVATION = "relu2"', 'ACTIVATION = "gelu"')],
    "value embeddings": [(GPT, "VALUE_EMBEDDINGS = True", "VALUE_EMBEDDINGS = False")],
    "value gates": [(GPT, "v = v + gate[..., None] * self", "v = v + self")],
    "weight decay of value embeddings": [(OPTIM, "VALUE_DECAY = 0.01", "VALUE_DECAY = 0.0")],
    "residual and x0 scalars": [(GPT, STREAM, "x")],
    "x0 scalars alone": [(GPT, STREAM, "residual[layer] * x")],
    "sliding windows (all long)": [(GPT, 'WINDOWS = "SSSL"', 'WINDOWS = "L"')],
    "softcap": [(GPT, "SOFTCAP = 15.0", "SOFTCAP = 1000.0")],
    "norm without parameters (LayerNorm)": [(GPT, "return F.rms_norm(x, ", "return F.layer_norm(x, ")],
    "zero-initialised projections": [
        (GPT, "nn.init.zeros_(block.attention.out)", "nn.init.uniform_(block.attention.out, -bound, bound)"),
        (GPT, "nn.init.zeros_(block.mlp.down)", "nn.init.uniform_(block.mlp.down, -bound / 2, bound / 2)"),
    ],
    "Muon (AdamW at .002)": [(OPTIM, MUON, "[AdamW(parameters, 0.002) for parameters in matrices.values()]")],
    "Muon (AdamW at .005)": [(OPTIM, MUON, "[AdamW(parameters, 0.005) for parameters in matrices.values()]")],
    "Muon (AdamW at .01)": [(OPTIM, MUON, "[AdamW(parameters, 0.01) for parameters in matrices.values()]")],
    "Muon (AdamW at .02)": [(OPTIM, MUON, "[AdamW(parameters, 0.02) for parameters in matrices.values()]")],
    "Muon (AdamW at .04)": [(OPTIM, MUON, "[AdamW(parameters, 0.04) for parameters in matrices.values()]")],
    "a rate of its own for the embedding (the head's)": [(OPTIM, "EMBEDDING_LR = 0.2", "EMBEDDING_LR = 0.004")],
    "small head at the start (as the inner matrices)": [(GPT, "UNEMBED_STD = 0.001", "UNEMBED_STD = 0.1")],
    "norm of the stream": [(GPT, "return F.rms_norm(x, (x.size(-1),))", "return x")],
    "Nesterov": [(OPTIM, 'gradient.lerp(self.state["momentum"], keep)', 'self.state["momentum"]')],
    "momentum ramp": [(OPTIM, "MUON_RAMP = 0.3", "MUON_RAMP = 0.0")],
    "NorMuon": [(OPTIM, "NORMUON_BETA = 0.95", "NORMUON_BETA = 0.0")],
    "cautious weight decay (none)": [(OPTIM, "MATRIX_DECAY = 0.1", "MATRIX_DECAY = 0.0")],
    "caution of the decay": [(OPTIM, "(1 - progress) * p * (u * p > 0)", "(1 - progress) * p")],
    "five steps of Polar Express (three)": [(OPTIM, "MUON_STEPS = 5", "MUON_STEPS = 3")],
    "warmdown": [(TRAIN, "WARMDOWN = 0.5", "WARMDOWN = 0.0")],
}


def patched(files: dict[str, bytes], patches: list[Patch]) -> dict[str, bytes]:
    """The files with these patches. Raises SystemExit when one does not fit exactly once: the source has moved on."""
    files = dict(files)
    for path, old, new in patches:
        text = files[path].decode()
        if text.count(old) != 1:
            raise SystemExit(f"{path}: {old!r} stands there {text.count(old)} times: bring the patch up to date")
        files[path] = text.replace(old, new).encode()
    return files


def measure(task: spec.Task, data: Path, name: str, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """One whole run without the ingredient: {name, seed, status, metric, parts, train_seconds, tokens, steps, ...}.

    The checkpoint is copied to `keep`/NAME-SEED.pt.
    """
    with tempfile.TemporaryDirectory(prefix="ingredients-") as folder:
        work = Path(folder)
        lay(task, patched(spec.workspace_files(task, spec.folder(task.name)), WITHOUT[name]), work)
        begun = time.monotonic()
        with (work / "log").open("w+") as log:
            code = train(task, work, data, seed, log.fileno())
        record: dict[str, Any] = {
            "name": name,
            "seed": seed,
            "scale": task.scale.name,
            "budget": task.scale.budget.model_dump(),
        }
        record["train_seconds"] = time.monotonic() - begun
        if code:
            said = (work / "log").read_text().strip().splitlines() or [""]
            return {**record, "status": "crashed", "reason": said[-1], "metric": {}}
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(work / "out" / "checkpoint.pt", keep / f"{name.replace(' ', '-')}-{seed}.pt")
        counts = json.loads((work / "counts.json").read_text())
        begun = time.monotonic()
        scored = score(task, work, data, seed, ("search", "audit"), subprocess.DEVNULL)
        record["score_seconds"] = time.monotonic() - begun
        record |= {key: scored.get(key) for key in SCORED} | {key: counts.get(key) for key in COUNTED}
        return {**record, "log": (work / "log").read_text().splitlines()[-12:]}


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
    print("| left out | n | mean | worse by | 95 % interval | in sigma |\n| --- | --- | --- | --- | --- | --- |")
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
    names = ["baseline", *(args.only.split(",") if args.only else [name for name in WITHOUT if name != "baseline"])]
    if unknown := [name for name in names if name not in WITHOUT]:
        raise SystemExit(f"no ingredient {unknown[0]!r}: choose from {', '.join(WITHOUT)}")
    lines = args.record.read_text().splitlines() if args.record.exists() else []
    records = [
        r for r in map(json.loads, lines) if r["scale"] == args.scale and r["budget"] == task.scale.budget.model_dump()
    ]
    done = {(record["name"], record["seed"]) for record in records}
    wanted = [(name, seed) for seed in range(max(args.seeds, args.baseline_seeds)) for name in names]
    wanted = [one for one in wanted if one not in done and (one[1] < args.seeds or one[0] == "baseline")]

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
