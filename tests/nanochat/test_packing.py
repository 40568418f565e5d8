"""Promises about rows: full, begun by BOS, every token once an epoch, in an order that is even and fixed by the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanochat.errors import DataError
from nanochat.packing import Rows, even_order

BOS = 65535


def corpus(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are all different, and where documents of these sizes begin."""
    return np.arange(sum(sizes), dtype=np.uint16), np.cumsum(sizes) - np.array(sizes)


sizes = st.lists(st.integers(1, 200), min_size=1, max_size=40)


@given(sizes, st.integers(1, 40), st.integers(0, 5), st.integers(1, 7))
def test_rows_are_full_and_each_begins_with_bos(sizes: list[int], context: int, seed: int, batch: int) -> None:
    tokens, starts = corpus(sizes)
    rows = Rows(tokens, starts, context, BOS, seed)
    for _ in range(5):
        taken = rows.take(batch)
        assert taken.shape == (batch, context + 1) and taken.dtype == np.uint16
        assert (taken[:, 0] == BOS).all()
        assert ((taken == BOS) | (taken < sum(sizes))).all()


@given(sizes, st.integers(1, 40), st.integers(0, 5))
def test_between_two_bos_stands_a_piece_of_one_document(sizes: list[int], context: int, seed: int) -> None:
    tokens, starts = corpus(sizes)
    document = np.repeat(np.arange(len(sizes)), sizes)
    for row in Rows(tokens, starts, context, BOS, seed).take(20):
        for piece in np.split(row, np.flatnonzero(row == BOS))[1:]:
            text = piece[1:].astype(int)
            assert (np.diff(text) == 1).all()
            assert len(set(document[text])) <= 1
        assert not (np.diff(np.flatnonzero(row == BOS)) == 1).any()  # a BOS with nothing behind it may only end a row


@given(sizes, st.integers(1, 40), st.integers(0, 5))
def test_a_single_epoch_holds_every_token_once_but_for_less_than_a_row(
    sizes: list[int], context: int, seed: int
) -> None:
    tokens, starts = corpus(sizes)
    rows = Rows(tokens, starts, context, BOS, seed, endless=False).take(sum(sizes) + 1)
    counts = np.bincount(rows[rows != BOS], minlength=sum(sizes))
    assert counts.max(initial=0) <= 1
    assert sum(sizes) - counts.sum() <= context


@given(sizes, st.integers(1, 40), st.integers(0, 5))
def test_epoch_after_epoch_serves_every_token_once(sizes: list[int], context: int, seed: int) -> None:
    tokens, starts = corpus(sizes)
    rows = Rows(tokens, starts, context, BOS, seed)
    counts = np.zeros(sum(sizes), dtype=int)
    while rows.epoch < 3:
        row = rows.take(1)
        counts += np.bincount(row[row != BOS], minlength=sum(sizes))
    assert counts.max() <= rows.epoch + 1
    owed = np.maximum(0, rows.epoch - counts)  # of the epochs that are over: less than a row, which comes next
    assert owed.sum() <= context


@given(sizes, st.integers(1, 40), st.integers(0, 5), st.lists(st.integers(1, 9), max_size=6))
def test_the_seed_fixes_the_rows_whatever_the_batches(
    sizes: list[int], context: int, seed: int, batches: list[int]
) -> None:
    tokens, starts = corpus(sizes)
    split = Rows(tokens, starts, context, BOS, seed)
    whole = Rows(tokens, starts, context, BOS, seed).take(sum(batches))
    assert [row.tolist() for n in batches for row in split.take(n)] == whole.tolist()


def test_other_seeds_and_other_epochs_cut_and_order_differently() -> None:
    tokens, starts = corpus([900, 30, 4000, 7, 600])
    one, other = (Rows(tokens, starts, 32, BOS, seed).take(60) for seed in (1, 2))
    assert (one != other).any()
    rows = Rows(tokens, starts, 32, BOS, 1)
    cuts: list[set[int]] = []
    for epoch in range(2):
        firsts = set()
        while rows.epoch == epoch:
            firsts.add(int(rows.take(1)[0, 1]))
        cuts.append(firsts)
    assert len(cuts[0] & cuts[1]) < len(cuts[0]) / 3


@given(st.integers(1000, 50000), st.integers(0, 3))
@example(8955, 0)  # where steps of a rounded golden section leave parts of the corpus out for a thousand pieces
def test_any_stretch_of_the_order_is_an_even_sample(count: int, seed: int) -> None:
    order = even_order(np.arange(count), np.random.default_rng(seed))
    assert (np.sort(order) == np.arange(count)).all()
    for size, parts in ((50, 10), (1000, 100)):
        for start in range(0, count - size + 1, max(size, count // 7)):
            found = np.bincount(order[start : start + size] * parts // count, minlength=parts)
            assert np.abs(found - size / parts).max() <= 3


def test_the_first_rows_of_a_run_are_a_sample_of_the_whole_corpus() -> None:
    """Shares of 20 parts of a corpus in 2 % of it differ a third as much between seeds as those of rows drawn at random."""
    random = np.random.default_rng(0)
    sizes = np.maximum(1, random.lognormal(5, 1.2, 3000).astype(int))
    part = np.repeat(np.arange(3000) * 20 // 3000, sizes)  # neighbours are alike, as in a corpus sorted by name
    even, drawn = [], []
    for seed in range(12):
        rows = Rows(part.astype(np.uint16), np.cumsum(sizes) - sizes, 64, BOS, seed)
        taken = rows.take(len(part) // 64 // 50)
        even.append(np.bincount(taken[taken != BOS], minlength=20) / (taken != BOS).sum())
        starts = random.integers(len(part) - 64, size=len(taken))
        drawn.append(np.bincount(part[starts[:, None] + np.arange(64)].ravel(), minlength=20) / taken.size)
    assert np.std(even, axis=0).mean() < np.std(drawn, axis=0).mean() / 2
    shares = np.bincount(part, minlength=20) / len(part)
    assert np.abs(np.mean(even, axis=0) - shares).max() < 0.01


def test_one_document_of_thirty_megabytes_stalls_nothing() -> None:
    tokens = (np.arange(8_000_000) % 8000).astype(np.uint16)
    rows = Rows(tokens, np.array([0]), 2048, BOS, 0)
    taken = rows.take(8_000_000 // 2048)
    text = taken[taken != BOS]
    assert rows.epoch == 0 and len(text) > 0.999 * len(tokens)
    assert (np.bincount(text, minlength=8000) <= 1000).all()


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(DataError, match="no tokens"):
        Rows(np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.int64), 8, BOS, 0)
