"""Patches of the shipped source that benchmarks measure: what is left out of the baseline, and what is put in.

A patch is (file, old, new) and must fit exactly once. Those that are put in are ideas from the field that cost no matrix product:
an organisation may find them, and they tell how much there is to find. They can be combined. Used by `ingredients.py` and `noise.py`.
"""

from __future__ import annotations

Patch = tuple[str, str, str]
GPT, OPTIM, TRAIN = "nanochat/gpt.py", "nanochat/optim.py", "nanochat/train.py"
ROTATION = "rotate_norm(qk, cos, sin, QK_MULTIPLIER)"
PLAIN = "torch.cat((a * c + b * s, b * c - a * s), dim=-1).chunk(2, dim=2)"
MUON = "[Muon(parameters) for parameters in matrices.values()]"
STREAM = "keep * x + again * x0"
WITHOUT: dict[str, list[Patch]] = {
    "baseline": [],
    "rotary positions": [
        (GPT, ROTATION, "rotate_norm(qk, torch.ones_like(cos), torch.zeros_like(sin), QK_MULTIPLIER)")
    ],
    "QK-norm": [
        (
            GPT,
            f"        q, k = {ROTATION}\n",
            "        (a, b), c, s = qk.chunk(2, dim=-1), cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)\n"
            f"        q, k = {PLAIN}\n",
        ),
    ],
    "QK multiplier": [(GPT, "QK_MULTIPLIER = 1.2", "QK_MULTIPLIER = 1.0")],
    "relu^2 (gelu)": [(GPT, 'ACTIVATION = "relu2"', 'ACTIVATION = "gelu"')],
    "value embeddings": [(GPT, "VALUE_EMBEDDINGS = True", "VALUE_EMBEDDINGS = False")],
    "value gates": [(GPT, "v = v + gate[..., None] * self", "v = v + self")],
    "weight decay of value embeddings": [(OPTIM, "VALUE_DECAY = 0.01", "VALUE_DECAY = 0.0")],
    "residual and x0 scalars": [(GPT, "x = " + STREAM, "pass")],
    "x0 scalars alone": [(GPT, STREAM, "keep * x")],
    "sliding windows (all long)": [(GPT, 'WINDOWS = "SSSL"', 'WINDOWS = "L"')],
    "softcap": [(GPT, "SOFTCAP = 15.0", "SOFTCAP = 1000.0")],
    "norm without parameters (LayerNorm)": [(GPT, "return F.rms_norm(x, ", "return F.layer_norm(x, ")],
    "zero-initialised projections": [
        (GPT, "nn.init.zeros_(block.attention.out)", "nn.init.uniform_(block.attention.out, -bound, bound)"),
        (GPT, "nn.init.zeros_(block.mlp.down)", "nn.init.uniform_(block.mlp.down, -bound / 2, bound / 2)"),
    ],
    "Muon (AdamW at .002)": [(OPTIM, MUON, "[AdamW(parameters, 0.002) for parameters in matrices.values()]")],
    "Muon (AdamW at .005)": [(OPTIM, MUON, "[AdamW(parameters, 0.005) for parameters in matrices.values()]")],
    "Muon (AdamW at .01)": [(OPTIM, MUON, "[AdamW(parameters, 0.01) for parameters in matrices.values()]")],
    "Muon (AdamW at .02)": [(OPTIM, MUON, "[AdamW(parameters, 0.02) for parameters in matrices.values()]")],
    "Muon (AdamW at .04)": [(OPTIM, MUON, "[AdamW(parameters, 0.04) for parameters in matrices.values()]")],
    "a rate of its own for the embedding (the head's)": [(OPTIM, "EMBEDDING_LR = 0.2", "EMBEDDING_LR = 0.004")],
    "small head at the start (as the inner matrices)": [(GPT, "UNEMBED_STD = 0.001", "UNEMBED_STD = 0.1")],
    "norm of the stream": [(GPT, "return F.rms_norm(x, (x.size(-1),))", "return x")],
    "Nesterov": [(OPTIM, 'gradient.lerp(self.state["momentum"], keep)', 'self.state["momentum"]')],
    "momentum ramp": [(OPTIM, "MUON_RAMP = 0.3", "MUON_RAMP = 0.0")],
    "NorMuon": [(OPTIM, "NORMUON_BETA = 0.95", "NORMUON_BETA = 0.0")],
    "cautious weight decay (none)": [(OPTIM, "MATRIX_DECAY = 0.1", "MATRIX_DECAY = 0.0")],
    "caution of the decay": [(OPTIM, "(1 - progress) * p * (u * p > 0)", "(1 - progress) * p")],
    "five steps of Polar Express (three)": [(OPTIM, "MUON_STEPS = 5", "MUON_STEPS = 3")],
    "warmdown": [(TRAIN, "WARMDOWN = 0.5", "WARMDOWN = 0.0")],
}

