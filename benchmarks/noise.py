"""How noisy is a task's baseline, and how much is there to find? Prints a table of seeds and, with --search, of a TPE search.

A person runs it: `python benchmarks/noise.py --seeds 6 --search 32`. Every number comes from whole runs, started the way the
laboratory starts them: feeder, trainer and scorer as processes of their own. A search goes over the knobs and, for nanochat, over the
ideas of `patches.py`, on or off; it sees one split, and the gain is measured on another with fresh seeds. `--record FILE` keeps every
run as a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.patches import IDEAS, Patch, patched
from tasks import spec
from tasks.knobs import Value, read_knobs, write_knobs

NEVER_KNOBS = ("MLP_RATIO", "BATCH_SCALE")  # they cost more FLOPs: what they gain may be bought

ON = "+ "  # before the name of an idea among the values of a run
FIRST_TRIAL = 1000  # seed of a search's first trial
COUNTED = ("tokens", "steps", "seconds", "startup_seconds", "data_wait", "flops", "flops_per_token", "flops_unknown", "metered")
KEPT = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def lay(task: spec.Task, files: dict[str, bytes], work: Path) -> None:
    """The folders of one run: `checkout` with all files, `protected` with the protected ones, `scale.json`."""
    for path, content in files.items():
        for folder in ("checkout", "protected") if path in task.protected else ("checkout",):
            target = work / folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    (work / "scale.json").write_text(json.dumps(task.scale.args))


def command(words: list[str], work: Path, data: Path, **values: object) -> list[str]:
    """A task's command with its words in braces replaced."""
    known: dict[str, object] = {
        "python": sys.executable, "data": data, "scale": work / "scale.json", "out": work / "out",
        "counts": work / "counts.json", "checkout": work / "checkout", "result": work / "score.json", **values,
    }  # fmt: skip
    return [word.format(**known) for word in words]


def environment(task: spec.Task, work: Path, path: str) -> dict[str, str]:
    """Built from nothing, as a run's is, but for the GPU and the compiler's caches. `path` is the folder of `work` that
    Python may import from."""
    threads = str(task.scale.threads)
    return {
        "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(work), "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": threads, "PYTHONPATH": str(work / path),
        **{name: os.environ[name] for name in KEPT if name in os.environ},
    }  # fmt: skip


def train(task: spec.Task, work: Path, data: Path, seed: int, log: int | None = None) -> int:
    """Feed and train in `work`; returns the trainer's exit code. The feeder ends by itself when the trainer hangs up."""
    budget = task.scale.budget.model_dump_json()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        feeder = subprocess.Popen(
            command(task.feed, work, data, seed=seed, budget=budget, feed=ours.fileno()),
            env=environment(task, work, "protected"), pass_fds=[ours.fileno()], stderr=log,
        )  # fmt: skip
        trainer = subprocess.Popen(
            command(task.train, work, data, seed=seed, budget=budget, feed=theirs.fileno()),
            env=environment(task, work, "checkout"), pass_fds=[theirs.fileno()], cwd=work / "checkout", stdout=log, stderr=log,
        )  # fmt: skip
    try:
        return trainer.wait()
    finally:
        trainer.kill()
        feeder.wait()


def score(task: spec.Task, work: Path, data: Path, seed: int, splits: tuple[str, ...], log: int | None = None) -> dict[str, Any]:
    """The scorer's result file, as a dictionary."""
    words = command(task.score, work, data, seed=seed, splits=",".join(splits))
    subprocess.run(words, env=environment(task, work, "protected"), check=True, stdout=log)
    result: dict[str, Any] = json.loads((work / "score.json").read_text())
    return result


