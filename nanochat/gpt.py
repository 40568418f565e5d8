"""The model: a GPT with one dial, depth. Width, heads and all else follow from it (`Config.of`, with sources).

Notable choices: RMSNorm without parameters, also behind the embedding; rotary positions; queries and keys normalised, then
multiplied; relu^2 MLP; value embeddings, gated by head; every layer weighs the stream and the embedding it started from
anew; sliding windows but in every fourth layer; untied head; zero-initialised projections into the stream; softly capped
logits; no biases. Weights are fp32; a GPU computes in bf16, a CPU in fp32.
The evaluator calls `build(config)`, loads the checkpoint into what it returns and asks it for logits: keep that working.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.attention import attend
from nanochat.kernels import capped_cross_entropy, relu2_mlp, rotate_norm, soft_cap

MLP_RATIO = 4
"""Hidden width of the MLP over the width of the model. Costs FLOPs in proportion."""
ACTIVATION = "relu2"
"""Nonlinearity of the MLP: relu2, gelu or silu. relu2 is sparse and cheap."""
QK_MULTIPLIER = 1.2
"""Queries and keys are normalised, then both multiplied by this: the sharpness of attention."""
ROTARY_BASE = 10000.0
"""Longest wavelength of the rotary positions over 2 pi, in tokens."""
WINDOWS = "SSSL"
"""Pattern of the layers' attention, repeated: S sees the last SHORT_WINDOW of the context, L all. The last layer is always L."""
SHORT_WINDOW = 0.5
"""Window of the S layers as a part of the context."""
VALUE_EMBEDDINGS = True
"""Every second layer, counted from the last, adds a second embedding of the token to its values."""
GATE_CHANNELS = 32
"""Channels of the stream that open and close the value embedding of each head."""
RESIDUAL_INIT = 1.0
"""What a layer keeps of the stream at the start; learnt afterwards, one number a layer."""
X0_INIT = 0.1
"""What a layer adds of the normalised embedding at the start; learnt afterwards, one number a layer."""
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
    """The shape of a model. Saved in the checkpoint as a plain dict. `window[i]`: tokens that layer i looks back upon."""

    vocab: int
    context: int
    depth: int
    width: int
    heads: int
    window: list[int]

    @classmethod
    def of(cls, depth: int, vocab: int, context: int) -> Config:
        """Everything that follows from the depth. Raises ValueError when the pieces do not fit.

        Width is 64 times the depth and heads have 128 channels, as in nanochat, whose scaling runs (d10 to d20) found width
        over depth to matter little between 48 and 80. Below depth 4 both shrink, to 32 and 32: a depth-2 model of 128 channels
        would cost a CPU three times the seconds and a depth-1 model of 64 could hold no head of 128.
        """
        if depth < 1:
            raise ValueError(f"depth {depth}: give at least 1 layer")
        width, head = (64 * depth, 128) if depth >= 4 else (32 * depth, 32)
        if width % head:
            raise ValueError(
                f"depth {depth} gives width {width}, which heads of {head} channels do not divide: give an even depth"
            )
        if set(WINDOWS) - {"S", "L"} or not WINDOWS:
            raise ValueError(f"WINDOWS {WINDOWS!r}: give a pattern of S and L, such as SSSL")
        short = min(context, max(1, round(SHORT_WINDOW * context)))
        pattern = [WINDOWS[layer % len(WINDOWS)] for layer in range(depth - 1)] + ["L"]
        return cls(vocab, context, depth, width, width // head, [short if kind == "S" else context for kind in pattern])


def norm(x: Tensor) -> Tensor:
    """RMSNorm without parameters, over the last dimension."""
    return F.rms_norm(x, (x.size(-1),))


class Attention(nn.Module):
    """Causal self-attention. Queries and keys come from one product of two matrices, which Muon updates apart."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.heads, self.window = config.heads, config.window[layer]
        self.qk = nn.Parameter(torch.empty(2, config.width, config.width))
        self.value = nn.Parameter(torch.empty(config.width, config.width))
        self.out = nn.Parameter(torch.empty(config.width, config.width))
        has_values = VALUE_EMBEDDINGS and (config.depth - 1 - layer) % 2 == 0
        self.values = nn.Embedding(config.vocab, config.width) if has_values else None
        self.gate = nn.Parameter(torch.empty(config.heads, min(GATE_CHANNELS, config.width))) if has_values else None

    def forward(self, x: Tensor, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        qk = F.linear(x, self.qk.flatten(0, 1).to(x.dtype)).view(*x.shape[:2], 2 * self.heads, -1)
        q, k = rotate_norm(qk, cos, sin, QK_MULTIPLIER)
        v = F.linear(x, self.value.to(x.dtype)).view(q.shape)
        if self.values is not None:
            gate = 2 * torch.sigmoid(F.linear(x[..., : self.gate.size(1)], self.gate.to(x.dtype)))  # 1 at the start
            v = v + gate[..., None] * self.values(tokens).to(x.dtype).view(v.shape)
        return F.linear(attend(q, k, v, self.window).reshape(x.shape), self.out.to(x.dtype))


class MLP(nn.Module):
    """Two matrices and a nonlinearity."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(MLP_RATIO * config.width, config.width))
        self.down = nn.Parameter(torch.empty(config.width, MLP_RATIO * config.width))

    def forward(self, x: Tensor) -> Tensor:
        up, down = self.up.to(x.dtype), self.down.to(x.dtype)
        if ACTIVATION == "relu2":
            return relu2_mlp(x, up, down)
        return F.linear({"gelu": F.gelu, "silu": F.silu}[ACTIVATION](F.linear(x, up)), down)


class Block(nn.Module):
    """One layer: the stream and its start weighed anew, then attention and MLP, each normalised at its input and added."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(config, layer), MLP(config)

    def forward(
        self, x: Tensor, x0: Tensor, keep: Tensor, again: Tensor, tokens: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        x = keep * x + again * x0
        x = x + self.attention(norm(x), tokens, cos, sin)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """Token ids (batch, time) int64 in, logits (batch, time, vocab) float32 out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.head = nn.Parameter(torch.empty(config.vocab, config.width))
        self.residual = nn.Parameter(torch.empty(config.depth))
        self.x0 = nn.Parameter(torch.empty(config.depth))
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
        nn.init.normal_(self.head, std=UNEMBED_STD)
        bound = INIT_SCALE * (3 / self.config.width) ** 0.5  # a uniform has variance bound^2 / 3
        for block in self.blocks:
            nn.init.uniform_(block.attention.qk, -bound, bound)
            nn.init.uniform_(block.attention.value, -bound, bound)
            nn.init.uniform_(block.mlp.up, -bound, bound)
            nn.init.zeros_(block.attention.out)
            nn.init.zeros_(block.mlp.down)
            if block.attention.values is not None:
                nn.init.uniform_(
                    block.attention.values.weight, -bound, bound
                )  # as large as the values they are added to
                nn.init.zeros_(block.attention.gate)
        nn.init.constant_(self.residual, RESIDUAL_INIT)
        nn.init.constant_(self.x0, X0_INIT)

    def compile_parts(self) -> None:
        """Compile layer by layer: those that are alike share their code, three in the place of eight for d8, so that a cold start
        compiles for 24 s in the place of 33; what is not fused from one layer to the next costs 0.8 % of a step."""
        for block in self.blocks:
            block.compile(dynamic=False)
        self.enter, self.leave = (torch.compile(part, dynamic=False) for part in (self.enter, self.leave))

    def enter(self, tokens: Tensor) -> Tensor:
        """What the first layer reads: (batch, time, width), bf16 on a GPU."""
        return norm(self.embed(tokens).to(torch.bfloat16 if tokens.is_cuda else torch.float32))

    def leave(self, x: Tensor, targets: Tensor) -> Tensor:
        """From what the last layer says to the mean cross-entropy."""
        return capped_cross_entropy(norm(x).flatten(0, 1), self.head.to(x.dtype), targets.flatten(), SOFTCAP)

    def stream(self, tokens: Tensor) -> Tensor:
        """What the last layer says: (batch, time, width), bf16 on a GPU."""
        cos, sin = self.cos[: tokens.size(1)], self.sin[: tokens.size(1)]
        x = x0 = self.enter(tokens)
        for block, keep, again in zip(self.blocks, self.residual.to(x.dtype), self.x0.to(x.dtype), strict=True):
            x = block(x, x0, keep, again, tokens, cos, sin)
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        x = norm(self.stream(tokens))
        return soft_cap(F.linear(x, self.head.to(x.dtype)).float(), SOFTCAP)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, a scalar; on a GPU without the logits in fp32."""
        return self.leave(self.stream(tokens), targets)


def build(config: dict[str, object]) -> GPT:
    """A model of that shape with fresh weights; called by the evaluator with the checkpoint's `config`."""
    return GPT(Config(**config))


def checkpoint(model: GPT) -> dict[str, object]:
    """What training leaves behind: plain values and tensors only, since the evaluator reads it as weights only."""
    return {"config": asdict(model.config), "model": model.state_dict()}
