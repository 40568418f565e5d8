"""Stochastic gradient descent on a line, a step for each point that the feeder hands out. Editable."""

import argparse
import json
import socket
from pathlib import Path

RATE = 0.02
DECAY = 0.5

parser = argparse.ArgumentParser()
parser.add_argument("--budget", type=json.loads)
parser.add_argument("--fd", type=int)
parser.add_argument("--out", type=Path)
given = parser.parse_args()

a, b, steps = 0.0, 0.0, given.budget["amount"]
with socket.socket(fileno=given.fd) as feeder, feeder.makefile() as points:
    for step in range(steps):
        feeder.send(b"?")
        x, y = json.loads(points.readline())
        error = a * x + b - y
        rate = RATE * (1 - DECAY * step / steps)
        a, b = a - rate * error * x, b - rate * error
(given.out / "line.json").write_text(json.dumps([a, b]))
