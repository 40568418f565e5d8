"""The truth, and noisy looks at it. Protected."""

import random

A, B = 1.7, -0.6


def look(source: random.Random) -> tuple[float, float]:
    """One noisy point (x, y)."""
    x = source.uniform(-1, 1)
    return x, A * x + B + source.gauss(0, 0.5)
