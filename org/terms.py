"""Names of this field that are written in more than one way: a question in the one finds what was said in the other. Pure.

Called by `org.recall`. Knobs are called by short names (MATRIX_LR), people ask for long ones, and spelling is British or American. Only
what everybody takes for the same stands here: a wrong pair would call things tried that were not.
"""

from __future__ import annotations

import re

SAME = (
    ("lr", "learning rate", "learning rates", "lrs"),
    ("wd", "weight decay"),
    ("batch", "batch size", "batches", "bs"),
    ("warmup", "warm up"),
    ("warmdown", "warm down", "cooldown", "cool down"),
    ("init", "initialisation", "initialization", "initialise", "initialize"),
    ("optimiser", "optimizer", "optimisers", "optimizers"),
    ("regularisation", "regularization"),
    ("norm", "normalisation", "normalization"),
    ("layernorm", "layer norm", "layer normalisation", "layer normalization"),
    ("attn", "attention"),
    ("mlp", "multi layer perceptron", "feed forward", "feedforward", "ffn"),
    ("rope", "rotary", "rotary embedding", "rotary embeddings"),
    ("clip", "clipping", "grad clip", "gradient clipping"),
    ("dim", "dimension", "dimensions"),
    ("embed", "embedding", "embeddings", "emb"),
    ("ema", "exponential moving average"),
    ("dataset", "data set", "datasets"),
)
"""Each in small letters without dashes, the word that a question is taken to have said first."""
_KEYS = {name: group[0] for group in SAME for name in group}
_LONG = re.compile(
    r"(?<![\w-])(?:" + "|".join(
        re.escape(name).replace(r"\ ", "[ _-]") for name in sorted((one for one in _KEYS if " " in one), key=len, reverse=True)
    ) + r")(?![\w-])",
    re.IGNORECASE,
)  # fmt: skip


def joined(text: str) -> str:
    """A question with names of several words made one: "learning rate" is "lr" from now on."""
    return _LONG.sub(lambda found: _KEYS[re.sub("[_-]", " ", found[0].lower())], text)


def forms(word: str) -> tuple[str, ...]:
    """All ways to write a word, its own first; () where it has but one."""
    key = _KEYS.get(word.lower().replace("-", " "))
    group = next((one for one in SAME if one[0] == key), ())
    return tuple(dict.fromkeys([word, *group])) if group else ()
