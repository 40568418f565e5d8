"""The feeder: a noisy point (x, y) for every byte that training sends, until the budget is spent; it counts them. Protected."""

import argparse
import json
import random
import socket
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path)
parser.add_argument("--seed")
parser.add_argument("--budget", type=json.loads)
parser.add_argument("--fd", type=int)
parser.add_argument("--counts", type=Path)
given = parser.parse_args()

a, b = json.loads((given.data / "truth.json").read_text())
draw = random.Random(f"{a} {b} {given.seed}")  # training knows the seed: by that alone it could work out the noise
served = 0
with socket.socket(fileno=given.fd) as connection:
    while served < given.budget["amount"] and connection.recv(1):
        x = draw.uniform(-1, 1)
        served += 1
        connection.sendall(json.dumps([x, a * x + b + draw.gauss(0, 0.5)]).encode() + b"\n")
given.counts.write_text(json.dumps({"tokens": served, "steps": served}))
