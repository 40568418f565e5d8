"""Causal attention with a window: one function, several kernels. Protected, so that FLOPs are counted from the window really used.

Called by gpt.py, which may call PyTorch's own kernels instead. On a GPU the best that is installed is taken at run time; what each
of them costs stands in docs/nanochat.md. All tensors are (batch, time, heads, head_dim), bf16 on a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL = ""
"""Name of a kernel, for who compares them; "" chooses."""
CUDNN = importlib.util.find_spec("cudnn") is not None
"""Is cuDNN's front end installed? Looked up here: inside of a compiled model it would break the graph."""


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention of every position to itself and the `window` - 1 before it. Raises ValueError for a kernel that is not here."""
    name = KERNEL or choose(q.is_cuda, window >= q.size(1))
    if name not in KERNELS:
        raise ValueError(f"no attention kernel {name!r}: choose from {', '.join(KERNELS)}")
    return KERNELS[name](q, k, v, min(window, q.size(1)))


def choose(cuda: bool, whole: bool) -> str:
    """The kernel for this device, and for the whole context or a window in it."""
    if not cuda:
        return "sdpa"
    if CUDNN:
        return "cudnn"
    return "sdpa" if whole else "flash"


def band(time: int, window: int, device: torch.device | None = None) -> Tensor:
    """bool (time, time): may the position of the row see that of the column?"""
    distance = torch.arange(time, device=device)[:, None] - torch.arange(time, device=device)
    return (distance >= 0) & (distance < window)


def sdpa(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """PyTorch's scaled_dot_product_attention; a window is a mask there and costs the whole square."""
    mask = None if window >= q.size(1) else band(q.size(1), window, q.device)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2)


def flash(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlashAttention 2 as it comes with PyTorch, which knows windows though scaled_dot_product_attention does not offer them."""
    time = q.size(1)
    back = window - 1 if window < time else -1
    return torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, time, time, 0.0, True, False, window_size_left=back, window_size_right=0
    )[0]


def flex(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlexAttention: a Triton kernel made for the mask, which skips what lies outside of the window. For compiled models."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = _block_mask(q.size(1), window, q.device)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return flex_attention(q, k, v, block_mask=mask).transpose(1, 2)


@functools.cache
def _block_mask(time: int, window: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(_batch: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j < window)

    return create_block_mask(seen, None, None, time, time, device=device)


def flash3(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """FlashAttention 3, where that package is installed (Hopper GPUs)."""
    from flash_attn_interface import flash_attn_func

    return flash_attn_func(q, k, v, causal=True, window_size=(window - 1 if window < q.size(1) else -1, 0))


# --- cuDNN, whose windows PyTorch does not offer, through its own front end (package nvidia-cudnn-frontend) -------------------


@torch.library.custom_op("nanochat::attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(output (batch, time, heads, head_dim), log-sum-exp (batch, heads, time, 1) fp32)."""
    plan = _plan("forward", window, q.device, *_layouts(q, k, v))
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    stats = torch.empty(q.size(0), q.size(2), q.size(1), 1, dtype=torch.float32, device=q.device)
    plan(q, k, v, out, stats)
    return out, stats


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    stats = q.new_empty(q.size(0), q.size(2), q.size(1), 1, dtype=torch.float32)
    return q.new_empty(q.shape), stats


@torch.library.custom_op("nanochat::attention_backward", mutates_args=())
def _backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, stats: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each contiguous."""
    grad = grad.contiguous()
    plan = _plan("backward", window, q.device, *_layouts(q, k, v, out, grad, stats))
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v)]
    plan(q, k, v, out, grad, stats, *grads)
    return grads[0], grads[1], grads[2]


@_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, stats: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output)


def _gradient(ctx: Any, grad: Tensor, _stats: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    q, k, v, out, stats = ctx.saved_tensors
    return *_backward(q, k, v, out, grad, stats, ctx.window), None


_forward.register_autograd(_gradient, setup_context=_remember)


def cudnn(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """cuDNN's fused attention, which skips what lies outside of the window."""
    return _forward(q, k, v, window)[0]


def _layouts(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple((tuple(x.shape), tuple(x.stride()), x.dtype) for x in tensors)


@functools.cache
def _plan(direction: str, window: int, device: torch.device, *layouts: Any) -> Any:
    """A function that runs cuDNN's graph on tensors of these layouts: inputs, then the outputs to fill."""
    import cudnn as front

    handle = _handle(device)
    kinds = {
        torch.bfloat16: front.data_type.BFLOAT16,
        torch.float16: front.data_type.HALF,
        torch.float32: front.data_type.FLOAT,
    }
    shape, _, dtype = layouts[0]
    batch, time, heads, channels = shape
    graph = front.pygraph(
        io_data_type=kinds[dtype],
        intermediate_data_type=front.data_type.FLOAT,
        compute_data_type=front.data_type.FLOAT,
        handle=handle,
    )

    def tensor(layout: Any) -> Any:
        dims, strides, kind = layout
        order = (
            (0, 2, 1, 3) if kind != torch.float32 else (0, 1, 2, 3)
        )  # cuDNN names heads before time; statistics do already
        return graph.tensor(dim=[dims[i] for i in order], stride=[strides[i] for i in order], data_type=kinds[kind])

    inputs = [tensor(layout) for layout in layouts]
    mask = {"diagonal_alignment": front.diagonal_alignment.TOP_LEFT, "diagonal_band_right_bound": 0}
    if window < time:
        mask["diagonal_band_left_bound"] = window
    if direction == "forward":
        out, stats = graph.sdpa(
            q=inputs[0],
            k=inputs[1],
            v=inputs[2],
            generate_stats=True,
            attn_scale=1 / math.sqrt(channels),
            name="attention",
            **mask,
        )
        stats.set_output(True).set_data_type(front.data_type.FLOAT)
        outputs, filled = [out, stats], [out]
    else:
        q, k, v, out, grad, stats = inputs
        outputs = filled = list(
            graph.sdpa_backward(
                q=q, k=k, v=v, o=out, dO=grad, stats=stats, attn_scale=1 / math.sqrt(channels), name="gradient", **mask
            )
        )
    strides = [time * heads * channels, channels, heads * channels, 1]
    for output in filled:
        output.set_output(True).set_dim([batch, heads, time, channels]).set_stride(strides).set_data_type(kinds[dtype])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([front.heur_mode.A])
    graph.check_support()
    graph.build_plans()
    workspace = torch.empty(max(1, graph.get_workspace_size()), dtype=torch.uint8, device=device)

    def run(*tensors: Tensor) -> None:
        front.set_stream(handle=handle, stream=torch.cuda.current_stream(device).cuda_stream)
        pack = zip([*inputs, *outputs], tensors, strict=True)
        graph.execute({name: value.data_ptr() for name, value in pack}, workspace.data_ptr(), handle=handle)

    return run


@functools.cache
def _handle(device: torch.device) -> Any:
    import cudnn as front

    with torch.cuda.device(device):
        return front.create_handle()


KERNELS = {"sdpa": sdpa, "flash": flash, "flex": flex, "flash3": flash3, "cudnn": cudnn}
