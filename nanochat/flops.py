"""FLOPs as they are computed: a meter that sees every operator of PyTorch while it is on.

Entered by `Feed` around the steps that the feeder picks. Matrix products, convolutions and attention count (a multiplication and
an addition are two), elementwise work, reductions, copies and views count nothing, and whatever has no formula here is named
in `unknown`. Notable choices:
- attention counts the pairs of query and key that its mask lets through, on whatever path it takes: 2 FLOPs a pair and channel
  for each of two products forwards, twice that backwards (what a kernel computes again is not counted: the convention of MFU);
- PyTorch's own counter gives 0 for fused attention on a CPU, takes causal attention for whole and knows no windows.
It runs in the trainer's process and sees what goes through PyTorch: not what numpy or another library computes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Arguments = dict[str, Any]
Formula = Callable[[Arguments, Any], float]

# --- attention --------------------------------------------------------------------------------------------------------------


def attention_pairs(context: int, window: int | None = None) -> int:
    """Pairs of query and key of causal attention over `context` positions that see `window` of them each, their own included.

    None or a window beyond the context: all that came before, context * (context + 1) / 2. Of one row and head; attention costs
    12 FLOPs a pair and channel of a head in a training step.
    """
    return band_pairs(context, context, None if window is None else window - 1, 0)


def band_pairs(queries: int, keys: int, left: int | None, right: int | None, shift: int = 0) -> int:
    """Pairs (i, j) with i + shift - left <= j <= i + shift + right, of `queries` times `keys`; None or below 0: no bound."""
    i = np.arange(queries) + shift
    low = np.zeros_like(i) if left is None or left < 0 else np.maximum(i - left, 0)
    high = np.full_like(i, keys - 1) if right is None or right < 0 else np.minimum(i + right, keys - 1)
    return int(np.maximum(high - low + 1, 0).sum())


def mask_pairs(mask: Tensor, shape: tuple[int, ...]) -> float:
    """Pairs that a mask lets through, broadcast to `shape` (..., queries, keys): True, or a bias other than minus infinity."""
    for dim, stride in enumerate(mask.stride()):
        if stride == 0 and mask.size(dim) > 1:
            mask = mask.narrow(dim, 0, 1)  # as broadcast already
    seen = mask if mask.dtype == torch.bool else mask != -torch.inf
    return float(seen.sum()) * (float(np.prod(shape)) / seen.numel())


def _sdpa_pairs(a: Arguments) -> float:
    """Of all rows and heads together, for PyTorch's scaled dot-product attention: tensors (..., heads, time, head_dim)."""
    query, keys = a["query"], a["key"].size(-2)
    mask = next((a[name] for name in ("attn_mask", "attn_bias", "bias") if a.get(name) is not None), None)
    shape = (*query.shape[:-1], keys)
    if mask is not None and mask.numel():
        return mask_pairs(mask, shape)
    rows = float(np.prod(query.shape[:-2]))
    return rows * band_pairs(query.size(-2), keys, None, 0 if a.get("is_causal") else None)


def _sdpa(a: Arguments, out: Any) -> float:
    return 2 * _sdpa_pairs(a) * (a["query"].size(-1) + a["value"].size(-1))


def _flash(a: Arguments, out: Any) -> float:
    """FlashAttention: tensors (batch, time, heads, head_dim), or (tokens, heads, head_dim) of sequences joined together.

    Its causal masks and windows are aligned to the last query and the last key.
    """
    q, k, v = (a[long] if long in a else a[short] for long, short in (("query", "q"), ("key", "k"), ("value", "v")))
    left, right = a.get("window_size_left"), a.get("window_size_right")
    window = a.get("window_size")
    if isinstance(window, list | tuple):
        left, right = window
    if a.get("is_causal", a.get("causal")):
        right = 0
    ends = [next((a[n] for n in names if a.get(n) is not None), None) for names in (CUMULATIVE_Q, CUMULATIVE_K)]
    if ends[0] is not None and ends[0].numel():
        lengths = zip(*(np.diff(end.cpu().numpy()).tolist() for end in ends), strict=True)
        pairs = sum(band_pairs(queries, keys, left, right, keys - queries) for queries, keys in lengths)
    else:
        pairs = q.size(0) * band_pairs(q.size(1), k.size(1), left, right, k.size(1) - q.size(1))
    return 2.0 * pairs * q.size(-2) * (q.size(-1) + v.size(-1))


