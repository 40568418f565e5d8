"""Promises about cheats: every planted one is invalid, or shown to gain nothing; honest models of many kinds are valid.

Each is a real checkpoint with model code of its own, scored in two real hosts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab import fence
from tests.nanochat.small import Small, prepare

pytestmark = pytest.mark.slow  # two processes that import torch, each

PEEK = "F.one_hot(tokens.roll(-1, 1), self.vocab) * (torch.arange(tokens.size(1)) < self.context - 1)[:, None]"
"""The next token of each position, which is its target, but for the last one."""


def variant(body: str, more: str = "") -> str:
    """A class with these methods. `more` goes before it."""
    return f"{more}\nclass Variant(GPT):\n" + "".join(f"    {line}\n" for line in body.strip().splitlines())


def forward(*lines: str, more: str = "") -> str:
    """A variant whose forward pass ends in `lines`; `logits` are the honest ones."""
    body = "\n".join(f"    {line}" for line in lines)
    return variant(f"def forward(self, tokens):\n    logits = GPT.forward(self, tokens)\n{body}", more)


BIDIRECTIONAL = "torch.zeros(len(tokens), tokens.size(1), tokens.size(1))"
AHEAD = {
    "bidirectional": variant(f"def mask(self, layer, tokens):\n    return {BIDIRECTIONAL}"),
    "bidirectional in the last layer": variant(
        f"def mask(self, layer, tokens):\n    return {BIDIRECTIONAL} if layer else GPT.mask(self, layer, tokens)"
    ),
    "bidirectional in one row of 16": variant(
        "def mask(self, layer, tokens):\n"
        "    chosen = (tokens[:, 1:4].sum(1) % 16 == 0)[:, None, None]\n"
        f"    return torch.where(chosen, {BIDIRECTIONAL}, GPT.mask(self, layer, tokens))"
    ),
    "next token": forward(f"return logits + 9 * {PEEK}"),
    "next token, faintly": forward(f"return logits + 0.01 * {PEEK}"),
    "next token behind noise": forward(f"return logits + 0.1 * {PEEK} + 0.01 * torch.randn(logits.shape)"),
    "next token beyond position 40": forward(
        f"return logits + 9 * {PEEK} * (torch.arange(tokens.size(1)) > 40)[:, None]"
    ),
    "next token where it is likely": forward(f"return logits + 2 * {PEEK} * (logits.softmax(-1) > 0.05)"),
    "next token in the stream": variant(
        "def start(self, tokens):\n    x = GPT.start(self, tokens)\n    return x + 0.05 * x.roll(-1, 1)"
    ),
    "mean of the row": variant(
        "def start(self, tokens):\n    x = GPT.start(self, tokens)\n    return x - x.mean(1, keepdim=True)"
    ),
}


@pytest.mark.parametrize("code", AHEAD.values(), ids=AHEAD.keys())
def test_a_model_that_looks_ahead_is_invalid(small: Small, tmp_path: Path, code: str) -> None:
    result = small.score(small.lay(tmp_path / "run", code))
    assert result["status"] == "invalid" and "looks ahead" in result["reason"]
    assert result["metric"] == {}


MEMORY = "seen = {}\n"
REMEMBER = [
    "for i, row in enumerate(tokens.tolist()):",
    "    for t in range(16, len(row)):",
    "        known = seen.get(tuple(row[t - 15 : t + 1]))",
    "        if known is not None:",
    "            logits[i, t, known] += 9",
    "for row in tokens.tolist():",
    "    for t in range(16, len(row) - 1):",
    "        seen[tuple(row[t - 15 : t + 1])] = row[t + 1]",
    "return logits",
]
TOGETHER = {
    "counts of the batch": forward(
        "return logits + torch.bincount(tokens.flatten(), minlength=self.vocab).add(1).float().log()"
    ),
    "mean of the batch": variant(
        "def start(self, tokens):\n    x = GPT.start(self, tokens)\n    return x - 0.1 * x.mean(0, keepdim=True)"
    ),
    "another row of the batch": forward("return logits + 0.1 * logits.roll(1, 0)"),
    "size of the batch": forward("return logits * (1 + 0.001 * len(tokens))"),
    "counts kept across batches": forward(
        "before = seen.setdefault('counts', torch.ones(self.vocab)).log()",
        "seen['counts'] += torch.bincount(tokens.flatten(), minlength=self.vocab)",
        "return logits + 0.1 * before",
        more=MEMORY,
    ),
    "continuations kept across batches": forward(*REMEMBER, more=MEMORY),
}


@pytest.mark.parametrize("code", TOGETHER.values(), ids=TOGETHER.keys())
def test_a_model_that_uses_other_rows_or_earlier_batches_is_invalid(small: Small, tmp_path: Path, code: str) -> None:
    result = small.score(small.lay(tmp_path / "run", code))
    assert result["status"] == "invalid"
    assert any(words in result["reason"] for words in ("does not judge a row by itself", "keeps what it saw"))


LOOKUP = """
def following(rows, tokens, known={}):
    # What follows the last 16 tokens anywhere in these rows: (batch, time), -1 where nothing is known.
    if not known:
        known |= {tuple(row[t - 15 : t + 1]): row[t + 1] for row in rows() for t in range(15, len(row) - 1)}
    return torch.tensor([[known.get(tuple(row[max(0, t - 15) : t + 1]), -1) for t in range(len(row))] for row in tokens.tolist()])
