"""Rows of tokens out of documents: best fit behind BOS, no padding, every token once an epoch, in an even order.

Called by prepare for the validation rows and by the feeder for the training rows. Notable choices:
- a document longer than a row is cut at places that move from epoch to epoch; what fills a row alone is served as it is,
  whole short documents and ends of long ones share rows, the oldest opening a row and the longest that fits following it;
- pieces come a golden section of the corpus apart, so every batch, and every run that ends before the corpus does, sees an
  even sample of it: drawn at random, which modules a run happened to see was most of its noise.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from nanochat.errors import DataError

POOL = 512
"""Pieces among which the best fit is sought: of 1000 tokens in the mean, rows of 2048 crop 0.7 pieces with 64, 0.5 with 512."""
GOLDEN = (5**0.5 - 1) / 2


class Rows:
    """Rows of `context` + 1 tokens in an order fixed by the seed: without end, or with `endless` False of one epoch.

    `tokens` uint16 (may be a memory map) holds the documents one behind the other and no BOS, `starts` where each begins;
    `bos` is put before every piece. A piece that fits nowhere is cropped, and its rest goes back behind a BOS of its own.
    Raises DataError when there is nothing to serve.
    """

    def __init__(
        self, tokens: np.ndarray, starts: np.ndarray, context: int, bos: int, seed: int, endless: bool = True
    ) -> None:
        if not tokens.size:
            raise DataError("the corpus holds no tokens: run prepare with more text")
        self.tokens, self.context, self.bos, self.seed, self.endless = np.asarray(tokens), context, bos, seed, endless
        self._begins = np.asarray(starts, dtype=np.int64)
        self._ends = np.append(self._begins[1:], tokens.size)
        self.epoch = -1
        """Begun last; a few pieces of the one before may still wait in the pool."""
        self._whole: deque[int] = deque()
        self._parts: deque[tuple[int, int]] = deque()
        self._pool = Pool()
        self._begin_epoch()

    def take(self, rows: int) -> np.ndarray:
        """The next `rows` rows, uint16 (rows, context + 1); fewer only at the end of a single epoch."""
        out = np.empty((rows, self.context + 1), dtype=np.uint16)
        for number in range(rows):
            pieces = self._row()
            if pieces is None:
                return out[:number].copy()
            at = 0
            for begin, length in pieces:
                out[number, at] = self.bos
                out[number, at + 1 : at + 1 + length] = self.tokens[begin : begin + length]
                at += 1 + length
        return out

    def _row(self) -> list[tuple[int, int]] | None:
        """(begin, length) of the pieces of the next row; None when there is none."""
        pool = self._pool
        self._credit += self._share
        while True:
            if self._whole and self._credit >= 1.0:
                break
            while self._parts and (len(pool.pieces) < self._wanted or pool.tokens <= self.context):
                pool.add(*self._parts.popleft())
            if pool.tokens > self.context:
                return self._shared_row()
            if self._whole:
                break
            if not self.endless:
                return None
            self._begin_epoch()
        self._credit -= 1.0
        return [(self._whole.popleft(), self.context)]

    def _shared_row(self) -> list[tuple[int, int]]:
        """The oldest piece of the pool, and behind it the longest that fit."""
        left, row = self.context + 1, []
        while left > 1:
            begin, length = self._pool.take(left - 1) if row else self._pool.oldest()
            used = min(length, left - 1)
            row.append((begin, used))
            if used < length:
                self._pool.add(begin + used, length - used)
            left -= 1 + used
        return row + [(0, 0)] * left  # room for one more BOS alone: the text before it ends there

    def _begin_epoch(self) -> None:
        self.epoch += 1
        self._credit = 0.0
        begins, lengths = self._pieces()
        full = lengths == self.context
        self._whole.extend(even_order(begins[full], self._random(1)).tolist())
        parts = even_order(np.flatnonzero(~full), self._random(2))
        self._parts.extend(zip(begins[parts].tolist(), lengths[parts].tolist(), strict=True))
        self._wanted = min(POOL, len(parts))
        shared = int((lengths[parts] + 1).sum()) / (self.context + 1)
        self._share = len(self._whole) / (len(self._whole) + shared)  # so that both kinds of rows last the epoch

    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """(begin, length) of all pieces of this epoch, in the corpus's order; length is at most the context."""
        size = self._ends - self._begins
        long = size > self.context
        phase = self._random(0).integers(self.context, size=len(size))
        head = np.where(long, phase, np.minimum(size, self.context))
        whole = np.where(long, (size - head) // self.context, 0)
        tail = size - head - whole * self.context
        count = 2 + whole  # head, whole ones, tail; empty ones are dropped below
        first = np.cumsum(count) - count
        document = np.repeat(np.arange(len(size)), count)
        number = np.arange(len(document)) - first[document]
        begins = self._begins[document] + np.where(number > 0, head[document] + (number - 1) * self.context, 0)
        lengths = np.full(len(document), self.context)
        lengths[first] = head
        lengths[first + count - 1] = tail
        return begins[lengths > 0], lengths[lengths > 0]

    def _random(self, use: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, use])


class Pool:
    """Pieces that wait for a row, found by length and by age."""

    def __init__(self) -> None:
        self.pieces: dict[int, tuple[int, int]] = {}  # number -> (begin, length); the first is the oldest
        self.tokens = 0
        """What they would fill, each with its BOS."""
        self._by_length: dict[int, deque[int]] = {}
        self._lengths = 0  # bit n: a piece of n tokens is here
        self._number = 0

    def add(self, begin: int, length: int) -> None:
        self.pieces[self._number] = begin, length
        self._by_length.setdefault(length, deque()).append(self._number)
        self._lengths |= 1 << length
        self.tokens += 1 + length
        self._number += 1

    def oldest(self) -> tuple[int, int]:
        return self._remove(self.pieces[next(iter(self.pieces))][1])

    def take(self, most: int) -> tuple[int, int]:
        """The longest piece of at most `most` tokens; if none is that short, the longest of all, to be cropped."""
        return self._remove(((self._lengths & ((2 << most) - 1)) or self._lengths).bit_length() - 1)

    def _remove(self, length: int) -> tuple[int, int]:
        """The oldest piece of this length."""
        numbers = self._by_length[length]
        piece = self.pieces.pop(numbers.popleft())
        if not numbers:
            self._lengths ^= 1 << length
        self.tokens -= 1 + length
        return piece


def even_order(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """`values` by the fractional part of a random start plus multiples of the golden section: any stretch is an even sample.

    Steps of a rounded golden section would not do: for some counts they come back to nearly the same places for a long while.
    """
    return values[np.argsort((random.random() + GOLDEN * np.arange(len(values))) % 1, kind="stable")]
