"""The judge: reads the line that training left, and nothing else of it. Protected."""

import argparse
import json
import math
import random
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path)
parser.add_argument("--out", type=Path)
parser.add_argument("--splits")
parser.add_argument("--result", type=Path)
given = parser.parse_args()

# What a step costs is the same for whatever is done with its point: points are what is scarce here, and the feeder counts them.
result = {"status": "ok", "reason": "", "metric": {}, "params": 2, "flops_per_token": 12}
true_a, true_b = json.loads((given.data / "truth.json").read_text())
try:
    a, b = map(float, json.loads((given.out / "line.json").read_text()))
    for split in given.splits.split(","):
        draw = random.Random(split)
        places = [draw.uniform(-1, 1) for _ in range(500)]
        result["metric"][split] = math.fsum((a * x + b - true_a * x - true_b) ** 2 for x in places) / len(places)
except (OSError, ValueError, TypeError) as error:
    result = {"status": "invalid", "reason": f"no line to score: {error}", "metric": {}}
given.result.write_text(json.dumps(result))