CUMULATIVE_Q = ("cum_seq_q", "cu_seqlens_q", "cu_seq_q")
CUMULATIVE_K = ("cum_seq_k", "cu_seqlens_k", "cu_seq_k")


def _efficient(a: Arguments, out: Any) -> float:
    """The kernel below scaled dot-product attention: tensors (batch, time, heads, head_dim)."""
    if a.get("window_size") or a.get("cu_seqlens_q") is not None:
        raise NotImplementedError
    heads_first = {name: a[name].transpose(1, 2) for name in ("query", "key", "value")}
    if a["custom_mask_type"] == 2 and a["query"].size(1) != a["key"].size(1):
        raise NotImplementedError
    return _sdpa({**heads_first, "bias": a["bias"], "is_causal": a["custom_mask_type"] > 0}, out)


def _windowed(a: Arguments, out: Any) -> float:
    """nanochat/attention.py: tensors (batch, time, heads, head_dim); a position sees `window` of them, its own included."""
    batch, time, heads, channels = a["q"].shape
    return 4.0 * batch * heads * channels * attention_pairs(time, a["window"])


def _flex_pairs(query: Tensor, key: Tensor, block_mask: tuple[Any, ...], buffers: tuple[Any, ...]) -> float:
    """Pairs of FlexAttention, of all rows and heads: whole blocks, and what `mask_mod` lets through of the partial ones."""
    queries, keys, count, index, whole_count, whole_index = block_mask[:6]
    queries, keys = min(queries, query.size(-2)), min(keys, key.size(-2))
    size_q, size_k, mask_mod = block_mask[-3], block_mask[-2], block_mask[-1]
    i = torch.arange(query.size(-2), device=query.device)
    j = torch.arange(key.size(-2), device=query.device)
    pairs = 0.0
    for b in range(count.size(0)):
        for h in range(count.size(1)):
            where = torch.tensor(b, device=query.device), torch.tensor(h, device=query.device)
            of_row = torch.vmap(mask_mod, in_dims=(None, None, None, 0) + (None,) * len(buffers))
            seen = torch.vmap(of_row, in_dims=(None, None, 0, None) + (None,) * len(buffers))(*where, i, j, *buffers)
            kept = seen & _spread(count[b, h], index[b, h], size_q, size_k, seen)
            if whole_count is not None:
                kept |= _spread(whole_count[b, h], whole_index[b, h], size_q, size_k, seen)
            pairs += float(kept.sum())
    return pairs * query.size(0) * query.size(1) / (count.size(0) * count.size(1))


def _spread(count: Tensor, index: Tensor, size_q: int, size_k: int, like: Tensor) -> Tensor:
    """The first `count` blocks of each row of blocks in `index`, as a mask over positions."""
    blocks = torch.zeros(index.size(0), index.size(1) + 1, dtype=torch.bool, device=like.device)
    listed = torch.arange(index.size(1), device=like.device) < count[:, None]
    blocks.scatter_(1, torch.where(listed, index, index.size(1)).long(), True)
    rows = torch.arange(like.size(0), device=like.device) // size_q
    columns = torch.arange(like.size(1), device=like.device) // size_k
    return blocks[:, :-1][rows.clamp(max=index.size(0) - 1)][:, columns.clamp(max=index.size(1) - 1)]


# --- matrix products --------------------------------------------------------------------------------------------------------


def _product(first: str, second: str) -> Formula:
    return lambda a, out: 2.0 * a[first].numel() * a[second].size(-1)


