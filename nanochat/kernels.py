"""Three fusions for a GPU, in Triton: an MLP's product with relu^2, the preparation of queries and keys, the capped loss.

Elsewhere they are plain PyTorch. Called by gpt.py. Protected, so that FLOPs are counted from the shapes really multiplied
(the operators' formulas stand in flops.py). All save passes over the largest tensors of a step; docs/nanochat.md has the gains.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# --- the MLP ------------------------------------------------------------------------------------------------------------


def relu2_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down relu(up x)^2, for x (..., width), up (hidden, width), down (width, hidden) of one dtype."""
    if not x.is_cuda:
        return F.linear(F.relu(F.linear(x, up)).square(), down)
    return _Mlp.apply(x.reshape(-1, x.size(-1)), up, down).view(x.shape)


class _Mlp(torch.autograd.Function):
    """Keeps relu^2 alone for the backward pass, of which relu is the root: what went into it is never written."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        hidden = linear_relu2(x, up)
        ctx.save_for_backward(x, up, down, hidden)
        return hidden @ down.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, up, down, hidden = ctx.saved_tensors
        inner = relu2_gradient(grad.contiguous(), down, hidden)
        return inner @ up, inner.T @ x, grad.T @ hidden


@torch.library.custom_op("nanochat::linear_relu2", mutates_args=(), device_types="cuda")
def linear_relu2(x: Tensor, weight: Tensor) -> Tensor:
    """relu(x weight^T)^2: (rows, hidden) for x (rows, width) and weight (hidden, width)."""
    out = torch.empty(x.size(0), weight.size(0), dtype=x.dtype, device=x.device)
    _product(x, weight, out, None)
    return out


@linear_relu2.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0))


@torch.library.custom_op("nanochat::relu2_gradient", mutates_args=(), device_types="cuda")
def relu2_gradient(grad: Tensor, weight: Tensor, hidden: Tensor) -> Tensor:
    """(grad weight) * 2 sqrt(hidden): (rows, hidden) for grad (rows, width), weight (width, hidden), hidden = relu^2."""
    out = torch.empty_like(hidden)
    _product(grad, weight, out, hidden)
    return out


@relu2_gradient.register_fake
def _(grad: Tensor, weight: Tensor, hidden: Tensor) -> Tensor:
    return torch.empty_like(hidden)


def _product(x: Tensor, weight: Tensor, out: Tensor, hidden: Tensor | None, tile: tuple[int, ...] = ()) -> None:
    """out = relu(x weight^T)^2, or with `hidden` out = (x weight) * 2 sqrt(hidden). tile: rows, columns, depth, stages, warps."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    back = hidden is not None
    rows, columns, depth, stages, warps = tile or (
        (128, 256, 32, 4, 8) if back else (256, 128, 64, 3, 8)
    )  # the fastest of six on an H200
    x, weight = x.contiguous(), weight.contiguous()
    left = TensorDescriptor.from_tensor(x, [rows, depth])
    right = TensorDescriptor.from_tensor(weight, [depth, columns] if back else [columns, depth])
    target = TensorDescriptor.from_tensor(out, [rows, columns])
    source = TensorDescriptor.from_tensor(hidden, [rows, columns]) if back else target
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    _triton()["product"][(processors,)](
        left, right, target, source, out.size(0), out.size(1), x.size(1), back, rows, columns, depth, processors,
        num_stages=stages, num_warps=warps,
    )  # fmt: skip


# --- queries and keys -----------------------------------------------------------------------------------------------------