def whole(
    task: spec.Task, data: Path, seed: int, splits: tuple[str, ...], patches: list[Patch],
    knobs: dict[str, Value] | None = None, keep: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One whole run of the shipped source with these patches and knobs: {seed, status, reason, metric, train_seconds, score_seconds,
    the rest of the score, COUNTED, the log's end}. The checkpoint is copied to `keep`."""
    with tempfile.TemporaryDirectory(prefix="noise-") as folder:
        work = Path(folder)
        lay(task, patched(spec.workspace_files(task, spec.folder(task.name)), patches), work)
        write_knobs(work / "checkout", task, knobs or {})
        begun = time.monotonic()
        with (work / "log").open("w+") as log:
            code = train(task, work, data, seed, log.fileno())
        trained, said = time.monotonic(), (work / "log").read_text().strip().splitlines() or [""]
        record: dict[str, Any] = {"seed": seed, "train_seconds": trained - begun}
        if code:
            return {**record, "status": "crashed", "reason": said[-1], "metric": {}, "score_seconds": 0.0}
        if keep:
            keep.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(work / "out" / "checkpoint.pt", keep)
        counts = json.loads((work / "counts.json").read_text())
        record |= score(task, work, data, seed, splits, subprocess.DEVNULL) | {key: counts.get(key) for key in COUNTED}
        return {**record, "score_seconds": time.monotonic() - trained, "log": said[-12:]}


def measure(task: spec.Task, data: Path, seed: int, values: dict[str, Value], splits: tuple[str, ...]) -> dict[str, Any]:
    """One whole run with these knobs, and the ideas that are on: what `whole` says, and {values}."""
    patches = [patch for name, idea in IDEAS.items() if values.get(ON + name) for patch in idea]
    knobs = {name: value for name, value in values.items() if not name.startswith(ON)}
    return {**whole(task, data, seed, splits, patches, knobs), "values": values}


def table(title: str, records: list[dict[str, Any]], splits: tuple[str, ...]) -> None:
    """Mean and spread over these runs."""
    good = [record for record in records if record["status"] == "ok"]
    print(f"\n{title}: {len(good)} of {len(records)} runs ok")
    for split in splits:
        values = [record["metric"][split] for record in good]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"  {split:7s} mean {statistics.mean(values):.4f}  sigma {spread:.4f}  from {min(values):.4f} to {max(values):.4f}")
    for name in ("train_seconds", "score_seconds", "flops"):
        print(f"  {name:14s} median {statistics.median(record[name] for record in good):.4g}")


def search(task: spec.Task, data: Path, trials: int, jobs: int, keep: Any, before: list[dict[str, Any]]) -> dict[str, Value]:
    """A TPE search over the FLOPs-neutral knobs and the ideas on split `search`, every trial with a seed of its own.

    Returns the middle of the best tenth of the trials: the best trial of a noisy search is a lucky one.
    `before` are records of earlier trials, which count as the first ones.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True, n_startup_trials=10))
    shipped = read_knobs(spec.workspace(spec.folder(task.name)), task)
    knobs = [knob for knob in task.knobs if knob.name not in NEVER_KNOBS]
    ranges: dict[str, Any] = {}
    for knob in knobs:
        if knob.choices is not None:
            ranges[knob.name] = optuna.distributions.CategoricalDistribution(knob.choices)
        else:
            assert knob.low is not None and knob.high is not None
            ranges[knob.name] = optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.log)
    ideas = [ON + name for name in IDEAS] if task.name == "nanochat" else []
    ranges |= {name: optuna.distributions.CategoricalDistribution([False, True]) for name in ideas}
    for record in before:
        study.add_trial(
            optuna.trial.create_trial(params=record["values"], distributions=ranges, value=record["metric"]["search"])
        )
    if not before:
        study.enqueue_trial({**{knob.name: shipped[knob.name] for knob in knobs}, **dict.fromkeys(ideas, False)})

    def one(number: int) -> None:
        trial = study.ask(ranges)
        values: dict[str, Value] = {
            name: cast(Value, float(f"{value:.4g}") if isinstance(value, float) else value)
            for name, value in trial.params.items()
        }
        record = keep(measure(task, data, FIRST_TRIAL + number, values, ("search",)))
        if record["status"] == "ok":
            study.tell(trial, record["metric"]["search"])
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        outcome = f"{record['metric']['search']:.4f}" if record["status"] == "ok" else record["status"]
        print(f"  trial {number:3d}  {outcome}  best {best(study):.4f}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, range(len(before), trials)))
    good = sorted((trial for trial in study.trials if trial.value is not None), key=lambda trial: trial.value or 0.0)
    return middle([trial.params for trial in good[: max(1, len(good) // 10)]])


def middle(settings: list[dict[str, Any]]) -> dict[str, Value]:
    """Of each knob the median, or of choices the most frequent one."""
    found: dict[str, Value] = {}
    for name in settings[0]:
        values = [one[name] for one in settings]
        number = isinstance(values[0], float)  # a bool is a choice
        found[name] = float(f"{statistics.median(values):.4g}") if number else max(set(values), key=values.count)
    return found


def best(study: Any) -> float:
    """Best value so far, nan when there is none."""
    return min((trial.value for trial in study.trials if trial.value is not None), default=float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="nanochat")
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--seeds", type=int, default=6, help="runs of the baseline")
    parser.add_argument("--search", type=int, default=0, help="trials of the search; its best is measured again with fresh seeds")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KNOB=VALUE",
        help="measure this instead of the baseline; an idea is '+ NAME=true'",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--data", type=Path, help="prepared data to use, or to fill")
    parser.add_argument(
        "--record", type=Path, help="append every run to this file, a JSON line each; trials of a search in it are done"
    )
    args = parser.parse_args()
    task = spec.load(args.task, args.scale)
    values: dict[str, Value] = {}
    for item in args.set:
        name, _, text = item.partition("=")
        values[name] = json.loads(text) if text[:1].isdigit() or text[:1] == "-" or text in ("true", "false") else text
    splits = ("search", "audit")
    lines = args.record.read_text().splitlines() if args.record and args.record.exists() else []
    before = [r for r in map(json.loads, lines) if r["seed"] >= FIRST_TRIAL and r["status"] == "ok"]

    def keep(record: dict[str, Any]) -> dict[str, Any]:
        if args.record:
            with args.record.open("a") as handle:
                handle.write(json.dumps(record) + "\n")
        return record

    with tempfile.TemporaryDirectory(prefix="noise-data-") as folder:
        data = args.data or Path(folder) / "data"
        work = Path(folder)
        lay(task, spec.workspace_files(task, spec.folder(args.task)), work)
        subprocess.run(command(task.prepare, work, data), env=environment(task, work, "protected"), check=True)

        def seeds(first: int, count: int, chosen: dict[str, Value]) -> list[dict[str, Any]]:
            with ThreadPoolExecutor(args.jobs) as pool:
                return list(pool.map(lambda seed: keep(measure(task, data, seed, chosen, splits)), range(first, first + count)))

        records = seeds(0, args.seeds, values)
        table("settings given" if values else "baseline", records, splits)
        if args.search:
            print(f"\nsearch of {args.search} trials", flush=True)
            found = search(task, data, args.search, args.jobs, keep, before)
            print(json.dumps(found))
            again = seeds(100, args.seeds, found)
            table("the middle of the best tenth, fresh seeds", again, splits)
            sigma = statistics.stdev(record["metric"]["audit"] for record in records)
            gain = statistics.mean(r["metric"]["audit"] for r in records) - statistics.mean(r["metric"]["audit"] for r in again)
            print(f"\ngain on audit {gain:.4f} = {gain / sigma:.1f} sigma of the baseline")


if __name__ == "__main__":
    main()