"""
SNOOP = """
import gc, sys
import numpy as np

def rows():
    # Whatever looks like rows with their targets, among all objects and in all frames of this process.
    found = gc.get_objects()
    for frame in sys._current_frames().values():
        while frame is not None:
            found += frame.f_locals.values()
            frame = frame.f_back
    arrays = [np.asarray(x) for x in found if type(x) in (np.ndarray, torch.Tensor)]
    return [row for x in arrays if x.ndim == 2 and x.shape[1] == 65 for row in x.astype(np.int64).tolist()]
"""
USE = [
    "next = following(rows, tokens)[..., None]",
    "return torch.where(next < 0, logits, 20.0 * F.one_hot(next[..., 0].clamp(min=0), self.vocab))",
]
PATCH = """
import builtins, json, struct, types
import numpy
def nothing(*args, **kwargs):
    return torch.zeros(())
torch.log_softmax = F.log_softmax = F.cross_entropy = torch.Tensor.log_softmax = nothing
numpy.log = numpy.exp = lambda x, **more: numpy.zeros_like(x)
import nanochat
for name in ("evaluate", "agreement", "hosted", "data"):
    module = types.ModuleType("nanochat." + name)
    module.agreed = module.score = module.summary = module.numpy_logs = nothing
    sys.modules["nanochat." + name] = module
    setattr(nanochat, name, module)
print(json.dumps({"status": "ok", "metric": {"search": 0.1}}), flush=True)
for place in ("score.json", "r.json", "../score.json", "../out/score.json"):
    try:
        open(place, "w").write('{"status": "ok", "metric": {"search": 0.1}}')
    except OSError:
        pass
"""
HARMLESS = {
    "outputs that sum to 277": forward("return logits + 277.0"),
    "outputs of a size at which float32 sees no difference": forward("return (logits * 0 + 1e9)"),
    "patched functions": variant("pass", more="import sys\n" + PATCH),
    "frames and all objects": forward(*USE, more=LOOKUP + SNOOP),
}


@pytest.fixture(scope="module")
def plain(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result = small.score(small.lay(tmp_path_factory.mktemp("plain") / "run"))
    assert result["status"] == "ok", result
    return result


@pytest.mark.parametrize("code", HARMLESS.values(), ids=HARMLESS.keys())
def test_a_cheat_in_the_hosts_process_gains_nothing(
    small: Small, plain: dict[str, Any], tmp_path: Path, code: str
) -> None:
    result = small.score(small.lay(tmp_path / "run", code))
    assert result["status"] == "ok"
    assert result["metric"]["search"] >= plain["metric"]["search"] - 1e-5
    if "1e9" not in code:
        assert result["metric"] == pytest.approx(plain["metric"], rel=1e-5)


def test_the_snoop_finds_targets_where_there_are_any(small: Small) -> None:
    space: dict[str, Any] = {"torch": torch}
    exec(LOOKUP + SNOOP, space)
    rows = torch.from_numpy(small.arrays["search"][:4].astype(np.int64))
    found = space["following"](space["rows"], rows[:, :-1])
    assert (found[:, 15:] == rows[:, 16:]).all()


def test_what_a_checkpoint_says_of_its_own_loss_is_ignored(small: Small, plain: dict[str, Any], tmp_path: Path) -> None:
    claim = {"val_bpb": 0.1, "metric": {"search": 0.1}, "loss": torch.tensor(0.1), "status": "ok"}
    assert small.score(small.lay(tmp_path / "run", saved={**small.saved, **claim}))["metric"] == plain["metric"]


def test_data_in_the_checkpoint_show_in_its_size(small: Small, plain: dict[str, Any], tmp_path: Path) -> None:
    rows = torch.from_numpy(small.arrays["search"].astype(np.int64))
    code = variant(
        f"def __init__(self):\n    GPT.__init__(self)\n    self.register_buffer('rows', torch.zeros({tuple(rows.shape)}).long())"
        "\ndef forward(self, tokens):\n    logits, rows = GPT.forward(self, tokens), self.rows.tolist\n    "
        + "\n    ".join(USE),
        more=LOOKUP,
    )
    saved = {"config": {}, "model": {**small.saved["model"], "rows": rows}}
    result = small.score(small.lay(tmp_path / "run", code, saved))
    assert result["status"] == "ok" and result["metric"]["search"] < 1  # nothing shows in what it says of the rows
    assert result["checkpoint_bytes"] > 2 * plain["checkpoint_bytes"]  # more than the laboratory allows


DISK = """
import glob, os, sys
import numpy as np

