"""The tokenizer: byte-level BPE trained on the training text by rustbpe, run by tiktoken from our own merges.

Called by `data.prepare`. Notable choices: never one of tiktoken's named encodings, which download; one special token, BOS,
with the highest id; saved as JSON, so that its hash says exactly what was used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""GPT-4's split into words, except that numbers come in at most two digits: small vocabularies cannot afford three."""
BOS = "<|bos|>"
BATCH = 4096  # documents encoded at a time


class Tokenizer:
    """Text or bytes to token ids and back. `tokens[i]` is what token i stands for, in bytes; BOS stands for none."""

    def __init__(self, tokens: list[bytes], pattern: str = PATTERN) -> None:
        self.tokens, self.pattern = tokens, pattern
        self.vocab, self.bos = len(tokens) + 1, len(tokens)
        ranks = {token: rank for rank, token in enumerate(tokens)}
        special = {BOS: self.bos}
        self._encoding = tiktoken.Encoding("nanochat", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int) -> Tokenizer:
        """Learn `vocab` - 257 merges; 256 bytes and BOS make up the rest. Raises ValueError when the text is too little."""
        if not 257 <= vocab <= 65536:
            raise ValueError(f"vocab {vocab} must lie between 257 (bytes and BOS) and 65536 (ids are kept in 16 bits)")
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(iter(texts), vocab_size=vocab - 1, pattern=PATTERN)
        ranks = sorted(trainer.get_mergeable_ranks(), key=lambda item: item[1])
        if len(ranks) != vocab - 1:
            raise ValueError(f"the text is too little for vocab {vocab}: only {len(ranks)} tokens were found")
        return cls([bytes(token) for token, _ in ranks])

    def encode(self, text: str) -> list[int]:
        """Token ids, without BOS. The characters of a special token are plain text here."""
        return self._encoding.encode_ordinary(text)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, without BOS: uint16. Uses all cores that this process may use."""
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        found: list[np.ndarray] = []
        for start in range(0, len(texts), BATCH):  # a list of ids takes 18 times the memory of the array
            ids = self._encoding.encode_ordinary_batch(list(texts[start : start + BATCH]), num_threads=threads)
            found += [np.array(one, dtype=np.uint16) for one in ids]
        return found

    def encode_bytes(self, raw: bytes) -> list[int]:
        """Token ids of any bytes; those that are not UTF-8 become one token each."""
        ids: list[int] = []
        while raw:
            try:
                return ids + self.encode(raw.decode("utf-8"))
            except UnicodeDecodeError as error:
                ids += self.encode(raw[: error.start].decode("utf-8"))
                ids += [self._encoding.encode_single_token(raw[i : i + 1]) for i in range(error.start, error.end)]
                raw = raw[error.end :]
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that these ids stand for; BOS adds none. Raises IndexError for an id out of range."""
        return b"".join(b"" if i == self.bos else self.tokens[i] for i in ids)

    def token_bytes(self) -> np.ndarray:
        """Bytes each token stands for: int32 (vocab,), 0 for BOS."""
        return np.array([len(token) for token in self.tokens] + [0], dtype=np.int32)

    def dump(self) -> str:
        """JSON from which `load` makes the same tokenizer."""
        return json.dumps({"pattern": self.pattern, "tokens": [token.hex() for token in self.tokens]}, indent=0) + "\n"

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `dump` wrote."""
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls([bytes.fromhex(token) for token in value["tokens"]], value["pattern"])
