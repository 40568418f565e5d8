"""Parquet shards from a data hub over HTTPS into a cache folder that sessions share.

Called by `corpus.py`. Notable choices: the standard library alone; what arrived stays in NAME.part and is continued by Range;
a shard counts once its length, the hub's sha256 (where it says one) and the parquet marks agree, and is then renamed into place;
its sha256 is kept beside it, so that a copy that rotted later is found and fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import random
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path
from typing import Any

from nanochat.errors import DataError

HUB = "https://huggingface.co"
WORKERS = 4  # shards at a time
ATTEMPTS = 6  # failures in a row without one new byte, after which a shard is given up
LONGEST_WAIT = 30.0  # seconds between two attempts
TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 20
MAGIC = b"PAR1"  # first and last four bytes of a parquet file


class Refused(Exception):
    """An answer that will not change by asking again."""


class Broken(Exception):
    """A transfer that may succeed next time. `wait`: seconds that the server asked for."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


def url(root: str, repo: str, name: str) -> str:
    """Where the hub serves one file of a data set; `root` "" is the public hub. https://huggingface.co/docs/hub/datasets-downloading"""
    return f"{(root or HUB).rstrip('/')}/datasets/{repo}/resolve/main/{urllib.parse.quote(name)}"


def fetch(
    root: str, repo: str, names: Sequence[str], folder: Path, workers: int = WORKERS, wait: float = 0.5
) -> list[Path]:
    """The files, complete and checked, in `folder`; those there already are only checked. `wait`: seconds before the second attempt.

    Raises DataError, one line with the address and the remedy, at the first file that cannot be had.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot keep downloads here ({error.strerror}): set XDG_CACHE_HOME") from error
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(_one, url(root, repo, name), folder / name, wait) for name in names]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one(address: str, path: Path, wait: float) -> Path:
    part = path.with_name(path.name + ".part")
    with _locked(path.with_name(path.name + ".lock")):
        if _intact(path):
            return path
        failures = 0
        while True:
            before = _size(part)
            try:
                digest = _attempt(address, part)
                size = _size(part)
                path.with_name(path.name + ".sha256").write_text(f"{digest} {size}\n")
                os.replace(part, path)
                print(f"fetched {path.name} ({size / 1e6:.1f} MB)", file=sys.stderr)
                return path
            except Refused as error:
                raise DataError(f"{address}: {error}") from None
            except (Broken, OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise DataError(
                        f"{path.parent}: disk full at {_size(part) / 1e6:.1f} MB of {path.name}: free some space"
                    ) from None
                if isinstance(error, PermissionError):
                    raise DataError(
                        f"{path.parent}: cannot keep downloads here ({error.strerror}): set XDG_CACHE_HOME"
                    ) from None
                failures = 1 if _size(part) > before else failures + 1
                if failures >= ATTEMPTS:
                    reason = getattr(error, "reason", None) or error
                    raise DataError(
                        f"{address}: given up after {failures} attempts ({reason}): try again when the network is up"
                    ) from None
                pause = min(LONGEST_WAIT, wait * 2 ** (failures - 1)) * random.uniform(0.5, 1.5)
                time.sleep(min(LONGEST_WAIT, max(pause, getattr(error, "wait", 0.0))))


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps what the hub itself said of the file: the store behind it does not repeat that."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> Any:
        self.said |= {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-linked-")}
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _attempt(address: str, part: Path) -> str:
    """Ask for what `part` lacks and append it. Returns the sha256 of the whole file; raises Refused, Broken, OSError."""
    have = _size(part)
    request = urllib.request.Request(
        address, headers={"User-Agent": "nanochat", **({"Range": f"bytes={have}-"} if have else {})}
    )
    redirect = _Redirect()
    try:
        response = urllib.request.build_opener(redirect).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # nothing lies beyond what we have: it may be whole, or not this file's
                whole = re.search(r"/(\d+)$", error.headers.get("Content-Range", ""))
                if whole and int(whole[1]) == have:
                    return _checked(part, have, redirect.said, error.headers)
                part.unlink(missing_ok=True)
                raise Broken("the part kept was longer than the file") from None
            if error.code in (408, 425, 429) or error.code >= 500:
                asked = error.headers.get("Retry-After", "")
                raise Broken(f"HTTP {error.code}", float(asked) if asked.isdigit() else 0.0) from None
            remedy = (
                "no such file: check corpus_url and shards"
                if error.code == 404
                else "the hub refuses it: check corpus_url"
            )
            raise Refused(f"HTTP {error.code}: {remedy}") from None
    with response:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        if response.status == 206:
            said = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not said or int(said[1]) != have:
                part.unlink(missing_ok=True)
                raise Broken("the server continued at another place than asked")
            total = int(said[2])
        with open(part, "ab" if response.status == 206 else "wb") as handle:  # a server may ignore Range: begin again
            while block := response.read(BLOCK):
                handle.write(block)
        return _checked(part, total, redirect.said, response.headers)


def _checked(part: Path, total: int | None, said: dict[str, str], headers: Message) -> str:
    """The file's sha256, once its length, hash and parquet marks are right. Raises Broken, and Refused for what is no parquet."""
    size = _size(part)
    total = int(said["x-linked-size"]) if said.get("x-linked-size", "").isdigit() else total
    if total is not None and size < total:
        raise Broken(f"connection lost at {size} of {total} bytes")
    digest = _sha(part)
    promised = (said.get("x-linked-etag") or headers.get("X-Linked-Etag") or headers.get("ETag") or "").strip('W/"')
    if re.fullmatch(r"[0-9a-f]{64}", promised) and digest != promised:
        part.unlink()
        raise Broken(f"sha256 {digest[:12]} is not the promised {promised[:12]}")
    with open(part, "rb") as handle:
        head = handle.read(4)
        handle.seek(max(0, size - 4))
        tail = handle.read(4)
    if (total is not None and size > total) or (head == MAGIC and tail != MAGIC):
        part.unlink()
        raise Broken(f"the file is damaged: {size} bytes" + (f" instead of {total}" if total is not None else ""))
    if head != MAGIC:
        part.unlink()
        raise Refused("this is no parquet file: check corpus_url")
    return digest


def _intact(path: Path) -> bool:
    """Whether a shard is there and still what was fetched."""
    try:
        digest, size = path.with_name(path.name + ".sha256").read_text().split()
        return _size(path) == int(size) and _sha(path) == digest
    except (OSError, ValueError):
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sha(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One session at a time fetches a file; the others wait for it."""
    with open(path, "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