def rotate_norm(x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Queries and keys (batch, time, heads, channels) from x (batch, time, 2 heads, channels): rotated, normalised, scaled.

    cos and sin are (time, channels / 2). The norm is RMSNorm without parameters; a rotation does not change it.
    """
    return queries_keys(x, cos, sin, scale) if x.is_cuda else plain_rotate_norm(x, cos, sin, scale)


def plain_rotate_norm(x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`rotate_norm` in plain PyTorch, on any device."""
    a, b = x.chunk(2, dim=-1)
    c, s = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    turned = torch.cat((a * c + b * s, b * c - a * s), dim=-1)
    q, k = (F.rms_norm(turned, (x.size(-1),)) * scale).chunk(2, dim=2)
    return q, k


@torch.library.custom_op("nanochat::queries_keys", mutates_args=(), device_types="cuda")
def queries_keys(x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`rotate_norm` for a contiguous x."""
    x = x.contiguous()
    batch, time, heads, channels = x.shape
    q, k = (torch.empty(batch, time, heads // 2, channels, dtype=x.dtype, device=x.device) for _ in range(2))
    _triton()["turn"][(batch * time,)](x, cos, sin, q, k, x, time, scale, False, heads, channels // 2, num_warps=4)
    return q, k


@queries_keys.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    shape = (x.size(0), x.size(1), x.size(2) // 2, x.size(3))
    return x.new_empty(shape), x.new_empty(shape)


@torch.library.custom_op("nanochat::queries_keys_backward", mutates_args=(), device_types="cuda")
def queries_keys_backward(x: Tensor, cos: Tensor, sin: Tensor, scale: float, q: Tensor, k: Tensor) -> Tensor:
    """The gradient of x from those of the queries and the keys."""
    x, q, k = x.contiguous(), q.contiguous(), k.contiguous()
    batch, time, heads, channels = x.shape
    out = torch.empty_like(x)
    _triton()["turn"][(batch * time,)](x, cos, sin, q, k, out, time, scale, True, heads, channels // 2, num_warps=4)
    return out


@queries_keys_backward.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor, scale: float, q: Tensor, k: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, cos, sin, ctx.scale = inputs
    ctx.save_for_backward(x, cos, sin)


def _turn_back(ctx: Any, q: Tensor, k: Tensor) -> tuple[Tensor, None, None, None]:
    x, cos, sin = ctx.saved_tensors
    return queries_keys_backward(x, cos, sin, ctx.scale, q, k), None, None, None


queries_keys.register_autograd(_turn_back, setup_context=_remember)


# --- the loss -----------------------------------------------------------------------------------------------------------


def capped_cross_entropy(x: Tensor, head: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Mean cross-entropy, nats, of cap * tanh(x head^T / cap), for x (rows, width), head (vocab, width), targets (rows,) int64."""
    if not x.is_cuda:
        return F.cross_entropy(soft_cap(F.linear(x, head).float(), cap), targets)
    return _Loss.apply(x, head, targets, cap)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap), by the sigmoid, which is cheaper."""
    return 2 * cap * torch.sigmoid(x * (2 / cap)) - cap


class _Loss(torch.autograd.Function):
    """The logits' gradient is known once the loss is, and takes the logits' place: they are read once and written twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, head: Tensor, targets: Tensor, cap: float) -> Tensor:
        logits = x @ head.T
        losses = cross_entropy_(logits, targets, cap)
        ctx.save_for_backward(x, head, logits)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, head, logits = ctx.saved_tensors
        scale = (grad / x.size(0)).to(torch.float32)
        return ((logits @ head) * scale).to(x.dtype), ((logits.T @ x) * scale).to(head.dtype), None, None


LOSS_ELEMENTS = 1024
"""Logits that one warp of the loss takes on: 1.8 ms for 131,072 rows of 8192 on an H200, with half or twice as many 2.5 to 2.8."""


