"""Text in, token rows out: the corpus and its split, the feeder that serves and counts training rows, the feeder's client.

Called by the laboratory as `python -P -m nanochat.data prepare|feed`, and by train.py through `Feed`. Notable choices:
- corpus `stdlib`: the source of the interpreter's own standard library, so nothing is ever downloaded;
- validation comes from modules that training never sees, less the paragraphs that training also holds;
- the trainer never holds the corpus: a process of its own serves rows over a socket, counts them and stops at the budget.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import math
import os
import platform
import re
import select
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.budget import Budget

SPLITS = ("search", "audit", "locked")
SETTINGS: dict[str, Any] = {
    "corpus": "stdlib",
    "vocab": 512,
    "context": 64,  # tokens a row is conditioned on and scored over
    "depth": 2,  # the one dial of the model
    "eval_rows": 1024,  # rows of each validation split
    "train_bytes": 12_000_000,  # at most so much training text
    "max_rows": 256,  # largest batch that the feeder serves
}
"""What a scale may set (its `args`), with the defaults of scale `cpu`."""
BUDGET = '{"kind": "tokens", "amount": 409600}'
"""Used when a person trains by hand and gives none."""

HELD_OUT = ("pydoc_data", "idlelib", "tkinter", "turtledemo")
"""Modules that only validation reads. Some systems ship the last three apart; pydoc_data alone is enough."""
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "_bundled", "encodings"}
"""Folders nobody reads: foreign packages, tests, and the character tables of `encodings`, which are hardly text."""
TOKENIZER_BYTES = 3_000_000  # of training text from which the merges are learnt
SHORTEST = 200  # characters; shorter documents are dropped

REQUEST = struct.Struct("<I")  # rows wanted
REPLY = struct.Struct("<IIQQ")  # rows served, context, spent before (in the budget's unit), amount of the budget


class DataError(Exception):
    """Data that cannot be prepared or served. `str(error)` is one line: what, where, what to do."""


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
        if type(value) is not type(SETTINGS[name]) or (isinstance(value, int) and value < 1):
            needed = "a name" if isinstance(SETTINGS[name], str) else "a positive integer"
            raise DataError(f"{path}: setting {name} cannot be {value!r}: give {needed}")
    return {**SETTINGS, **given}


# --- the corpus ------------------------------------------------------------------------------------------------------


def stdlib_documents(root: Path | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """(training, validation) documents of the standard library: name -> text, in sorted order of the names.

    One document a module; `pydoc_data/topics.py` holds one a topic. Raises DataError when there is nothing to hold out.
    """
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
    return training, validation


def _topics(source: str) -> dict[str, str]:
    """The one dict literal of pydoc's help topics, read without running it."""
    for node in ast.parse(source).body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            with contextlib.suppress(ValueError):
                return {str(key): str(body) for key, body in ast.literal_eval(value).items()}
    return {}


def paragraphs(text: str) -> list[str]:
    """What blank lines separate."""
    return re.split(r"\n[ \t]*\n", text)


def without_known(documents: dict[str, str], training: dict[str, str]) -> dict[str, str]:
    """The documents without the paragraphs that training, or an earlier one of them, holds too; short rests are dropped."""
    known = {paragraph.strip() for text in training.values() for paragraph in paragraphs(text)}
    kept: dict[str, str] = {}
    for name, text in documents.items():
        fresh = []
        for paragraph in paragraphs(text):
            if paragraph.strip() not in known:
                known.add(paragraph.strip())
                fresh.append(paragraph)
        rest = "\n\n".join(fresh)
        if len(rest) >= SHORTEST:
            kept[name] = rest
    return kept


def split_of(name: str) -> str:
    """Which validation split a document belongs to: fixed by its name alone."""
    return SPLITS[int(_sha(name.encode())[:8], 16) % len(SPLITS)]


def _sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _by_hash(documents: dict[str, str]) -> list[str]:
    """Names in an order that looks random and never changes."""
    return sorted(documents, key=lambda name: _sha(name.encode()))


# --- prepare ---------------------------------------------------------------------------------------------------------


