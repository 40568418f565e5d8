"""The network: one input, WIDTH tanh units, one output. The constants are what the sweep turns."""

from __future__ import annotations

import math
import random

LR = 0.02
MOMENTUM = 0.0
BATCH = 16
COOLDOWN = 0.0
WIDTH = 4
INIT = 1.0


class Network:
    """y(x) = sum_j v_j tanh(w_j x + b_j) + c; its weights are the list [w..., b..., v..., c]."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        centres = [4 * (j + 0.5) / WIDTH - 2 for j in range(WIDTH)]  # bends spread over the inputs, which lie in -2..2
        self.weights = [INIT] * WIDTH + [-INIT * centre for centre in centres]
        self.weights += [draw.gauss(0, 0.1) for _ in range(WIDTH)] + [0.0]
        self.speed = [0.0] * len(self.weights)

    def step(self, batch: list[list[float]], lr: float) -> float:
        """One step of SGD with momentum on the squared error of a batch of (x, y); returns its mean."""
        weights, width = self.weights, WIDTH
        gradient = [0.0] * len(weights)
        total = 0.0
        for x, y in batch:
            units = [math.tanh(weights[j] * x + weights[width + j]) for j in range(width)]
            error = predict_from(units, weights) - y
            total += error * error
            for j, unit in enumerate(units):
                back = error * weights[2 * width + j] * (1 - unit * unit)
                gradient[j] += back * x
                gradient[width + j] += back
                gradient[2 * width + j] += error * unit
            gradient[-1] += error
        for index, slope in enumerate(gradient):
            self.speed[index] = MOMENTUM * self.speed[index] - lr * slope / len(batch)
            weights[index] += self.speed[index]
        return total / len(batch)


def predict_from(units: list[float], weights: list[float]) -> float:
    """The output, given the values of the units."""
    width = len(units)
    return sum(weights[2 * width + j] * unit for j, unit in enumerate(units)) + weights[-1]


def predict(weights: list[float], x: float) -> float:
    """The network's output at x."""
    width = (len(weights) - 1) // 3
    return predict_from([math.tanh(weights[j] * x + weights[width + j]) for j in range(width)], weights)
