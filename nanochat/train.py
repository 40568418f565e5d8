"""Training: batches from the feeder until the budget is spent, then a checkpoint. `python -P -m nanochat.train`, in a checkout.

Notable choices: the schedule follows the progress of the budget that the feeder reports, so any budget is annealed to its
end; the seed fixes weights and order of the data, and on a CPU one thread makes the same seed give the same digits; a GPU
compiles and warms up on random tokens before it asks for the first batch, when the clock of a budget of time starts.
By hand, `python -m nanochat.train` starts its own feeder and needs no argument; on several GPUs, `torchrun
--standalone --nproc-per-node 8 -m nanochat.train`: the first process asks the feeder, all share each step's rows.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from nanochat import gpt
from nanochat.data import BUDGET, DataError, Feed, FeedError, default_folder, prepare, read_settings
from nanochat.optim import Optimizer

BATCH_SCALE = 1.0
"""Rows of a step over those of the scale. Smaller batches mean more steps for the same tokens, and cost more seconds."""
DEVICE_TOKENS = 262144
"""Tokens that go through a GPU at once; a larger step is added up from several. d8 needs 36 GiB, and with half of them 19 GiB and
1.6 % more time, since kernels come with gaps between them."""
WARMUP = 0.0
"""Part of the budget over which the learning rates rise from zero."""
WARMDOWN = 0.5
"""Part of the budget, at its end, over which they fall linearly."""
FINAL_LR = 0.0
"""What is left of the learning rates at the very end, as a part of their peak."""
HORIZON = 1.0
"""Part of the budget after which training ends, annealed to that: for tasks that ask how little reaches a target."""
WARM_STEPS = 3
"""Steps on random tokens before a GPU starts: the first compiles, the next ones fill caches."""


def schedule(progress: float) -> float:
    """Factor on all learning rates at this part of the training, in [0, 1]."""
    rise = (progress + 0.01) / (WARMUP + 0.01)  # a hundredth ahead, so that the first step is not wasted at zero
    left = (1 - progress) / WARMDOWN if WARMDOWN > 0 else 1.0
    return min(1.0, rise, max(0.0, FINAL_LR + (1 - FINAL_LR) * left))


class Trainer:
    """A model, its optimiser and the steps they take; one of `world` processes that share each step's rows."""

    def __init__(self, model: gpt.GPT, rows: int, rank: int = 0, world: int = 1) -> None:
        self.model, self.rows, self.rank, self.world = model, rows, rank, world
        self.context, self.device = model.config.context, model.embed.weight.device
        self.cuda = self.device.type == "cuda"
        self.optimizer = Optimizer(model)
        if self.cuda:
            model.compile_parts()
        self.count = 0

    def step(self, tokens: torch.Tensor, targets: torch.Tensor, progress: float) -> torch.Tensor:
        """One step on int64 (rows, context) tensors; returns the mean loss in nats, not waiting for the GPU."""
        mine = tokens[self.rank :: self.world], targets[self.rank :: self.world]
        most = max(1, DEVICE_TOKENS // self.context) if self.cuda else len(tokens)
        total = torch.zeros((), device=self.device)
        for inputs, wanted in zip(*(part.split(most) for part in mine), strict=True):
            loss = self.model.loss(inputs, wanted) * (len(inputs) * self.world / len(tokens))
            loss.backward()
            total += loss.detach()
        if self.world > 1:
            self._average(total)
        self.optimizer.step(schedule(progress), progress)
        self.count += 1
        return total

    def _average(self, total: torch.Tensor) -> None:
        """Mean of gradients and loss over all processes, in one message."""
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.optimizer.parameters] + [total]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        flat /= self.world
        for p, part in zip(
            [*self.optimizer.parameters, None], flat.split([part.numel() for part in parts]), strict=True
        ):
            if p is None:
                total.copy_(part[0])
            else:
                p.grad = part.view(p.shape)

    def warm_up(self, seed: int) -> None:
        """Compile on random tokens, then start anew from fresh weights."""
        for _ in range(WARM_STEPS):
            noise = torch.randint(self.model.config.vocab, (2, self.rows, self.context), device=self.device)
            self.step(noise[0], noise[1], 0.0)
        torch.manual_seed(seed)
        self.model.reset()
        self.optimizer.load_state_dict(None)
        self.count = 0
        if self.cuda:
            torch.cuda.synchronize()


def batches(feed: Feed | None, trainer: Trainer):
    """(tokens, targets, progress) of each step on the trainer's device. Processes without a feed get theirs from the first."""
    shape = (2, trainer.rows, trainer.context)
    while True:
        batch = feed.batch(trainer.rows) if feed and feed.progress < HORIZON else None
        progress = feed.progress if feed else 0.0
        if trainer.world == 1:
            if batch is None:
                return
            pair = torch.stack(batch)
        else:
            # rows left over at the end of a budget of tokens are not shared: all processes must have some
            full = batch is not None and len(batch[0]) == trainer.rows
            head = torch.tensor([float(full), progress], dtype=torch.float64, device=trainer.device)
            dist.broadcast(head, 0)
            if not head[0]:
                return
            progress = head[1].item()
            pair = (
                torch.stack(batch).to(trainer.device)
                if full
                else torch.empty(shape, dtype=torch.int64, device=trainer.device)
            )
            dist.broadcast(pair, 0)
        if trainer.cuda:
            pair = pair.pin_memory().to(trainer.device, non_blocking=True) if not pair.is_cuda else pair
        yield pair[0], pair[1], min(1.0, progress / HORIZON)