def prepare(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Fill `folder` and return its manifest; at once when it is there already with these settings.

    Writes train.npy (uint16, every document behind a BOS), search/audit/locked.npy (uint16, rows x (context + 1)),
    token_bytes.npy, tokenizer.json and, last, manifest.json. Every file is renamed into place and depends on the text alone,
    so that two at a time do no harm. Raises DataError.
    """
    manifest = read_manifest(folder)
    if manifest and manifest.get("settings") == settings_hash(settings) and all((folder / f).is_file() for f in _files()):
        return manifest
    if settings["corpus"] != "stdlib":
        raise DataError(f"unknown corpus {settings['corpus']!r}: choose stdlib")
    from nanochat.tokenizer import Tokenizer  # here, since the feeder and the scorer do without it

    training, held_out = stdlib_documents()
    training = _at_most(training, settings["train_bytes"])
    validation = without_known(held_out, training)
    tokenizer = Tokenizer.train(_at_most(training, TOKENIZER_BYTES).values(), settings["vocab"])

    arrays = {"train": _tokens(tokenizer, training), "token_bytes": tokenizer.token_bytes()}
    for split in SPLITS:
        tokens = _tokens(tokenizer, {name: text for name, text in validation.items() if split_of(name) == split})
        arrays[split] = eval_rows(tokens, settings["context"], settings["eval_rows"])
    text = tokenizer.dump()
    listing = [[name, _sha(body.encode())] for part in (training, validation) for name, body in part.items()]
    manifest = {
        "settings": settings_hash(settings),
        "corpus": _sha(json.dumps(listing).encode()),
        "tokenizer": _sha(text.encode()),
        **{name: _sha(array.tobytes()) for name, array in arrays.items()},
        "corpus_name": settings["corpus"],
        "corpus_python": platform.python_version(),
        "held_out": " ".join(sorted({name.split("/")[0] for name in validation})),
        "train_documents": len(training),
        "train_tokens": int(arrays["train"].size),
        "validation_documents": len(validation),
        **{f"{split}_rows": int(arrays[split].shape[0]) for split in SPLITS},
        **{f"{split}_bytes": int(arrays["token_bytes"][arrays[split][:, 1:]].sum()) for split in SPLITS},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        with _renamed(folder / f"{name}.npy") as handle:
            np.save(handle, array)
    with _renamed(folder / "tokenizer.json") as handle:
        handle.write(text.encode())
    with _renamed(folder / "manifest.json") as handle:
        handle.write((json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def settings_hash(settings: dict[str, Any]) -> str:
    """Hash of those settings that prepared data depends on."""
    wanted = {name: settings[name] for name in ("corpus", "vocab", "context", "eval_rows", "train_bytes")}
    return _sha(json.dumps(wanted, sort_keys=True).encode())


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared folder; None when there is none or it is half a file."""
    try:
        value = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def eval_rows(tokens: np.ndarray, context: int, rows: int) -> np.ndarray:
    """At most `rows` rows of context + 1 tokens, spread evenly over `tokens`; no two score one position.

    Raises DataError when there are fewer than a quarter of them: the noise of such a small evaluation would drown everything.
    """
    available = (tokens.size - 1) // context
    if available < max(1, rows // 4):
        raise DataError(f"the library holds only {available} of {rows} validation rows: install idlelib, or lower eval_rows")
    chosen = np.arange(min(rows, available)) * available // min(rows, available)
    return tokens[chosen[:, None] * context + np.arange(context + 1)]


def load_array(folder: Path, name: str) -> np.ndarray:
    """One of the arrays that prepare wrote, checked against the manifest. Raises DataError."""
    manifest = read_manifest(folder)
    remedy = f"run `python -m nanochat.data prepare --data {folder}`"
    if manifest is None:
        raise DataError(f"{folder} holds no manifest.json: {remedy} first")
    try:
        array = np.load(folder / f"{name}.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/{name}.npy cannot be read ({error}): delete the folder and {remedy}") from error
    if _sha(array.tobytes()) != manifest.get(name):
        raise DataError(f"{folder}/{name}.npy is not what the manifest says: delete the folder and {remedy}")
    return np.asarray(array)


def _files() -> list[str]:
    return [f"{name}.npy" for name in ("train", "token_bytes", *SPLITS)] + ["tokenizer.json"]


def _at_most(documents: dict[str, str], size: int) -> dict[str, str]:
    """As many documents, in hash order, as fit into `size` bytes."""
    kept, total = {}, 0
    for name in _by_hash(documents):
        total += len(documents[name].encode())
        if kept and total > size:
            break
        kept[name] = documents[name]
    return kept


def _tokens(tokenizer: Any, documents: dict[str, str]) -> np.ndarray:
    """All documents in hash order, each behind a BOS: uint16."""
    pieces = [np.zeros(0, dtype=np.uint16)]
    for name in _by_hash(documents):
        pieces.append(np.array([tokenizer.bos, *tokenizer.encode(documents[name])], dtype=np.uint16))
    return np.concatenate(pieces)


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


# --- the feeder ------------------------------------------------------------------------------------------------------


class Order:
    """Training rows without end, in an order fixed by the seed: every row once an epoch.

    Each row lies a golden section of the corpus behind the one before. So every batch, and every run that ends before the corpus
    does, sees an even sample of all modules; drawn at random, which modules a run happened to see was most of its noise.
    """

    def __init__(self, tokens: np.ndarray, context: int, seed: int) -> None:
        if tokens.size < 2 * context + 1:
            raise DataError(f"{tokens.size} training tokens are too few for rows of {context}: run prepare with more text")
        self.tokens, self.context, self.seed = tokens, context, seed
        self.epoch = -1
        self._left = 0

    def take(self, rows: int) -> np.ndarray:
        """The next `rows` rows: uint16 (rows, context + 1); the last token of one row may be the first of another."""
        starts: list[np.ndarray] = []
        while rows:
            if not self._left:
                self._begin_epoch()
            count = min(rows, self._left)
            chosen = (self._row + self._stride * np.arange(count)) % self._rows
            starts.append(self._phase + chosen * self.context)
            self._row = (self._row + self._stride * count) % self._rows
            self._left -= count
            rows -= count
        return np.asarray(self.tokens[np.concatenate(starts)[:, None] + np.arange(self.context + 1)])

    def _begin_epoch(self) -> None:
        self.epoch += 1
        random = np.random.default_rng([self.seed, self.epoch])
        self._phase = int(random.integers(self.context))  # so that no two epochs cut the rows at the same places
        self._rows = self._left = (self.tokens.size - 1 - self._phase) // self.context
        self._row = int(random.integers(self._rows))
        self._stride = max(1, round(self._rows * 0.6180339887498949))
        while math.gcd(self._stride, self._rows) > 1:
            self._stride += 1


def serve(sock: socket.socket, order: Order, budget: Budget, max_rows: int, report: Callable[[Budget], None]) -> None:
    """Answer requests until the trainer hangs up. `report` is called at least once a second, and in the end.

    A request of 0 rows, or one after the end of the budget, is answered with 0 rows.
    """
    pending = b""
    due = 0.0
    try:
        while True:
            now = time.monotonic()
            if now >= due:
                report(budget)
                due = now + 0.5
            if not select.select([sock], [], [], due - now if due > now else 0)[0]:
                continue
            received = sock.recv(REQUEST.size - len(pending))
            if not received:
                return
            pending += received
            if len(pending) < REQUEST.size:
                continue
            wanted = min(REQUEST.unpack(pending)[0], max_rows)
            pending = b""
            spent, rows = budget.spent, budget.grant(wanted, order.context)
            body = order.take(rows).tobytes() if rows else b""
            if rows:
                budget.take(rows, order.context)
            sock.sendall(REPLY.pack(rows, order.context, spent, budget.amount) + body)
    except ConnectionError:
        return  # the trainer died in the middle of an answer
    finally:
        report(budget)


def counts_writer(path: Path | None, context: int) -> Callable[[Budget], None]:
    """Writes {"tokens", "steps", "amount", "done", "time"} to `path`, as a whole file, each time it is called."""

    def write(budget: Budget) -> None:
        if path is not None:
            counts = {"tokens": budget.tokens, "steps": budget.steps, "amount": budget.amount, "time": time.time()}
            with _renamed(path) as handle:
                handle.write(json.dumps({**counts, "done": budget.grant(1, context) == 0}).encode())

    return write


class FeedError(Exception):
    """The feeder is gone or answers nonsense. `str(error)` is one line."""


class Feed:
    """The trainer's end of the socket: `batch` asks for rows, `progress` says how much of the budget went before them."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self._sock, self._process = sock, process
        self.progress = 0.0
        """Part of the budget spent before the last batch, in [0, 1]; 1.0 after the end."""
        self.tokens = 0
        """Tokens received so far."""

    @classmethod
    def connect(cls, descriptor: int) -> Feed:
        """To the feeder at the other end of a socket that this process inherited. Raises FeedError."""
        try:
            return cls(socket.socket(fileno=descriptor))
        except OSError as error:
            raise FeedError(f"--feed {descriptor} is no open socket: {error.strerror}: leave it out to start a feeder") from error

    @classmethod
    def start(cls, folder: Path, scale: str | None, seed: int, budget: str) -> Feed:
        """Start a feeder of our own, for a person who trains by hand."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "nanochat.data", "feed", "--data", str(folder), "--seed", str(seed)]
        command += ["--budget", budget, "--fd", str(theirs.fileno())] + (["--scale", scale] if scale else [])
        root = str(Path(__file__).resolve().parent.parent)
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONPATH": root})
        theirs.close()
        return cls(ours, process)

    def batch(self, rows: int) -> tuple[Any, Any] | None:
        """(inputs, targets) as int64 tensors (rows, context), or None at the end of the budget.

        The last batch may hold fewer rows. Raises FeedError when the feeder is gone.
        """
        import torch  # here, since the feeder and the scorer do without it

        try:
            self._sock.sendall(REQUEST.pack(rows))
            served, context, spent, amount = REPLY.unpack(self._read(REPLY.size))
            raw = self._read(served * (context + 1) * 2)
        except OSError as error:
            raise FeedError(f"the feeder is gone after {self.tokens} tokens ({error}): no more training data") from error
        if not served:
            self.progress = 1.0
            return None
        self.progress = spent / amount
        self.tokens += served * context
        both = torch.from_numpy(np.frombuffer(raw, dtype=np.uint16).astype(np.int64)).view(served, context + 1)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            received = self._sock.recv_into(view)
            if not received:
                raise ConnectionResetError("connection closed")
            view = view[received:]
        return buffer

    def close(self) -> None:
        """Hang up; a feeder of our own ends with that."""
        self._sock.close()
        if self._process is not None:
            self._process.wait()


# --- commands --------------------------------------------------------------------------------------------------------


def default_folder(settings: dict[str, Any]) -> Path:
    """Where a person's own runs keep their data: NANOCHAT_DATA, else a folder in the user's cache."""
    named = os.environ.get("NANOCHAT_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "nanochat" / settings_hash(settings)[:12]


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
            command.add_argument("--budget", default=BUDGET, help='JSON: {"kind": "tokens", "amount": 409600}')
            command.add_argument("--fd", type=int, required=True, help="inherited socket to the trainer")
            command.add_argument("--counts", type=Path, help="file that the counts are written to")
    args = parser.parse_args(argv)
    try:
        settings = read_settings(args.scale)
        folder = args.data or default_folder(settings)
        if args.command == "prepare":
            begun = time.monotonic()
            manifest = prepare(folder, settings)
            print(
                f"{folder}: {manifest['train_tokens']:,} training tokens of {manifest['train_documents']} modules, validation "
                f"from {manifest['held_out']}, corpus {manifest['corpus'][:12]} ({time.monotonic() - begun:.1f} s)"
            )
            return 0
        budget = Budget.parse(args.budget)
        order = Order(load_array(folder, "train"), settings["context"], args.seed)
        with socket.socket(fileno=args.fd) as sock:
            serve(sock, order, budget, settings["max_rows"], counts_writer(args.counts, settings["context"]))
        return 0
    except (DataError, ValueError, OSError) as error:
        print(f"nanochat.data {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