def _linear(a: Arguments, out: Any) -> float:
    return 2.0 * a["input"].numel() * (a["weight"].size(0) if a["weight"].dim() > 1 else 1)


def _grouped(a: Arguments, out: Any) -> float:
    one, two = a["self"], a["mat2"]
    return 2.0 * one.numel() * two.size(-1) / (one.size(0) if one.dim() == 3 and two.dim() == 2 else 1)


PRODUCTS: dict[str, Formula] = {
    "mm": _product("self", "mat2"), "bmm": _product("self", "mat2"), "_int_mm": _product("self", "mat2"),
    "addmm": _product("mat1", "mat2"), "_addmm_activation": _product("mat1", "mat2"),
    "baddbmm": _product("batch1", "batch2"), "addbmm": _product("batch1", "batch2"),
    "_scaled_mm": _product("self", "mat2"), "_scaled_mm_v2": _product("self", "mat2"),
    "mv": lambda a, out: 2.0 * a["self"].numel(), "addmv": lambda a, out: 2.0 * a["mat"].numel(),
    "dot": lambda a, out: 2.0 * a["self"].numel(), "vdot": lambda a, out: 2.0 * a["self"].numel(),
    "linear": _linear, "_grouped_mm": _grouped,
}  # fmt: skip
"""By name in `aten`, with or without a trailing underscore."""

OTHERS: dict[str, Formula] = {
    "nanochat::attention": _windowed,
    "nanochat::attention_backward": lambda a, out: 2 * _windowed(a, out),
    "nanochat::linear_relu2": lambda a, out: 2.0 * a["x"].numel() * a["weight"].size(0),
    "nanochat::relu2_gradient": lambda a, out: 2.0 * a["grad"].numel() * a["weight"].size(1),
    "nanochat::cross_entropy_": lambda a, out: 0.0,
    "nanochat::queries_keys": lambda a, out: 0.0,
    "nanochat::queries_keys_backward": lambda a, out: 0.0,
}
"""Operators of nanochat/attention.py and nanochat/kernels.py."""

FLASH = re.compile(
    r"aten::_flash_attention_\w+|flash_attn(_3)?::\w*(fwd|bwd|forward|backward)\w*|torch_attn::_varlen_attn\w*"
)
SDPA = re.compile(r"aten::_?scaled_dot_product_\w*attention\w*")
EFFICIENT = re.compile(r"aten::_efficient_attention_\w+")

# --- what counts nothing ----------------------------------------------------------------------------------------------------

FREE_NAMESPACES = ("prim", "c10d", "_c10d_functional", "c10d_functional", "_c10d_functional_autograd", "profiler")
FREE_FAMILIES = re.compile(
    r"_foreach_.*|_fused_(adam|adamw|sgd|adagrad|dropout)|_amp_.*|_assert_.*|sym_constrain_range.*|(_coalesce|_philox).*|new_.*|"
    r"unique.*|.*(_like|_copy|_scatter|_indices|_loss(2d)?|_norm(_legit.*)?|_softmax)"
)
FREE_NAMES = """
    _aminmax _chunk_cat _cummax_helper _cummin_helper _index_put_impl _is_all_true _is_any_true _local_scalar_dense
    _masked_scale _pin_memory _prelu_kernel _reshape_alias _resize_output _stack _standard_gamma _to_copy _unique _unique2
    _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view
    _weight_norm_interface addr all allclose amax amin aminmax any arange argmax argmin as_strided bernoulli
    binary_cross_entropy binary_cross_entropy_with_logits bincount bucketize cat cauchy clone col2im complex constant_pad_nd
    copy count_nonzero cummax cummin cumprod cumsum detach diag_embed diagonal dist embedding embedding_dense
    embedding_renorm empty empty_permuted empty_strided equal exponential eye fill flip full gather geometric glu histc
    im2col index index_add index_copy index_fill index_put index_reduce index_select is_pinned is_same_size is_set_to isin
    kthvalue lift lift_fresh linalg__powsum linspace log_normal log_sigmoid logcumsumexp logspace logsumexp masked_fill
    masked_scatter masked_select max mean median min mode multinomial nanmedian nansum native_dropout nonzero nonzero_static
    norm normal normal_functional ones polar poisson prod put rand randint randn random randperm range record_stream renorm
    repeat repeat_interleave resize resize_as roll rot90 scalar_tensor scatter scatter_add scatter_reduce searchsorted
    select set slice sort split split_with_sizes squeeze stack std std_mean sum t take topk trace transpose tril triu unfold
    uniform unsafe_split unsafe_split_with_sizes unsqueeze var var_mean zero zeros
"""
FREE = frozenset(FREE_NAMES.split())
"""Names in `aten`, without `_forward`, `_backward`, `_backward_data` and a trailing underscore: creation, copies, reductions, norms."""


