"""The model host: the only place where the experiment's model code runs during evaluation, in a process of its own.

Started by evaluate.py as `python -P -m nanochat.host` on the experiment's checkout, twice for one checkpoint, behind the
laboratory's fence. It knows token ids and nothing else: no targets, no corpus, no path but its own checkout's. Notable choices:
- the checkpoint comes as an open file and is read as weights only;
- logits go into memory shared with the scorer, one batch at a time: on a GPU's scales they are too many for a socket;
- whatever fails ends as one line to the scorer, which believes nothing that is said here.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

ASKED = struct.Struct("<I")  # rows, followed by their token ids
ANSWERED = struct.Struct(
    "<IIIQ"
)  # rows, context, vocab of the logits that now lie in shared memory; bytes of GPU memory at most
LIMIT = 65536  # bytes of a message


def main() -> int:
    """Build the experiment's model, say hello, answer batches until the scorer hangs up."""
    parser = argparse.ArgumentParser(prog="nanochat.host")
    for name in ("fd", "checkpoint", "logits", "context"):
        parser.add_argument(
            f"--{name}", type=int, required=True, help="" if name == "context" else "inherited descriptor"
        )
    args = parser.parse_args()
    sock = socket.socket(fileno=args.fd)
    try:
        model, device = build(args.checkpoint)
    except ValueError as error:
        tell(sock, {"error": str(error)})
        return 0
    tell(sock, {"params": sum(p.numel() for p in model.parameters()), "device": device.type})
    serve(sock, model, device, mmap.mmap(args.logits, 0), args.context)
    return 0


def build(descriptor: int) -> tuple[Any, Any]:
    """(model, device) of the checkpoint in this open file. Raises ValueError, one line."""
    import torch  # here, so that reading the structs above costs the scorer nothing

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    try:
        with os.fdopen(descriptor, "rb") as file:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        config, weights = saved["config"], saved["model"]
    except Exception as error:
        raise ValueError(f"checkpoint.pt cannot be read as weights: {first_line(error)}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        from nanochat import gpt

        if not Path(gpt.__file__).resolve().is_relative_to(Path.cwd().resolve()):
            raise ImportError(f"gpt.py came from {gpt.__file__}, outside of the checkout")
        model = gpt.build(config)
        model.load_state_dict(weights)
        return model.to(device).eval(), device
    except Exception as error:
        raise ValueError(f"gpt.build cannot make the model of checkpoint.pt: {first_line(error)}") from error


def serve(sock: socket.socket, model: Any, device: Any, shared: mmap.mmap, context: int) -> None:
    """Answer token ids, uint16 (rows, context), with float32 logits (rows, context, vocab) in `shared`."""
    import numpy as np
    import torch

    room = torch.frombuffer(shared, dtype=torch.float32)
    if (
        device.type == "cuda"
    ):  # pinned memory takes copies from the device several times as fast; refused, all still works
        torch.cuda.cudart().cudaHostRegister(room.data_ptr(), len(shared), 0)
    with torch.inference_mode(), sock.makefile("rb") as stream:
        while len(header := stream.read(ASKED.size)) == ASKED.size:
            (rows,) = ASKED.unpack(header)
            raw = np.frombuffer(stream.read(rows * context * 2), dtype=np.uint16).astype(np.int64)
            logits = model(torch.from_numpy(raw).view(rows, context).to(device))
            if logits.dim() != 3:
                raise ValueError(
                    f"the model returned logits of shape {tuple(logits.shape)} for tokens of shape {(rows, context)}"
                )
            if logits.numel() <= room.numel():
                room[: logits.numel()].view(logits.shape).copy_(logits)
            peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0
            sock.sendall(ANSWERED.pack(*logits.shape, peak))


def tell(sock: socket.socket, message: dict[str, Any]) -> None:
    """Its length, then JSON."""
    raw = json.dumps(message).encode()[:LIMIT]
    sock.sendall(struct.pack("<I", len(raw)) + raw)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


if __name__ == "__main__":
    sys.exit(main())
