"""Promises about FLOPs: counted as computed, attention by its mask on every path, the optimiser too, and what is unknown is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from nanochat import attention, gpt, train
from nanochat.flops import Meter, attention_pairs, band_pairs

ROWS, HEADS, TIME, CHANNELS, WINDOW = 2, 3, 32, 8, 5


def counted(work: Callable[[], object]) -> float:
    """FLOPs of this work, all of which must have a formula."""
    meter = Meter()
    with meter:
        work()
    assert not meter.unknown
    return meter.flops


def heads() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(ROWS, HEADS, TIME, CHANNELS, requires_grad=True) for _ in range(3)]


def training(pairs: int) -> float:
    """FLOPs of attention forwards and backwards by the formula of MFU: 12 a pair and channel."""
    return 12.0 * ROWS * HEADS * CHANNELS * pairs


# --- pairs


def test_pairs_of_a_small_row_by_hand() -> None:
    assert attention_pairs(4) == 1 + 2 + 3 + 4
    assert attention_pairs(4, 2) == 1 + 2 + 2 + 2
    assert attention_pairs(4, 9) == attention_pairs(4, None) == 10


BOUND = st.none() | st.integers(0, 25)


@given(st.integers(1, 20), st.integers(1, 20), BOUND, BOUND, st.integers(-5, 5))
def test_pairs_of_a_band_are_those_of_the_written_out_mask(
    queries: int, keys: int, left: int | None, right: int | None, shift: int
) -> None:
    i, j = np.arange(queries)[:, None] + shift, np.arange(keys)
    seen = (j >= i - (left if left is not None else 100)) & (j <= i + (right if right is not None else 100))
    assert band_pairs(queries, keys, left, right, shift) == seen.sum()


# --- attention


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_causal_attention_counts_half_the_square_on_every_path(backend: SDPBackend) -> None:
    q, k, v = heads()
    with sdpa_kernel(backend):
        found = counted(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward())
    assert found == training(attention_pairs(TIME))


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
@pytest.mark.parametrize("kind", ["bool", "bias"])
def test_a_mask_counts_the_pairs_it_lets_through(backend: SDPBackend, kind: str) -> None:
    q, k, v = heads()
    band = attention.band(TIME, WINDOW)
    mask = band if kind == "bool" else torch.zeros(TIME, TIME).masked_fill(~band, -torch.inf)
    with sdpa_kernel(backend):
        found = counted(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward())
    assert found == training(attention_pairs(TIME, WINDOW))


def test_attention_without_a_mask_counts_the_whole_square() -> None:
    q, k, v = heads()
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()) == training(TIME * TIME)


def test_inference_counts_the_forward_pass_alone() -> None:
    q, k, v = heads()
    with torch.inference_mode():
        assert counted(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)) == training(attention_pairs(TIME)) / 3


@pytest.mark.slow
def test_flex_attention_counts_what_its_mask_lets_through() -> None:
    q, k, v = (x.detach() for x in heads())
    mask = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j < WINDOW), None, None, TIME, TIME, device="cpu", BLOCK_SIZE=8)
    assert counted(lambda: flex_attention(q, k, v, block_mask=mask)) == training(attention_pairs(TIME, WINDOW)) / 3


def test_the_models_own_attention_counts_its_window() -> None:
    q, k, v = (x.detach().transpose(1, 2).contiguous().requires_grad_() for x in heads())
    found = counted(lambda: attention.attend(q, k, v, WINDOW).sum().backward())
    assert found == training(attention_pairs(TIME, WINDOW))


# --- matrix products, and what has no formula


@pytest.mark.parametrize(
    ("work", "flops"),
    [
        (lambda: torch.ones(3, 4) @ torch.ones(4, 5), 2 * 3 * 4 * 5),
        (lambda: torch.einsum("bij,bjk->bik", torch.ones(2, 3, 4), torch.ones(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: F.linear(torch.ones(7, 4), torch.ones(5, 4), torch.ones(5)), 2 * 7 * 4 * 5),
        (lambda: torch.ones(3, 4) @ torch.ones(4), 2 * 3 * 4),
        (lambda: F.conv1d(torch.ones(1, 2, 10), torch.ones(3, 2, 4)), 2 * 3 * 7 * 2 * 4),
        (lambda: torch.addmm(torch.ones(3, 5), torch.ones(3, 4), torch.ones(4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.ones(3, 4).softmax(-1).exp().sum() + F.layer_norm(torch.ones(3, 4), (4,)).mean(), 0),
    ],
)  # fmt: skip
def test_products_count_and_elementwise_work_does_not(work: Callable[[], object], flops: float) -> None:
    assert counted(work) == flops


def test_products_of_a_backward_pass_count() -> None:
    x, w = torch.ones(6, 4, requires_grad=True), torch.ones(4, 5, requires_grad=True)
    assert counted(lambda: (x @ w).sum().backward()) == 3 * 2 * 6 * 4 * 5


@pytest.mark.slow
def test_an_operator_without_a_formula_is_named_and_not_taken_for_free() -> None:
    @torch.library.custom_op("nanochat_test::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    meter = Meter()
    with meter:
        mystery(torch.ones(4, 4))
        torch.linalg.svdvals(torch.ones(4, 4))
    assert any("mystery" in name for name in meter.unknown) and any("svd" in name for name in meter.unknown)


@pytest.mark.slow
def test_compiled_code_is_counted_operator_by_operator() -> None:
    product = torch.compile(lambda x, y: torch.relu(x @ y), backend="eager")
    x, y = torch.ones(3, 4), torch.ones(4, 5)
    product(x, y)
    assert counted(lambda: product(x, y)) == 2 * 3 * 4 * 5


def test_nothing_is_counted_outside_of_the_meter() -> None:
    meter = Meter()
    with meter:
        torch.ones(3, 4) @ torch.ones(4, 5)
    torch.ones(3, 4) @ torch.ones(4, 5)
    with meter:
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert meter.flops == 2 * 2 * 3 * 4 * 5


# --- a whole step


def trainer() -> tuple[train.Trainer, torch.Tensor]:
    torch.manual_seed(0)
    return train.Trainer(gpt.GPT(gpt.Config.of(2, 300, 32)), 4), torch.randint(0, 300, (4, 33))


def model_flops(model: gpt.GPT, tokens: int) -> float:
    """6 a weight that multiplies and token, and attention by its windows."""
    shape = model.config
    weights = model.head.numel() + sum(
        p.numel() for block in model.blocks for name, p in block.named_parameters() if "values" not in name
    )
    pairs = sum(attention_pairs(shape.context, window) for window in shape.window)
    return 6.0 * weights * tokens + 12.0 * shape.width * pairs * tokens / shape.context


def test_forward_and_backward_of_the_model_are_what_its_shape_says() -> None:
    one, rows = trainer()
    found = counted(lambda: one.model.loss(rows[:, :-1], rows[:, 1:]).backward())
    assert found == model_flops(one.model, 4 * 32)


def test_the_optimiser_is_counted_and_a_replayed_batch_counts_again() -> None:
    one, rows = trainer()
    step = counted(lambda: one.step(rows[:, :-1], rows[:, 1:], 0.0))
    muon = 0.0
    for block in one.model.blocks:
        for p in (block.attention.qk, block.attention.value, block.attention.out, block.mlp.up, block.mlp.down):
            short, long = sorted(p.shape[-2:])
            muon += p.numel() / (short * long) * 5 * (4.0 * short * short * long + 2.0 * short**3)
    assert step == model_flops(one.model, 4 * 32) + muon

    def replay() -> None:
        for _ in range(2):
            one.step(rows[:, :-1], rows[:, 1:], 0.0)

    assert counted(replay) == 2 * step
