"""The feeder, which serves training rows, counts them and stops at the budget; and `Feed`, the trainer's end of its socket.

The feeder is a process of its own (`python -P -m nanochat.data feed`), since the trainer runs the experiment's code: whatever
arrives from there is taken for a number or not at all. Notable choices:
- the next batch is packed while the trainer computes, so that a request is answered at once;
- the clock of a budget of time starts with the first request, before which the trainer has no text, and never stops;
- FLOPs are metered by `Feed` over whole steps that the feeder picks: the first, one in the middle third, one at the end.
"""

from __future__ import annotations

import math
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat.budget import Budget
from nanochat.packing import Rows

if TYPE_CHECKING:
    import torch

    from nanochat.flops import Meter

REQUEST = struct.Struct("<IdH")  # rows wanted; FLOPs of the step before, NaN if not metered; bytes of names that follow
REPLY = struct.Struct("<II?d")  # rows served, context, whether to meter this step, part of the budget spent before
NAMES = 500  # bytes, at most, of the operators that the meter has no formula for
REPORT_SECONDS = 0.5
AHEAD = 16  # rows packed between two looks at the socket
LAST = 0.95  # of the budget; a step that begins behind it is metered


class Feeder:
    """Serves one training process over `sock` until it hangs up.

    `report` gets the counts, a dictionary for JSON, every half second and in the end (`counts`). `most` is the largest batch;
    `expected` the size of the first, which is packed at once; `startup_free` so many seconds before the first request are no
    part of a budget of time, and what is beyond them is.
    """

    def __init__(
        self,
        sock: socket.socket,
        rows: Rows,
        budget: Budget,
        report: Callable[[dict[str, Any]], None],
        *,
        most: int,
        expected: int = 1,
        startup_free: float = math.inf,
    ) -> None:
        self.sock, self.rows, self.budget, self.report = sock, rows, budget, report
        self.most, self.startup_free = most, startup_free
        self._expected = min(most, expected)  # rows of the next request
        self._packed: list[np.ndarray] = []
        self._begun = time.monotonic()
        self._first = self._ended = math.inf  # when the first request came, and when the budget ended
        self._due = 0.0
        self._waited = 0.0
        self._meters = Choice(budget)
        self._metering: tuple[float, int, int] | None = None  # progress, tokens before and of the step under way
        self._metered: list[list[float]] = []
        self._unknown: list[str] = []

    def serve(self) -> None:
        """Answer requests until the trainer hangs up. One of 0 rows, or after the end, is answered with 0 rows."""
        self.sock.setblocking(False)
        try:
            while True:
                wanted, flops, size = REQUEST.unpack(self._read(REQUEST.size))
                asked = time.monotonic()
                if wanted:
                    self._first = min(self._first, asked)
                self._settle(flops, self._read(size))
                self._answer(min(wanted, self.most))
                self._waited += time.monotonic() - asked if wanted else 0.0
        except ConnectionError:
            pass  # the trainer is done, or died in the middle of an answer
        finally:
            self._ended = min(self._ended, time.monotonic())
            if self._metering:
                self._doubt("no report of a metered step")
            self.report(self.counts())

    def counts(self) -> dict[str, Any]:
        """tokens, steps, amount (the budget's), seconds (from the first request to the budget's end), startup_seconds (before
        it), done, time (Unix), data_wait (seconds from requests to their answers), metered ([progress, FLOPs a token] of each
        metered step), flops_per_token (mean) and flops, null while unknown, and flops_unknown: why they are, else "".
        """
        self._tick()
        budget, now = self.budget, time.monotonic()
        flops = None if self._unknown else budget.flops
        return {
            "tokens": budget.tokens, "steps": budget.steps, "amount": budget.amount, "time": time.time(),
            "done": budget.grant(1, self.rows.context) == 0,
            "seconds": max(0.0, min(now, self._ended) - self._first),
            "startup_seconds": min(now, self._first) - self._begun,
            "data_wait": self._waited,
            "flops": flops, "flops_per_token": flops / budget.tokens if flops is not None and budget.tokens else None,
            "flops_unknown": ", ".join(self._unknown), "metered": self._metered,
        }  # fmt: skip

    def _answer(self, wanted: int) -> None:
        self._tick()
        budget, context = self.budget, self.rows.context
        progress, before, rows = budget.progress, budget.tokens, budget.grant(wanted, context)
        served = self._packed_rows(rows)
        if rows:
            budget.take(rows, context)
            self._expected = rows
        elif wanted:
            self._ended = min(self._ended, time.monotonic())
        if wanted and self._meters(progress, rows, wanted, context):
            self._metering = progress, before, rows * context
        self._send(REPLY.pack(rows, context, self._metering is not None, progress))
        self._send(served)

    def _settle(self, flops: float, names: bytes) -> None:
        """Take over what the trainer's meter says of the step it was asked to meter."""
        if self._metering is None:
            return
        progress, before, tokens = self._metering
        self._metering = None
        for name in names[:NAMES].decode("utf-8", "replace").split(", "):
            if name:
                self._doubt("".join(c for c in name if c.isprintable()))
        if not 0 <= flops < 1e30:  # NaN is neither
            self._doubt("no report of a metered step")
        elif tokens:
            self.budget.compute.steps.append((before, tokens, flops))
            self._metered.append([progress, flops / tokens])
        else:
            self.budget.compute.after += flops

    def _doubt(self, why: str) -> None:
        if why not in self._unknown and len(self._unknown) < 20:
            self._unknown.append(why)

    def _tick(self) -> None:
        """Bring the budget's clock and, if it is time, the counts' readers up to date."""
        now = time.monotonic()
        if self._first < math.inf:
            late = max(0.0, self._first - self._begun - self.startup_free)
            self.budget.seconds = min(now, self._ended) - self._first + late
        if now >= self._due:
            self._due = now + REPORT_SECONDS
            self.report(self.counts())

    def _packed_rows(self, rows: int) -> memoryview:
        """The next rows, packed already or now."""
        ready = sum(map(len, self._packed))
        if ready < rows:
            self._packed.append(self.rows.take(rows - ready))
        whole = np.concatenate(self._packed) if self._packed else np.empty((0, self.rows.context + 1), dtype=np.uint16)
        self._packed = [whole[rows:]]
        return memoryview(whole[:rows].tobytes())

    def _idle(self, reading: bool) -> None:
        """Wait for the trainer, and meanwhile pack its next batch."""
        self._tick()
        short = self._expected - sum(map(len, self._packed)) if reading and self._ended == math.inf else 0
        if short > 0:
            self._packed.append(self.rows.take(min(short, AHEAD)))
        timeout = 0.0 if short > AHEAD else max(0.0, self._due - time.monotonic())
        select.select([self.sock] if reading else [], [] if reading else [self.sock], [], timeout)

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                received = self.sock.recv(size - len(parts))
            except BlockingIOError:
                self._idle(reading=True)
                continue
            if not received:
                raise ConnectionResetError
            parts += received
        return bytes(parts)

    def _send(self, data: bytes | memoryview) -> None:
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                self._idle(reading=False)


