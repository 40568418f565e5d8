"""Text to token rows: the settings of a scale, and the folder of prepared data that feeder and scorer read.

Called by the laboratory as `python -P -m nanochat.data prepare|feed`, and by train.py, which gets its rows from a feeder
(`Feed`) and never holds the corpus. Notable choices:
- everything is hashed into the manifest, and checked again before it is used;
- validation rows are packed as training rows are, prose and code apart, and every one is an even sample of its split.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.budget import Budget
from nanochat.errors import DataError
from nanochat.feeder import Feed, Feeder, FeedError
from nanochat.packing import Rows

__all__ = [
    "BUDGET",
    "SPLITS",
    "DataError",
    "Feed",
    "FeedError",
    "default_folder",
    "load_array",
    "prepare",
    "read_settings",
]

SPLITS = ("search", "audit", "locked")
KINDS = ("prose", "code")
"""What the numbers in `<split>_kind.npy` stand for. Documents of which nobody said are prose."""
SETTINGS: dict[str, Any] = {
    "corpus": "stdlib",  # also files, climbmix, fineweb-edu, debian-docs, debian-source, or several joined by "+"
    "corpus_path": "",  # folder of corpus `files`
    "corpus_url": "",  # root of the hub for climbmix and fineweb-edu; empty: the usual one
    "shards": 0,  # of climbmix or fineweb-edu; 0: as many as train_bytes need
    "vocab": 512,
    "context": 64,  # tokens a row is conditioned on and scored over
    "depth": 2,  # the one dial of the model
    "eval_rows": 1024,  # rows of each validation split
    "train_bytes": 12_000_000,  # at most so much training text
    "max_rows": 256,  # largest batch that the feeder serves
    "batch_tokens": 1024,  # tokens of a step of the optimiser
    "core_path": "",  # the published folder eval_bundle, for split `core`; empty: that split cannot be scored
    "core_examples": 500,  # at most so many of each of its tasks
}
"""What a scale may set (its `args`), with the defaults of scale `cpu`."""
PREPARED = ("corpus", "corpus_path", "corpus_url", "shards", "vocab", "context", "eval_rows", "train_bytes")
"""Settings that prepared data depends on, and core_path where it is given."""
FORMAT = 3
"""Of the prepared files; another number prepares them anew."""
BUDGET = '{"kind": "tokens", "amount": 409600}'
"""Used when a person trains by hand and gives none."""

TOKENIZER_BYTES = 6000  # of training text, for each token of the vocabulary, from which the merges are learnt
WHOLE_CHECK = 32 << 20  # bytes; of a larger array only a sample is hashed when it is loaded
STARTUP_SECONDS = 120.0


def read_settings(path: str | Path | None) -> dict[str, Any]:
    """`SETTINGS` overlaid with the JSON object in `path`. Raises DataError naming an unknown setting or impossible value."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the scale's settings: {error}") from error
    if not isinstance(given, dict):
        raise DataError(f"{path}: the scale's settings must be a JSON object")
    for name, value in given.items():
        if name not in SETTINGS:
            raise DataError(f"{path}: unknown setting {name!r}: choose from {', '.join(SETTINGS)}")
        least = min(1, SETTINGS[name]) if isinstance(SETTINGS[name], int) else 0
        if type(value) is not type(SETTINGS[name]) or (isinstance(value, int) and value < least):
            needed = (
                "a text"
                if isinstance(SETTINGS[name], str)
                else "a positive integer"
                if least
                else "an integer, 0 or more"
            )
            raise DataError(f"{path}: setting {name} cannot be {value!r}: give {needed}")
    return {**SETTINGS, **given}


def settings_hash(settings: dict[str, Any]) -> str:
    """Hash of those settings that prepared data depends on."""
    given = ["core_path"] if settings["core_path"] else []
    wanted = {name: settings[name] for name in [*PREPARED, *given]} | {"format": FORMAT}
    return _sha(json.dumps(wanted, sort_keys=True).encode())


# --- prepare ---------------------------------------------------------------------------------------------------------


