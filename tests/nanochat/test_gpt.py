"""Promises about the model and the optimiser: causal, shaped by one dial, calm at the start, orthogonal in its steps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from nanochat import gpt, optim, train
from nanochat.evaluate import flops_per_token


def warm(depth: int = 2, vocab: int = 50, context: int = 16) -> gpt.GPT:
    """A model whose projections are no longer zero, so that every path carries signal."""
    torch.manual_seed(0)
    model = gpt.GPT(gpt.Config.of(depth, vocab, context))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


@pytest.mark.parametrize("cut", [1, 7, 15])
def test_later_tokens_never_change_earlier_predictions(cut: int) -> None:
    model = warm()
    tokens = torch.randint(0, 50, (4, 16))
    changed = tokens.clone()
    changed[:, cut:] = (changed[:, cut:] + 1) % 50
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :cut], after[:, :cut], atol=1e-6)
    assert not torch.allclose(before[:, cut:], after[:, cut:], atol=1e-3)


def test_attention_is_what_its_formula_says_in_float64() -> None:
    model = warm(depth=1).double()
    layer, x = model.blocks[0].attention, torch.randn(2, 16, 32, dtype=torch.float64)
    q, k, v = (one(x).view(2, 16, 1, 32).transpose(1, 2) for one in (layer.query, layer.key, layer.value))
    q, k = (gpt.norm(gpt.rotate(one, model.cos, model.sin)) * gpt.QK_MULTIPLIER for one in (q, k))
    weights = (q @ k.mT / math.sqrt(32)).masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf).softmax(-1)
    expected = layer.out((weights @ v).transpose(1, 2).reshape(x.shape))
    assert torch.allclose(layer(x, model.cos, model.sin), expected, atol=1e-6)


def test_rotary_attention_depends_on_distance_alone() -> None:
    model = warm(depth=1)
    q, k = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)
    q, k = q.expand(1, 1, 16, 32), k.expand(1, 1, 16, 32)
    scores = gpt.rotate(q, model.cos, model.sin) @ gpt.rotate(k, model.cos, model.sin).mT
    for distance in range(16):
        diagonal = scores[0, 0].diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)


def test_a_new_model_predicts_all_tokens_alike() -> None:
    model = gpt.GPT(gpt.Config.of(2, 512, 32))
    tokens = torch.randint(0, 512, (4, 33))
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(512), abs=0.01)


def test_the_depth_sets_the_whole_shape_and_the_checkpoint_rebuilds_it(tmp_path: object) -> None:
    small, large = gpt.Config.of(1, 300, 32), gpt.Config.of(4, 300, 32)
    assert (large.depth, large.width, large.heads) == (4, 4 * small.width, 4 * small.heads)
    model = warm()
    saved = gpt.checkpoint(model)
    again = gpt.build(saved["config"])  # type: ignore[arg-type]
    again.load_state_dict(saved["model"])  # type: ignore[arg-type]
    tokens = torch.randint(0, 50, (2, 16))
    assert torch.equal(model(tokens), again(tokens))


def test_a_depth_that_does_not_divide_into_heads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt, "ASPECT", 24)
    with pytest.raises(ValueError, match="depth 3 gives width 72, which heads of 32 do not divide"):
        gpt.Config.of(3, 300, 32)


@pytest.mark.parametrize("activation", ["relu2", "gelu", "silu"])
def test_every_activation_that_is_offered_works(monkeypatch: pytest.MonkeyPatch, activation: str) -> None:
    monkeypatch.setattr(gpt, "ACTIVATION", activation)
    assert torch.isfinite(warm()(torch.zeros(1, 16, dtype=torch.int64))).all()


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 128, 32), (2, 32, 128)])
def test_muon_orthogonalises(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(optim.orthogonalise(torch.randn(shape)))
    assert values.min() > 0.8 and values.max() < 1.17


def test_one_step_of_every_group_lowers_the_loss_of_its_batch() -> None:
    torch.manual_seed(0)
    model = warm()
    optimizer = optim.Optimizer(model)
    held = {id(p) for group in optimizer.groups for p in (group.parameters if isinstance(group, optim.Muon) else [group.parameter])}
    assert held == {id(p) for p in model.parameters()}, "every parameter belongs to a group"
    tokens = torch.randint(0, 50, (8, 17))
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        losses.append(loss.item())
        optimizer.step(0.5, 0.5)
    assert losses[-1] < losses[0] - 0.2


def test_the_schedule_ends_where_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "WARMUP", 0.1)
    monkeypatch.setattr(train, "WARMDOWN", 0.4)
    monkeypatch.setattr(train, "FINAL_LR", 0.05)
    assert 0 < train.schedule(0.0) < 0.2
    assert train.schedule(0.1) == train.schedule(0.6) == 1.0
    assert train.schedule(0.8) == pytest.approx(0.525)
    assert train.schedule(1.0) == pytest.approx(0.05)


def test_flops_are_what_pytorch_counts() -> None:
    model = warm(depth=2, vocab=300, context=32)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 32, dtype=torch.int64))
    matrices = sum(p.numel() for p in model.parameters()) - model.embed.weight.numel()
    by_hand = 6 * matrices + 12 * 2 * 64 * 32  # the attention square: two products of width 64 over 32 positions, two layers
    assert flops_per_token(model, 32) == 3 * counter.get_total_flops() / 32 == by_hand