START = "        x = x0 = self.enter(tokens)\n"
MADE = "        self.x0 = nn.Parameter(torch.empty(config.depth))\n"
RESET = "        nn.init.constant_(self.x0, X0_INIT)\n"
SCALARS = "values, scalars = [], [model.residual, model.x0"
PARTS = "        self.attention, self.mlp = Attention(config, layer), MLP(config)\n"
IN_ATTENTION = "        x = x + self.attention(norm(x), tokens, cos, sin)\n"
IN_MLP = "        return x + self.mlp(norm(x))\n"
EACH = "            nn.init.zeros_(block.mlp.down)\n"
SHAPES = "            if block.attention.values is not None:\n                values.append"
PAIR = "        q, k = rotate_norm(qk, cos, sin, QK_MULTIPLIER)\n"
NEAR = """

def near(x: Tensor, weights: Tensor) -> Tensor:
    \"\"\"x plus what the three tokens before it hold, channel by channel; weights (3, width).\"\"\"
    before = [F.pad(x, (0, 0, back, 0))[:, : x.size(1)] for back in (1, 2, 3)]
    return x + sum(w * b for w, b in zip(weights.to(x.dtype), before, strict=True))
"""
IDEAS: dict[str, list[Patch]] = {
    # x0 holds the token before as well, channel by channel: the token shift of RWKV (Peng et al. 2023, arXiv:2305.13048)
    "token shift": [
        (GPT, MADE, MADE + "        self.shift = nn.Parameter(torch.empty(config.width))\n"),
        (GPT, RESET, RESET + "        nn.init.zeros_(self.shift)\n"),
        (GPT, START, START + "        x = x0 = x + self.shift.to(x.dtype) * F.pad(x, (0, 0, 1, 0))[:, :-1]\n"),
        (OPTIM, SCALARS, SCALARS + ", model.shift"),
    ],
    # a convolution over four tokens, channel by channel, before attention and MLP: Allen-Zhu 2025, Canon layers, arXiv:2512.17351
    "short convolutions": [
        (GPT, "    return F.rms_norm(x, (x.size(-1),))\n", "    return F.rms_norm(x, (x.size(-1),))\n" + NEAR),
        (GPT, PARTS, PARTS + "        self.near = nn.Parameter(torch.empty(2, 3, config.width))\n"),
        (GPT, IN_ATTENTION, IN_ATTENTION.replace("norm(x)", "near(norm(x), self.near[0])")),
        (GPT, IN_MLP, IN_MLP.replace("norm(x)", "near(norm(x), self.near[1])")),
        (GPT, EACH, EACH + "            nn.init.zeros_(block.near)\n"),
        (OPTIM, SHAPES, "            scalars.append(block.near)\n" + SHAPES),
    ],
    # half of each key's channels come from the token before, so that one layer can look for what followed a token like this
    "shifted keys": [
        (
            GPT,
            PAIR,
            PAIR + "        half = k.size(-1) // 2\n"
            "        k = torch.cat((k[..., :half], F.pad(k, (0, 0, 0, 0, 1, 0))[:, :-1, :, half:]), dim=-1)\n",
        )
    ],
    "value embeddings in every layer": [
        (GPT, "VALUE_EMBEDDINGS and (config.depth - 1 - layer) % 2 == 0", "VALUE_EMBEDDINGS")
    ],
    "no scalars of the stream": WITHOUT["residual and x0 scalars"],
}


def patched(files: dict[str, bytes], patches: list[Patch]) -> dict[str, bytes]:
    """The files with these patches. Raises SystemExit when one does not fit exactly once: the source has moved on."""
    files = dict(files)
    for path, old, new in patches:
        text = files[path].decode()
        if text.count(old) != 1:
            raise SystemExit(f"{path}: {old!r} stands there {text.count(old)} times: bring the patch up to date")
        files[path] = text.replace(old, new).encode()
    return files
