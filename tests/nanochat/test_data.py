"""Promises about prepared data: the same every time, in the manifest by hash, checked when it is read, nothing scored twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nanochat import data as nd
from nanochat.corpus import split_of
from nanochat.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TINY = {**nd.SETTINGS, "context": 32, "vocab": 300, "eval_rows": 128, "train_bytes": 1_000_000}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folder_of_text(root: Path, documents: int, size: int = 4000) -> Path:
    """Text files for corpus `files`: every third is code."""
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), size=random.integers(1, 9))) for _ in range(500)]
    root.mkdir()
    for number in range(documents):
        text = " ".join(random.choice(words, size=size // 6))
        (root / f"{number:03d}.{'py' if number % 3 == 0 else 'txt'}").write_text(text)
    return root


@pytest.mark.slow
def test_preparing_twice_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    nd.prepare(tmp_path / "again", TINY)
    assert contents(tmp_path / "again") == contents(data)


@pytest.mark.slow
def test_preparing_a_prepared_folder_touches_nothing_and_other_settings_refill_it(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    nd.prepare(folder, {**TINY, "batch_tokens": 4096, "max_rows": 7, "depth": 9})
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "audit_kind.npy").unlink()
    nd.prepare(folder, TINY)
    assert contents(folder) == contents(data)
    nd.prepare(folder, {**TINY, "eval_rows": 64})
    assert np.load(folder / "search.npy").shape == (64, 33)


@pytest.mark.slow
def test_the_manifest_is_flat_and_names_what_was_used_by_hash(data: Path) -> None:
    manifest = nd.read_manifest(data)
    assert manifest
    assert {name for name, value in manifest.items() if not isinstance(value, str | int)} == {"kinds", "mask"}
    for name in (
        "settings",
        "corpus",
        "tokenizer",
        "train",
        "train_offsets",
        "search",
        "audit_kind",
        "locked",
        "token_bytes",
    ):
        assert len(str(manifest[name])) == 64
    assert manifest["search_rows"] == 128 and manifest["corpus_name"] == "stdlib"
    assert not any("/" in value for value in manifest.values() if isinstance(value, str))  # no paths of this machine
    assert all(Path(path).is_absolute() for path in manifest["mask"])


def test_training_tokens_are_the_documents_one_behind_the_other(data: Path) -> None:
    tokens, offsets, manifest = np.load(data / "train.npy"), np.load(data / "train_offsets.npy"), nd.read_manifest(data)
    assert manifest and tokens.dtype == np.uint16 and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    assert len(offsets) == manifest["train_documents"] and tokens.size == manifest["train_tokens"]
    assert not (tokens == manifest["bos"]).any()
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    first = tokenizer.decode_bytes(tokens[: offsets[1]].tolist()).decode()
    assert tokenizer.encode(first) == tokens[: offsets[1]].tolist()
    assert manifest["train_bytes"] == int(np.load(data / "token_bytes.npy")[tokens].sum()) <= TINY["train_bytes"]


def test_validation_rows_begin_with_bos_and_none_scores_text_of_another(data: Path) -> None:
    manifest, size = nd.read_manifest(data), np.load(data / "token_bytes.npy")
    assert manifest
    seen: set[bytes] = set()
    for split in nd.SPLITS:
        rows, kinds = np.load(data / f"{split}.npy"), np.load(data / f"{split}_kind.npy")
        assert rows.shape == (128, 33) and (rows[:, 0] == manifest["bos"]).all()
        assert kinds.shape == (128,) and set(kinds) == {0, 1} and kinds.dtype == np.uint8
        assert manifest[f"{split}_bytes"] == size[rows[:, 1:]].sum()
        bodies = {row.tobytes() for row in rows[:, 1:]}
        assert len(bodies) == 128 and not bodies & seen
        seen |= bodies


def test_prose_and_code_are_packed_apart_in_proportion_to_their_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer([bytes([i]) for i in range(256)])
    texts = {f"{i}": ("p" if i % 4 else "c") * (50 + i) for i in range(200)}
    kinds = {name: "code" if text[0] == "c" else "prose" for name, text in texts.items()}
    settings = {**nd.SETTINGS, "context": 16, "eval_rows": 100}
    rows, numbers = nd.eval_rows(tokenizer, texts, kinds, "search", settings)
    assert rows.shape == (100, 17) and (numbers == 1).sum() == pytest.approx(25, abs=1)
    for row, number in zip(rows, numbers, strict=True):
        assert set(row) <= {tokenizer.bos, ord("pc"[number])}
    assert np.abs(np.add.reduceat(numbers, np.arange(0, 100, 20)) - 5.0).max() <= 1  # alternating
    everything, _ = nd.eval_rows(tokenizer, texts, kinds, "search", {**settings, "eval_rows": 3000})
    assert 1 <= len(everything) / ((sum(map(len, texts.values())) + 200) / 17) < 1.1  # a few more BOS than documents
    with pytest.raises(nd.DataError, match=r"split search holds only \d+ of 9999 validation rows"):
        nd.eval_rows(tokenizer, texts, kinds, "search", {**settings, "eval_rows": 9999})


def test_a_folder_of_files_is_prepared_and_its_held_out_documents_stay_out(tmp_path: Path) -> None:
    settings = {**TINY, "corpus": "files", "corpus_path": str(folder_of_text(tmp_path / "text", 150)), "eval_rows": 32}
    manifest = nd.prepare(tmp_path / "data", settings)
    assert manifest["train_documents"] + manifest["validation_documents"] == 150
    assert str(tmp_path / "text") in manifest["mask"]
    tokenizer = Tokenizer.load(tmp_path / "data" / "tokenizer.json")
    training = tokenizer.decode_bytes(np.load(tmp_path / "data" / "train.npy").tolist())
    scored = 0
    for split in nd.SPLITS:
        rows = np.load(tmp_path / "data" / f"{split}.npy")
        for row in rows[:, 1:]:
            piece = tokenizer.decode_bytes(
                row[: np.flatnonzero(np.append(row, tokenizer.bos) == tokenizer.bos)[0]].tolist()
            )
            assert len(piece) < 20 or piece not in training
            scored += 1
    assert scored >= 24


def test_splits_go_by_name_unless_documents_are_few() -> None:
    many = {f"{i}.txt": "x" * 50 for i in range(300)}
    parts = nd.split_validation(many, split_of)
    assert all(split_of(name) == split for split, part in parts.items() for name in part)
    few = {f"novel#{i:04d}": "x" * (100 + i % 3) for i in range(30)}
    parts = nd.split_validation(few, split_of)
    assert [len(part) for part in parts.values()] == [10, 10, 10]
    assert sorted(name for part in parts.values() for name in part) == sorted(few)
    assert [max(part) for part in parts.values()] == ["novel#0009", "novel#0019", "novel#0029"]


def test_a_corpus_that_is_too_small_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for number in range(4):
        (tmp_path / "text" / f"{number}.txt").write_text("the same few words " * 30 + str(number))
    path = tmp_path / "scale.json"
    for extra, message in (({}, "the text is too little"), ({"vocab": 260}, "validation rows")):
        path.write_text(json.dumps({"corpus": "files", "corpus_path": str(tmp_path / "text"), **extra}))
        words = [
            sys.executable,
            "-P",
            "-m",
            "nanochat.data",
            "prepare",
            "--data",
            str(tmp_path / "data"),
            "--scale",
            str(path),
        ]
        done = subprocess.run(words, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr and done.stderr.count("\n") == 1


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


def test_large_training_tokens_are_mapped_and_checked_by_a_sample(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    monkeypatch.setattr(nd, "WHOLE_CHECK", 1000)
    tokens = nd.load_array(folder, "train")
    assert isinstance(tokens.base, np.memmap) and not tokens.flags.writeable
    whole = np.array(tokens)
    for broken in (whole[:-1], np.append(whole, 1), np.where(np.arange(whole.size) < whole.size // 2, whole, 0)):
        np.save(folder / "train.npy", broken.astype(np.uint16))
        with pytest.raises(nd.DataError, match="not what the manifest says"):
            nd.load_array(folder, "train")
    np.save(folder / "train.npy", whole)
    assert (nd.load_array(folder, "train") == whole).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot read"), ('{"colour": 1}', "unknown setting 'colour'"), ('{"vocab": "x"}', "give a positive integer"),
     ('{"context": 0}', "give a positive integer"), ('{"eval_rows": true}', "give a positive integer"),
     ("[1]", "must be a JSON object"), ('{"shards": -1}', "give an integer, 0 or more"), ('{"corpus_path": 3}', "give a text")],
)  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scale.json"
    path.write_text(text)
    with pytest.raises(nd.DataError, match=message):
        nd.read_settings(path)


def test_zero_shards_and_empty_texts_are_defaults(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    path.write_text('{"shards": 0, "corpus_path": "", "corpus": "debian-docs+debian-source"}')
    assert nd.read_settings(path) == {**nd.SETTINGS, "corpus": "debian-docs+debian-source"}
