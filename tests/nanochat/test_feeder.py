"""Promises about the feeder: it counts exactly, ends every kind of budget where it should, and takes nothing from the trainer."""

from __future__ import annotations

import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanochat import data as nd
from nanochat.budget import Budget
from nanochat.feeder import REPLY, REQUEST, Feed, Feeder, FeedError
from nanochat.packing import Rows

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """The real feed command, and our end of its socket."""

    def __init__(
        self, data: Path, tmp_path: Path, budget: str, scale: dict[str, object] | None = None, *more: str
    ) -> None:
        self.counts_path = tmp_path / "counts.json"
        scale = scale or {"context": 32, "vocab": 300, "max_rows": 64}
        (tmp_path / "scale.json").write_text(json.dumps(scale))
        ours, theirs = socket.socketpair()
        words = [
            sys.executable,
            "-P",
            "-m",
            "nanochat.data",
            "feed",
            "--data",
            str(data),
            "--scale",
            str(tmp_path / "scale.json"),
        ]
        words += [
            "--seed",
            "7",
            "--budget",
            budget,
            "--fd",
            str(theirs.fileno()),
            "--counts",
            str(self.counts_path),
            *more,
        ]
        self.process = subprocess.Popen(
            words, pass_fds=[theirs.fileno()], env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        self.sock = ours
        self.feed = Feed(ours)

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.counts_path.read_text())
        return found

    def end(self) -> dict[str, Any]:
        self.feed.close()
        assert self.process.wait(timeout=20) == 0
        return self.counts()