@torch.library.custom_op("nanochat::cross_entropy_", mutates_args=("logits",), device_types="cuda")
def cross_entropy_(logits: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Losses (rows,) fp32, nats, of softly capped logits (rows, vocab), which become the gradient of their rows' losses."""
    losses = torch.empty(logits.size(0), dtype=torch.float32, device=logits.device)
    block = 1 << (logits.size(1) - 1).bit_length()
    _triton()["loss"][(logits.size(0),)](
        logits, targets, losses, logits.size(1), cap, block, num_warps=min(32, max(4, block // LOSS_ELEMENTS))
    )
    return losses


@cross_entropy_.register_fake
def _(logits: Tensor, targets: Tensor, cap: float) -> Tensor:
    return logits.new_empty(logits.size(0), dtype=torch.float32)


# --- the kernels --------------------------------------------------------------------------------------------------------


@functools.cache
def _triton() -> dict[str, Any]:
    """The kernels by name. Made when first needed: a CPU has no Triton."""
    import triton
    import triton.language as tl

    @triton.jit
    def product(
        left, right, target, source, height, width, inner, BACK: tl.constexpr,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PROCESSORS: tl.constexpr,
    ):  # fmt: skip
        across = tl.cdiv(width, COLUMNS)
        tiles = tl.cdiv(height, ROWS) * across
        for tile in tl.range(tl.program_id(0), tiles, PROCESSORS, flatten=True):
            row, column = (tile // across) * ROWS, (tile % across) * COLUMNS
            total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            for step in range(tl.cdiv(inner, DEPTH)):
                a = left.load([row, step * DEPTH])
                if BACK:
                    total = tl.dot(a, right.load([step * DEPTH, column]), total)
                else:
                    total = tl.dot(a, right.load([column, step * DEPTH]).T, total)
            if BACK:
                total = total * 2.0 * tl.sqrt(source.load([row, column]).to(tl.float32))
            else:
                total = tl.maximum(total, 0.0)
                total = total * total
            target.store([row, column], total.to(tl.bfloat16))

    @triton.jit
    def loss(logits, targets, losses, vocab, cap, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        index = tl.arange(0, BLOCK)
        inside = index < vocab
        place = logits + row * vocab + index
        x = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        # the processor's own tanh, right to 5e-4 of its value: the logits come in bf16, which is coarser
        part = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x / cap], dtype=tl.float32, is_pure=True, pack=1
        )
        capped = cap * part
        weight = tl.where(inside, tl.exp(capped), 0.0)  # capped lies within +-cap: no overflow for any sane cap
        total = tl.sum(weight, axis=0)
        target = tl.load(targets + row)
        hit = index == target
        tl.store(losses + row, tl.log(total) - tl.sum(tl.where(hit, capped, 0.0), axis=0))
        gradient = (weight * (1.0 / total) - tl.where(hit, 1.0, 0.0)) * (1.0 - part * part)
        tl.store(place, gradient.to(logits.dtype.element_ty), mask=inside)

    @triton.jit
    def turn(x, cos, sin, q, k, out, time, scale, BACK: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr):
        # one position: `HEADS` vectors of 2 HALF channels, the first half of them queries, the others keys
        place = tl.program_id(0).to(tl.int64)
        channel = tl.arange(0, HALF)[None, :]
        head = tl.arange(0, HEADS)[:, None]
        c = tl.load(cos + (place % time) * HALF + channel)
        s = tl.load(sin + (place % time) * HALF + channel)
        own = (place * HEADS + head) * (2 * HALF) + channel
        a, b = tl.load(x + own).to(tl.float32), tl.load(x + own + HALF).to(tl.float32)
        power = (tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1))[:, None] / (2 * HALF) + 1.1920929e-07
        factor = scale * tl.rsqrt(power)
        is_query = head < HEADS // 2
        far_q = (place * (HEADS // 2) + head) * (2 * HALF) + channel
        far_k = (place * (HEADS // 2) + head - HEADS // 2) * (2 * HALF) + channel
        query, key = is_query & (channel >= 0), (head >= HEADS // 2) & (channel >= 0)
        if BACK:
            g = tl.load(q + far_q, mask=query, other=0.0).to(tl.float32) + tl.load(k + far_k, mask=key, other=0.0).to(
                tl.float32
            )
            h = tl.load(q + far_q + HALF, mask=query, other=0.0).to(tl.float32) + tl.load(
                k + far_k + HALF, mask=key, other=0.0
            ).to(tl.float32)
            u, v = g * c - h * s, h * c + g * s
            along = (tl.sum(a * u, axis=1) + tl.sum(b * v, axis=1))[:, None] / (2 * HALF * power)
            kind = out.dtype.element_ty
            tl.store(out + own, (factor * (u - a * along)).to(kind))
            tl.store(out + own + HALF, (factor * (v - b * along)).to(kind))
        else:
            kind = q.dtype.element_ty
            first, second = ((a * c + b * s) * factor).to(kind), ((b * c - a * s) * factor).to(kind)
            tl.store(q + far_q, first, mask=query)
            tl.store(q + far_q + HALF, second, mask=query)
            tl.store(k + far_k, first, mask=key)
            tl.store(k + far_k + HALF, second, mask=key)

    return {"product": product, "loss": loss, "turn": turn}
