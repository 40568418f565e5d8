"""A model host as the scorer sees it: started behind a fence, asked for logits, made to give up the log-probabilities of targets.

Used by evaluate.py (and core.py), which hold the targets; host.py is the other end. Notable choices:
- nothing a host says is believed: shapes are fixed by the task, logits are copied before they are looked at, what is no
  number is refused, and every wait is bounded by one deadline;
- the log-softmax is ours, in float32: outputs that do not sum to one gain nothing;
- a host reads the checkpoint through a descriptor and is told of no path to data or results; its output goes to a pipe of
  which only the end is kept, and all it started ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from nanochat.agreement import TOLERANCES
from nanochat.errors import DataError
from nanochat.host import ANSWERED, ASKED, LIMIT

CHUNK_NUMBERS = 2**19
"""Logits that are worked on at a time in numpy: they stay in a core's cache."""
LOG_TAIL = 4000  # bytes kept of what a host prints


T = TypeVar("T")


class InvalidModel(Exception):
    """The experiment's model cannot be scored. `str(error)` is the reason, one line."""


# --- one model host --------------------------------------------------------------------------------------------------


class Host:
    """A running model host. Every talk with it is bounded by one deadline; another thread may `kill` it meanwhile."""

    def __init__(
        self, checkout: Path, checkpoint: int, fence: list[str], shape: tuple[int, int, int], seconds: float
    ) -> None:
        """`checkpoint` is an open file of its own, closed here; `shape` the logits of the largest batch."""
        self.context, self.vocab, self.seconds = shape[1], shape[2], seconds
        self.begun = time.monotonic()
        self.wall_seconds = self.cpu_seconds = 0.0
        """To its last answer; of its processor, once it is closed."""
        self.memory = 0
        """Bytes: of the GPU, as the host says, and of the machine once it is closed."""
        self.logits = shared_memory(math.prod(shape) * 4)
        self._sock, theirs = socket.socketpair()
        passed = {"fd": theirs.fileno(), "checkpoint": checkpoint, "logits": self.logits}
        command = [*fence, sys.executable, "-P", "-m", "nanochat.host", "--context", str(self.context)]
        command += [word for name, number in passed.items() for word in (f"--{name}", str(number))]
        kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        self._home = tempfile.mkdtemp(prefix="host-")  # a fence has its own words on this
        env |= {"HOME": self._home, "TMPDIR": self._home, "PYTHONPATH": str(checkout.resolve())}
        env |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            self.process = subprocess.Popen(
                command, cwd=checkout, env=env, pass_fds=list(passed.values()), process_group=0,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        finally:
            theirs.close()
            os.close(checkpoint)
        self._said = b""
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def hello(self) -> dict[str, Any]:
        """{"params": int, "device": name} once the model is built. Raises InvalidModel."""
        size = struct.unpack("<I", self._read(4))[0]
        try:
            value = json.loads(self._read(min(size, LIMIT)))
            refused, params, device = value.get("error"), int(value.get("params", -1)), value.get("device")
            if not refused and (params < 0 or device not in TOLERANCES):
                raise ValueError(f"params {params}, device {device}")
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise InvalidModel("the model host said nonsense instead of hello") from error
        if refused:
            raise InvalidModel(str(refused)[:500])
        return {"params": params, "device": device}

    def ask(self, rows: np.ndarray) -> None:
        """Token ids (rows, context); returns when the logits lie in shared memory. Raises InvalidModel."""
        try:
            self._sock.settimeout(self._left())
            self._sock.sendall(ASKED.pack(len(rows)) + np.ascontiguousarray(rows, dtype=np.uint16).tobytes())
        except OSError as error:
            raise self._gone(error) from error
        *shape, memory = ANSWERED.unpack(self._read(ANSWERED.size))
        due = [len(rows), self.context, self.vocab]
        if shape != due:
            raise InvalidModel(f"the model returned logits of shape {tuple(shape)} where {tuple(due)} was due")
        self.memory = max(self.memory, memory)
        self.wall_seconds = time.monotonic() - self.begun

    def _left(self) -> float:
        left = self.seconds - (time.monotonic() - self.begun)
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
        self._reader.join(timeout=1)  # longer when the host left children behind that hold its output open
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        words = lines[-1][:300] if lines else "without a word"
        return InvalidModel(f"the model host died (exit {self.process.returncode}): {words}")

    def _listen(self) -> None:
        """Keep the end of what the host prints: a flood neither blocks it nor fills a disk."""
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            while said := os.read(pipe.fileno(), 65536):
                self._said = (self._said + said)[-LOG_TAIL:]

    def kill(self) -> None:
        """End the host with what it started, whatever it is doing; whoever talks with it is told that it died."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """After all talk: kill, wait, free."""
        self.kill()
        if self.process.returncode is None:
            _, status, usage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
            self.memory += usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self._sock.close()
        os.close(self.logits)
        shutil.rmtree(self._home, ignore_errors=True)


def together(hosts: list[Host], work: Callable[[int], T]) -> list[T]:
    """What `work` says for the number of each host, in a thread each. What one of them raises ends all hosts and is raised."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        told = [pool.submit(work, number) for number in range(len(hosts))]
        for future in as_completed(told):
            if future.exception():
                for host in hosts:
                    host.kill()
                future.result()
    return [future.result() for future in told]


def shared_memory(size: int) -> int:
    """Descriptor of that many bytes which the other side can neither shrink nor grow (on Linux; elsewhere a file)."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            os.ftruncate(file.fileno(), size)
            return os.dup(file.fileno())
    descriptor = os.memfd_create("logits", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def open_checkpoint(path: Path) -> int:
    """Descriptor of the checkpoint. Raises InvalidModel: also for a link, which may lead to what the host must not read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise InvalidModel("training left no checkpoint.pt") from error
    except OSError as error:
        raise InvalidModel(f"checkpoint.pt cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise InvalidModel("checkpoint.pt is a link or no file")
    return descriptor


def fences() -> list[list[str]]:
    """The words before each host's command, from HOST_FENCE: a JSON list of two lists, one for each host, since each writes
    into a folder of its own; or [] where there is no fence. Raises DataError."""
    text = os.environ.get("HOST_FENCE") or "[]"
    try:
        words = json.loads(text) or [[], []]
        if len(words) == 2 and all(type(part) is list and all(type(word) is str for word in part) for part in words):
            return words
    except (ValueError, TypeError):
        pass
    raise DataError(
        f"HOST_FENCE is {text[:100]!r}: give a JSON list of two lists of words, one for each model host, or []"
    )


# --- log-probabilities -----------------------------------------------------------------------------------------------


class Kernel(Protocol):
    """Log-probabilities of targets, float32 of their shape, by logits in shared memory from position `first` on; into `top`,
    where given (bool, as many as targets), whether each target is its position's likeliest token: of several alike, one is."""

    def __call__(
        self, descriptor: int, targets: np.ndarray, vocab: int, first: int = 0, top: np.ndarray | None = None
    ) -> np.ndarray: ...


def kernel(context: int, vocab: int) -> Kernel:
    """numpy where logits are few, which saves the import of torch; else torch, on the GPU where the scorer sees one."""
    return numpy_logs if context * vocab < 2**20 else _torch_kernel()


def numpy_logs(
    descriptor: int, targets: np.ndarray, vocab: int, first: int = 0, top: np.ndarray | None = None
) -> np.ndarray:
    """Raises InvalidModel where a target has no probability, or logits are no numbers. Another process may be writing
    meanwhile: everything is copied before it is looked at."""
    flat = targets.reshape(-1)
    logs = np.empty(flat.size, dtype=np.float32)
    step = max(1, CHUNK_NUMBERS // vocab)
    for begin in range(0, flat.size, step):
        chosen = flat[begin : begin + step]
        logits = np.empty((chosen.size, vocab), dtype=np.float32)
        _copy(descriptor, logits, (first + begin) * vocab * 4)
        best = logits.argmax(-1)
        if top is not None:
            top[begin : begin + step] = best == chosen
        with np.errstate(all="ignore"):
            logits -= logits[np.arange(chosen.size), best][:, None]
            picked = logits[np.arange(chosen.size), chosen]
            logs[begin : begin + step] = picked - np.log(np.exp(logits, out=logits).sum(-1))
    return _finite(logs).reshape(targets.shape)


def _torch_kernel() -> Kernel:
    import torch  # here, since small scales do without it

    device = "cuda" if torch.cuda.is_available() else "cpu"
    local = threading.local()  # one buffer for each host's thread

    def torch_logs(
        descriptor: int, targets: np.ndarray, vocab: int, first: int = 0, top: np.ndarray | None = None
    ) -> np.ndarray:
        """As numpy_logs."""
        flat = torch.from_numpy(targets.reshape(-1).astype(np.int64)).to(device)
        step = max(1, (CHUNK_NUMBERS << (7 if device == "cuda" else 3)) // vocab)
        if not hasattr(local, "buffer"):
            local.buffer = torch.empty((step, vocab), dtype=torch.float32, pin_memory=device == "cuda")
        logs = torch.empty(len(flat), dtype=torch.float32, device=device)
        for begin in range(0, len(flat), step):
            chosen = flat[begin : begin + step, None]
            copy = local.buffer[: len(chosen)]
            _copy(descriptor, copy.numpy(), (first + begin) * vocab * 4)
            logits = copy.to(device)
            if top is not None:
                top[begin : begin + step] = (logits.argmax(1, keepdim=True) == chosen)[:, 0].cpu().numpy()
            # not logsumexp: what it says of 1e9 + x is rounded to 1e9, a loss of 0
            logits -= logits.amax(1, keepdim=True)
            logs[begin : begin + step] = logits.gather(1, chosen)[:, 0] - logits.exp().sum(1).log()
        return _finite(logs.cpu().numpy()).reshape(targets.shape)

    return torch_logs


def _copy(descriptor: int, into: np.ndarray, offset: int) -> None:
    view = memoryview(into).cast("B")
    while view:
        size = os.preadv(descriptor, [view], offset)
        if not size:
            raise InvalidModel("the model host took its logits away")
        view, offset = view[size:], offset + size


def _finite(logs: np.ndarray) -> np.ndarray:
    if not np.isfinite(logs).all():
        raise InvalidModel("the model returned logits that are not finite")
    return logs