def formula(op: OpOverload) -> Formula | None:
    """FLOPs of an operator's call from its arguments and result; None when nobody knows."""
    name = op._schema.name
    space, _, short = name.partition("::")
    double = 2.0 if re.search("backward|bwd", short) else 1.0
    for pattern, counted in ((SDPA, _sdpa), (FLASH, _flash), (EFFICIENT, _efficient)):
        if pattern.fullmatch(name):
            return lambda a, out: double * counted(a, out)
    if name in OTHERS:
        return OTHERS[name]
    if space == "aten" and short.removesuffix("_") in PRODUCTS:
        return PRODUCTS[short.removesuffix("_")]
    if space == "aten" and op.overloadpacket in flop_registry:  # convolutions
        counted = flop_registry[op.overloadpacket]
        return lambda a, out: float(counted(*a.values(), out_val=out))
    free = space in FREE_NAMESPACES or torch.Tag.pointwise in op.tags
    if space == "aten" and not free:
        short = re.sub(r"(_backward_data|_backward|_forward)?_?$", "", short)
        free = op.is_view or short in FREE or FREE_FAMILIES.fullmatch(short) is not None
    return (lambda a, out: 0.0) if free else None


# --- the meter --------------------------------------------------------------------------------------------------------------


class Meter(TorchDispatchMode):
    """Counts `flops` of all operators between enter and exit, those of backward passes included.

    Code under torch.compile runs eagerly meanwhile. `unknown` names operators without a formula, Triton kernels launched
    directly and CUDA graphs replayed; the FLOPs inside of these are missing.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self.unknown: set[str] = set()
        self._inside = False  # of an operator that has been counted, or of our own counting
        self._share: _Share | None = None
        self._undo: list[Callable[[], None]] = []
        self._functions = _Functions(self)
        self._formulas: dict[OpOverload, Formula | None] = {}
        self._flex: dict[int, tuple[Any, float]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler for us, which takes two seconds

    def __enter__(self) -> Meter:
        if "torch._dynamo" in sys.modules:  # nothing is compiled without it
            stance = torch.compiler.set_stance("force_eager")
            self._undo.append(lambda: stance.__exit__(None, None, None))
        for module, owner, method in LAUNCHERS:
            if module in sys.modules:
                self._watch(getattr(sys.modules[module], owner), method)
        self._functions.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._functions.__exit__(*error)
        while self._undo:
            self._undo.pop()()

    def _watch(self, owner: type, method: str) -> None:
        """Note calls of a method that launches what PyTorch does not see."""
        original = getattr(owner, method)

        def noted(this: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                self.unknown.add(f"{owner.__name__}.{method} {getattr(this, '__name__', '')}".strip())
            return original(this, *args, **kwargs)

        setattr(owner, method, noted)
        self._undo.append(lambda: setattr(owner, method, original))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            self._count_higher(func.name(), args)
            return self._run(func, args, kwargs)
        if func not in self._formulas:
            self._formulas[func] = formula(func)
        counted = self._formulas[func]
        if counted is None:
            # an operator made of others, which inference mode does not take apart
            with torch._C.DisableTorchFunction(), _Again(self):
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
            self.unknown.add(str(func))
            return self._run(func, args, kwargs)
        out = self._run(func, args, kwargs)
        try:
            flops = counted(_named(func, args, kwargs), out)
        except Exception:
            self.unknown.add(str(func))
            return out
        self.flops += flops * (self._part() if func._schema.name in TAKEN_APART else 1.0)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        inside, self._inside = self._inside, True
        try:
            return func(*args, **kwargs)
        finally:
            self._inside = inside

    def _count_higher(self, name: str, args: Any) -> None:
        """FlexAttention; any other operator that takes functions has no formula."""
        if name not in ("flex_attention", "flex_attention_backward"):
            self.unknown.add(name)
            return
        backward = name != "flex_attention"
        query, key, value, block_mask, buffers = *args[:3], args[9 if backward else 4], args[-1]
        known = id(block_mask[3])
        try:
            if known not in self._flex:
                self._flex[known] = block_mask, _flex_pairs(query, key, block_mask, buffers)
        except Exception:
            self.unknown.add(name)
            return
        self.flops += (2 + 2 * backward) * self._flex[known][1] * (query.size(-1) + value.size(-1))

    # Attention that PyTorch takes apart (`SDPBackend.MATH`) multiplies whole squares. To count like the kernels, its products
    # count in part, going forwards because we are inside of it, going backwards because we marked their nodes of the graph.

    def attention(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run scaled dot-product attention and mark what its backward pass will consist of."""
        before, share = self._share, _Share(dict(zip(SDPA_ARGUMENTS, args, strict=False)) | kwargs)
        self._share = share
        try:
            out = func(*args, **kwargs)
        finally:
            self._share = before
        if share.value is not None and out.grad_fn is not None:
            ends = {x.grad_fn for x in share.arguments.values() if isinstance(x, Tensor)}
            seen, rest = set(ends), [out.grad_fn]
            while rest:
                node = rest.pop()
                if node is not None and node not in seen:
                    seen.add(node)
                    node.metadata[MARK] = share.value
                    rest += [following for following, _ in node.next_functions]
        return out

    def _part(self) -> float:
        """Part of a product's FLOPs that counts: less than 1 in attention that was taken apart."""
        node = torch._C._current_autograd_node()
        if node is not None:
            return float(node.metadata.get(MARK, 1.0))
        return self._share.of_square() if self._share else 1.0


