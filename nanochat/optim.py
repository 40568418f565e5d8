"""The optimiser: Muon for the matrices inside the blocks, AdamW for embedding and head.

Notable choices: matrices of one shape are orthogonalised together, which saves small models most of the calls; AdamW's learning
rates hold for width 768 and are scaled by (width / 768)^-0.5; train.py multiplies all of them by its schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MATRIX_LR = 0.02
"""Muon: size of a step, in units of an orthogonal matrix (times sqrt(rows / columns) for tall ones)."""
MUON_MOMENTUM = 0.95
"""Muon: part of the gradient average kept from step to step, after the ramp."""
MUON_RAMP = 0.3
"""Muon: the momentum rises from 0.85 to MUON_MOMENTUM over this part of the budget."""
MUON_STEPS = 5
"""Muon: iterations of the orthogonalisation, at most 5; each costs three matrix products a matrix."""
MATRIX_DECAY = 0.0
"""Muon: decoupled weight decay; a step shrinks the matrices by lr times this."""
EMBEDDING_LR = 0.004
"""AdamW: learning rate of the token embedding at width 768; the same as the head's, as one AdamW for both would have."""
UNEMBEDDING_LR = 0.004
"""AdamW: learning rate of the head at width 768."""
ADAM_BETA1 = 0.8
"""AdamW: decay of the average gradient."""
ADAM_BETA2 = 0.95
"""AdamW: decay of the average squared gradient."""
ADAM_EPS = 1e-10
"""AdamW: keeps the division finite."""

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients (a, b, c) of five quintic iterations: Amsel et al. 2025, The Polar Express, arXiv:2505.16932."""


def orthogonalise(g: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices to g, (n, rows, columns), roughly: singular values come out near 1."""
    tall = g.size(-2) > g.size(-1)
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS[:MUON_STEPS]:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalised. All parameters are matrices (rows, columns) of one shape."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        self.parameters, self.lr = parameters, lr * max(1.0, parameters[0].size(0) / parameters[0].size(1)) ** 0.5
        self.momentum = torch.zeros(len(parameters), *parameters[0].shape)

    def step(self, factor: float, progress: float) -> None:
        ramp = min(1.0, progress / MUON_RAMP) if MUON_RAMP > 0 else 1.0
        keep = 0.85 + ramp * (MUON_MOMENTUM - 0.85)
        gradient = torch.stack([p.grad for p in self.parameters])
        self.momentum.lerp_(gradient, 1 - keep)
        update = orthogonalise(gradient.lerp(self.momentum, keep))  # Nesterov: a look ahead along the momentum
        lr = self.lr * factor
        for p, u in zip(self.parameters, update, strict=True):
            p.mul_(1 - lr * MATRIX_DECAY).sub_(u, alpha=lr)


class AdamW:
    """Adam on one parameter; no weight decay, since embedding and head are not decayed."""

    def __init__(self, parameter: nn.Parameter, lr: float) -> None:
        self.parameter, self.lr, self.count = parameter, lr, 0
        self.mean, self.square = torch.zeros_like(parameter), torch.zeros_like(parameter)

    def step(self, factor: float, progress: float) -> None:
        g = self.parameter.grad
        self.count += 1
        self.mean.lerp_(g, 1 - ADAM_BETA1)
        self.square.lerp_(g.square(), 1 - ADAM_BETA2)
        scale = (self.square / (1 - ADAM_BETA2**self.count)).sqrt_().add_(ADAM_EPS)
        self.parameter.addcdiv_(self.mean, scale, value=-self.lr * factor / (1 - ADAM_BETA1**self.count))


class Optimizer:
    """All groups of one model. `step` takes the schedule's factor on every learning rate and the progress in [0, 1]."""

    def __init__(self, model: nn.Module) -> None:
        scale = (model.config.width / 768) ** -0.5
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for p in model.blocks.parameters():
            shapes.setdefault(p.shape, []).append(p)
        self.groups: list[Muon | AdamW] = [Muon(parameters, MATRIX_LR) for parameters in shapes.values()]
        self.groups += [AdamW(model.embed.weight, EMBEDDING_LR * scale), AdamW(model.head.weight, UNEMBEDDING_LR * scale)]
        self.model = model

    @torch.no_grad()
    def step(self, factor: float, progress: float) -> None:
        for group in self.groups:
            group.step(factor, progress)
        self.model.zero_grad(set_to_none=True)