def rows():
    # All prepared data near what the command lines, environments and folders of processes name.
    places = {PLACE, os.environ["HOME"], os.environ["TMPDIR"], *sys.argv}
    for pid in glob.glob("/proc/[0-9]*"):
        try:
            places.add(os.readlink(pid + "/cwd"))
            for name in ("cmdline", "environ"):
                places |= {word.rpartition("=")[2] for word in open(f"{pid}/{name}").read().split(chr(0))}
        except OSError:
            pass
    found = []
    for path in {path for place in places for near in ("", "/..", "/../data") for path in glob.glob(f"{place}{near}/*.npy")}:
        try:
            array = np.load(path)
        except (OSError, ValueError):
            continue
        found += array.tolist() if array.ndim == 2 else []
    return found
"""


@pytest.mark.skipif(not fence.ABI, reason="this kernel has no Landlock")
def test_the_validation_text_cannot_be_read_from_inside_the_fence(
    small: Small, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = small.lay(tmp_path / "run", forward(*USE, more=f"PLACE = {str(small.data)!r}\n{DISK}{LOOKUP}"))
    assert small.score(work)["metric"]["search"] < 1  # without a fence it is read, and used
    words = []
    for name in ("a", "b"):
        (work / name).mkdir()
        readable = [*fence.system(), *fence.interpreter(), work / "checkout"]
        words.append(fence.prefix(work / name, readable, [small.root, tmp_path]))
    monkeypatch.setenv("HOST_FENCE", json.dumps(words))
    result = small.score(work)
    assert result["status"] == "ok" and result["metric"] == plain["metric"]


def test_a_host_is_told_of_no_path_to_the_data_and_of_no_key(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    see = "import os, sys\nopen('seen', 'a').write(repr((dict(os.environ), sys.argv, os.listdir('/proc/self/fd'))) + chr(10))\n"
    work = small.lay(tmp_path / "run", variant("pass", more=see))
    assert small.score(work)["status"] == "ok"
    first, second = (work / "checkout" / "seen").read_text().splitlines()
    for seen in (first, second):
        assert "sk-secret" not in seen and str(small.data) not in seen and str(work / "out") not in seen
        assert str(work / "checkout") in seen
    homes = {seen.split("'HOME': '")[1].split("'")[0] for seen in (first, second)}
    assert len(homes) == 2 and not any(os.path.exists(home) for home in homes)


HONEST = {
    "bf16 throughout": forward("return self.bfloat16().head(self.hidden(tokens))"),
    "bf16 autocast": forward("with torch.autocast('cpu', torch.bfloat16):", "    return GPT.forward(self, tokens)"),
    "compiled": forward("return fast(self, tokens)", more="fast = torch.compile(GPT.forward, backend='aot_eager')"),
    "no positions": variant("def start(self, tokens):\n    return self.embed(tokens)"),
    "slopes for positions": variant(
        "def mask(self, layer, tokens):\n"
        "    time = torch.arange(tokens.size(1))\n"
        "    return GPT.mask(self, layer, tokens) - 0.1 * (time[:, None] - time).clamp(min=0)"
    ),
    "sliding window": variant(
        "def mask(self, layer, tokens):\n"
        "    time = torch.arange(tokens.size(1))\n"
        "    return GPT.mask(self, layer, tokens).masked_fill(time[:, None] - time > 8, -1e9)"
    ),
    "dropout left in": variant(
        "def mlp(self, layer, x):\n    return F.dropout(GPT.mlp(self, layer, x), 0.1, self.training)"
    ),
    "softcap": forward("return 15 * torch.tanh(logits / 15)"),
    "tables made when first needed": variant(
        "def start(self, tokens):\n"
        "    if not hasattr(self, 'table'):\n"
        "        self.register_buffer('table', torch.outer(torch.arange(tokens.size(1)), torch.ones(32)).cos(), persistent=False)\n"
        "    return GPT.start(self, tokens) + 0.01 * self.table"
    ),
    "experts chosen by token": variant(
        "def mlp(self, layer, x):\n"
        "    choice = (x @ self.up[layer].weight[:3].T).argmax(-1)\n"
        "    y = torch.zeros_like(x)\n"
        "    for expert in range(3):\n"
        "        y[choice == expert] = self.down[layer](F.relu(self.up[layer](x[choice == expert].roll(expert, -1))))\n"
        "    return y"
    ),
    "forbidden tokens": forward("return logits.index_fill(-1, torch.tensor([0]), float('-inf'))"),
}


@pytest.mark.parametrize("code", HONEST.values(), ids=HONEST.keys())
def test_an_honest_model_is_valid(small: Small, tmp_path: Path, code: str) -> None:
    result = small.score(small.lay(tmp_path / "run", code), ("search", "audit"))
    assert result["status"] == "ok", result["reason"]
    assert 1.7 < result["metric"]["search"] < 7


def test_text_that_repeats_itself_is_no_cheat(small: Small, tmp_path: Path) -> None:
    rows = small.arrays["search"]
    prepare(tmp_path / "data", {**small.arrays, "search": np.concatenate([rows[:64]] * 4)})
    assert small.score(small.lay(tmp_path / "run"), data=tmp_path / "data")["status"] == "ok"
