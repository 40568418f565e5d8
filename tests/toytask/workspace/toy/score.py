"""The scorer: holds the targets, imports none of the experiment's code, and asks the model host for predictions."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HOST_SECONDS = 10


class Invalid(Exception):
    """What the experiment left cannot be scored."""


def numbers(text: str, what: str) -> list[float]:
    """A JSON list of numbers. Raises Invalid."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Invalid(f"{what}: no JSON: {error}") from error
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
        raise Invalid(f"{what}: not a list of numbers")
    return value


def predictions(checkout: Path, weights: list[float], xs: list[float]) -> list[float]:
    """Ask the host, which runs in the laboratory's fence and gets the experiment's code as its only import path."""
    fences = json.loads(os.environ.get("HOST_FENCE", "[]"))
    environment = {name: value for name, value in os.environ.items() if name != "HOST_FENCE"}
    host = subprocess.run(
        [*(fences[0] if fences else []), sys.executable, "-P", "-m", "toy.host"],
        cwd=checkout, env={**environment, "PYTHONPATH": str(checkout)},
        input=json.dumps({"weights": weights, "x": xs}) + "\n", capture_output=True, text=True, timeout=HOST_SECONDS,
    )
    if host.returncode != 0:
        said = host.stderr.strip().splitlines()
        raise Invalid(f"the model does not run: {said[-1] if said else host.returncode}")
    answers = numbers(host.stdout, "predictions")
    if len(answers) != len(xs):
        raise Invalid(f"{len(answers)} predictions for {len(xs)} points")
    return answers


def score(given: argparse.Namespace) -> dict[str, Any]:
    try:
        text = (given.out / "weights.json").read_text()
    except OSError as error:
        raise Invalid(f"training left no weights.json: {error.strerror}") from error
    weights = numbers(text, "weights.json")
    points = json.loads((given.data / "points.json").read_text())
    metric, count = {}, 0
    for split in given.splits.split(","):
        answers = predictions(given.checkout, weights, [x for x, _ in points[split]])
        errors = [(answer - y) ** 2 for answer, (_, y) in zip(answers, points[split], strict=True)]
        metric[split] = math.fsum(errors) / len(errors)
        count += len(errors)
    # Two FLOPs a weight forward, four backward; tanh is not counted.
    return {
        "status": "ok", "reason": "", "metric": metric,
        "params": len(weights), "flops_per_token": 6.0 * len(weights), "eval_tokens": count,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--splits")
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    try:
        result = score(given)
    except (Invalid, OverflowError, subprocess.TimeoutExpired) as error:
        unknown = {"metric": {}, "params": None, "flops_per_token": None, "eval_tokens": 0}
        result = {"status": "invalid", "reason": str(error), **unknown}
    temporary = given.result.with_suffix(".tmp")
    temporary.write_text(json.dumps(result))
    os.replace(temporary, given.result)


if __name__ == "__main__":
    main()
