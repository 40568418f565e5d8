"""The model: a GPT with one dial, depth. Width is ASPECT times the depth, heads are width / HEAD_DIM.

Notable choices: RMSNorm without parameters, also behind the embedding; rotary positions; QK-norm with a multiplier; relu^2
MLP; no biases; untied head; zero-initialised projections back into the residual stream; logits softly capped.
The evaluator calls `build(config)`, loads the checkpoint into what it returns and asks it for logits: keep that working.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ASPECT = 32
"""Width per layer: depth 2 gives width 64. More width costs FLOPs in proportion to its square."""
HEAD_DIM = 32
"""Channels of an attention head; must divide the width."""
MLP_RATIO = 4
"""Hidden width of the MLP over the width of the model. Costs FLOPs in proportion."""
ACTIVATION = "relu2"
"""Nonlinearity of the MLP: relu2, gelu or silu. relu2 is sparse and cheap."""
QK_MULTIPLIER = 1.2
"""Queries and keys are normalised, then both multiplied by this: the sharpness of attention."""
ROTARY_BASE = 10000.0
"""Longest wavelength of the rotary positions over 2 pi, in tokens."""
SOFTCAP = 15.0
"""Logits are squashed into (-SOFTCAP, SOFTCAP) by tanh."""
EMBED_STD = 1.0
"""Standard deviation of the token embedding at the start; normalised afterwards, so it sets how fast directions turn."""
UNEMBED_STD = 0.001
"""Standard deviation of the head at the start: nearly uniform predictions."""
INIT_SCALE = 1.0
"""The inner matrices start uniform with a standard deviation of this over the square root of their inputs."""


@dataclass
class Config:
    """The shape of a model. Saved in the checkpoint as a plain dict."""

    vocab: int
    context: int
    depth: int
    width: int
    heads: int

    @classmethod
    def of(cls, depth: int, vocab: int, context: int) -> Config:
        """Everything that follows from the depth. Raises ValueError when the heads do not fit."""
        width = ASPECT * depth
        if width % HEAD_DIM:
            raise ValueError(f"depth {depth} gives width {width}, which heads of {HEAD_DIM} do not divide: change one of them")
        return cls(vocab, context, depth, width, width // HEAD_DIM)


def norm(x: Tensor) -> Tensor:
    """RMSNorm without parameters, over the last dimension."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x is (batch, heads, time, head_dim), cos and sin (time, head_dim / 2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = (x.size(0), x.size(1), self.heads, -1)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        q, k = norm(rotate(q, cos, sin)) * QK_MULTIPLIER, norm(rotate(k, cos, sin)) * QK_MULTIPLIER
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(x.shape))


class MLP(nn.Module):
    """Two matrices and a nonlinearity."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, MLP_RATIO * config.width, bias=False)
        self.down = nn.Linear(MLP_RATIO * config.width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(activate(self.up(x)))


def activate(x: Tensor) -> Tensor:
    """The nonlinearity named by ACTIVATION."""
    if ACTIVATION == "relu2":
        return F.relu(x).square()
    return {"gelu": F.gelu, "silu": F.silu}[ACTIVATION](x)


class Block(nn.Module):
    """One layer: attention and MLP, each normalised at its input and added to the stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(config), MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(norm(x), cos, sin)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """Token ids (batch, time) int64 in, logits (batch, time, vocab) float32 out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(config.width, config.vocab, bias=False)
        half = config.width // config.heads // 2
        frequency = ROTARY_BASE ** (-torch.arange(half) / half)
        angle = torch.outer(torch.arange(config.context), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the weights of a new model from torch's default generator."""
        nn.init.normal_(self.embed.weight, std=EMBED_STD)
        nn.init.normal_(self.head.weight, std=UNEMBED_STD)
        for block in self.blocks:
            for layer in (block.attention.query, block.attention.key, block.attention.value, block.mlp.up):
                bound = INIT_SCALE * (3 / layer.in_features) ** 0.5  # a uniform has variance bound^2 / 3
                nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        time = tokens.size(1)
        cos, sin = self.cos[:time], self.sin[:time]
        x = norm(self.embed(tokens))
        for block in self.blocks:
            x = block(x, cos, sin)
        # divided before the head: the stream is narrower than the logits, and elementwise work counts on a CPU
        return SOFTCAP * torch.tanh(self.head(norm(x) / SOFTCAP))


def build(config: dict[str, int]) -> GPT:
    """A model of that shape with fresh weights; called by the evaluator with the checkpoint's `config`."""
    return GPT(Config(**config))


def checkpoint(model: GPT) -> dict[str, object]:
    """What training leaves behind: plain values and tensors only, since the evaluator reads it as weights only."""
    return {"config": asdict(model.config), "model": model.state_dict()}
