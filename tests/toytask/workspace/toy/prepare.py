"""Writes the data: points on a fixed curve with noise, one list to train on and one for each split, and their hash."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
from pathlib import Path

SIZES = {"train": 4096, "search": 256, "audit": 256, "locked": 256}
NOISE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    points = {}
    for split, size in SIZES.items():
        draw = random.Random(f"curve {split}")
        xs = [draw.uniform(-2, 2) for _ in range(size)]
        points[split] = [[x, math.sin(2 * x) + 0.3 * x + draw.gauss(0, NOISE)] for x in xs]
    text = json.dumps(points)
    (given.data / "points.json").write_text(text)
    manifest = {"corpus": hashlib.sha256(text.encode()).hexdigest(), "tokenizer": "none"}
    (given.data / "manifest.json").write_text(json.dumps(manifest))
    print(f"{sum(SIZES.values())} points")


if __name__ == "__main__":
    main()