def train(trainer: Trainer, feed: Feed | None, save: Path | None = None, every: int = 0) -> None:
    """Train until the feeder says that the budget is spent. Raises FloatingPointError when the loss is no number.

    A step's loss is looked at when the next has been sent to the GPU, so that it never waits for the CPU. `every` so many steps
    the state is saved to `save`.
    """
    begun, due, last = time.monotonic(), 0.0, None
    for tokens, targets, progress in batches(feed, trainer):
        loss = trainer.step(tokens, targets, progress)
        for value, at in [last] if last and trainer.cuda else []:
            check(value, trainer.count - 1, at)
        last = (loss, progress)
        if not trainer.cuda:
            check(loss, trainer.count, progress)
        if feed and progress >= due:
            report(trainer, feed, progress, loss, time.monotonic() - begun)
            due += 0.1
        if save and every and trainer.count % every == 0 and trainer.rank == 0:
            save_state(save, trainer, feed)
    if last is None:
        raise DataError("the budget is smaller than one row: give more tokens")
    check(last[0], trainer.count, last[1])
    if feed:
        report(trainer, feed, 1.0, last[0], time.monotonic() - begun)


def check(loss: torch.Tensor, step: int, progress: float) -> None:
    """Raises FloatingPointError when the loss of that step is no number."""
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"loss is {value} at step {step} (progress {progress:.0%}): lower a learning rate")


def report(trainer: Trainer, feed: Feed, progress: float, loss: torch.Tensor, seconds: float) -> None:
    """A line for people, and for whoever shows the last line of a log."""
    text = f"{progress:4.0%}  step {trainer.count:5d}  loss {loss.item():.4f}  tokens {feed.tokens:,}  {seconds:.1f} s"
    if trainer.cuda:
        text += f"  {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    print(text, flush=True)


def save_state(path: Path, trainer: Trainer, feed: Feed) -> None:
    """All that `--resume` needs, in one file that is whole or absent."""
    state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    state |= {"steps": trainer.count, "tokens": feed.tokens, "random": torch.get_rng_state()}
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(path: Path, trainer: Trainer) -> dict[str, object]:
    """Take over what `save_state` wrote. Raises DataError when it is another model's or no such file."""
    try:
        state = torch.load(path, map_location=trainer.device, weights_only=True)
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        trainer.count = state["steps"]
    except (OSError, RuntimeError, KeyError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be resumed from: {str(error).splitlines()[0]}: give a state.pt of this model"
        ) from error
    return state


def main() -> int:
    parser = argparse.ArgumentParser(prog="nanochat.train", description=__doc__)
    parser.add_argument("--scale", help="JSON file with the scale's settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", default=BUDGET, help='JSON: {"kind": "tokens", "amount": 409600}')
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for checkpoint.pt")
    parser.add_argument("--feed", type=int, help="inherited socket to a feeder; without it one is started")
    parser.add_argument("--data", type=Path, help="prepared data, for a feeder of our own")
    parser.add_argument("--depth", type=int, help="layers; the width and all else follow")
    parser.add_argument(
        "--save-every", type=int, default=0, metavar="STEPS", help="save OUT/state.pt so often, to resume from"
    )
    parser.add_argument("--resume", type=Path, metavar="STATE", help="go on from a state.pt, with a feeder of our own")
    args = parser.parse_args()
    here = Path(gpt.__file__).resolve()
    if not here.is_relative_to(Path.cwd().resolve()):
        print(
            f"nanochat.train: gpt.py came from {here.parent}, outside of this checkout: start in its root, with PYTHONPATH set to it"
        )
        return 2
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        return run(args, rank, world)
    except (DataError, FeedError, FloatingPointError, ValueError, torch.OutOfMemoryError) as error:
        print(f"nanochat.train: {str(error).splitlines()[0]}", flush=True)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def run(args: argparse.Namespace, rank: int, world: int) -> int:
    """Build, train, leave the checkpoint. Returns the exit code."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    torch.manual_seed(args.seed)
    settings = read_settings(args.scale)
    with device:
        model = gpt.GPT(gpt.Config.of(args.depth or settings["depth"], settings["vocab"], settings["context"]))
    rows = max(world, round(BATCH_SCALE * settings["batch_tokens"] / settings["context"]) // world * world)
    trainer = Trainer(model, rows, rank, world)
    if rank == 0:
        print(
            f"{model.config}  {sum(p.numel() for p in model.parameters()):,} parameters  seed {args.seed}", flush=True
        )
    if cuda:
        trainer.warm_up(args.seed)
    state = load_state(args.resume, trainer) if args.resume else {}
    feed = None
    if rank == 0 and args.feed is not None:
        feed = Feed.connect(args.feed)
    elif rank == 0:
        folder = args.data or default_folder(settings)
        prepare(folder, settings)
        feed = Feed.start(
            folder, args.scale, args.seed, args.budget, **{k: state[k] for k in ("steps", "tokens") if k in state}
        )
    if feed:
        feed.world = world
    args.out.mkdir(parents=True, exist_ok=True)
    train(trainer, feed, args.out / "state.pt", args.save_every)
    if feed:
        feed.close()
        torch.save(gpt.checkpoint(model), args.out / "checkpoint.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