@pytest.fixture
def process(data: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(budget: str, scale: dict[str, object] | None = None, *more: str) -> Process:
        started.append(Process(data, tmp_path, budget, scale, *more))
        return started[-1]

    yield start
    for one in started:
        one.feed.close()
        one.process.kill()
        one.process.communicate()


class Thread:
    """A feeder in a thread of this process, with a small corpus; `sock` is the trainer's end."""

    def __init__(self, budget: Budget, context: int = 8, **more: Any) -> None:
        tokens = (np.arange(5000) % 250).astype(np.uint16)
        self.sock, theirs = socket.socketpair()
        self.reports: list[dict[str, Any]] = []
        rows = Rows(tokens, np.arange(0, 5000, 50), context, 250, 0)
        self.feeder = Feeder(theirs, rows, budget, self.reports.append, **{"most": 64, **more})
        self.thread = threading.Thread(target=self.feeder.serve, daemon=True)
        self.thread.start()
        self.feed = Feed(self.sock)

    def ask(self, rows: int, flops: float = math.nan, names: bytes = b"") -> tuple[int, int, bool, float]:
        """One request by hand; the rows of its answer are thrown away."""
        self.sock.sendall(REQUEST.pack(rows, flops, len(names)) + names)
        served, context, metered, progress = REPLY.unpack(self.sock.recv(REPLY.size, socket.MSG_WAITALL))
        if served:
            self.sock.recv(served * (context + 1) * 2, socket.MSG_WAITALL)
        return served, context, bool(metered), progress

    def end(self) -> dict[str, Any]:
        self.feed.close()
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()
        return self.reports[-1]


# --- counting


def test_the_feeder_counts_exactly_and_stops_at_the_budget(process: Callable[..., Process]) -> None:
    one = process('{"kind": "tokens", "amount": 1000}')  # 31 rows of 32 tokens
    sizes, progress = [], []
    while (batch := one.feed.batch(8)) is not None:
        tokens, targets = batch
        assert tokens.shape == targets.shape == (len(tokens), 32) and tokens.dtype == targets.dtype == torch.int64
        assert (tokens[:, 0] == 299).all() and (tokens[:, 1:] == targets[:, :-1]).all()
        sizes.append(len(tokens))
        progress.append(one.feed.progress)
    assert sizes == [8, 8, 8, 7]
    assert progress == [0.0, 0.256, 0.512, 0.768]
    assert one.feed.progress == 1.0 and one.feed.tokens == 992 and one.feed.context == 32
    assert one.feed.batch(8) is None
    counts = one.end()
    assert (counts["tokens"], counts["steps"], counts["amount"], counts["done"]) == (992, 4, 1000, True)
    assert counts["flops"] == 0 and counts["flops_unknown"] == ""
    assert 0 < counts["startup_seconds"] < 60 and 0 < counts["data_wait"] < 5 and counts["seconds"] > 0


def test_the_same_seed_serves_the_same_rows_whatever_is_asked(process: Callable[..., Process]) -> None:
    served = []
    for sizes in ((5, 1, 30, 28), (64,)):
        one = process('{"kind": "steps", "amount": 9}')
        batches = [one.feed.batch(rows) for rows in sizes]
        served.append(torch.cat([batch[1] for batch in batches if batch]))
        one.end()
    assert torch.equal(served[0], served[1])


def test_a_budget_of_steps_counts_batches_of_bounded_size(process: Callable[..., Process]) -> None:
    one = process('{"kind": "steps", "amount": 3}')
    sizes = []
    while (batch := one.feed.batch(1000)) is not None:
        sizes.append(len(batch[0]))
    assert sizes == [64, 64, 64]
    assert one.end()["steps"] == 3


def test_the_largest_batch_is_never_less_than_a_step_of_the_scale(process: Callable[..., Process]) -> None:
    one = process('{"kind": "steps", "amount": 3}', {"context": 32, "vocab": 300, "max_rows": 4, "batch_tokens": 512})
    batch = one.feed.batch(16)
    assert batch and len(batch[0]) == 16


@pytest.mark.slow
def test_counts_are_fresh_while_the_trainer_is_busy_and_final_when_it_dies(process: Callable[..., Process]) -> None:
    one = process('{"kind": "tokens", "amount": 100000}')
    one.feed.batch(8)
    asked = time.time()
    while one.counts()["time"] < asked + 0.1:  # written again although nobody asks
        assert time.time() < asked + 20
        os.sched_yield()
    assert one.counts()["tokens"] == 256
    one.sock.close()
    assert one.process.wait(timeout=20) == 0
    counts = one.counts()
    assert counts["done"] is False
    assert counts["flops"] is None and counts["flops_unknown"] == "no report of a metered step"


def test_a_dead_feeder_is_one_clear_error(process: Callable[..., Process]) -> None:
    one = process('{"kind": "tokens", "amount": 100000}')
    one.feed.batch(8)
    one.process.kill()
    with pytest.raises(FeedError, match="the feeder is gone after 256 tokens"):
        for _ in range(3):
            one.feed.batch(8)


def test_a_wrong_budget_ends_the_feeder_with_one_line(process: Callable[..., Process]) -> None:
    one = process('{"kind": "seconds", "amount": 3}')
    _, errors = one.process.communicate(timeout=20)
    assert one.process.returncode == 2
    assert errors.count("\n") == 1 and errors.startswith("nanochat.data feed: budget")


def test_feeding_from_an_empty_folder_says_what_to_run(process: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = process('{"kind": "steps", "amount": 3}', None, "--data", str(tmp_path / "empty"))
    _, errors = one.process.communicate(timeout=20)
    assert one.process.returncode == 2
    assert "prepare --data" in errors and errors.count("\n") == 1


def test_a_feeder_goes_on_for_another_one(process: Callable[..., Process], data: Path, tmp_path: Path) -> None:
    whole = process('{"kind": "tokens", "amount": 1920}')
    served = [whole.feed.batch(10) for _ in range(6)]
    whole.end()
    feed = Feed.start(data, str(tmp_path / "scale.json"), 7, '{"kind": "tokens", "amount": 1920}', steps=4, tokens=1280)
    batch = feed.batch(10)
    assert batch and served[4] and torch.equal(batch[0], served[4][0])
    assert feed.progress == pytest.approx(1280 / 1920) and feed.tokens == 1600
    assert feed.batch(10) is not None and feed.batch(10) is None
    feed.close()


# --- time


def test_a_budget_of_time_starts_with_the_first_request_and_ends_within_a_step() -> None:
    one = Thread(Budget("time", 0.5))
    one.feeder._begun -= 0.2  # start-up: free
    begun, steps = time.monotonic(), 0
    while one.feed.batch(4) is not None:
        assert one.feed.progress <= 1
        steps += 1
        ended = time.monotonic() + 0.03
        while time.monotonic() < ended:
            pass
    took = time.monotonic() - begun
    assert 0.5 <= took < 0.5 + 0.03 + 0.1
    counts = one.end()
    assert counts["done"] and counts["steps"] == steps >= 5
    assert counts["seconds"] == pytest.approx(took, abs=0.02) and counts["startup_seconds"] >= 0.2
    assert counts["metered"][0][0] < 0.1 and counts["metered"][-1][0] >= 0.9


def test_startup_beyond_what_is_free_is_charged() -> None:
    one = Thread(Budget("time", 100.0), startup_free=0.1)
    one.feeder._begun -= 0.3
    one.ask(4)
    progress = one.ask(4)[3]
    assert 0.002 <= progress < 0.01
    counts = one.end()
    assert counts["startup_seconds"] >= 0.3 and counts["seconds"] < 0.2


def test_before_the_first_request_for_rows_no_time_goes_by() -> None:
    one = Thread(Budget("time", 0.2))
    one.feeder._begun -= 10
    assert one.ask(0) == (0, 8, False, 0.0)
    assert one.ask(4)[3] < 0.1


# --- FLOPs


def test_first_middle_and_last_full_step_are_metered() -> None:
    for _ in range(5):
        one = Thread(Budget("tokens", 8 * 4 * 60 + 24))  # 60 whole steps of 4 rows and one of 3
        flags = []
        while (reply := one.ask(4, 100.0))[0]:
            flags.append(reply[2])
        steps = [number for number, metered in enumerate(flags) if metered]
        assert len(flags) == 61 and steps[0] == 0 and steps[2:] == [59, 60]
        assert 20 <= steps[1] <= 41
        assert [progress for progress, _ in one.end()["metered"]] == pytest.approx([step * 32 / 1944 for step in steps])


def test_a_budget_of_flops_ends_by_what_was_measured() -> None:
    one = Thread(Budget("flops", 100_000.0))
    rows, steps = 0, 0
    while (reply := one.ask(4, 3200.0))[0]:  # 100 a token
        rows, steps = rows + reply[0], steps + 1
    assert rows == 125 and reply[3] == pytest.approx(1.0)
    one.ask(0, 0.0)
    counts = one.end()
    assert counts["flops"] == pytest.approx(100_000, rel=0.01) and counts["flops_per_token"] == pytest.approx(
        100, rel=0.01
    )
    assert counts["metered"][-1][0] >= 0.95 and len(counts["metered"]) == 3


def test_what_is_computed_after_the_end_counts_too() -> None:
    one = Thread(Budget("steps", 2))
    assert one.ask(4)[2] and one.ask(4, 320.0)[2]
    assert one.ask(4, 320.0)[::2] == (0, True)
    assert one.ask(0, 5000.0)[2] is False
    counts = one.end()
    assert counts["flops"] == 5640 and counts["flops_unknown"] == ""


def test_the_client_meters_what_the_feeder_picks() -> None:
    one = Thread(Budget("steps", 30))
    one.feed.world = 2
    weight, metered = torch.zeros(3, 4), []
    while one.feed.batch(2) is not None:
        metered.append(one.feed.metered)
        weight @ weight.T
    assert one.feed.metered  # until close
    counts = one.end()
    assert sum(metered) == len(counts["metered"]) == 3 and metered[0] and metered[-1]
    assert {flops for _, flops in counts["metered"]} == {2 * (2 * 3 * 4 * 3) / 16}
    assert counts["flops"] == pytest.approx(30 * 2 * 72) and counts["flops_unknown"] == ""
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


# --- a hostile trainer


@pytest.mark.parametrize(
    ("flops", "names", "reason"),
    [(math.nan, b"", "no report"), (math.inf, b"", "no report"), (-1.0, b"", "no report"), (1e300, b"", "no report"),
     (5.0, b"aten._fft_r2c.default, my::op", "aten._fft_r2c.default, my::op"), (5.0, b"\xff\x00\n\x1b[2J" * 9, "\ufffd"),
     (5.0, b"x" * 65535, "x" * 500)],
)  # fmt: skip
def test_what_the_trainer_says_of_flops_is_taken_for_a_number_or_not_at_all(
    flops: float, names: bytes, reason: str
) -> None:
    one = Thread(Budget("steps", 3))
    assert one.ask(4)[2]
    one.ask(4, flops, names)
    counts = one.end()
    assert counts["flops"] is None and counts["flops_per_token"] is None
    assert counts["flops_unknown"].startswith(reason) and counts["flops_unknown"].isprintable()
    assert len(counts["flops_unknown"]) < 600
    json.dumps(counts, allow_nan=False)


def test_a_report_that_nobody_asked_for_changes_nothing() -> None:
    one = Thread(Budget("steps", 100))
    one.ask(4)
    one.ask(4, 320.0)
    one.ask(4, 1e9, b"my::op")
    counts = one.end()
    assert counts["metered"] == [[0.0, 10.0]] and counts["flops"] == 960 and counts["flops_unknown"] == ""


def test_a_budget_of_flops_without_a_report_ends_at_once() -> None:
    one = Thread(Budget("flops", 1e12))
    assert one.ask(4)[0] == 4
    assert one.ask(4)[0] == 0


def test_garbage_requests_are_bounded_and_leave_true_counts() -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        one = Thread(Budget("tokens", 8 * 1000))
        one.ask(3)
        drain = threading.Thread(
            target=lambda sock: [None for _ in iter(lambda: sock.recv(1 << 16), b"")], args=(one.sock,)
        )
        drain.start()
        one.sock.sendall(random.bytes(5000))
        one.sock.shutdown(socket.SHUT_WR)
        one.thread.join(timeout=20)
        one.feeder.sock.close()
        drain.join(timeout=20)
        counts = one.reports[-1]
        assert 24 <= counts["tokens"] <= 8000 and counts["tokens"] % 8 == 0


@pytest.mark.slow
def test_half_a_request_or_one_that_never_reads_its_answer_stops_no_counting() -> None:
    one = Thread(Budget("steps", 10**6), context=4000, most=256, expected=256)
    one.sock.sendall(REQUEST.pack(256, math.nan, 0)[:5])
    seen = len(one.reports)
    _until(lambda: len(one.reports) > seen)
    one.sock.sendall(REQUEST.pack(256, math.nan, 0)[5:])  # an answer of 2 MB that nobody takes
    _until(lambda: one.reports[-1]["steps"] == 1)
    seen = len(one.reports)
    _until(lambda: len(one.reports) > seen)
    assert one.reports[-1]["tokens"] == 256 * 4000


def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_less_than_a_row_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Thread(Budget("steps", 3)).feed.batch(0)


def test_a_descriptor_that_is_no_socket_is_one_line() -> None:
    with pytest.raises(FeedError, match="--feed 7777 is no open socket"):
        Feed.connect(7777)


def test_the_next_batch_is_packed_before_it_is_asked_for() -> None:
    one = Thread(Budget("steps", 5), expected=4)
    one.ask(4)
    _until(lambda: sum(map(len, one.feeder._packed)) == 4)
    one.feeder.rows.take = lambda rows: np.zeros((rows, 9), dtype=np.uint16)  # type: ignore[method-assign]
    ahead, packed_now = one.feed.batch(4), one.feed.batch(9)
    assert ahead and packed_now and ahead[0].any(1).all() and not packed_now[0][4:].any()


def test_the_protocol_fits_its_structs() -> None:
    assert struct.calcsize(REQUEST.format) == 14 and struct.calcsize(REPLY.format) == 17
    assert nd.Feed is Feed