class Choice:
    """Which steps to meter: the first, one in the middle third, one at the end, and whatever comes after the end."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._middle = random.SystemRandom().uniform(1 / 3, 2 / 3)  # nobody can know which step it will be
        self._done: set[str] = set()
        self._before = 0.0

    def __call__(self, progress: float, rows: int, wanted: int, context: int) -> bool:
        """Of the request just granted: progress before it, rows served and wanted. To be called once for each."""
        if not rows:
            return True
        due = {"first"}
        if progress >= self._middle:
            due.add("middle")
        if self.budget.kind in ("time", "flops"):
            if progress >= LAST or progress + 1.5 * (progress - self._before) >= 1:
                due.add("last")
        elif self.budget.grant(wanted, context) < wanted:  # no step of this size comes after it
            due.add(f"last {self.budget.steps}")
        self._before = progress
        new = due - self._done
        self._done |= due
        return bool(new)


class FeedError(Exception):
    """The feeder is gone or answers nonsense. `str(error)` is one line."""


class Feed:
    """The trainer's end of the socket. One `batch` is one step of the optimiser."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self._sock, self._process = sock, process
        self._meter: Meter | None = None
        self.progress = 0.0
        """Part of the budget spent before the last batch, in [0, 1]; 1.0 after the end."""
        self.tokens = 0
        """Tokens received so far."""
        self.context = 0
        """Tokens of a row, without the one that is a target only; 0 before the first batch."""
        self.world = 1
        """Processes that share each step: what this one computes is counted so many times."""

    @classmethod
    def connect(cls, descriptor: int) -> Feed:
        """To the feeder at the other end of a socket that this process inherited. Raises FeedError."""
        try:
            return cls(socket.socket(fileno=int(descriptor)))
        except (OSError, ValueError) as error:
            raise FeedError(
                f"--feed {descriptor} is no open socket ({error}): leave it out to start a feeder"
            ) from error

    @classmethod
    def start(cls, folder: Path, scale: str | None, seed: int, budget: str, steps: int = 0, tokens: int = 0) -> Feed:
        """Start a feeder of our own, for a person who trains by hand; `steps` and `tokens` were spent before it (--resume)."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "nanochat.data", "feed", "--data", str(folder), "--seed", str(seed)]
        command += ["--budget", budget, "--fd", str(theirs.fileno()), "--steps", str(steps), "--tokens", str(tokens)]
        command += ["--scale", scale] if scale else []
        root = str(Path(__file__).resolve().parent.parent)
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONPATH": root})
        theirs.close()
        feed = cls(ours, process)
        feed.tokens = tokens
        return feed

    @property
    def metered(self) -> bool:
        """Whether the FLOPs of the step under way are counted; torch.compile'd code runs eagerly then, which needs more memory."""
        return self._meter is not None

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(inputs, targets) as int64 tensors (rows, context), or None at the end of the budget.

        The last batch may hold fewer rows. Raises FeedError when the feeder is gone, ValueError for less than one row.
        """
        import torch  # here, since the feeder and the scorer do without it

        if rows < 1:
            raise ValueError(f"a batch of {rows} rows: ask for at least one")
        try:
            self._ask(rows)
            served, self.context, metered, progress = REPLY.unpack(self._read(REPLY.size))
            raw = np.frombuffer(self._read(served * (self.context + 1) * 2), dtype=np.uint16)
        except OSError as error:
            raise FeedError(
                f"the feeder is gone after {self.tokens} tokens ({error}): no more training data"
            ) from error
        self.progress = progress if served else 1.0
        self.tokens += served * self.context
        raw = raw.reshape(served, self.context + 1)
        pair = torch.from_numpy(raw[:, :-1].astype(np.int64)), torch.from_numpy(raw[:, 1:].astype(np.int64))
        if metered:
            from nanochat.flops import Meter

            self._meter = Meter()
            self._meter.__enter__()
        return pair if served else None

    def close(self) -> None:
        """Report what is still being metered and hang up; a feeder of our own ends with that."""
        if self._meter:
            try:
                self._ask(0)
            except OSError:
                self._meter = None  # the feeder is gone: nobody wants to know
        self._sock.close()
        if self._process is not None:
            self._process.wait()

    def _ask(self, rows: int) -> None:
        """Send a request, and with it what the meter found in the step that ends here."""
        flops, names = math.nan, b""
        if self._meter:
            self._meter.__exit__(None, None, None)
            flops, names = self._meter.flops * self.world, ", ".join(sorted(self._meter.unknown)).encode()[:NAMES]
            self._meter = None
        self._sock.sendall(REQUEST.pack(rows, flops, len(names)) + names)

    def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            received = self._sock.recv_into(view)
            if not received:
                raise ConnectionResetError("connection closed")
            view = view[received:]
        return buffer
