"""Documents: where the text comes from, what of it is held out, and what must be hidden from training for that.

Called by `data.prepare`. Notable choices: split by source (module, file, page), never by position; a paragraph that training holds
too does not count as held out; the first corpus of `a+b` goes in whole and the next ones fill up to `train_bytes`.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import hashlib
import itertools
import json
import lzma
import math
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat import hub
from nanochat.errors import DataError

SPLITS = ("search", "audit", "locked")
CORPORA = ("stdlib", "files", "climbmix", "fineweb-edu", "debian-docs", "debian-source")
SHARDED = {
    "climbmix": ("karpathy/climbmix-400b-shuffle", 6542),
    "fineweb-edu": ("karpathy/fineweb-edu-100b-shuffle", 1822),
}
"""Data set and number of its last shard, which is validation; those before it are training."""
SHARD_TEXT = 200_000_000  # bytes of text in a shard, at least: how many shards `shards: 0` fetches for train_bytes

HELD_OUT = ("pydoc_data", "idlelib", "tkinter", "turtledemo")
"""Modules that only validation reads. Some systems ship the last three apart; pydoc_data alone is enough."""
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "_bundled", "encodings"}
"""Folders nobody reads: foreign packages, tests, and the character tables of `encodings`, which are hardly text."""
PYTHONS = (
    "/usr/lib/python3*",
    "/usr/local/lib/python3*",
    *("/opt/" + "*/" * depth + "lib/python3*" for depth in range(4)),
)
"""Where other Pythons keep copies of the same modules."""

SHORTEST = 200  # characters; shorter documents are dropped
LONGEST = 16_384  # characters of a document, except stdlib's: some 2 to 3 rows of the largest context
TELLING = 64  # characters; a shorter paragraph (`return 0;`) may stand on both sides of the split
VALIDATION_BYTES = 24_000_000  # at most so much held-out text of a corpus: three splits of 1000 rows of 2048 tokens
ONE_IN = 20  # documents of a folder: one is held out
CODE = set(
    re.findall(
        r"\w+",
        "c h cc cpp hpp cu py pyx rs go java js ts lisp el scm rkt pl pm sh s asm rb lua ml hs sql f90 m php swift cs",
    )
)
"""Suffixes, lower case, of files that are code and not prose."""


@dataclass
class Corpus:
    """Documents by name, split by source and deduplicated across the split."""

    training: dict[str, str]
    validation: dict[str, str]
    kinds: dict[str, str] = field(default_factory=dict)
    """Of validation documents: "prose" or "code"; empty where nobody said."""
    mask: list[str] = field(default_factory=list)
    """Absolute paths whose content holds validation text: a training run must not see them."""
    description: dict[str, str] = field(default_factory=dict)
    """Short strings for the manifest; no paths of this machine."""


def documents(settings: dict[str, Any], folder: Path | None = None) -> Corpus:
    """What `settings` ask for: corpus (joined by "+"), corpus_path, corpus_url, shards, train_bytes.

    `folder` is the one being prepared: `files` may not lie around it, since the mask would hide it. Raises DataError.
    """
    names = settings["corpus"].split("+")
    for name in names:
        if name not in CORPORA or names.count(name) > 1:
            raise DataError(f"corpus {settings['corpus']!r}: choose from {', '.join(CORPORA)}, or several joined by +")
    whole = Corpus({}, {}, description={"corpus_name": settings["corpus"]})
    room = settings["train_bytes"]
    for name in names:
        if room <= 0:
            raise DataError(
                f"corpus {settings['corpus']!r}: train_bytes leaves nothing for {name}: raise it or leave {name} out"
            )
        part = _source(name, settings, room, folder)
        room -= size(part.training.values())
        label = f"{name}/" if len(names) > 1 else ""
        whole.training |= {label + key: text for key, text in part.training.items()}
        whole.validation |= {label + key: text for key, text in part.validation.items()}
        whole.kinds |= {label + key: kind for key, kind in part.kinds.items()}
        whole.mask += [path for path in part.mask if path not in whole.mask]
        for key, value in part.description.items():
            said = whole.description.setdefault(key, value)
            whole.description[key] = said if value in said else f"{said}, {value}"
    whole.validation = without_known(whole.validation, whole.training, 0 if names == ["stdlib"] else TELLING)
    if names != ["stdlib"]:
        whole.training, whole.validation = split_long(whole.training), split_long(whole.validation)
    whole.kinds = {key: whole.kinds[origin(key)] for key in whole.validation if origin(key) in whole.kinds}
    for part_name, found in (("training", whole.training), ("validation", whole.validation)):
        if not found:
            raise DataError(
                f"corpus {settings['corpus']!r} holds no {part_name} text: give it more documents of {SHORTEST} characters"
            )
    return whole


def _source(name: str, settings: dict[str, Any], room: int, folder: Path | None) -> Corpus:
    if name == "stdlib":
        return stdlib(room)
    if name == "files":
        return files(settings["corpus_path"], room, folder)
    if name in SHARDED:
        return sharded(name, settings["corpus_url"], settings["shards"], room)
    from nanochat import debian  # here, since it uses this module

    return debian.docs(room) if name == "debian-docs" else debian.source(room)


# --- the sources -----------------------------------------------------------------------------------------------------


def stdlib(room: int, root: Path | None = None) -> Corpus:
    """The interpreter's own library: a document a module; `pydoc_data/topics.py` holds one a topic. Raises DataError."""
    root = root or Path(sysconfig.get_path("stdlib"))
    training: dict[str, str] = {}
    validation: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        # _sysconfigdata and config-* describe how this one interpreter was built: paths and flags, different everywhere
        if LEFT_OUT & set(parts) or parts[0].startswith(("_sysconfigdata", "config-", "lib-dynload")):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        name = "/".join(parts)
        if name == "pydoc_data/topics.py":
            validation |= {f"{name}:{topic}": body for topic, body in sorted(_topics(text).items())}
        elif parts[0] in HELD_OUT:
            validation[name] = text
        else:
            training[name] = text
    if not training or not validation:
        missing = "validation" if training else "training"
        raise DataError(f"{root} holds no {missing} text: use a Python that ships its library as source")
    kinds = {name: "prose" if ":" in name else "code" for name in validation}
    around = [f"{Path(sys.base_prefix).parent}/*/lib/python3*", *PYTHONS]
    others = sorted(str(path) for pattern in around for path in Path("/").glob(pattern[1:]))
    mask = [str(Path(at) / name) for at in dict.fromkeys([str(root.resolve()), *others]) for name in HELD_OUT]
    held = " ".join(sorted({name.split("/")[0] for name in validation}))
    description = {"corpus_python": platform.python_version(), "held_out": held}
    return Corpus(
        at_most(training, room), validation, kinds, [path for path in mask if os.path.exists(path)], description
    )


