"""Promises about the evaluator: it measures what it says, and a model that breaks is invalid, with the reason, in time.

Cheats have a file of their own, test_cheats.py.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import agreement, evaluate, gpt, hosted
from nanochat.agreement import Disagreement, Tolerance, agreed, plans
from nanochat.errors import DataError
from nanochat.hosted import InvalidModel
from tests.nanochat.conftest import TinyRun
from tests.nanochat.small import CONTEXT, VOCAB, Small, prepare

pytestmark = pytest.mark.slow  # five seconds together

# --- what is measured ------------------------------------------------------------------------------------------------


def nats_in_float64(model: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    """(rows, context)"""
    tokens = torch.from_numpy(rows.astype(np.int64))
    with torch.no_grad():
        logits = model(tokens[:, :-1]).double()
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(rows), -1).numpy()


@pytest.mark.slow
def test_bits_per_byte_agree_with_a_float64_reference(trained: TinyRun) -> None:
    result = trained.result
    saved = torch.load(trained.work / "out" / "checkpoint.pt", weights_only=True)
    model = gpt.build(saved["config"])
    model.load_state_dict(saved["model"])
    sizes = np.load(trained.data / "token_bytes.npy")
    for split in ("search", "audit"):
        rows = np.load(trained.data / f"{split}.npy")
        size = sizes[rows[:, 1:]]
        nats = nats_in_float64(model.eval(), rows)[size > 0].sum()
        assert result["metric"][split] == pytest.approx(nats / math.log(2) / size.sum(), rel=1e-6)
    assert result["status"] == "ok" and result["reason"] == ""
    assert result["params"] == sum(p.numel() for p in model.parameters())
    assert result["eval_tokens"] == 2 * 128 * 32
    assert result["metric"]["search"] < math.log2(300)  # better than knowing nothing, at a byte a token
    assert result["host_memory_bytes"] > 50e6 and result["host_seconds"] > 0.5
    assert result["checkpoint_bytes"] == (trained.work / "out" / "checkpoint.pt").stat().st_size


def test_losses_by_position_and_by_kind_of_text(small: Small, tmp_path: Path) -> None:
    rows = small.arrays["search"]
    kind = np.arange(len(rows)) % 2
    prepare(tmp_path / "data", {**small.arrays, "search_kind": kind.astype(np.uint8)})
    result = small.score(small.lay(tmp_path / "run"), ("audit", "search"), data=tmp_path / "data")
    nats = nats_in_float64(small.model, rows)
    assert result["metric"]["search"] == pytest.approx(nats.mean() / math.log(2), rel=1e-6)
    eighths = nats.reshape(len(rows), 8, CONTEXT // 8).mean((0, 2))
    assert result["position_loss"]["search"] == pytest.approx(list(eighths), rel=1e-5)
    parts = {"prose": nats[kind == 0].mean() / math.log(2), "code": nats[kind == 1].mean() / math.log(2)}
    assert result["parts"] == {"search": pytest.approx(parts, rel=1e-5), "audit": {}}
    assert result["agreement"]["positions"] > rows.size and result["agreement"]["cuts"] == 2 * 192


@pytest.mark.slow
def test_scoring_twice_gives_the_same_number(small: Small, tmp_path: Path) -> None:
    first, second = (small.score(small.lay(tmp_path / name))["metric"]["search"] for name in ("a", "b"))
    assert first == pytest.approx(second, abs=1e-7)  # whatever was cut, and in whatever order


# --- models that break -----------------------------------------------------------------------------------------------


def variant(*lines: str) -> str:
    """A model with this forward pass."""
    body = "\n".join(f"        {line}" for line in lines)
    return f"class Variant(GPT):\n    def forward(self, tokens):\n        logits = GPT.forward(self, tokens)\n{body}\n"


BROKEN = {
    "nan": ("return logits + float('nan')", "not finite"),
    "infinity": ("return logits + float('inf')", "not finite"),
    "target impossible": ("return logits.masked_fill(logits < 0, float('-inf'))", "not finite"),
    "one nan": ("return logits.index_fill(-1, torch.tensor([3]), float('nan'))", "not finite"),
    "too few tokens": ("return logits[..., :-1]", "logits of shape (64, 64, 63) where (64, 64, 64) was due"),
    "too few positions": ("return logits[:, :-1]", "logits of shape (64, 63, 64)"),
    "far too many": ("return logits.repeat(3, 3, 3)", "logits of shape (192, 192, 192)"),
    "no logits": ("return None", "AttributeError"),
    "no batch": ("return logits[0]", "logits of shape (64, 64)"),
    "exception": ("raise RuntimeError('out of ideas')", "RuntimeError: out of ideas"),
    "exit": ("import os; os._exit(3)", "the model host died (exit 3)"),
    "kill": ("import os; os.kill(os.getpid(), 9)", "the model host died (exit -9)"),
    "out of memory": ("return logits + torch.zeros(1 << 50)", "memory"),
    "shared memory taken away": (
        "import os, sys; os.ftruncate(int(sys.argv[sys.argv.index('--logits') + 1]), 0)",
        "PermissionError",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("code", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_model_that_breaks_is_invalid_with_the_reason(small: Small, tmp_path: Path, code: str, reason: str) -> None:
    guard = "if len(tokens) != 64: return logits" if "shape" in reason else ""
    result = small.score(small.lay(tmp_path / "run", variant(guard, code)))
    assert result["status"] == "invalid" and result["metric"] == {} and result["position_loss"] == {}
    assert reason in result["reason"] and "\n" not in result["reason"]


@pytest.mark.slow
def test_a_model_that_hangs_is_invalid_in_time_and_leaves_no_process(small: Small, tmp_path: Path) -> None:
    hang = "open(f'pid{os.getpid()}', 'w'); subprocess.Popen(['sleep', '600']); time.sleep(600)"
    work = small.lay(tmp_path / "run", variant("import os, subprocess, time", hang))
    begun = time.monotonic()
    result = small.score(work, seconds=8)
    assert result["status"] == "invalid" and result["reason"] == "the model needed more than 8 s to be scored"
    assert time.monotonic() - begun < 20
    pids = [int(path.name[3:]) for path in (work / "checkout").glob("pid*")]
    assert len(pids) == 2
    groups = {os.getpgid(process.pid) for process in psutil.process_iter() if process.status() != psutil.STATUS_ZOMBIE}
    assert not groups & set(pids)


@pytest.mark.slow
def test_a_host_that_speaks_out_of_turn_is_invalid(small: Small, tmp_path: Path) -> None:
    shout = "import os, sys\nos.write(int(sys.argv[sys.argv.index('--fd') + 1]), b'\\x03\\0\\0\\0[1]' * 9)\n"
    result = small.score(small.lay(tmp_path / "run", f"{shout}{variant('return logits')}"))
    assert result["status"] == "invalid" and "nonsense" in result["reason"]


@pytest.mark.slow
def test_a_flood_of_words_neither_blocks_nor_fills_anything(small: Small, tmp_path: Path) -> None:
    flood = "print('x' * 10_000_000)"
    work = small.lay(tmp_path / "run", variant(flood, "return logits"))
    assert small.score(work)["status"] == "ok"
    work = small.lay(tmp_path / "again", variant(flood, "raise RuntimeError('drowned')"))
    assert small.score(work)["reason"].endswith("RuntimeError: drowned")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["empty", "garbage", "pickle bomb", "bomb in a zip", "half of it", "a list"])
def test_a_checkpoint_that_is_no_weights_is_invalid(small: Small, tmp_path: Path, content: str) -> None:
    work = small.lay(tmp_path / "run")
    checkpoint = work / "out" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    if content == "bomb in a zip":
        torch.save({"config": {}, "model": Bomb()}, checkpoint)
    elif content == "a list":
        torch.save([1, 2], checkpoint)
    else:
        known = {"empty": b"", "garbage": b"not a checkpoint", "pickle bomb": pickle.dumps(Bomb())}
        checkpoint.write_bytes(known.get(content, whole[: len(whole) // 2]))
    result = small.score(work)
    assert result["status"] == "invalid" and "\n" not in result["reason"]
    assert result["reason"].startswith("checkpoint.pt cannot be read as weights")
    assert not list(tmp_path.rglob("exploded"))


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_invalid(small: Small, tmp_path: Path) -> None:
    other = {"config": {"width": 64}, "model": small.saved["model"]}
    assert "gpt.build cannot make the model" in small.score(small.lay(tmp_path / "run", saved=other))["reason"]


@pytest.mark.slow
def test_a_missing_or_borrowed_checkpoint_is_invalid(small: Small, tmp_path: Path) -> None:
    work = small.lay(tmp_path / "run")
    checkpoint = work / "out" / "checkpoint.pt"
    checkpoint.rename(work / "elsewhere.pt")
    assert small.score(work)["reason"] == "training left no checkpoint.pt"
    checkpoint.symlink_to(work / "elsewhere.pt")
    assert small.score(work)["reason"].startswith("checkpoint.pt cannot be opened")
    checkpoint.unlink()
    checkpoint.hardlink_to(work / "elsewhere.pt")
    assert small.score(work)["reason"] == "checkpoint.pt is a link or no file"
    checkpoint.unlink()
    os.mkfifo(checkpoint)
    assert small.score(work)["reason"] == "checkpoint.pt is a link or no file"


# --- the command -----------------------------------------------------------------------------------------------------


def command(small: Small, work: Path, data: Path, splits: str = "search") -> list[str]:
    (work / "scale.json").write_text(json.dumps({"vocab": VOCAB, "context": CONTEXT}))
    words = [sys.executable, "-P", "-m", "nanochat.evaluate", "score", "--data", str(data), "--scale", str(work / "scale.json")]
    words += ["--checkout", str(work / "checkout"), "--out", str(work / "out")]
    return [*words, "--splits", splits, "--result", str(work / "score.json")]


ROOT = {"PYTHONPATH": str(Path(evaluate.__file__).parents[1])}


@pytest.mark.slow
def test_each_host_starts_behind_its_own_fence(small: Small, tmp_path: Path) -> None:
    see = "import os\nopen('seen', 'a').write(os.environ['FENCE'] + ' ')\n"
    work = small.lay(tmp_path / "run", f"{see}{variant('return logits')}")
    fences = json.dumps([["env", "FENCE=first"], ["env", "FENCE=second"]])
    done = subprocess.run(command(small, work, small.data), env={**ROOT, "PATH": os.environ["PATH"], "HOST_FENCE": fences}, check=True)
    assert done.returncode == 0 and json.loads((work / "score.json").read_text())["status"] == "ok"
    assert sorted((work / "checkout" / "seen").read_text().split()) == ["first", "second"]


@pytest.mark.parametrize("words", ['[["a"]]', '["a", "b"]', '{"a": 1}', "1", "no json", '[["a"], [1]]'])
def test_fences_that_make_no_sense_are_an_error(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_FENCE", words)
    with pytest.raises(DataError, match="two lists of words"):
        hosted.fences()


@pytest.mark.slow
def test_damaged_data_is_no_verdict_about_the_model(small: Small, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(small.data, data)
    (data / "search.npy").write_bytes(b"half")
    work = small.lay(tmp_path / "run")
    done = subprocess.run(command(small, work, data), env=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "search.npy cannot be read" in done.stderr
    assert not (work / "score.json").exists()


@pytest.mark.slow
def test_an_unknown_split_is_refused_in_one_line(small: Small, tmp_path: Path) -> None:
    work = small.lay(tmp_path / "run")
    done = subprocess.run(command(small, work, small.data, "test"), env=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "choose from search, audit, locked" in done.stderr and done.stderr.count("\n") == 1


# --- log-probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [hosted.numpy_logs, hosted.kernel(2048, 8192)], ids=["numpy", "torch"])
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e9])
def test_log_probabilities_of_targets_are_those_of_float64(kernel: hosted.Kernel, offset: float) -> None:
    random = np.random.default_rng(0)
    logits = (random.normal(size=(3, 700, 900)) * 20 + offset).astype(np.float32)
    targets = random.integers(900, size=(3, 700))
    descriptor = hosted.shared_memory(logits.nbytes)
    try:
        os.pwrite(descriptor, logits.tobytes(), 0)
        logs = kernel(descriptor, targets, 900)
    finally:
        os.close(descriptor)
    exact = torch.from_numpy(logits).double().log_softmax(-1).gather(-1, torch.from_numpy(targets)[..., None])[..., 0]
    assert logs.dtype == np.float32 and np.abs(logs - exact.numpy()).max() < 1e-4
    assert (logs < 1e-6).all()  # no offset makes a probability larger than 1


def test_logits_that_are_missing_are_noticed() -> None:
    descriptor = hosted.shared_memory(100 * 4)
    with pytest.raises(InvalidModel, match="took its logits away"):
        hosted.numpy_logs(descriptor, np.zeros((2, 2), dtype=np.int64), 50)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 50)
    os.close(descriptor)


# --- agreement -------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=3), st.integers(2, 40), st.integers(8, 64), st.integers(0, 99))
def test_plans_show_every_row_once_and_no_host_what_is_hidden_from_it(
    splits: list[int], context: int, largest: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    total = sum(splits)
    tokens = np.arange(total * (context + 1)).reshape(total, context + 1)
    both = plans(splits, context, largest, random)
    assert ((both[0].cuts == context) | (both[1].cuts == context)).all()  # each row is whole in one of them
    split_of = np.repeat(np.arange(len(splits)), splits)
    for plan in both:
        assert sorted(np.concatenate(plan.batches)) == list(range(total))
        assert all(1 <= len(part) <= largest for part in plan.batches)
        shown = np.concatenate([plan.inputs(tokens, part) for part in plan.batches])
        hidden = {int(token) for row in range(total) for token in tokens[row, plan.cuts[row] : -1]}
        assert not hidden & set(shown.ravel().tolist())
        for row, seen in zip(np.concatenate(plan.batches), shown, strict=True):
            cut = plan.cuts[row]
            assert 1 <= cut <= context and (seen[:cut] == tokens[row, :cut]).all()
            donor = seen // (context + 1)
            assert (split_of[donor] == split_of[row]).all() and (donor[cut:] != row).all()


def test_most_rows_of_a_split_are_cut_for_one_host_or_the_other() -> None:
    a, b = plans([1024, 1024], 64, 64, np.random.default_rng(0))
    assert (a.cuts < 64).sum() == (b.cuts < 64).sum() == 768
    assert set(a.cuts) == set(range(1, 65))
    sizes, _ = a.places()
    assert len(set(sizes)) > 1


def answers(noise: float, leak: float = 0.0, adapt: float = 0.0, rows: int = 512, seed: int = 0) -> tuple[Any, ...]:
    """What two hosts of a model say that is `noise` nats off each time, better by `leak` where it is shown the next token,
    and by `adapt` once it has seen all rows; and their plans."""
    random = np.random.default_rng(seed)
    both = plans([rows], CONTEXT, 64, random)
    true = random.exponential(2, size=(rows, CONTEXT))
    logs = np.stack([-true + noise * random.standard_t(4, size=true.shape) for _ in both]).astype(np.float32)
    for host, plan in enumerate(both):
        _, turns = plan.places()
        logs[host] += leak * (np.arange(CONTEXT) + 1 < plan.cuts[:, None])
        logs[host] += adapt * turns[:, None] / len(plan.batches)
    return logs, both


LOOSE = Tolerance(9.0, 0.05)


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-2])
def test_honest_noise_of_any_size_agrees(noise: float) -> None:
    for seed in range(200):
        logs, both = answers(noise, seed=seed)
        scored, numbers = agreed(logs, both, LOOSE)
    assert scored.shape == logs.shape[1:]
    assert numbers["mean"] <= 3 * noise and abs(numbers["ahead"]) <= max(1e-9, noise)
    for row in range(len(scored)):
        cut = both[0].cuts[row]
        assert (scored[row, :cut] == logs[0, row, :cut]).all() and (scored[row, cut:] == logs[1, row, cut:]).all()


@pytest.mark.parametrize(("noise", "leak"), [(0.0, 2e-4), (1e-5, 2e-4), (1e-2, 1e-2)])
def test_small_leaks_are_found(noise: float, leak: float) -> None:
    for seed in range(50):
        logs, both = answers(noise, leak, seed=seed)
        with pytest.raises(Disagreement, match="looks ahead"):
            agreed(logs, both, LOOSE)


def test_what_grows_with_the_rows_seen_is_found() -> None:
    for seed in range(50):
        logs, both = answers(1e-2, adapt=0.02, seed=seed)
        with pytest.raises(Disagreement, match="keeps what it saw"):
            agreed(logs, both, LOOSE)


def test_noise_beyond_what_the_device_makes_is_refused() -> None:
    for tolerance in agreement.TOLERANCES.values():
        logs, both = answers(3 * tolerance.mean)
        with pytest.raises(Disagreement, match="does not judge a row by itself"):
            agreed(logs, both, tolerance)
