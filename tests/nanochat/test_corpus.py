"""Promises about the text: what is held out is not trained on, a corpus is the same every time, and wrong input is one line."""

from __future__ import annotations

import json
import random
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import corpus as nc
from nanochat.errors import DataError
from tests.nanochat.store import Store

SETTINGS = {"corpus": "files", "corpus_path": "", "corpus_url": "", "shards": 0, "train_bytes": 10_000_000}
STDLIB = Path(sysconfig.get_path("stdlib"))


def words(seed: int, number: int) -> str:
    """Paragraphs of random words, different for every seed."""
    draw = random.Random(seed)
    text = ["".join(draw.choices("abcdefghij ", k=6)) for _ in range(number)]
    return "\n\n".join(" ".join(text[at : at + 20]) for at in range(0, number, 20)) + "\n"


def load(folder: Path, **settings: Any) -> nc.Corpus:
    return nc.documents({**SETTINGS, "corpus_path": str(folder), **settings})


def shared(corpus: nc.Corpus) -> set[str]:
    """Paragraphs of some length on both sides of the split."""
    sides = [
        {body.strip() for text in part.values() for body in nc.paragraphs(text) if len(body.strip()) >= nc.TELLING}
        for part in (corpus.training, corpus.validation)
    ]
    assert all(sides)
    return sides[0] & sides[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 files: prose and code, one paragraph in all of them."""
    for number in range(120):
        path = tmp_path / "text" / f"part{number % 3}" / f"{number}.{'py' if number % 2 else 'md'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            words(number, 100)
            + "\nThis licence stands in every file of the folder, and nobody should be graded on it.\n"
        )
    return tmp_path / "text"


# --- stdlib


def test_no_paragraph_of_stdlib_validation_is_in_training_or_in_another_split() -> None:
    corpus = nc.documents({**SETTINGS, "corpus": "stdlib"})
    assert not any(name.split("/")[0] in nc.HELD_OUT for name in corpus.training)
    seen = {body.strip() for text in corpus.training.values() for body in nc.paragraphs(text)}
    for name, text in corpus.validation.items():
        mine = {body.strip() for body in nc.paragraphs(text)}
        assert not mine & seen, f"{name} shares {next(iter(mine & seen))!r}"
        seen |= mine
    assert set(corpus.kinds) == set(corpus.validation)


def test_every_split_is_full_when_only_pydoc_data_can_be_held_out(tmp_path: Path) -> None:
    shutil.copytree(STDLIB / "pydoc_data", tmp_path / "pydoc_data")
    shutil.copytree(STDLIB / "json", tmp_path / "json")
    corpus = nc.stdlib(10**9, tmp_path)
    assert all(name.startswith("json/") for name in corpus.training)
    kept = nc.without_known(corpus.validation, corpus.training)
    for split in nc.SPLITS:
        size = nc.size(text for name, text in kept.items() if nc.split_of(name) == split)
        assert size > 50_000, f"{split} holds {size} bytes"


@pytest.mark.slow
def test_the_mask_of_stdlib_names_the_held_out_modules_of_this_python() -> None:
    mask = nc.stdlib(10**9).mask
    assert str(STDLIB.resolve() / "pydoc_data") in mask
    for path in mask:
        assert Path(path).is_absolute() and Path(path).name in nc.HELD_OUT and Path(path).is_dir()
    import json as trained_on

    assert not any(Path(trained_on.__file__).is_relative_to(path) for path in mask)


def test_files_that_are_not_text_are_passed_over_and_an_empty_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_bytes(b"\xff\xfe not UTF-8")
    with pytest.raises(DataError, match="holds no training text"):
        nc.stdlib(10**9, tmp_path)
    (tmp_path / "fine.py").write_text("x = 1\n")
    with pytest.raises(DataError, match="holds no validation text"):
        nc.stdlib(10**9, tmp_path)


# --- a folder


def test_a_folder_is_split_by_file_and_nothing_stands_on_both_sides(folder: Path) -> None:
    corpus = load(folder)
    assert corpus == load(folder)
    assert not set(corpus.training) & set(corpus.validation)
    assert len(corpus.training) + len(corpus.validation) == 120
    assert 2 <= len(corpus.validation) <= 15
    assert not shared(corpus)
    assert corpus.kinds == {name: "code" if name.endswith(".py") else "prose" for name in corpus.validation}
    assert corpus.mask == [str(folder.resolve())]


def test_a_new_file_does_not_move_the_others_across_the_split(folder: Path) -> None:
    before = load(folder)
    (folder / "new.txt").write_text(words(1000, 100))
    after = load(folder)
    assert set(before.training) <= set(after.training) and set(before.validation) <= set(after.validation)


def test_hidden_files_and_files_that_are_no_text_are_left_out(folder: Path) -> None:
    before = load(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text(words(1000, 100))
    (folder / "picture.png").write_bytes(b"\x89PNG\xff\xfe" + bytes(500))
    (folder / "zeros.bin").write_bytes(bytes(500))
    assert load(folder) == before


def test_a_link_out_of_the_folder_is_hidden_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text(words(1000, 100))
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert load(folder).mask == [str(folder.resolve()), str(tmp_path.resolve() / "elsewhere.txt")]


def test_two_files_are_enough_and_one_is_not(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(words(len(name), 100) + name * 50)
        if name == "one.txt":
            with pytest.raises(DataError, match="too few documents to hold one out: split long files"):
                load(tmp_path)
    (tmp_path / "two.txt").write_text(words(9, 100))
    corpus = load(tmp_path)
    assert {*corpus.training, *corpus.validation} == {"one.txt", "two.txt"}


def test_train_bytes_bounds_the_training_text(folder: Path) -> None:
    corpus = load(folder, train_bytes=20_000)
    assert 10_000 < nc.size(corpus.training.values()) <= 20_000
    assert corpus.validation


def test_long_documents_are_cut_and_stay_on_one_side(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(words(number, 6000))
    corpus = load(tmp_path)
    assert all(
        len(text) <= nc.LONGEST + nc.SHORTEST for part in (corpus.training, corpus.validation) for text in part.values()
    )
    assert not {nc.origin(name) for name in corpus.training} & {nc.origin(name) for name in corpus.validation}
    splits: dict[str, set[str]] = {}
    for name in corpus.validation:
        splits.setdefault(nc.origin(name), set()).add(nc.split_of(name))
    assert all(len(found) == 1 for found in splits.values())
    for name in {nc.origin(name) for name in corpus.training}:
        whole = "".join(text for piece, text in sorted(corpus.training.items()) if nc.origin(piece) == name)
        assert whole == (tmp_path / name).read_text()


@given(st.text(alphabet="ab\n", max_size=400), st.integers(2, 50))
def test_pieces_put_together_are_the_text(text: str, longest: int) -> None:
    cut = nc.pieces(text * 10, longest)
    assert "".join(cut) == text * 10
    assert all(len(piece) <= longest + nc.SHORTEST for piece in cut)
    assert all(cut) or not text


def test_pieces_end_behind_paragraphs_where_there_are_some() -> None:
    text = "\n\n".join(["word " * 20] * 100)
    assert all(piece.endswith("\n\n") for piece in nc.pieces(text, 1000)[:-1])


def test_rows_say_their_name_kind_and_split(tmp_path: Path) -> None:
    rows = [
        {"text": words(n, 60), "name": f"n{n}", "kind": "code", "split": "validation" if n < 3 else "train"}
        for n in range(9)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = load(tmp_path)
    assert set(corpus.validation) == {"n0", "n1", "n2"} == set(corpus.kinds) and set(corpus.kinds.values()) == {"code"}
    assert set(corpus.training) == {f"n{n}" for n in range(3, 9)}


def test_a_bundle_gives_back_the_same_corpus(folder: Path, tmp_path: Path) -> None:
    (folder / "long.md").write_text(words(1000, 9000) + "\n\n\n  \n" + "x" * 40_000)
    before = load(folder)
    paths = nc.bundle(before, tmp_path / "bundle", most=100_000)
    assert len(paths) > 1
    after = load(tmp_path / "bundle")
    assert (after.training, after.validation, after.kinds) == (before.training, before.validation, before.kinds)


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [words(n, 60) for n in range(100)]
    parquet.write_table(pa.table({"text": texts, "other": list(range(100))}), tmp_path / "a.parquet", row_group_size=7)
    corpus = load(tmp_path)
    assert {**corpus.training, **corpus.validation} == {f"a.parquet:{n}": text for n, text in enumerate(texts)}
    assert corpus.validation and not corpus.kinds
    splits = ["validation" if n < 10 else "train" for n in range(100)]
    parquet.write_table(pa.table({"text": texts, "kind": ["prose"] * 100, "split": splits}), tmp_path / "a.parquet")
    corpus = load(tmp_path)
    assert sorted(corpus.validation.values()) == sorted(texts[:10]) and set(corpus.kinds.values()) == {"prose"}


def test_parquet_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"words": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet has no column `text`, only words"):
        load(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more than this PAR1")
    with pytest.raises(DataError, match=r"a.parquet cannot be read .*: remove or replace it") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"a.parquet: reading parquet needs pyarrow: pip install pyarrow"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "a.jsonl cannot be read"),
        ("a.jsonl", b"3\n", "a.jsonl cannot be read"),
        ("a.jsonl", b'{"body": "x"}\n', "row 0 needs a string `text`"),
        ("a.jsonl", b'{"text": "x", "split": "test"}\n', "`split` may be train or validation alone"),
        ("a.jsonl", b'{"text": "x", "name": "n"}\n' * 2, "two documents are named 'n'"),
        ("a.jsonl.xz", b"not xz", "a.jsonl.xz cannot be read"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz cannot be read"),
    ],
)
def test_rows_that_cannot_be_read_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corpus": "novels"}, "corpus 'novels': choose from stdlib, files"),
        ({"corpus": "stdlib+stdlib"}, "choose from stdlib, files"),
        ({"corpus_path": ""}, "corpus files needs corpus_path"),
        ({"corpus_path": "/no/such/folder"}, "/no/such/folder is no folder"),
        ({"corpus": "climbmix", "shards": 6543}, "shards 6543: climbmix has 1 to 6542 training shards"),
        ({"corpus": "stdlib+files", "train_bytes": 1}, "train_bytes leaves nothing for files"),
    ],
)
def test_a_wrong_corpus_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        nc.documents({**SETTINGS, **settings})


def test_data_may_not_be_prepared_inside_the_folder_that_is_hidden(folder: Path) -> None:
    with pytest.raises(DataError, match="lies inside corpus_path"):
        nc.documents({**SETTINGS, "corpus_path": str(folder)}, folder / "data")


# --- several


def test_joined_corpora_fill_up_in_order_and_share_nothing(folder: Path) -> None:
    (folder / "copy.py").write_text((STDLIB / "pydoc_data" / "topics.py").read_text())
    rows = load(folder, corpus="files+stdlib", train_bytes=2_000_000)
    sizes = {
        name: nc.size(text for key, text in rows.training.items() if key.startswith(name))
        for name in ("files/", "stdlib/")
    }
    assert sizes["files/"] > 500_000 and sizes["stdlib/"] > 500_000 and sum(sizes.values()) <= 2_000_000
    assert not shared(rows)
    assert rows.kinds.keys() == rows.validation.keys()
    assert str(folder.resolve()) in rows.mask and str(STDLIB.resolve() / "pydoc_data") in rows.mask
    assert not any(value.startswith("/") for value in rows.description.values())


# --- shards of a hub


def test_shards_are_fetched_once_and_the_last_one_is_validation(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    repo, last = nc.SHARDED["climbmix"]
    store.repo, store.bodies = repo, {}
    for number in (0, 1, last):
        texts = [words(number * 100 + n, 60) for n in range(50)] + [
            "A sentence that stands in every single shard of the hub. " * 5
        ]
        with pa.BufferOutputStream() as out:
            parquet.write_table(pa.table({"text": texts}), out, row_group_size=20)
            store.bodies[f"shard_{number:05d}.parquet"] = out.getvalue().to_pybytes()
    settings = {**SETTINGS, "corpus": "climbmix", "corpus_url": store.root, "shards": 2}
    corpus = nc.documents(settings)
    assert len(corpus.training) == 102 and len(corpus.validation) == 50
    assert {name.split(":")[0] for name in corpus.validation} == {f"shard_{last:05d}.parquet"}
    assert not shared(corpus)
    assert corpus.mask == [str(tmp_path / "nanochat" / "hub" / repo / f"shard_{last:05d}.parquet")]
    store.bodies = {}  # from now on the hub has nothing
    assert nc.documents(settings) == corpus
    assert len(nc.documents({**settings, "shards": 0, "train_bytes": 5000}).training) < 20