def _topics(source: str) -> dict[str, str]:
    """The one dict literal of pydoc's help topics, read without running it."""
    for node in ast.parse(source).body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            with contextlib.suppress(ValueError):
                return {str(key): str(body) for key, body in ast.literal_eval(value).items()}
    return {}


def files(path: str, room: int, folder: Path | None = None) -> Corpus:
    """A folder of UTF-8 text files, .parquet (column `text`) and .jsonl, .jsonl.gz, .jsonl.xz (key `text`). Raises DataError.

    A text file is a document, and so is a row. Rows may say `name`, `kind` ("prose" or "code") and `split` ("train" or
    "validation"); where none is said, one document of 20 is held out by the hash of its name. Hidden files are left out.
    """
    if not path:
        raise DataError("corpus files needs corpus_path: name a folder of text, .parquet or .jsonl files")
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"{root} is no folder: set corpus_path to a folder of text, .parquet or .jsonl files")
    if folder is not None and folder.resolve().is_relative_to(root):
        raise DataError(
            f"{folder} lies inside corpus_path {root}, which is hidden from training: prepare into another folder"
        )
    found = {"/".join(p.relative_to(root).parts): p for p in root.rglob("*") if p.is_file()}
    found = {name: p for name, p in found.items() if not any(part.startswith(".") for part in name.split("/"))}
    corpus = Corpus({}, {})
    left, rest = room, VALIDATION_BYTES
    for row in itertools.chain.from_iterable(_rows(found[name], name) for name in by_hash(found)):
        name, text = row["name"], row["text"]
        split = row.get("split") or ("validation" if part_of(name, ONE_IN) == 0 else "train")
        if name in corpus.training or name in corpus.validation:
            raise DataError(f"{root}: two documents are named {name!r}: give each row a name of its own")
        if split == "train":
            left -= len(text.encode())
            if left >= 0 or not corpus.training:
                corpus.training[name] = text
        elif row.get("split") or (rest := rest - len(text.encode())) >= 0:
            corpus.validation[name] = text
            if row.get("kind"):
                corpus.kinds[name] = row["kind"]
        if left < 0 and rest < 0:
            break
    if not corpus.validation and len(corpus.training) > 1:  # a handful of files: hold out one of them
        name = by_hash(corpus.training)[0]
        corpus.validation[name] = corpus.training.pop(name)
    if not corpus.training or not corpus.validation:
        raise DataError(f"{root} holds too few documents to hold one out: split long files into several")
    elsewhere = {str(p.resolve()) for p in found.values() if not p.resolve().is_relative_to(root)}
    corpus.mask = [str(root), *sorted(elsewhere)]
    corpus.description = {"held_out": f"{len(corpus.validation)} documents of the folder"}
    return corpus


