"""Evaluation in two processes: the scorer, which holds the targets, and the model host, which runs the experiment's model.

Called by the laboratory as `python -P -m nanochat.evaluate score`, with only the protected files on the import path; the
scorer starts `python -P -m nanochat.evaluate host` on the experiment's checkout. Notable choices:
- the scorer imports no code of the experiment: it sends token ids over a socket, receives float32 logits of the size it
  expects, applies its own log-softmax, and counts bytes from the raw bytes of the tokens;
- the host is told of no corpus and no targets, starts through the laboratory's fence (HOST_FENCE), which keeps it from
  looking for them, and reads the checkpoint as weights only;
- probes are made of the scored rows: batches with other text after a random cut come at random moments, and predictions
  before the cut must not notice. Anything amiss ends as {"status": "invalid", "reason": ...}.
Parameters and FLOPs are counted by protected code, but in the experiment's process: trusted less than the metric.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.data import SPLITS, DataError, load_array, read_settings

BATCH_ROWS = 64
PROBE_BATCHES = 2
"""Batches with replaced suffixes; each costs as much as a scored batch."""
TOLERANCE = 1e-3
"""Nats that a log-probability before the cut may move: fp32 on one machine moves it by 1e-5, and a leak of less gains less."""
HOST_SECONDS = 90.0
"""Wall clock for everything the host does, imports included."""
HEADER = struct.Struct("<II")  # rows, context (to the host); rows, vocab (from it)
LIMIT = 65536  # bytes of the host's hello


class InvalidModel(Exception):
    """The experiment's model cannot be scored. `str(error)` is the reason, one line."""


# --- the scorer ------------------------------------------------------------------------------------------------------


class Host:
    """A running model host. Every talk with it is bounded by one deadline."""

    def __init__(self, checkout: Path, checkpoint: Path, context: int, vocab: int, seconds: float) -> None:
        self.context, self.vocab, self.seconds = context, vocab, seconds
        self.deadline = time.monotonic() + seconds
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self._sock, theirs = socket.socketpair()
        command = json.loads(os.environ.get("HOST_FENCE", "[]"))  # none beside a kernel that has none
        command += [sys.executable, "-P", "-m", "nanochat.evaluate", "host", "--checkpoint", str(checkpoint.resolve())]
        command += ["--context", str(context), "--fd", str(theirs.fileno())]
        kept = ("PATH", "LANG", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"PYTHONPATH": str(checkout.resolve()), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            command, cwd=checkout, env=env, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )  # fmt: skip
        theirs.close()

    def hello(self) -> dict[str, Any]:
        """{"params": int, "flops_per_token": float or None} once the model is built. Raises InvalidModel."""
        size = struct.unpack("<I", self._read(4))[0]
        try:
            value = json.loads(self._read(min(size, LIMIT)))
            refused, params, flops = value.get("error"), int(value.get("params", 0)), float(value.get("flops_per_token") or 0)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise InvalidModel("the model host said nonsense instead of hello") from error
        if refused:
            raise InvalidModel(str(refused)[:500])
        return {"params": params, "flops_per_token": flops if math.isfinite(flops) and flops > 0 else None}

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """float32 (rows, context, vocab) for token ids (rows, context). Raises InvalidModel."""
        try:
            self._sock.settimeout(self._left())
            self._sock.sendall(HEADER.pack(*rows.shape) + np.ascontiguousarray(rows, dtype=np.uint16).tobytes())
        except OSError as error:
            raise self._gone(error) from error
        served, vocab = HEADER.unpack(self._read(HEADER.size))
        if served != len(rows) or vocab != self.vocab:
            due = f"{len(rows)} of {self.vocab}"
            raise InvalidModel(f"the model returned {served} rows of {vocab} logits a position where {due} were due")
        raw = self._read(len(rows) * self.context * self.vocab * 4)
        logits = np.frombuffer(raw, dtype=np.float32).reshape(len(rows), self.context, self.vocab)
        if not np.isfinite(logits).all():
            raise InvalidModel("the model returned logits that are not finite")
        return logits

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise InvalidModel(f"the model needed more than {self.seconds:.0f} s to be scored")
        return left

    def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            try:
                self._sock.settimeout(self._left())
                received = self._sock.recv_into(view)
            except OSError as error:
                raise self._gone(error) from error
            if not received:
                raise self._gone(ConnectionError("hung up"))
            view = view[received:]
        return buffer

    def _gone(self, error: OSError) -> InvalidModel:
        if isinstance(error, TimeoutError):
            return InvalidModel(f"the model needed more than {self.seconds:.0f} s to be scored")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - 4000))
        lines = self.log.read().decode("utf-8", "replace").strip().splitlines()
        words = lines[-1][:300] if lines else "without a word"
        return InvalidModel(f"the model host died (exit {self.process.returncode}): {words}")

    def close(self) -> None:
        """End the host, whatever it is doing."""
        self._sock.close()
        self.process.kill()
        self.process.wait()
        self.log.close()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension, in float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def score_rows(host: Host, rows: np.ndarray, token_bytes: np.ndarray, random: np.random.Generator) -> float:
    """Bits per byte over rows (n, context + 1): the last `context` tokens of a row are its targets; BOS is not scored.

    Raises InvalidModel, also when predictions depend on text that comes later.
    """
    tokens = rows.astype(np.int64)
    batches = [np.arange(start, min(start + BATCH_ROWS, len(rows))) for start in range(0, len(rows), BATCH_ROWS)]
    probed = random.permutation(len(rows))[: PROBE_BATCHES * BATCH_ROWS]
    probes = [(part, *probe_inputs(tokens, part, random)) for part in np.array_split(probed, PROBE_BATCHES)]
    asked = [(part, tokens[part, :-1], None) for part in batches]
    for probe in probes:  # at random moments among the scored batches, so that the host cannot tell which is which
        asked.insert(int(random.integers(len(asked) + 1)), probe)
    before: dict[int, np.ndarray] = {}
    after: list[tuple[int, int, np.ndarray]] = []
    nats = 0.0
    for part, inputs, cuts in asked:
        logs = log_softmax(host.logits(inputs))
        if cuts is None:
            targets = tokens[part, 1:]
            chosen = np.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]
            nats -= float(chosen[token_bytes[targets] > 0].sum(dtype=np.float64))
            before |= {int(row): logs[i] for i, row in enumerate(part) if row in probed}
        else:
            after += [(int(row), int(cut), logs[i]) for i, (row, cut) in enumerate(zip(part, cuts, strict=True))]
    for row, cut, logs in after:
        moved = float(np.abs(logs[:cut] - before[row][:cut]).max())
        if not moved <= TOLERANCE:
            what = f"other text from position {cut} on moved what it said before by {moved:.2g} nats"
            raise InvalidModel(f"the model looks ahead: {what}")
    return nats / math.log(2) / float(token_bytes[tokens[:, 1:]].sum())


