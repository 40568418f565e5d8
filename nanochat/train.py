"""Training: batches from the feeder until the budget is spent, then a checkpoint. `python -P -m nanochat.train`, in a checkout.

Notable choices: the schedule follows the progress of the budget that the feeder reports, so any budget is annealed to its
end; the seed fixes weights and order of the data, and one thread makes the same seed give the same digits.
By hand, `python -m nanochat.train` starts its own feeder and needs no argument.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from nanochat import gpt
from nanochat.data import BUDGET, DataError, Feed, FeedError, default_folder, prepare, read_settings
from nanochat.optim import Optimizer

BATCH_ROWS = 16
"""Rows of a step. Smaller batches mean more steps of the optimiser for the same tokens, and cost more seconds."""
WARMUP = 0.0
"""Part of the budget over which the learning rates rise from zero."""
WARMDOWN = 0.5
"""Part of the budget, at its end, over which they fall linearly."""
FINAL_LR = 0.0
"""What is left of the learning rates at the very end, as a part of their peak."""


def schedule(progress: float) -> float:
    """Factor on all learning rates at this part of the budget, in [0, 1]."""
    rise = (progress + 0.01) / (WARMUP + 0.01)  # a hundredth ahead, so that the first step is not wasted at zero
    left = (1 - progress) / WARMDOWN if WARMDOWN > 0 else 1.0
    return min(1.0, rise, FINAL_LR + (1 - FINAL_LR) * left)


def train(model: gpt.GPT, feed: Feed) -> None:
    """Train until the feeder says that the budget is spent. Raises FloatingPointError when the loss is no number."""
    optimizer = Optimizer(model)
    begun, step, due = time.monotonic(), 0, 0.0
    while (batch := feed.batch(BATCH_ROWS)) is not None:
        tokens, targets = batch
        logits = model(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {step} (progress {feed.progress:.0%}): lower a learning rate")
        optimizer.step(schedule(feed.progress), feed.progress)
        step += 1
        if feed.progress >= due:
            report(feed, step, value, time.monotonic() - begun)
            due += 0.1
    if not step:
        raise DataError("the budget is smaller than one row: give more tokens")
    report(feed, step, value, time.monotonic() - begun)


def report(feed: Feed, step: int, loss: float, seconds: float) -> None:
    """A line for people, and for whoever shows the last line of a log."""
    print(f"{feed.progress:4.0%}  step {step:5d}  loss {loss:.4f}  tokens {feed.tokens:,}  {seconds:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="nanochat.train", description=__doc__)
    parser.add_argument("--scale", help="JSON file with the scale's settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", default=BUDGET, help='JSON: {"kind": "tokens", "amount": 409600}')
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for checkpoint.pt")
    parser.add_argument("--feed", type=int, help="inherited socket to a feeder; without it one is started")
    parser.add_argument("--data", type=Path, help="prepared data, for a feeder of our own")
    parser.add_argument("--depth", type=int, help="layers; the width and all else follow")
    args = parser.parse_args()
    here = Path(gpt.__file__).resolve()
    if not here.is_relative_to(Path.cwd().resolve()):
        print(f"nanochat.train: gpt.py came from {here.parent}, outside of this checkout: start in its root, with PYTHONPATH set to it")
        return 2
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    try:
        settings = read_settings(args.scale)
        model = gpt.GPT(gpt.Config.of(args.depth or settings["depth"], settings["vocab"], settings["context"]))
        print(f"{model.config}  {sum(p.numel() for p in model.parameters()):,} parameters  seed {args.seed}", flush=True)
        if args.feed is None:
            folder = args.data or default_folder(settings)
            prepare(folder, settings)
            feed = Feed.start(folder, args.scale, args.seed, args.budget)
        else:
            feed = Feed.connect(args.feed)
        train(model, feed)
        feed.close()
    except (DataError, FeedError, FloatingPointError, ValueError) as error:
        print(f"nanochat.train: {error}", flush=True)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(gpt.checkpoint(model), args.out / "checkpoint.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
