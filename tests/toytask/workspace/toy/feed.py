"""The feeder: serves batches of training points in the seed's order until the budget is spent, and counts them.

A request is a line with the batch size, the answer a line of JSON: {"batch": [[x, y], ...], "spent": 0 to 1}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import time
from pathlib import Path

COUNT_SECONDS = 0.1


class Counter:
    """What was served, written for the laboratory."""

    def __init__(self, path: Path, kind: str, amount: int) -> None:
        self.path, self.kind, self.limit = path, kind, amount
        self.tokens = self.steps = 0
        self.written = 0.0

    @property
    def amount(self) -> int:
        return self.tokens if self.kind == "tokens" else self.steps

    def write(self, always: bool = False) -> None:
        now = time.time()
        if not always and now - self.written < COUNT_SECONDS:
            return
        self.written = now
        counts = {"tokens": self.tokens, "steps": self.steps, "amount": self.amount, "time": now}
        counts["done"] = self.amount >= self.limit
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(counts))
        os.replace(temporary, self.path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--budget", type=json.loads)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--counts", type=Path)
    given = parser.parse_args()
    points = json.loads((given.data / "points.json").read_text())["train"]
    draw = random.Random(given.seed)
    counter = Counter(given.counts, given.budget["kind"], given.budget["amount"])
    counter.write(always=True)
    order: list[int] = []
    with socket.socket(fileno=given.fd) as connection, contextlib.suppress(ConnectionError):
        train = connection.makefile("rw", encoding="ascii")
        for request in train:
            size = max(1, min(int(request), 1024))
            if counter.kind == "tokens":
                size = min(size, counter.limit - counter.tokens)
            elif counter.steps >= counter.limit:
                size = 0
            if len(order) < size:
                order = draw.sample(range(len(points)), len(points))
            batch = [points[order.pop()] for _ in range(size)]
            counter.tokens += size
            counter.steps += size > 0
            train.write(json.dumps({"batch": batch, "spent": counter.amount / counter.limit}) + "\n")
            train.flush()
            counter.write()
    counter.write(always=True)


if __name__ == "__main__":
    main()