def probe_inputs(tokens: np.ndarray, part: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of these rows with all from a random cut on taken from another row: (inputs (n, context), cuts (n,))."""
    cuts = random.integers(1, tokens.shape[1] - 1, size=len(part))
    others = tokens[(part + random.integers(1, len(tokens), size=len(part))) % len(tokens), :-1]
    return np.where(np.arange(tokens.shape[1] - 1) < cuts[:, None], tokens[part, :-1], others), cuts


def score(
    data: Path, settings: dict[str, Any], checkout: Path, out: Path, splits: list[str], seconds: float = HOST_SECONDS
) -> dict[str, Any]:
    """The content of the result file. Raises DataError when the prepared data is at fault; the model's faults are `invalid`."""
    token_bytes = load_array(data, "token_bytes")
    rows = {split: load_array(data, split) for split in splits}
    result: dict[str, Any] = {"status": "ok", "reason": "", "metric": {}}
    result |= {"params": 0, "flops_per_token": None, "eval_tokens": 0}
    random = np.random.default_rng()  # unseeded: nobody can know which rows are probed, and the metric does not depend on it
    checkpoint = out / "checkpoint.pt"
    if not checkpoint.is_file():
        return {**result, "status": "invalid", "reason": "training left no checkpoint.pt"}
    host = Host(checkout, checkpoint, settings["context"], settings["vocab"], seconds)
    try:
        result |= host.hello()
        for split in splits:
            result["metric"][split] = score_rows(host, rows[split], token_bytes, random)
            result["eval_tokens"] += rows[split].shape[0] * settings["context"]
    except InvalidModel as error:
        return {**result, "status": "invalid", "reason": " ".join(str(error).split()), "metric": {}}
    finally:
        host.close()
    return result


# --- the model host --------------------------------------------------------------------------------------------------


def host(checkpoint: Path, context: int, descriptor: int) -> int:
    """Build the experiment's model, say hello, answer batches until the scorer hangs up."""
    import torch  # here, since the scorer does without it

    sock = socket.socket(fileno=descriptor)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        config, weights = saved["config"], saved["model"]
    except Exception as error:
        return _refuse(sock, f"checkpoint.pt cannot be read as weights: {_first_line(error)}")
    try:
        from nanochat import gpt

        if not Path(gpt.__file__).resolve().is_relative_to(Path.cwd().resolve()):
            return _refuse(sock, f"gpt.py came from {gpt.__file__}, outside of the checkout")
        model = gpt.build(config)
        model.load_state_dict(weights)
        model.eval()
    except Exception as error:
        return _refuse(sock, f"gpt.build cannot make the model of checkpoint.pt: {_first_line(error)}")
    params = sum(p.numel() for p in model.parameters())
    hello = {"params": params, "flops_per_token": flops_per_token(model, context)}
    with torch.inference_mode():
        raw = json.dumps(hello).encode()
        sock.sendall(struct.pack("<I", len(raw)) + raw)
        with sock.makefile("rb") as stream:
            while len(header := stream.read(HEADER.size)) == HEADER.size:
                rows, width = HEADER.unpack(header)
                raw = np.frombuffer(stream.read(rows * width * 2), dtype=np.uint16)
                logits = model(torch.from_numpy(raw.astype(np.int64)).view(rows, width)).float().cpu().contiguous()
                if logits.dim() != 3 or logits.shape[:2] != (rows, width):
                    raise ValueError(f"logits of shape {tuple(logits.shape)} for tokens of shape {(rows, width)}")
                sock.sendall(HEADER.pack(rows, logits.shape[2]))
                sock.sendall(memoryview(logits.numpy()).cast("B"))
    return 0


def flops_per_token(model: Any, context: int) -> float | None:
    """Training FLOPs a token: three times a forward pass (backward costs two), the optimiser's not yet included.

    Counted with PyTorch's formulas and attention on its plain path, since there is none for fused attention on the CPU;
    attention therefore counts the whole square, not the causal half. None when the model cannot be counted.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):
        """FlopCounterMode without its import of torch._dynamo, which takes a second."""

        flops = 0

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func._overloadpacket in flop_registry:
                self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            return out

    try:
        # no_grad and not inference_mode: there linear layers reach the counter whole, and it has no formula for them
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Count() as count:
            model(torch.zeros(1, context, dtype=torch.int64))
    except Exception:
        return None
    return 3.0 * count.flops / context


def _refuse(sock: socket.socket, reason: str) -> int:
    raw = json.dumps({"error": reason}).encode()[:LIMIT]
    sock.sendall(struct.pack("<I", len(raw)) + raw)
    return 0


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


# --- commands --------------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """`score` and `host`. Returns the exit code: 2 after a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="nanochat.evaluate")
    commands = parser.add_subparsers(dest="command", required=True)
    scorer = commands.add_parser("score")
    scorer.add_argument("--data", type=Path, required=True)
    scorer.add_argument("--scale", help="JSON file with the scale's settings")
    scorer.add_argument("--checkout", type=Path, required=True, help="clean checkout of the experiment's code")
    scorer.add_argument("--out", type=Path, required=True, help="folder with checkpoint.pt")
    scorer.add_argument("--splits", default="search", help="comma-separated, of search, audit, locked")
    scorer.add_argument("--result", type=Path, required=True, help="file for the result (JSON)")
    model_host = commands.add_parser("host")
    model_host.add_argument("--checkpoint", type=Path, required=True)
    model_host.add_argument("--context", type=int, required=True)
    model_host.add_argument("--fd", type=int, required=True)
    args = parser.parse_args(argv)
    if args.command == "host":
        return host(args.checkpoint, args.context, args.fd)
    try:
        splits = args.splits.split(",")
        if set(splits) - set(SPLITS):
            raise DataError(f"--splits {args.splits}: choose from {', '.join(SPLITS)}")
        result = score(args.data, read_settings(args.scale), args.checkout, args.out, splits)
        temporary = args.result.with_name(f".{args.result.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(temporary, args.result)
    except (DataError, OSError) as error:
        print(f"nanochat.evaluate score: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
