"""What anybody may rely on: text survives the tokenizer, and the same text gives the same tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tokenizer import Tokenizer

TEXT = Path(__file__).read_text() * 40


SHARED = Tokenizer.train([TEXT], 300)


@given(st.binary(max_size=200))
def test_any_bytes_survive_encoding_and_decoding(raw: bytes) -> None:
    assert SHARED.decode_bytes(SHARED.encode_bytes(raw)) == raw


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_token_bytes_add_up_to_the_bytes_of_the_text(text: str) -> None:
    ids = SHARED.encode(text)
    assert SHARED.decode_bytes(ids) == text.encode()
    assert sum(SHARED.token_bytes()[i] for i in ids) == len(text.encode())
    assert SHARED.bos not in ids


def test_the_special_token_written_out_is_plain_text() -> None:
    assert SHARED.bos not in SHARED.encode("<|bos|>")


def test_the_same_text_gives_the_same_tokenizer_and_json_keeps_it(tmp_path: Path) -> None:
    assert Tokenizer.train([TEXT], 300).dump() == SHARED.dump()
    (tmp_path / "tokenizer.json").write_text(SHARED.dump())
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode(TEXT) == SHARED.encode(TEXT)
    assert loaded.vocab == 300 == len(loaded.token_bytes())
    assert len(SHARED.encode(TEXT)) < len(TEXT.encode())  # merges were learnt


@pytest.mark.parametrize("vocab", [200, 70_000])
def test_an_impossible_vocabulary_is_refused(vocab: int) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        Tokenizer.train([TEXT], vocab)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="too little"):
        Tokenizer.train(["ab"], 512)
