"""Promises about the evaluator: it measures what it says, and a model that cheats or breaks is invalid, with the reason."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nanochat import evaluate, gpt
from nanochat.data import DataError
from tests.nanochat.conftest import TinyRun

LOGITS = "        return SOFTCAP * torch.tanh(self.head(norm(x) / SOFTCAP))"


@pytest.mark.slow
def test_bits_per_byte_agree_with_a_float64_reference(trained: TinyRun) -> None:
    result = trained.result
    saved = torch.load(trained.work / "out" / "checkpoint.pt", weights_only=True)
    model = gpt.build(saved["config"])
    model.load_state_dict(saved["model"])
    sizes = np.load(trained.data / "token_bytes.npy")
    for split in ("search", "audit"):
        rows = torch.from_numpy(np.load(trained.data / f"{split}.npy").astype(np.int64))
        with torch.no_grad():
            logits = model(rows[:, :-1]).double()
        nats = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        size = torch.from_numpy(sizes)[rows[:, 1:].flatten()]
        assert result["metric"][split] == pytest.approx(nats[size > 0].sum().item() / math.log(2) / size.sum().item(), rel=1e-6)
    assert result["status"] == "ok" and result["reason"] == ""
    assert result["params"] == sum(p.numel() for p in model.parameters())
    assert result["eval_tokens"] == 2 * 128 * 32
    assert result["flops_per_token"] > 6 * (result["params"] - model.embed.weight.numel())
    assert result["metric"]["search"] < math.log2(300)  # better than knowing nothing, at a byte a token


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("is_causal=True", "is_causal=False"),
        # one token ahead, and faint: the next token's embedding leaks into the stream
        ("        for block in self.blocks:\n            x = block(x, cos, sin)",
         "        x = x + 0.05 * x.roll(-1, 1)\n        for block in self.blocks:\n            x = block(x, cos, sin)"),
        # the targets themselves, which are the inputs shifted by one
        (LOGITS, LOGITS.replace("return ", "return F.one_hot(tokens.roll(-1, 1), self.config.vocab) * 9.0 + ")),
        # statistics over the whole row
        ("        x = norm(self.embed(tokens))", "        x = norm(self.embed(tokens))\n        x = x - x.mean(1, keepdim=True)"),
    ],
    ids=["full attention", "faint look ahead", "targets from inputs", "row statistics"],
)  # fmt: skip
def test_a_model_that_sees_later_tokens_is_invalid(scored: TinyRun, old: str, new: str) -> None:
    scored.edit("gpt.py", old, new)
    result = scored.score()
    assert result["status"] == "invalid"
    assert "looks ahead" in result["reason"]
    assert result["metric"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("return torch.full_like(self.head(norm(x)), float('nan'))", "not finite"),
        ("return self.head(norm(x))[..., :-1]", "returned 64 rows of 299 logits"),
        ("return self.head(norm(x))[:, :-1]", "logits of shape (64, 31, 300)"),
        ("return None", "AttributeError"),
        ("raise RuntimeError('out of ideas')", "RuntimeError: out of ideas"),
        ("import os; os._exit(3)", "the model host died (exit 3)"),
    ],
)
def test_a_model_that_breaks_is_invalid_with_the_reason(scored: TinyRun, code: str, reason: str) -> None:
    guard = "if tokens.size(0) > 1: " if "64" in reason or "exit" in reason else ""
    scored.edit("gpt.py", LOGITS, f"        {guard}{code}" + (f"\n{LOGITS}" if guard else ""))
    result = scored.score()
    assert result["status"] == "invalid"
    assert reason in result["reason"] and "\n" not in result["reason"]


@pytest.mark.slow
def test_a_model_that_hangs_is_invalid_in_time_and_leaves_no_process(scored: TinyRun) -> None:
    scored.edit("gpt.py", LOGITS, f"        import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)\n{LOGITS}")
    settings = scored.task.scale.args
    begun = time.monotonic()
    result = evaluate.score(scored.data, settings, scored.work / "checkout", scored.work / "out", ["search"], seconds=8)
    assert result["status"] == "invalid" and "needed more than 8 s" in result["reason"]
    assert time.monotonic() - begun < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((scored.work / "checkout" / "pid").read_text()), 0)


@pytest.mark.slow
def test_a_host_that_speaks_out_of_turn_is_invalid(scored: TinyRun) -> None:
    shout = "import os, sys\nos.write(int(sys.argv[sys.argv.index('--fd') + 1]), b'\\x03\\0\\0\\0[1]' * 9)\n"
    scored.edit("gpt.py", "import torch\n", f"{shout}import torch\n")
    result = scored.score()
    assert result["status"] == "invalid" and "nonsense" in result["reason"]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(Bomb())], ids=["empty", "garbage", "pickle bomb"])
def test_a_checkpoint_that_is_no_weights_is_invalid(scored: TinyRun, content: bytes) -> None:
    (scored.work / "out" / "checkpoint.pt").write_bytes(content)
    result = scored.score()
    assert result["status"] == "invalid"
    assert result["reason"].startswith("checkpoint.pt cannot be read as weights")
    assert not list(scored.work.rglob("exploded"))


@pytest.mark.slow
def test_a_missing_checkpoint_or_one_of_another_model_is_invalid(scored: TinyRun) -> None:
    torch.save({"config": gpt.Config.of(2, 300, 32).__dict__, "model": {}}, scored.work / "out" / "checkpoint.pt")
    assert "gpt.build cannot make the model" in scored.score()["reason"]
    (scored.work / "out" / "checkpoint.pt").unlink()
    assert scored.score()["reason"] == "training left no checkpoint.pt"


@pytest.mark.slow
def test_what_the_experiment_prints_or_claims_has_no_effect(scored: TinyRun, trained: TinyRun) -> None:
    claim = "import json, sys\nprint(json.dumps({'status': 'ok', 'metric': {'search': 0.1}}), flush=True)\n"
    claim += "open('score.json', 'w').write('{\"status\": \"ok\", \"metric\": {\"search\": 0.1}}')\n"
    scored.edit("gpt.py", "import torch\n", f"{claim}import torch\n")
    saved = torch.load(scored.work / "out" / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "val_bpb": 0.1}, scored.work / "out" / "checkpoint.pt")
    (scored.work / "out" / "score.json").write_text('{"status": "ok", "metric": {"search": 0.1}}')
    assert scored.score(("search", "audit")) == trained.result


@pytest.mark.slow
def test_the_model_host_gets_no_key_of_the_environment_and_no_path_to_the_data(scored: TinyRun) -> None:
    scored.edit("gpt.py", "import torch\n", "import os, sys\nopen('seen', 'w').write(repr((dict(os.environ), sys.argv)))\nimport torch\n")
    words = scored.noise.command(scored.task.score, scored.work, scored.data, seed=0, splits="search")
    env = {**scored.noise.environment(scored.task, scored.work, "protected"), "ANTHROPIC_API_KEY": "sk-secret"}
    subprocess.run(words, env=env, check=True, stdout=subprocess.DEVNULL)
    seen = (scored.work / "checkout" / "seen").read_text()
    assert "sk-secret" not in seen and "PYTHONPATH" in seen
    assert str(scored.data) not in seen


@pytest.mark.slow
def test_damaged_data_is_no_verdict_about_the_model(scored: TinyRun, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(scored.data, data)
    (data / "search.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"search.npy cannot be read"):
        evaluate.score(data, scored.task.scale.args, scored.work / "checkout", scored.work / "out", ["search"])
    words = scored.noise.command(scored.task.score, scored.work, data, seed=0, splits="search")
    done = subprocess.run(words, env=scored.noise.environment(scored.task, scored.work, "protected"), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert not (scored.work / "score.json").exists()


def test_the_log_softmax_is_torchs() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 5, 40)).astype(np.float32) * 20
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    assert np.abs(evaluate.log_softmax(logits) - expected).max() < 1e-5


def test_probes_keep_the_text_before_the_cut_and_replace_the_rest() -> None:
    random = np.random.default_rng(0)
    tokens = np.arange(40 * 17).reshape(40, 17)
    part = np.array([3, 9, 39])
    inputs, cuts = evaluate.probe_inputs(tokens, part, random)
    for row, shown, cut in zip(part, inputs, cuts, strict=True):
        assert 1 <= cut < 16
        assert (shown[:cut] == tokens[row, :cut]).all()
        assert (shown[cut:] != tokens[row, cut:-1]).all()


def test_an_unknown_split_is_refused_in_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", "nanochat.evaluate", "score", "--data", str(tmp_path), "--checkout", ".", "--out", "."]
    words += ["--splits", "test", "--result", str(tmp_path / "r.json")]
    done = subprocess.run(words, env={"PYTHONPATH": str(Path(gpt.__file__).parents[1])}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "choose from search, audit, locked" in done.stderr and done.stderr.count("\n") == 1