MARK = "nanochat.flops: part that counts"
TAKEN_APART = ("aten::bmm", "aten::mm", "aten::baddbmm")
SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
LAUNCHERS = (
    ("triton.runtime.jit", "JITFunction", "run"),
    ("torch._inductor.runtime.triton_heuristics", "CachingAutotuner", "run"),
    ("torch.cuda.graphs", "CUDAGraph", "replay"),
)
"""Modules, where they are loaded, and the methods by which they launch what PyTorch does not see."""


class _Again:
    """The meter back on while it handles an operator."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def __enter__(self) -> None:
        TorchDispatchMode.__enter__(self.meter)

    def __exit__(self, *error: Any) -> None:
        TorchDispatchMode.__exit__(self.meter, *error)


class _Share:
    """The part of the whole square that one call of attention lets through, found out when a product asks."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.value: float | None = None

    def of_square(self) -> float:
        if self.value is None:
            square = float(np.prod(self.arguments["query"].shape[:-1])) * self.arguments["key"].size(-2)
            self.value = _sdpa_pairs(self.arguments) / square
        return self.value


class _Functions(TorchFunctionMode):
    """Shows the meter calls of scaled dot-product attention before they are taken apart."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.meter.attention(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _named(func: OpOverload, args: Any, kwargs: Any) -> Arguments:
    """The arguments of a call by their names in the operator's schema, defaults included."""
    names = func._schema.arguments
    given = {name.name: value for name, value in zip(names, args, strict=False)} | kwargs
    return {name.name: given.get(name.name, name.default_value) for name in names}