def prepare(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Fill `folder` and return its manifest; at once when it is there already with these settings. Raises DataError.

    train.npy: uint16, all documents one behind the other, without BOS. train_offsets.npy: int64, where each begins.
    search, audit, locked.npy: uint16, rows x (context + 1), each beginning with BOS; <split>_kind.npy: uint8, index into KINDS
    of each row. token_bytes.npy: int32, bytes of each token. tokenizer.json. core.json, where core_path is given: the tasks of
    CORE. And last manifest.json: hashes and counts, and in `mask` the paths (absolute) whose content holds validation text.
    Every file is renamed into place and depends on the text alone, so that two at a time do no harm.
    """
    manifest = read_manifest(folder)
    if (
        manifest
        and manifest.get("settings") == settings_hash(settings)
        and all((folder / f).is_file() for f in _files(settings))
    ):
        return manifest
    from nanochat import core, corpus  # here, since the feeder and the scorer do without these
    from nanochat.tokenizer import Tokenizer

    bundle = Path(settings["core_path"]).expanduser().resolve() if settings["core_path"] else None
    if bundle and folder.resolve().is_relative_to(bundle):
        raise DataError(
            f"{folder} lies inside core_path {bundle}, which is hidden from training: prepare into another folder"
        )
    tasks = core.dump(core.read_bundle(bundle)) if bundle else b""
    found = corpus.documents(settings, folder)
    sample = corpus.at_most(found.training, TOKENIZER_BYTES * settings["vocab"])
    try:
        tokenizer = Tokenizer.train(sample.values(), settings["vocab"])
    except ValueError as error:
        raise DataError(f"corpus {settings['corpus']}: {error}") from error
    arrays = {"token_bytes": tokenizer.token_bytes()}
    for split, texts in split_validation(found.validation, corpus.split_of).items():
        arrays[split], arrays[f"{split}_kind"] = eval_rows(tokenizer, texts, found.kinds, split, settings)
    folder.mkdir(parents=True, exist_ok=True)
    # sorted by name, neighbours are alike: so rows that are spread evenly see some of everything
    training = dict(sorted(found.training.items()))
    pieces = tokenizer.encode_many(list(training.values()))
    sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
    arrays["train_offsets"] = np.cumsum(sizes) - sizes
    _save(folder, "train", pieces, (int(sizes.sum()),), np.dtype(np.uint16))
    for name, array in arrays.items():
        _save(folder, name, [array], array.shape, array.dtype)
    with _renamed(folder / "tokenizer.json") as handle:
        handle.write(tokenizer.dump().encode())
    if bundle:
        with _renamed(folder / "core.json") as handle:
            handle.write(tasks)
    train = np.load(folder / "train.npy", mmap_mode="r")
    listing = hashlib.sha256()
    for part in (training, found.validation):
        for name, body in part.items():
            listing.update(json.dumps([name, _sha(body.encode("utf-8", "surrogatepass"))]).encode())
    manifest = {
        "settings": settings_hash(settings),
        "corpus": listing.hexdigest(),
        "tokenizer": _sha(tokenizer.dump().encode()),
        "train": _sha(train),
        "train_sample": _sample(train),
        **{name: _sha(array) for name, array in arrays.items()},
        **found.description,
        "kinds": list(KINDS),
        "bos": tokenizer.bos,
        "train_documents": len(training),
        "train_tokens": int(train.size),
        "train_bytes": int(sum(arrays["token_bytes"][piece].sum() for piece in pieces)),
        "validation_documents": len(found.validation),
        **{f"{split}_rows": int(arrays[split].shape[0]) for split in SPLITS},
        **{f"{split}_bytes": int(arrays["token_bytes"][arrays[split][:, 1:]].sum()) for split in SPLITS},
        **({"core": _sha(tasks)} if bundle else {}),
        "mask": [*found.mask, *([str(bundle)] if bundle else [])],
    }
    with _renamed(folder / "manifest.json") as handle:
        handle.write((json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def split_validation(texts: dict[str, str], split_of: Callable[[str], str]) -> dict[str, dict[str, str]]:
    """Validation documents of each split: by their names alone, unless so few of them leave a split with less than half its share.

    Then three stretches of equal size of all documents in order, so that at most two documents, in pieces, lie in two splits.
    """
    ordered = dict(sorted(texts.items()))
    by_name = {split: {name: text for name, text in ordered.items() if split_of(name) == split} for split in SPLITS}
    sizes = {split: sum(map(len, part.values())) for split, part in by_name.items()}
    total = sum(sizes.values())
    if min(sizes.values()) >= total / len(SPLITS) / 2:
        return by_name
    stretches: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    before = 0
    for name, text in ordered.items():
        stretches[SPLITS[(before + len(text) // 2) * len(SPLITS) // total]][name] = text
        before += len(text)
    return stretches


def eval_rows(
    tokenizer: Any, texts: dict[str, str], kinds: dict[str, str], split: str, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, kinds) of one validation split: at most `eval_rows` rows, each kind's share of them that of its text.

    No token is in two rows. Rows of the kinds alternate. Raises DataError when there are fewer than a quarter of them: the noise
    of such a small evaluation would drown everything.
    """
    context, wanted = settings["context"], settings["eval_rows"]
    packed = []
    for kind in KINDS:
        names = [name for name in texts if kinds.get(name, KINDS[0]) == kind]
        pieces = tokenizer.encode_many([texts[name] for name in names])
        sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        if not sizes.sum():
            packed.append(np.empty((0, context + 1), dtype=np.uint16))
            continue
        rows = Rows(np.concatenate(pieces), np.cumsum(sizes) - sizes, context, tokenizer.bos, seed=0, endless=False)
        packed.append(rows.take(2 * int((sizes + 1).sum()) // context + 2))  # all of them: half a row is text at least
    available = sum(map(len, packed))
    if available < max(1, wanted // 4):
        raise DataError(
            f"corpus {settings['corpus']}: split {split} holds only {available} of {wanted} validation rows: "
            "hold out more text (stdlib: install idlelib), or lower eval_rows"
        )
    # any first rows of an epoch are an even sample of it
    packed = [part[: round(min(wanted, available) * len(part) / available)] for part in packed]
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in packed])
    order = np.argsort(places, kind="stable")
    numbers = np.repeat(np.arange(len(KINDS), dtype=np.uint8), [len(part) for part in packed])
    return np.concatenate(packed)[order], numbers[order]


# --- the folder ------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared folder; None when there is none or it is half a file."""
    try:
        value = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def load_array(folder: Path, name: str) -> np.ndarray:
    """One of the arrays that prepare wrote, checked against the manifest; `train` stays on disk (a memory map).

    Of more than WHOLE_CHECK bytes, a sample is checked: that takes milliseconds and finds a file that is cut off, of another
    corpus or in part of one; no training process can write to the folder anyway. Raises DataError.
    """
    manifest = read_manifest(folder)
    remedy = f"run `python -m nanochat.data prepare --data {folder}`"
    if manifest is None:
        raise DataError(f"{folder} holds no manifest.json: {remedy} first")
    try:
        array = np.load(folder / f"{name}.npy", mmap_mode="r" if name == "train" else None)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/{name}.npy cannot be read ({error}): delete the folder and {remedy}") from error
    sampled = array.nbytes > WHOLE_CHECK and f"{name}_sample" in manifest
    if (_sample(array) if sampled else _sha(array)) != manifest.get(f"{name}_sample" if sampled else name):
        raise DataError(f"{folder}/{name}.npy is not what the manifest says: delete the folder and {remedy}")
    return np.asarray(array)


def checked(folder: Path, name: str) -> Path:
    """Where NAME.json lies that prepare wrote, its content checked against the manifest. Raises DataError."""
    manifest, path = read_manifest(folder) or {}, folder / f"{name}.json"
    if name == "core" and name not in manifest:
        raise DataError(
            f"{folder} holds no tasks of CORE: set core_path to the published folder eval_bundle and prepare again"
        )
    try:
        found = _sha(path.read_bytes())
    except OSError as error:
        found = error.strerror
    if found != manifest.get(name):
        raise DataError(
            f"{path} is not what the manifest says: delete the folder and run `python -m nanochat.data prepare --data {folder}`"
        )
    return path


def _files(settings: dict[str, Any]) -> list[str]:
    arrays = ["train", "train_offsets", "token_bytes", *SPLITS, *(f"{split}_kind" for split in SPLITS)]
    return [f"{name}.npy" for name in arrays] + ["tokenizer.json"] + (["core.json"] if settings["core_path"] else [])


def _sha(raw: bytes | np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(raw).data if isinstance(raw, np.ndarray) else raw).hexdigest()


def _sample(array: np.ndarray) -> str:
    """Hash of size, type and 65 even blocks of 64 KiB, the first and the last among them."""
    flat = array.reshape(-1).view(np.uint8)
    block = 1 << 16
    starts = np.linspace(0, max(0, flat.size - block), 65).astype(int)
    return _sha(
        f"{array.shape} {array.dtype}".encode() + b"".join(flat[start : start + block].tobytes() for start in starts)
    )


def _save(folder: Path, name: str, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """One array, in parts, as NAME.npy."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with _renamed(folder / f"{name}.npy") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for part in parts:
            handle.write(np.ascontiguousarray(part, dtype=dtype).data)


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Any]:
    """A binary file that appears under `path` whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            yield handle
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# --- commands --------------------------------------------------------------------------------------------------------


def default_folder(settings: dict[str, Any]) -> Path:
    """Where a person's own runs keep their data: NANOCHAT_DATA, else a folder in the user's cache."""
    named = os.environ.get("NANOCHAT_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "nanochat" / settings_hash(settings)[:12]


def training_rows(folder: Path, context: int, seed: int) -> Rows:
    """The rows that a feeder serves. Raises DataError."""
    tokens, starts = load_array(folder, "train"), load_array(folder, "train_offsets")
    return Rows(tokens, starts, context, (read_manifest(folder) or {})["bos"], seed)


def feed(args: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> None:
    """Be the feeder of one training run. Raises DataError, ValueError."""
    budget = Budget.parse(args.budget)
    rows = training_rows(folder, settings["context"], args.seed)
    budget.tokens, budget.steps = args.tokens, args.steps
    for start in range(0, args.tokens // settings["context"], 1024):
        rows.take(min(1024, args.tokens // settings["context"] - start))
    batch = settings["batch_tokens"] // settings["context"]
    with socket.socket(fileno=args.fd) as sock:
        Feeder(
            sock, rows, budget, counts_writer(args.counts), most=max(settings["max_rows"], batch), expected=batch,
            startup_free=args.startup_seconds,
        ).serve()  # fmt: skip


def counts_writer(path: Path | None) -> Callable[[dict[str, Any]], None]:
    """Writes the feeder's counts to `path` as JSON, a whole file each time."""

    def write(counts: dict[str, Any]) -> None:
        if path is not None:
            with _renamed(path) as handle:
                handle.write(json.dumps(counts).encode())

    return write


def main(argv: list[str] | None = None) -> int:
    """`prepare` and `feed`. Returns the exit code: 2 after a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="nanochat.data")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "feed"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, help="folder that prepare fills")
        command.add_argument("--scale", help="JSON file with the scale's settings")
        if name == "feed":
            command.add_argument("--seed", type=int, default=0)
            command.add_argument(
                "--budget", default=BUDGET, help='JSON: {"kind": "time|tokens|flops|steps", "amount": 409600}'
            )
            command.add_argument("--fd", type=int, required=True, help="inherited socket to the trainer")
            command.add_argument("--counts", type=Path, help="file that the counts are written to")
            command.add_argument(
                "--startup-seconds", type=float, default=STARTUP_SECONDS, help="free before a budget of time begins"
            )
            command.add_argument(
                "--steps", type=int, default=0, help="served before, by a feeder that this one goes on for"
            )
            command.add_argument("--tokens", type=int, default=0, help="likewise")
    args = parser.parse_args(argv)
    try:
        settings = read_settings(args.scale)
        folder = args.data or default_folder(settings)
        if args.command == "feed":
            feed(args, folder, settings)
            return 0
        begun = time.monotonic()
        manifest = prepare(folder, settings)
        print(
            f"{folder}: {manifest['train_tokens']:,} training tokens of {manifest['train_documents']:,} documents, validation "
            f"from {manifest.get('held_out', 'documents of their own')}, corpus {manifest['corpus'][:12]} "
            f"({time.monotonic() - begun:.1f} s)"
        )
        return 0
    except (DataError, ValueError, OSError) as error:
        print(f"nanochat.data {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
