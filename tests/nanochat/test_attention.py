"""Every kernel, against a reference in float64: values, gradients, causality. Those of a GPU run where there is one."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from nanochat import attention, kernels

CUDA = torch.cuda.is_available()
PACKAGES = {"cudnn": "cudnn", "flash3": "flash_attn_interface"}


def present(name: str) -> bool:
    """Can this machine run the kernel?"""
    return name == "sdpa" or (CUDA and (name not in PACKAGES or importlib.util.find_spec(PACKAGES[name]) is not None))


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Written out, in float64."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.mT / q.size(-1) ** 0.5).masked_fill(~attention.band(q.size(2), window, q.device), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def drawn(name: str, time: int = 256) -> list[torch.Tensor]:
    """Queries, keys, values and a gradient for a kernel: bf16 on a GPU, as training has them."""
    torch.manual_seed(0)
    on_gpu = CUDA and name != "cpu"
    shape, dtype = ((2, time, 2, 128), torch.bfloat16) if on_gpu else ((2, 32, 2, 16), torch.float32)
    return [torch.randn(shape, dtype=dtype, device="cuda" if on_gpu else "cpu") for _ in range(4)]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative distance."""
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("part", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("name", sorted(attention.KERNELS))
def test_values_and_gradients_are_those_of_the_formula(name: str, part: float) -> None:
    if not present(name):
        pytest.skip(f"{name} needs a GPU or a package that is not here")
    *inputs, grad = drawn(name)
    window = max(1, int(part * grad.size(1)))
    for x in inputs:
        x.requires_grad_()
    kernel = attention.KERNELS[name]
    kernel = torch.compile(kernel) if name == "flex" else kernel
    out = kernel(*inputs, window)
    got = [out, *torch.autograd.grad(out, inputs, grad)]
    expected = reference(*inputs, window)
    wanted = [expected, *torch.autograd.grad(expected, inputs, grad.double())]
    limit = 1e-2 if grad.dtype == torch.bfloat16 else 1e-5
    assert [far(a, b) for a, b in zip(got, wanted, strict=True)] == pytest.approx([0, 0, 0, 0], abs=limit)


@pytest.mark.parametrize("name", sorted(attention.KERNELS))
def test_nothing_is_seen_of_what_comes_later_or_lies_before_the_window(name: str) -> None:
    if not present(name):
        pytest.skip(f"{name} needs a GPU or a package that is not here")
    q, k, v, _ = drawn(name)
    time = q.size(1)
    kernel = torch.compile(attention.KERNELS[name]) if name == "flex" else attention.KERNELS[name]
    before = kernel(q, k, v, time // 4)
    changed = v.clone()
    changed[:, time // 2] += 10
    moved = (kernel(q, k, changed, time // 4) - before).abs().amax(dim=(0, 2, 3)) > 0
    assert moved.nonzero().flatten().tolist() == list(range(time // 2, time // 2 + time // 4))


def test_a_kernel_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "KERNEL", "abacus")
    with pytest.raises(ValueError, match="no attention kernel 'abacus': choose from sdpa"):
        attention.attend(*drawn("cpu")[:3], 8)


@pytest.mark.skipif(not CUDA, reason="the fused kernels run on a GPU alone")
def test_fused_kernels_are_what_they_stand_for() -> None:
    torch.manual_seed(0)
    x, up, down = (torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in ((1024, 256), (1024, 256), (256, 1024)))
    head, targets = (
        torch.randn(1000, 256, device="cuda", dtype=torch.bfloat16),
        torch.randint(1000, (1024,), device="cuda"),
    )
    qk, angle = torch.randn(2, 64, 4, 128, device="cuda", dtype=torch.bfloat16), torch.rand(64, 64, device="cuda")
    cases = [
        (lambda a, b, c: kernels.relu2_mlp(a, b, c), lambda a, b, c: F.relu(a @ b.T).square() @ c.T, (x, up, down)),
        (
            lambda a, b: kernels.capped_cross_entropy(a, b, targets, 15.0),
            lambda a, b: F.cross_entropy(15 * torch.tanh(a @ b.T / 15), targets),
            (x / 8, head / 8),
        ),
        (
            lambda a: torch.cat(kernels.rotate_norm(a, angle.cos(), angle.sin(), 1.2), dim=2),
            lambda a: torch.cat(kernels.rotate_norm(a.cpu(), angle.cos().cpu(), angle.sin().cpu(), 1.2), dim=2).cuda(),
            (qk,),
        ),
    ]
    for fused, plain, inputs in cases:
        ours, exact = [a.clone().requires_grad_() for a in inputs], [a.double().requires_grad_() for a in inputs]
        got, wanted = fused(*ours), plain(*exact)
        grad = torch.randn_like(wanted)
        pairs = [
            (got, wanted),
            *zip(
                torch.autograd.grad(got, ours, grad.to(got.dtype)),
                torch.autograd.grad(wanted, exact, grad),
                strict=True,
            ),
        ]
        assert [far(a, b) for a, b in pairs] == pytest.approx([0] * len(pairs), abs=1e-2)
