"""How far do honest models differ between batches, and how small a leak does the evaluator find? Prints both for a checkpoint.

A person runs it, on the device whose row of `nanochat.agreement.TOLERANCES` is in question:
`python benchmarks/agreement.py --checkpoint out/checkpoint.pt --data DATA`. Every variant of the model is asked for the same rows
in other orders and batch sizes; then leaks of known worth are planted into its answers and put before the evaluator's own test.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nanochat is a workspace and not installed

from nanochat import gpt
from nanochat.agreement import TOLERANCES, Disagreement, Plan, agreed, plans
from nanochat.data import load_array

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = (1, 2, 5, 8, 11, 16, 32, 47, 64)
Model = Callable[[torch.Tensor], torch.Tensor]


def variants(model: torch.nn.Module) -> Iterator[tuple[str, Callable[[], Model]]]:
    """(name, maker) of honest ways to run one checkpoint."""

    def autocast() -> Model:
        def run(tokens: torch.Tensor) -> torch.Tensor:
            with torch.autocast(DEVICE, torch.bfloat16):
                return model(tokens)

        return run

    yield "as it is", lambda: model
    yield "fp32 weights", lambda: copy.deepcopy(model).float()
    yield "bf16 weights", lambda: copy.deepcopy(model).bfloat16()
    yield "fp16 weights", lambda: copy.deepcopy(model).half()
    yield "bf16 autocast", autocast
    yield "compiled", lambda: torch.compile(model)


@torch.inference_mode()
def logs(model: Model, rows: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """Log-probabilities of the targets, float32 (rows, context), asked in this order, `size` rows at a time."""
    found = np.empty((len(rows), rows.shape[1] - 1), dtype=np.float32)
    for part in np.split(order, range(size, len(order), size)):
        tokens = torch.from_numpy(rows[part].astype(np.int64)).to(DEVICE)
        logits = model(tokens[:, :-1]).float()
        found[part] = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].cpu().numpy()
    return found


def noise(rows: np.ndarray, model: torch.nn.Module, sizes: list[int]) -> None:
    """The table of what honest variants differ by, against batches of the largest size."""
    random = np.random.default_rng(0)
    print(f"{'variant':20s} rows a batch     max    p99.99      mean       rms  signed mean   (nats)")
    for name, make in variants(model):
        begun = time.monotonic()
        try:
            run = make()
            base = logs(run, rows, random.permutation(len(rows)), sizes[-1])
            for size in sizes:
                moved = logs(run, rows, random.permutation(len(rows)), size).astype(np.float64) - base
                away = np.abs(moved)
                print(
                    f"{name:20s} {size:12d} {away.max():7.1e} {np.quantile(away, 0.9999):9.1e} {away.mean():9.1e}"
                    f" {moved.std():9.1e} {moved.mean():12.1e}", flush=True
                )  # fmt: skip
        except Exception as error:  # a variant that this model or machine has not
            print(f"{name:20s} {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        print(f"{name:20s} {time.monotonic() - begun:.1f} s")


def leaks(rows: np.ndarray, sizes: np.ndarray, model: torch.nn.Module, largest: int, draws: int) -> None:
    """The table of planted leaks: what each is worth, and how often one evaluation finds it."""
    random = np.random.default_rng(1)
    context = rows.shape[1] - 1
    bytes_a_token = float(sizes[rows[:, 1:]].mean())
    plan = plans([len(rows)], context, largest, random)[0]
    known = {size: logs(model, rows, random.permutation(len(rows)), size) for size in {len(part) for part in plan.batches[:-1]}}

    def answers(plan: Plan, better: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        at, _ = plan.places()
        honest = np.stack([known[min(known, key=lambda size: abs(size - have))][row] for row, have in enumerate(at)])
        return better(honest, np.arange(context) + 1 < plan.cuts[:, None])

    def mixed(part: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda honest, shown: np.log((1 - part) * np.exp(honest) + part * shown)

    def rare(part: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda honest, shown: np.where(shown & (honest < np.quantile(honest, part)), math.log(0.99), honest)

    print(f"\n{'leak':44s} worth (bits a byte)   found in {draws} evaluations of {len(rows)} rows")
    cases = [(f"next token mixed in with weight {part:g}", mixed(part)) for part in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)]
    cases += [(f"known at the {part:g} most surprising places", rare(part)) for part in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)]
    honest = answers(plan, lambda honest, shown: honest)
    for name, better in [("none", lambda honest, shown: honest), *cases]:
        whole = Plan(plan.batches, np.full(len(rows), context), plan.donors)
        worth = float((answers(whole, better) - honest).mean()) / math.log(2) / bytes_a_token
        found = 0
        for _ in range(draws):
            both = plans([len(rows)], context, largest, random)
            try:
                agreed(np.stack([answers(one, better) for one in both]).astype(np.float32), both, TOLERANCES[DEVICE])
            except Disagreement:
                found += 1
        print(f"{name:44s} {worth:19.5f}   {found / draws:.0%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="prepared data")
    parser.add_argument("--split", default="search")
    parser.add_argument("--rows", type=int, help="at most so many of the split")
    parser.add_argument("--largest", type=int, default=64, help="rows of the largest batch; the evaluator takes 16 at d8")
    parser.add_argument("--draws", type=int, default=200, help="evaluations of each leak; 0: none")
    parser.add_argument("--leaks-only", action="store_true")
    args = parser.parse_args()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    model = gpt.build(saved["config"])
    model.load_state_dict(saved["model"])
    model.to(DEVICE).eval()
    rows = load_array(args.data, args.split)[: args.rows]
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{DEVICE} ({where}), torch {torch.__version__}, {len(rows)} rows of {rows.shape[1] - 1}, {TOLERANCES[DEVICE]}\n")
    if not args.leaks_only:
        noise(rows, model, [size for size in SIZES if size <= args.largest])
    if args.draws:
        leaks(rows, load_array(args.data, "token_bytes"), model, args.largest, args.draws)


if __name__ == "__main__":
    main()