def _rows(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """{"name", "text", "kind"?, "split"?} of one file; nothing for a file that is no UTF-8 text."""
    suffixes = "".join(path.suffixes[-2:])
    try:
        if path.suffix == ".parquet":
            rows: Iterable[dict[str, Any]] = _parquet(path)
        elif path.suffix == ".jsonl" or suffixes in (".jsonl.gz", ".jsonl.xz"):
            opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
            with opened(path, "rt", encoding="utf-8") as lines:  # type: ignore[operator]
                rows = [json.loads(line) for line in lines]
        else:
            text = path.read_bytes().decode("utf-8")
            if "\0" not in text:
                yield {"name": name, "text": text, "kind": "code" if path.suffix[1:].lower() in CODE else "prose"}
            return
        for number, row in enumerate(rows):
            if not isinstance(row.get("text"), str) or row.get("split") not in (None, "train", "validation"):
                raise DataError(
                    f"{path}: row {number} needs a string `text`, and `split` may be train or validation alone"
                )
            yield {**row, "name": row.get("name") or f"{name}:{number}"}
    except UnicodeDecodeError:
        return
    except (OSError, EOFError, lzma.LZMAError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}): remove or replace it") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    """Rows by row group, with the columns we know. Raises DataError, and what pyarrow raises (ValueError, OSError)."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from error
    with parquet.ParquetFile(path) as file:
        columns = [name for name in ("text", "name", "kind", "split") if name in file.schema_arrow.names]
        if "text" not in columns:
            raise DataError(f"{path} has no column `text`, only {', '.join(file.schema_arrow.names)}")
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns).to_pylist()


def sharded(name: str, root: str, shards: int, room: int) -> Corpus:
    """Shards of a hub's data set: the first `shards` (0: as many as `room` bytes need) for training, the last for validation."""
    repo, last = SHARDED[name]
    wanted = shards or min(last, math.ceil(room / SHARD_TEXT))
    if not 0 < wanted <= last:
        raise DataError(f"shards {shards}: {name} has 1 to {last} training shards")
    paths = hub.fetch(root, repo, [f"shard_{n:05d}.parquet" for n in [*range(wanted), last]], cache("hub") / repo)

    def read(paths: list[Path], most: int) -> dict[str, str]:
        kept: dict[str, str] = {}
        for row in itertools.chain.from_iterable(_rows(path, path.name) for path in paths):
            most -= len(row["text"].encode())
            if most < 0 and kept:
                break
            kept[row["name"]] = row["text"]
        return kept

    description = {"held_out": paths[-1].name, "corpus_shards": str(wanted)}
    return Corpus(read(paths[:-1], room), read(paths[-1:], VALIDATION_BYTES), {}, [str(paths[-1])], description)


