"""How fast does the trainer train? A table of steps on random tokens, for each attention kernel, on this machine's GPU (or CPU).

python benchmarks/trainer.py [--scale d8] [--steps 20] [--kernels cudnn,flash,flex,sdpa] [--json FILE]

Each row is a process of its own, so that start-up and compilation are the whole of it. `reference` is the same model with PyTorch's
plain scaled_dot_product_attention (a window is a mask there) and without the fused kernels. MFU counts the pairs that causal windows
let through ("exact") and, as others print it, whole windows; the peak is 989.5 TFLOP/s, dense bf16 of an H100 or H200 (NVIDIA's
data sheet). Steps are timed one by one, waiting for the GPU; tokens a second come from all of them in a row, without waiting.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PEAK = 989.5e12
ROWS = ("reference", "sdpa", "flash", "flex", "cudnn", "flash3")


def flops(config: Any) -> tuple[float, float]:
    """Training FLOPs a token of this model, (exact, whole windows): 6 a weight of the matrices, 12 a channel and pair of attention."""
    matrices = 12 * config.width**2 * config.depth + config.vocab * config.width
    exact = sum(sum(min(i + 1, window) for i in range(config.context)) / config.context for window in config.window)
    return 6 * matrices + 12 * config.width * exact, 6 * matrices + 12 * config.width * sum(config.window)


def one(row: str, scale: str, steps: int) -> dict[str, Any]:
    """Measure in this process."""
    begun = time.perf_counter()
    import torch
    import torch.nn.functional as F

    from nanochat import attention, gpt, kernels, train
    from tasks import spec

    args = spec.load("nanochat", scale).scale.args
    if row == "reference":
        attention.KERNEL = "sdpa"
        plain = {
            "relu2_mlp": lambda x, up, down: F.linear(F.relu(F.linear(x, up)).square(), down),
            "capped_cross_entropy": lambda x, head, targets, cap: F.cross_entropy(
                cap * torch.tanh(F.linear(x, head).float() / cap), targets
            ),
            "rotate_norm": kernels.plain_rotate_norm,
        }  # fmt: skip
        for name, function in plain.items():
            setattr(gpt, name, function)
        train.DEVICE_TOKENS //= 4  # its masks and logits need four times the memory
    elif row != "auto":
        attention.KERNEL = row
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        model = gpt.GPT(gpt.Config.of(args["depth"], args["vocab"], args["context"]))
    rows = args.get("batch_tokens", 1024) // args["context"]
    trainer = train.Trainer(model, rows)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def batch() -> torch.Tensor:
        return torch.randint(args["vocab"], (2, rows, args["context"]), device=device)

    tokens = batch()
    trainer.step(tokens[0], tokens[1], 0.0)
    wait()
    first = time.perf_counter() - begun
    for _ in range(3):
        trainer.step(tokens[0], tokens[1], 0.0)
    wait()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    since = time.perf_counter()
    for _ in range(steps):
        trainer.step(tokens[0], tokens[1], 0.5)
    wait()
    seconds = (time.perf_counter() - since) / steps
    each = []
    for _ in range(steps):
        since = time.perf_counter()
        trainer.step(tokens[0], tokens[1], 0.5)
        wait()
        each.append(time.perf_counter() - since)
    exact, whole = flops(model.config)
    rate = tokens[0].numel() / seconds
    return {
        "row": row, "scale": scale, "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "one CPU thread",
        "step_ms": seconds * 1e3, "tokens_per_second": rate, "mfu": rate * exact / PEAK, "mfu_whole": rate * whole / PEAK,
        "cv": statistics.stdev(each) / statistics.mean(each), "first_step_seconds": first,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="d8")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kernels", default=",".join(("reference", *ROWS[1:])), help=f"of {', '.join(ROWS)}, auto")
    parser.add_argument("--json", type=Path, help="append every row to this file, a JSON line each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.scale, args.steps)))
        return
    print("| attention | ms a step | tokens/s | MFU exact | MFU whole windows | CV of steps | GiB | s to first step |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in args.kernels.split(","):
        words = [sys.executable, __file__, "--one", row, "--scale", args.scale, "--steps", str(args.steps)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            print(f"| {row} | {(done.stderr.strip().splitlines() or ['failed'])[-1][:100]} |" + " |" * 6, flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        if args.json:
            with args.json.open("a") as handle:
                handle.write(json.dumps(found) + "\n")
        print(
            f"| {row} | {found['step_ms']:.1f} | {found['tokens_per_second']:,.0f} | {found['mfu']:.1%} | {found['mfu_whole']:.1%} "
            f"| {found['cv']:.2%} | {found['memory_gib']:.1f} | {found['first_step_seconds']:.0f} |",
            flush=True,
        )
    print(f"\non {found['device']}, torch {found['torch']}" if "found" in locals() else "")


if __name__ == "__main__":
    main()
