"""A small text, a small model and its checkpoint for the tests of the evaluator: nothing is shared with the shipped trainer.

The text is a Markov chain, so the best possible score is known. Tests derive a `Variant` of the model, in source, and score it
with the same weights in two real model hosts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nanochat import evaluate

PACKAGE = Path(evaluate.__file__).parent
VOCAB, CONTEXT, ROWS = 64, 64, 256
SETTINGS = {"vocab": VOCAB, "context": CONTEXT}
MODEL = '''
import torch
import torch.nn.functional as F
from torch import nn

class GPT(nn.Module):
    """Two layers of causal attention; `mask` says who may look at whom."""

    def __init__(self, vocab=64, context=64, width=32):
        super().__init__()
        self.vocab, self.context = vocab, context
        self.embed = nn.Embedding(vocab, width)
        self.position = nn.Parameter(torch.randn(context, width) * 0.02)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.head = nn.Linear(width, vocab)

    def start(self, tokens):
        return self.embed(tokens) + self.position[: tokens.size(1)]

    def mask(self, layer, tokens):
        time = torch.arange(tokens.size(1))
        return torch.zeros(1, len(time), len(time)).masked_fill(time[:, None] < time, -1e9)

    def mlp(self, layer, x):
        return self.down[layer](F.relu(self.up[layer](x)))

    def hidden(self, tokens):
        x = self.start(tokens)
        for layer in range(2):
            q, k, v = self.qkv[layer](F.rms_norm(x, x.shape[-1:])).chunk(3, -1)
            x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(layer, tokens).to(q.dtype))
            x = x + self.mlp(layer, F.rms_norm(x, x.shape[-1:]))
        return F.rms_norm(x, x.shape[-1:])

    def forward(self, tokens):
        return self.head(self.hidden(tokens))

class Variant(GPT):
    pass
'''
BUILD = """
def build(config):
    return Variant(**config)
"""


def text(rows: int, seed: int) -> np.ndarray:
    """uint16 (rows, CONTEXT + 1): BOS (0), then a chain in which each token has four successors, of .5, .25, .15 and .1."""
    random = np.random.default_rng(seed)
    successors = np.stack([np.random.default_rng([7, token]).permutation(VOCAB - 1)[:4] + 1 for token in range(VOCAB)])
    found = np.zeros((rows, CONTEXT + 1), dtype=np.uint16)
    for place in range(1, CONTEXT + 1):
        found[:, place] = successors[found[:, place - 1], random.choice(4, size=rows, p=[0.5, 0.25, 0.15, 0.1])]
    return found


def module(path: Path) -> ModuleType:
    """The model code in this file, imported."""
    spec = importlib.util.spec_from_file_location("small_gpt", path)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def prepare(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """A folder of prepared data with these arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    manifest = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Small:
    """Prepared data and a trained checkpoint in `root`; `score` runs the evaluator on a variant of the model."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "data"
        sizes = np.ones(VOCAB, dtype=np.int64)
        sizes[0] = 0  # BOS
        self.arrays = {"token_bytes": sizes, "search": text(ROWS, 1), "audit": text(ROWS, 2)}
        prepare(self.data, self.arrays)
        (root / "gpt.py").write_text(MODEL + BUILD)
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = module(root / "gpt.py").build({})
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        for step in range(80):
            rows = torch.from_numpy(text(16, 100 + step).astype(np.int64))
            loss = F.cross_entropy(self.model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.saved: dict[str, Any] = {"config": {}, "model": self.model.state_dict()}

    def lay(self, work: Path, variant: str = "", saved: object = None) -> Path:
        """A checkout and an `out` folder in `work`, of the model with `variant` in the place of its empty class."""
        (work / "checkout" / "nanochat").mkdir(parents=True)
        for name in ("__init__.py", "host.py"):
            shutil.copy(PACKAGE / name, work / "checkout" / "nanochat" / name)
        source = MODEL.replace("class Variant(GPT):\n    pass\n", variant) if variant else MODEL
        (work / "checkout" / "nanochat" / "gpt.py").write_text(source + BUILD)
        (work / "out").mkdir()
        torch.save(saved or self.saved, work / "out" / "checkpoint.pt")
        return work

    def score(
        self, work: Path, splits: tuple[str, ...] = ("search",), seconds: float | None = 60, data: Path | None = None
    ) -> dict[str, Any]:
        """Of what `lay` laid."""
        return evaluate.score(data or self.data, SETTINGS, work / "checkout", work / "out", list(splits), seconds)
