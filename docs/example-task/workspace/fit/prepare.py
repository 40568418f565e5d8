"""Draws the truth, once: into the data folder, which training cannot read, and not into a file that it can. Protected."""

import argparse
import hashlib
import json
import random
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path)
given = parser.parse_args()

draw = random.SystemRandom()
truth = json.dumps([draw.uniform(1.5, 2), draw.uniform(-1, 1)])
(given.data / "truth.json").write_text(truth)
(given.data / "manifest.json").write_text(json.dumps({"truth": hashlib.sha256(truth.encode()).hexdigest()}))
