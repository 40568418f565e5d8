"""The model host: runs the experiment's own code and knows inputs but no targets. JSON in, JSON out, a line each."""

from __future__ import annotations

import json
import sys

from toy.model import predict


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    answers = [predict(asked["weights"], x) for x in asked["x"]]
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
