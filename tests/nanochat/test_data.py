"""Promises about the data: it is the same every time, nothing of validation is trained on, and the feeder counts exactly."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import data as nd
from nanochat.budget import Budget

ROOT = Path(__file__).resolve().parents[2]
TINY = {**nd.SETTINGS, "context": 32, "vocab": 300, "eval_rows": 128, "train_bytes": 1_000_000}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- prepare


def test_preparing_twice_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    nd.prepare(tmp_path / "again", TINY)
    assert contents(tmp_path / "again") == contents(data)


def test_preparing_a_prepared_folder_touches_nothing_and_other_settings_refill_it(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    nd.prepare(folder, TINY)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "audit.npy").unlink()
    nd.prepare(folder, TINY)
    assert contents(folder) == contents(data)
    nd.prepare(folder, {**TINY, "eval_rows": 64})
    assert np.load(folder / "search.npy").shape == (64, 33)


def test_the_manifest_is_flat_and_names_what_was_used_by_hash(data: Path) -> None:
    manifest = nd.read_manifest(data)
    assert manifest
    assert all(isinstance(value, str | int) for value in manifest.values())
    for name in ("corpus", "tokenizer", "train", "search", "audit", "locked"):
        assert len(str(manifest[name])) == 64
    assert manifest["search_rows"] == 128


def test_no_paragraph_of_validation_is_in_training_or_in_another_split() -> None:
    training, held_out = nd.stdlib_documents()
    assert not any(name.split("/")[0] in nd.HELD_OUT for name in training)
    seen = {paragraph.strip() for text in training.values() for paragraph in nd.paragraphs(text)}
    for name, text in nd.without_known(held_out, training).items():
        mine = {paragraph.strip() for paragraph in nd.paragraphs(text)}
        assert not mine & seen, f"{name} shares {next(iter(mine & seen))!r}"
        seen |= mine


def test_every_split_is_full_when_only_pydoc_data_can_be_held_out(tmp_path: Path) -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(stdlib / "pydoc_data", tmp_path / "pydoc_data")
    shutil.copytree(stdlib / "json", tmp_path / "json")
    training, held_out = nd.stdlib_documents(tmp_path)
    assert all(name.startswith("json/") for name in training)
    kept = nd.without_known(held_out, training)
    for split in nd.SPLITS:
        size = sum(len(text.encode()) for name, text in kept.items() if nd.split_of(name) == split)
        assert size > 50_000, f"{split} holds {size} bytes"


def test_files_that_are_not_text_are_passed_over_and_an_empty_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_bytes(b"\xff\xfe not UTF-8")
    with pytest.raises(nd.DataError, match="holds no training text"):
        nd.stdlib_documents(tmp_path)
    (tmp_path / "fine.py").write_text("x = 1\n")
    with pytest.raises(nd.DataError, match="holds no validation text"):
        nd.stdlib_documents(tmp_path)


@given(st.integers(1, 50), st.integers(1, 40), st.integers(50, 4000))
def test_no_position_is_scored_twice(context: int, rows: int, size: int) -> None:
    tokens = np.arange(size, dtype=np.uint16)
    if (size - 1) // context < max(1, rows // 4):
        with pytest.raises(nd.DataError, match="validation rows"):
            nd.eval_rows(tokens, context, rows)
        return
    found = nd.eval_rows(tokens, context, rows)
    assert found.shape == (min(rows, (size - 1) // context), context + 1)
    assert len(np.unique(found[:, 1:])) == found[:, 1:].size


def test_changed_data_is_noticed(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    rows = np.load(folder / "search.npy")
    rows[0, 0] ^= 1
    np.save(folder / "search.npy", rows)
    with pytest.raises(nd.DataError, match="not what the manifest says"):
        nd.load_array(folder, "search")
    (folder / "train.npy").write_bytes(b"half")
    with pytest.raises(nd.DataError, match="cannot be read"):
        nd.load_array(folder, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot read"), ('{"colour": 1}', "unknown setting 'colour'"), ('{"vocab": "x"}', "give a positive integer"),
     ('{"context": 0}', "give a positive integer"), ('{"eval_rows": true}', "give a positive integer"),
     ("[1]", "must be a JSON object")],
)  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scale.json"
    path.write_text(text)
    with pytest.raises(nd.DataError, match=message):
        nd.read_settings(path)


# --- the order of training


@given(st.integers(1, 16), st.integers(0, 1000), st.integers(0, 5), st.integers(1, 7))
def test_an_epoch_serves_every_row_once(context: int, extra: int, seed: int, batch: int) -> None:
    tokens = np.arange(2 * context + 1 + extra, dtype=np.uint16)
    order = nd.Order(tokens, context, seed)
    first = order.take(1)
    rows = [first[0]]
    while order._left:
        rows += list(order.take(min(batch, order._left)))
    starts = sorted(int(row[0]) for row in rows)
    assert np.diff(starts).tolist() == [context] * (len(starts) - 1)
    assert starts[0] < context
    assert starts[-1] + 2 * context >= tokens.size - 1
    assert order.take(1).shape == (1, context + 1) and order.epoch == 1


def test_the_seed_fixes_the_order() -> None:
    tokens = np.arange(5000, dtype=np.uint16)
    one, same, other = (nd.Order(tokens, 8, seed).take(100) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    split = nd.Order(tokens, 8, 1)
    assert (np.concatenate([split.take(n) for n in (1, 60, 39)]) == one).all()


def test_any_stretch_of_the_order_is_an_even_sample_of_the_corpus() -> None:
    tokens = np.arange(60_000, dtype=np.uint16)
    order = nd.Order(tokens, 8, 3)
    order.take(1000)
    starts = order.take(160)[:, 0]
    assert np.bincount(starts // 6000, minlength=10).tolist() == pytest.approx([16] * 10, abs=2)


# --- the feeder


@given(st.sampled_from(["tokens", "steps"]), st.integers(1, 5000), st.integers(1, 64), st.lists(st.integers(1, 50), max_size=300))
def test_a_budget_is_never_exceeded_and_is_spent_to_the_last_row(kind: str, amount: int, context: int, wanted: list[int]) -> None:
    budget = Budget(kind, amount)
    for rows in [*wanted, *[50] * (amount + 1)]:
        granted = budget.grant(rows, context)
        assert 0 <= granted <= rows
        if not granted:
            break
        budget.take(granted, context)
    assert budget.spent <= amount
    assert amount - budget.spent < (context if kind == "tokens" else 1)


class Feeder:
    """The real feed command, and our end of its socket."""

    def __init__(self, data: Path, tmp_path: Path, budget: str, scale: dict[str, object] | None = None) -> None:
        self.counts_path = tmp_path / "counts.json"
        (tmp_path / "scale.json").write_text(json.dumps(scale or {"context": 32, "vocab": 300, "max_rows": 64}))
        ours, theirs = socket.socketpair()
        words = [sys.executable, "-P", "-m", "nanochat.data", "feed", "--data", str(data), "--scale", str(tmp_path / "scale.json")]
        words += ["--seed", "7", "--budget", budget, "--fd", str(theirs.fileno()), "--counts", str(self.counts_path)]
        self.process = subprocess.Popen(
            words, pass_fds=[theirs.fileno()], env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        self.feed = nd.Feed(ours)

    def counts(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.counts_path.read_text())
        return found


@pytest.fixture
def feeder(data: Path, tmp_path: Path) -> Iterator[Callable[..., Feeder]]:
    started: list[Feeder] = []

    def start(budget: str, scale: dict[str, object] | None = None) -> Feeder:
        started.append(Feeder(data, tmp_path, budget, scale))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_the_feeder_counts_exactly_and_stops_at_the_budget(feeder: Callable[..., Feeder]) -> None:
    one = feeder('{"kind": "tokens", "amount": 1000}')  # 31 rows of 32 tokens
    sizes, progress = [], []
    while (batch := one.feed.batch(8)) is not None:
        tokens, targets = batch
        assert tokens.shape == targets.shape
        assert (tokens[:, 1:] == targets[:, :-1]).all()
        sizes.append(len(tokens))
        progress.append(one.feed.progress)
    assert sizes == [8, 8, 8, 7]
    assert progress == [0.0, 0.256, 0.512, 0.768]
    assert one.feed.progress == 1.0 and one.feed.tokens == 992
    assert one.feed.batch(8) is None
    one.feed.close()
    assert one.process.wait(timeout=20) == 0
    counts = one.counts()
    assert (counts["tokens"], counts["steps"], counts["amount"], counts["done"]) == (992, 4, 1000, True)


def test_a_budget_of_steps_counts_batches_of_bounded_size(feeder: Callable[..., Feeder]) -> None:
    one = feeder('{"kind": "steps", "amount": 3}')
    sizes = []
    while (batch := one.feed.batch(1000)) is not None:
        sizes.append(len(batch[0]))
    assert sizes == [64, 64, 64]
    one.feed.close()
    assert one.process.wait(timeout=20) == 0
    assert one.counts()["steps"] == 3


def test_counts_are_fresh_while_the_trainer_is_busy_and_final_when_it_dies(feeder: Callable[..., Feeder]) -> None:
    one = feeder('{"kind": "tokens", "amount": 100000}')
    one.feed.batch(8)
    asked = time.time()
    while float(str(one.counts()["time"])) < asked + 0.1:  # written again although nobody asks
        assert time.time() < asked + 20
        time.sleep(0.05)
    assert one.counts()["tokens"] == 256
    one.feed._sock.close()
    assert one.process.wait(timeout=20) == 0
    assert one.counts()["done"] is False


def test_a_dead_feeder_is_one_clear_error(feeder: Callable[..., Feeder]) -> None:
    one = feeder('{"kind": "tokens", "amount": 100000}')
    one.feed.batch(8)
    one.process.kill()
    with pytest.raises(nd.FeedError, match="the feeder is gone after 256 tokens"):
        for _ in range(3):
            one.feed.batch(8)


@pytest.mark.parametrize("budget", ["3", '{"kind": "seconds", "amount": 3}', '{"kind": "tokens", "amount": 0}', "{"])
def test_a_wrong_budget_ends_the_feeder_with_one_line(feeder: Callable[..., Feeder], budget: str) -> None:
    one = feeder(budget)
    _, errors = one.process.communicate(timeout=20)
    assert one.process.returncode == 2
    assert errors.count("\n") == 1 and errors.startswith("nanochat.data feed: budget")


def test_feeding_from_an_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [sys.executable, "-P", "-m", "nanochat.data", "feed", "--data", str(tmp_path), "--fd", str(theirs.fileno())]
        done = subprocess.run(words, env={"PYTHONPATH": str(ROOT)}, pass_fds=[theirs.fileno()], text=True, capture_output=True)
    assert done.returncode == 2
    assert "prepare --data" in done.stderr and done.stderr.count("\n") == 1
