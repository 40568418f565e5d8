"""The optimiser: Muon for the matrices inside the blocks, AdamW for embeddings, head, gates and the scalars of the stream.

Notable choices: matrices of one shape are updated together, which saves small models most of the calls; Muon orthogonalises
by Polar Express and evens out the rows' sizes as NorMuon does; weight decay is cautious: it never pulls against an update.
Nothing is compiled here: compiled by groups, a step of d8 took 291 ms in the place of 292, and a cold start 14 to 20 s more.
AdamW's learning rates hold for width 768 and are scaled by (width / 768)^-0.5; train.py multiplies all by its schedule.
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
NORMUON_BETA = 0.95
"""Muon: decay of the average squared size of a row's update, by which rows are evened out; 0 turns that off."""
MATRIX_DECAY = 0.1
"""Muon: weight decay where update and weight agree in sign; a step shrinks these by lr times this, less as training ends."""
EMBEDDING_LR = 0.2
"""AdamW: learning rate of the token embedding at width 768: fifty times the head's, since a row is updated when it is seen."""
VALUE_LR = 0.2
"""AdamW: learning rate of the value embeddings at width 768."""
VALUE_DECAY = 0.01
"""AdamW: weight decay of the value embeddings, times their learning rate: they are a quarter of the weights of a d8 model."""
UNEMBEDDING_LR = 0.004
"""AdamW: learning rate of the head at width 768."""
SCALAR_LR = 0.02
"""AdamW: learning rate of the gates and of the scalars of the stream, at any width."""
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
    """The nearest (semi-)orthogonal matrices to g, (n, rows, columns), roughly: singular values come out near 1.

    bf16 on a GPU, which is enough: the iteration only has to end near 1, not at it.
    """
    tall = g.size(-2) > g.size(-1)
    x = g.mT if tall else g
    x = x.bfloat16() if x.is_cuda else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS[:MUON_STEPS]:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def even_rows(update: Tensor, square: Tensor, beta: float) -> Tensor:
    """Updates (n, rows, columns) with rows divided by their running size, the matrix as a whole keeping its norm.

    `square` (n, rows, 1) is the running average and is changed. Li et al. 2025, NorMuon, arXiv:2510.05491.
    """
    square.lerp_(update.square().mean(dim=-1, keepdim=True), 1 - beta)
    even = update / square.sqrt().clamp_min(1e-8)
    return even * (update.norm(dim=(-2, -1), keepdim=True) / even.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-8))


class Muon:
    """Momentum, orthogonalised. Parameters hold matrices of one shape, each one (rows, columns) or several (n, rows, columns)."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        rows, columns = parameters[0].shape[-2:]
        self.parameters, self.lr = parameters, MATRIX_LR * max(1.0, rows / columns) ** 0.5
        count, device = sum(p.numel() // (rows * columns) for p in parameters), parameters[0].device
        self.state = {
            "momentum": torch.zeros(count, rows, columns, device=device),
            "square": torch.zeros(count, rows, 1, device=device),
        }

    def step(self, factor: float, progress: float) -> None:
        shape = self.state["momentum"].shape[1:]
        ramp = min(1.0, progress / MUON_RAMP) if MUON_RAMP > 0 else 1.0
        keep = 0.85 + ramp * (MUON_MOMENTUM - 0.85)
        gradient = torch.cat([p.grad.view(-1, *shape) for p in self.parameters])
        self.state["momentum"].lerp_(gradient, 1 - keep)
        update = orthogonalise(gradient.lerp(self.state["momentum"], keep))  # Nesterov: a look ahead along the momentum
        if NORMUON_BETA > 0:
            update = even_rows(update, self.state["square"], NORMUON_BETA)
        for p, u in zip(
            self.parameters, update.split([p.numel() // shape.numel() for p in self.parameters]), strict=True
        ):
            u = u.view(p.shape)
            if MATRIX_DECAY > 0:
                u = u + MATRIX_DECAY * (1 - progress) * p * (u * p > 0)
            p.sub_(u, alpha=self.lr * factor)


class AdamW:
    """Adam with decoupled weight decay on some parameters that share a learning rate."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, decay: float = 0.0) -> None:
        self.parameters, self.lr, self.decay = parameters, lr, decay
        self.state = {
            "mean": [torch.zeros_like(p) for p in parameters], "square": [torch.zeros_like(p) for p in parameters],
            "count": torch.zeros((), device="cpu"),
        }  # fmt: skip

    def step(self, factor: float, progress: float) -> None:
        count = self.state["count"].add_(1).item()
        lr = self.lr * factor / (1 - ADAM_BETA1**count)
        correction = 1 / (1 - ADAM_BETA2**count)
        for p, mean, square in zip(self.parameters, self.state["mean"], self.state["square"], strict=True):
            mean.lerp_(p.grad, 1 - ADAM_BETA1)
            square.lerp_(p.grad.square(), 1 - ADAM_BETA2)
            update = mean / ((square * correction).sqrt_() + ADAM_EPS)
            if self.decay > 0:
                update = update + self.decay * p * (update * p > 0)
            p.sub_(update, alpha=lr)


class Optimizer:
    """All groups of one model. `step` takes the schedule's factor on every learning rate and the progress in [0, 1]."""

    def __init__(self, model: nn.Module) -> None:
        scale = (model.config.width / 768) ** -0.5
        matrices: dict[torch.Size, list[nn.Parameter]] = {}
        values, scalars = [], [model.residual, model.x0]
        for block in model.blocks:
            for p in (block.attention.qk, block.attention.value, block.attention.out, block.mlp.up, block.mlp.down):
                matrices.setdefault(p.shape[-2:], []).append(p)
            if block.attention.values is not None:
                values.append(block.attention.values.weight)
                scalars.append(block.attention.gate)
        self.groups: list[Muon | AdamW] = [Muon(parameters) for parameters in matrices.values()]
        self.groups += [AdamW([model.embed.weight], EMBEDDING_LR * scale), AdamW([model.head], UNEMBEDDING_LR * scale)]
        self.groups += [AdamW(scalars, SCALAR_LR)]
        self.groups += [AdamW(values, VALUE_LR * scale, VALUE_DECAY)] if values else []
        self.parameters = [p for group in self.groups for p in group.parameters]

    @torch.no_grad()
    def step(self, factor: float, progress: float) -> None:
        """Update all parameters by their gradients and drop these. One that the loss does not use counts as having zeros."""
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for group in self.groups:
            group.step(factor, progress)
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> list[dict[str, object]]:
        """The groups' states, in order."""
        return [group.state for group in self.groups]

    @torch.no_grad()
    def load_state_dict(self, states: list[dict[str, object]] | None) -> None:
        """Take over the groups' states; None sets all to the zeros of a new optimiser."""
        for group, state in zip(self.groups, states or [None] * len(self.groups), strict=True):
            for name, value in group.state.items():
                own = value if isinstance(value, list) else [value]
                given = (
                    [None] * len(own) if state is None else state[name] if isinstance(value, list) else [state[name]]
                )
                for tensor, new in zip(own, given, strict=True):
                    tensor.zero_() if new is None else tensor.copy_(new)