def cache(kind: str) -> Path:
    """Where downloads are kept for all sessions of this user: XDG_CACHE_HOME or ~/.cache, then nanochat/KIND."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanochat" / kind


def bundle(corpus: Corpus, folder: Path, most: int = 100_000_000) -> list[Path]:
    """Write a corpus as .jsonl.xz files of at most `most` bytes of text each, which `files` reads back with the same split.

    In the order of the names, so that similar files lie within xz's window: kernel source shrinks to an eighth.
    """
    parts = (("train", corpus.training), ("validation", corpus.validation))
    rows = sorted((name, split, text) for split, part in parts for name, text in part.items())
    groups: list[list[str]] = [[]]
    filled = 0
    for name, split, text in rows:
        kind = {"kind": corpus.kinds[name]} if name in corpus.kinds else {}
        filled += len(text.encode())
        if filled > most and groups[-1]:
            groups.append([])
            filled = len(text.encode())
        groups[-1].append(json.dumps({"name": name, "split": split, **kind, "text": text}, ensure_ascii=False))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part{number:02d}.jsonl.xz" for number in range(len(groups))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_packed, paths, groups))
    return paths


def _packed(path: Path, lines: list[str]) -> None:
    with lzma.open(path, "wt", preset=9, encoding="utf-8") as handle:
        handle.writelines(line + "\n" for line in lines)


# --- documents -------------------------------------------------------------------------------------------------------


def paragraphs(text: str) -> list[str]:
    """What blank lines separate."""
    return re.split(r"\n[ \t]*\n", text)


def fresh(text: str, known: set[int], telling: int) -> str:
    """`text` without the paragraphs in `known`, to which the rest of its paragraphs of `telling` characters are added."""
    kept = []
    for paragraph in paragraphs(text):
        body = paragraph.strip()
        if len(body) >= telling:
            if (seen := mark(body)) in known:
                continue
            known.add(seen)
        kept.append(paragraph)
    return "\n\n".join(kept)


def mark(body: str) -> int:
    """64 bits that stand for a paragraph: ten million of them collide with a chance of three in a million."""
    return int.from_bytes(hashlib.blake2b(body.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def without_known(documents: dict[str, str], training: dict[str, str], telling: int = 0) -> dict[str, str]:
    """The documents without the paragraphs that training, or an earlier one of them, holds too; short rests are dropped.

    Paragraphs of fewer than `telling` characters stay.
    """
    bodies = (paragraph.strip() for text in training.values() for paragraph in paragraphs(text))
    known = {mark(body) for body in bodies if len(body) >= telling}
    rests = {name: fresh(text, known, telling) for name, text in documents.items()}
    return {name: rest for name, rest in rests.items() if len(rest) >= SHORTEST}


def split_long(documents: dict[str, str]) -> dict[str, str]:
    """Documents of at most LONGEST characters or a little more: the pieces of a longer one are named NAME#0001 and so on."""
    kept: dict[str, str] = {}
    for name, text in documents.items():
        cut = pieces(text)
        if len(cut) == 1:
            kept[name] = text
        else:
            kept |= {f"{name}#{number:04d}": piece for number, piece in enumerate(cut)}
    return kept


def pieces(text: str, longest: int = LONGEST) -> list[str]:
    """`text` cut behind paragraphs, else behind lines, else anywhere; pieces have at most longest + SHORTEST characters."""
    found, start = [], 0
    while len(text) - start > longest + SHORTEST:  # so the last piece is never a mere scrap
        low, high = start + longest // 2, start + longest
        at = max(text.rfind("\n\n", low, high) + 2, low)
        if at <= low:
            at = max(text.rfind("\n", low, high) + 1, low)
        at = at if at > low else high
        found.append(text[start:at])
        start = at
    return [*found, text[start:]]


def origin(name: str) -> str:
    """The document that a piece was cut from."""
    return re.sub(r"#\d{4,}$", "", name)


def split_of(name: str) -> str:
    """Which validation split a document belongs to: fixed by its name alone; pieces of one document stay together."""
    return SPLITS[part_of(origin(name), len(SPLITS))]


def part_of(name: str, parts: int) -> int:
    """Which of `parts` equal shares a name falls into."""
    return int(_sha(name)[:8], 16) % parts


def by_hash(names: Iterable[str]) -> list[str]:
    """Names in an order that looks random and never changes."""
    return sorted(names, key=_sha)


def at_most(documents: dict[str, str], most: int) -> dict[str, str]:
    """As many documents, in hash order, as fit into `most` bytes; at least one."""
    kept, total = {}, 0
    for name in by_hash(documents):
        total += len(documents[name].encode())
        if kept and total > most:
            break
        kept[name] = documents[name]
    return kept


def size(texts: Iterable[str]) -> int:
    """Bytes of UTF-8."""
    return sum(len(text.encode()) for text in texts)


def _sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
