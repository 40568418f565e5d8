"""Training: asks the feeder for batches until there are none, then leaves weights.json behind."""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path

from toy.model import BATCH, COOLDOWN, LR, Network


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    network = Network(given.seed)
    with socket.socket(fileno=given.fd) as connection, connection.makefile("rw", encoding="ascii") as feed:
        step = 0
        while True:
            feed.write(f"{BATCH}\n")
            feed.flush()
            served = json.loads(feed.readline())
            if not served["batch"]:
                break
            left = 1 - served["spent"]
            loss = network.step(served["batch"], LR * (min(1.0, left / COOLDOWN) if COOLDOWN else 1.0))
            step += 1
            if step % 32 == 0:
                print(f"step {step} loss {loss:.4f}", flush=True)
    (given.out / "weights.json").write_text(json.dumps(network.weights))


if __name__ == "__main__":
    main()
