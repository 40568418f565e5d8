"""Evaluation: the scorer, which holds the targets and never imports the experiment's code.

Called by the laboratory as `python -P -m nanochat.evaluate score`, with only the protected files on the import path; asks two
model hosts (hosted.py, host.py), fresh processes on the experiment's checkout, for logits. Notable choices:
- hosts get token ids; the log-softmax is ours and bytes are counted from the raw bytes of the tokens;
- the scored rows are the probes: agreement.py cuts and orders them for each host and compares the answers;
- rows and context are the task's, and only the log-probability of each target is kept;
- CORE (core.py) is asked of the same hosts, after the probes.
Anything amiss with the model ends as {"status": "invalid", "reason": ...}; damaged data is an error and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nanochat import core
from nanochat.agreement import TOLERANCES, Disagreement, Plan, agreed, plans
from nanochat.data import SPLITS, DataError, checked, load_array, read_manifest, read_settings
from nanochat.hosted import Host, InvalidModel, fences, kernel, open_checkpoint, together

BATCH_NUMBERS = 2**28
"""Logits of one batch at most, 1 GiB: 16 rows at context 2048 and vocabulary 8192. Never less than 8 rows nor more than 64."""
HOST_SECONDS = 90.0
"""Wall clock for everything a host does, imports included; and a second more for each GB of logits."""
KINDS = ("prose", "code")
"""What the numbers in `<split>_kind.npy` mean, one for each row."""


def score(
    data: Path, settings: dict[str, Any], checkout: Path, out: Path, splits: list[str], seconds: float | None = None
) -> dict[str, Any]:
    """The content of the result file. Raises DataError when the prepared data is at fault; the model's faults are `invalid`.

    `core` alone is scored together with `search`, whose rows are probes of another kind.
    """
    result: dict[str, Any] = {
        "status": "ok",
        "reason": "",
        "metric": {},
        "params": 0,
        "eval_tokens": 0,
        "position_loss": {},
        "parts": {},
    }
    prompts = questions(data, settings) if core.SPLIT in splits else None
    splits = [split for split in splits if split != core.SPLIT] or ["search"]
    token_bytes = load_array(data, "token_bytes")
    rows = {split: load_array(data, split) for split in splits}
    tokens = np.concatenate(list(rows.values()))
    context, vocab = settings["context"], settings["vocab"]
    shape = (min(64, max(8, BATCH_NUMBERS // (context * vocab))), context, vocab)
    total = len(tokens) + (len(prompts.begin) if prompts else 0)
    seconds = seconds or HOST_SECONDS + total * context * vocab * 4 / 1e9
    # unseeded: nobody can know what is cut where, and the metric does not depend on it
    both = plans([len(part) for part in rows.values()], context, shape[0], np.random.default_rng())
    hosts: list[Host] = []
    try:
        for fence in fences():
            hosts.append(Host(checkout, open_checkpoint(out / "checkpoint.pt"), fence, shape, seconds))
        hello = greet(hosts)
        tolerance = TOLERANCES[hello["device"]]
        scored, agreement = agreed(ask(hosts, both, tokens), both, tolerance)
        for split, part in zip(
            splits, np.split(np.arange(len(tokens)), np.cumsum([len(part) for part in rows.values()])[:-1]), strict=True
        ):
            for name, value in summary(scored[part], rows[split], token_bytes, kinds(data, split)).items():
                result[name][split] = value
        if prompts:
            value, parts, agreement[core.SPLIT] = core.score(hosts, prompts, shape[0], tolerance)
            result["metric"][core.SPLIT], result["parts"][core.SPLIT] = value, parts
    except (InvalidModel, Disagreement) as error:
        return {
            **result,
            "status": "invalid",
            "reason": " ".join(str(error).split()),
            "metric": {},
            "position_loss": {},
            "parts": {},
        }
    finally:
        for host in hosts:
            host.close()
    return {
        **result, "params": hello["params"], "eval_tokens": total * context, "agreement": agreement,
        "checkpoint_bytes": (out / "checkpoint.pt").stat().st_size,
        "host_seconds": max(host.wall_seconds for host in hosts),
        "host_cpu_seconds": max(host.cpu_seconds for host in hosts),
        "host_memory_bytes": max(host.memory for host in hosts),
    }  # fmt: skip


def greet(hosts: list[Host]) -> dict[str, Any]:
    """What both hosts say of the model. Raises InvalidModel."""
    a, b = together(hosts, lambda number: hosts[number].hello())
    if a != b:
        raise InvalidModel(f"two hosts of one checkpoint say {a} and {b}")
    return a


def ask(hosts: list[Host], both: tuple[Plan, Plan], tokens: np.ndarray) -> np.ndarray:
    """Log-probabilities of the targets by each host, float32 (2, rows, context). Raises InvalidModel."""
    logs = np.empty((2, len(tokens), tokens.shape[1] - 1), dtype=np.float32)
    target_logs = kernel(tokens.shape[1] - 1, hosts[0].vocab)

    def one(number: int) -> None:
        host, plan = hosts[number], both[number]
        for part in plan.batches:
            host.ask(plan.inputs(tokens, part))
            logs[number, part] = target_logs(host.logits, tokens[part, 1:], host.vocab)

    together(hosts, one)
    return logs


def questions(data: Path, settings: dict[str, Any]) -> core.Prompts:
    """What the hosts are asked for CORE. Raises DataError."""
    from nanochat.tokenizer import Tokenizer  # here, since the other splits do without

    tasks, tokenizer = core.load(checked(data, "core")), Tokenizer.load(checked(data, "tokenizer"))
    return core.lay_out(tasks, tokenizer, settings["context"], settings["core_examples"])


def summary(logs: np.ndarray, rows: np.ndarray, token_bytes: np.ndarray, kind: np.ndarray | None) -> dict[str, Any]:
    """Of one split, from log-probabilities (rows, context) and rows (rows, context + 1): the last `context` tokens of a row
    are its targets; tokens without bytes (BOS) are not scored. {"metric": bits per byte, "position_loss": nats a token for
    each eighth of the context, "parts": bits per byte of each kind of text, empty where there is one kind}."""
    sizes = token_bytes[rows[:, 1:]].astype(np.int64)
    nats = np.where(sizes > 0, -logs.astype(np.float64), 0)

    def bits(chosen: np.ndarray) -> float:
        return float(nats[chosen].sum() / math.log(2) / sizes[chosen].sum())

    eighths = [
        float(n.sum() / max(1, (s > 0).sum()))
        for n, s in zip(*(np.array_split(x, 8, axis=1) for x in (nats, sizes)), strict=True)
    ]
    found = [] if kind is None else [number for number in range(len(KINDS)) if sizes[kind == number].any()]
    parts = {KINDS[number]: bits(kind == number) for number in found} if len(found) > 1 else {}
    return {"metric": bits(sizes > 0), "position_loss": eighths, "parts": parts}


def kinds(data: Path, split: str) -> np.ndarray | None:
    """Which of KINDS each row of a split is; None where the corpus does not say. Raises DataError."""
    if f"{split}_kind" not in (read_manifest(data) or {}):
        return None
    return load_array(data, f"{split}_kind")


def main(argv: list[str] | None = None) -> int:
    """`score`. Returns the exit code: 2 after a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="nanochat.evaluate")
    scorer = parser.add_subparsers(dest="command", required=True).add_parser("score")
    scorer.add_argument("--data", type=Path, required=True)
    scorer.add_argument("--scale", help="JSON file with the scale's settings")
    scorer.add_argument("--checkout", type=Path, required=True, help="clean checkout of the experiment's code")
    scorer.add_argument("--out", type=Path, required=True, help="folder with checkpoint.pt")
    scorer.add_argument("--splits", default="search", help="comma-separated, of search, audit, locked, core")
    scorer.add_argument(
        "--seconds",
        type=float,
        help=f"that each host may take; default {HOST_SECONDS:.0f} and one for each GB of logits",
    )
    scorer.add_argument("--result", type=Path, required=True, help="file for the result (JSON)")
    args = parser.parse_args(argv)
    try:
        splits = list(dict.fromkeys(args.splits.split(",")))
        if set(splits) - {*SPLITS, core.SPLIT}:
            raise DataError(f"--splits {args.splits}: choose from {', '.join((*SPLITS, core.SPLIT))}")
        result = score(args.data, read_settings(args.scale), args.checkout, args.out, splits, args.seconds)
        temporary = args.result.with_name(f".{args.result.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(temporary, args.result)
    except (DataError, OSError) as error:
        print(f"nanochat.evaluate score: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
