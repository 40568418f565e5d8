"""Promises about the model and the optimiser: causal, shaped by one dial, calm at the start, orthogonal in its steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nanochat import gpt, optim, train


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


def test_a_short_window_hides_what_lies_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt, "WINDOWS", "S")
    monkeypatch.setattr(gpt, "SHORT_WINDOW", 0.25)
    layer, x = warm().blocks[0].attention, torch.randn(1, 16, 64)
    tokens, (cos, sin) = torch.zeros(1, 16, dtype=torch.int64), (warm().cos, warm().sin)
    changed = x.clone()
    changed[:, 3] += 1
    before, after = layer(x, tokens, cos, sin), layer(changed, tokens, cos, sin)
    moved = (before - after).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 4 + [False] * 9


def test_attention_is_what_its_formula_says_in_float64() -> None:
    model = warm(depth=1).double()
    layer, x = model.blocks[0].attention, torch.randn(2, 16, 32, dtype=torch.float64)
    tokens = torch.randint(0, 50, (2, 16))
    q, k = (x @ w.T for w in layer.qk)
    gate = 2 * torch.sigmoid(x @ layer.gate.T)
    v = x @ layer.value.T + gate * layer.values(tokens)

    def turned(one: torch.Tensor) -> torch.Tensor:
        pairs = torch.complex(one[..., :16], one[..., 16:]) * torch.complex(model.cos, -model.sin)
        return gpt.norm(torch.cat((pairs.real, pairs.imag), dim=-1)) * gpt.QK_MULTIPLIER

    scores = turned(q) @ turned(k).mT / 32**0.5
    weights = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -torch.inf).softmax(-1)
    assert torch.allclose(layer(x, tokens, model.cos, model.sin), weights @ v @ layer.out.T, atol=1e-6)


def test_a_new_model_predicts_all_tokens_alike() -> None:
    model = gpt.GPT(gpt.Config.of(2, 512, 32))
    tokens = torch.randint(0, 512, (4, 33))
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    assert loss.item() == pytest.approx(torch.tensor(512.0).log().item(), abs=0.01)


def test_the_loss_is_the_cross_entropy_of_the_logits() -> None:
    model, tokens = warm(), torch.randint(0, 50, (3, 17))
    expected = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert model.loss(tokens[:, :-1], tokens[:, 1:]).item() == pytest.approx(expected.item(), abs=1e-5)
    assert model(tokens[:, 1:]).abs().max() < gpt.SOFTCAP


def test_the_depth_sets_the_whole_shape_and_the_checkpoint_rebuilds_it() -> None:
    small, large = gpt.Config.of(2, 300, 32), gpt.Config.of(8, 300, 32)
    assert (small.width, small.heads, large.width, large.heads) == (64, 2, 512, 4)
    assert large.window == [16, 16, 16, 32, 16, 16, 16, 32]
    model = warm()
    saved = gpt.checkpoint(model)
    again = gpt.build(saved["config"])  # type: ignore[arg-type]
    again.load_state_dict(saved["model"])  # type: ignore[arg-type]
    tokens = torch.randint(0, 50, (2, 16))
    assert torch.equal(model(tokens), again(tokens))


@pytest.mark.parametrize(("depth", "said"), [(5, "depth 5 gives width 320"), (0, "give at least 1 layer")])
def test_a_depth_that_does_not_divide_into_heads_is_refused(depth: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gpt.Config.of(depth, 300, 32)


@pytest.mark.parametrize("activation", ["relu2", "gelu", "silu"])
def test_every_activation_that_is_offered_works(monkeypatch: pytest.MonkeyPatch, activation: str) -> None:
    monkeypatch.setattr(gpt, "ACTIVATION", activation)
    assert torch.isfinite(warm()(torch.zeros(1, 16, dtype=torch.int64))).all()


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 128, 32), (2, 32, 128)])
def test_muon_orthogonalises(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(optim.orthogonalise(torch.randn(shape)))
    assert values.min() > 0.8 and values.max() < 1.17


def test_evened_rows_move_alike_and_the_matrix_as_far_as_before() -> None:
    torch.manual_seed(0)
    update = torch.randn(2, 8, 4) * torch.arange(1, 9)[:, None]
    even = optim.even_rows(update, torch.zeros(2, 8, 1), 0.0)
    rows = even.norm(dim=-1)
    assert torch.allclose(rows, rows[:, :1].expand_as(rows), rtol=1e-4)
    assert torch.allclose(even.norm(dim=(-2, -1)), update.norm(dim=(-2, -1)), rtol=1e-4)


def test_weight_decay_never_pulls_against_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, 1.0]]))
    moved = {}
    for decay in (0.0, 0.1):
        weight.data.fill_(1.0)
        weight.grad = torch.tensor([[1.0, -1.0]])  # the update shrinks the first weight and lets the second grow
        group = optim.AdamW([weight], 0.1, decay)
        with torch.no_grad():
            group.step(torch.tensor(1.0), torch.tensor(0.0))
        moved[decay] = weight.detach().clone()
    assert moved[0.1][0, 0] < moved[0.0][0, 0]
    assert moved[0.1][0, 1] == moved[0.0][0, 1]


def test_one_step_of_every_group_lowers_the_loss_of_its_batch() -> None:
    torch.manual_seed(0)
    model = warm()
    optimizer = optim.Optimizer(model)
    assert {id(p) for p in optimizer.parameters} == {id(p) for p in model.parameters()}, (
        "every parameter belongs to a group"
    )
    tokens = torch.randint(0, 50, (8, 17))
    losses = []
    for _ in range(10):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        losses.append(loss.item())
        optimizer.step(0.5, 0.5)
    assert losses[-1] < losses[0] - 0.2


def test_a_step_in_parts_is_the_step_as_a_whole() -> None:
    """Two processes that share the rows take the same step: the mean of their gradients is that of all rows."""
    tokens = torch.randint(0, 50, (8, 17))
    whole, first, second = (train.Trainer(warm(), 8, rank, world) for rank, world in ((0, 1), (0, 2), (1, 2)))
    for trainer in (whole, first, second):
        mine = tokens[trainer.rank :: trainer.world]
        trainer.model.loss(mine[:, :-1], mine[:, 1:]).backward()
    for p, a, b in zip(*(trainer.model.parameters() for trainer in (whole, first, second)), strict=True):
        if p.grad is not None:
            assert torch.allclose(p.grad, (a.grad + b.grad) / 2, atol=1e-5)


def test_the_schedule_ends_where_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "WARMUP", 0.1)
    monkeypatch.setattr(train, "WARMDOWN", 0.4)
    monkeypatch.setattr(train, "FINAL_LR", 0.05)
    assert 0 < train.schedule(0.0) < 0.2
    assert train.schedule(0.1) == train.schedule(0.6) == 1.0
    assert train.schedule(0.8) == pytest.approx(0.525)
    assert train.schedule(1.0) == pytest.approx(0.05)
