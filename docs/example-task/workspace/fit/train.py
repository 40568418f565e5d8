"""Stochastic gradient descent on a line. Editable."""

import argparse
import json
import random
from pathlib import Path

from fit.points import look

RATE = 0.02
DECAY = 0.5

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--budget", type=json.loads)
parser.add_argument("--out", type=Path)
given = parser.parse_args()

source, a, b = random.Random(given.seed), 0.0, 0.0
steps = given.budget["amount"]
for step in range(steps):
    x, y = look(source)
    error = a * x + b - y
    rate = RATE * (1 - DECAY * step / steps)
    a, b = a - rate * error * x, b - rate * error
(given.out / "line.json").write_text(json.dumps([a, b]))
