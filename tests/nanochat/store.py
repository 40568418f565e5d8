"""A data hub on the loopback, with the faults that networks have."""

from __future__ import annotations

import hashlib
import random
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "someone/some-text"
BODY = b"PAR1" + random.Random(0).randbytes(3_000_000) + b"PAR1"
HALF = len(BODY) // 2


class Store(ThreadingHTTPServer):
    """A hub on the loopback: the first address names hash and size and sends on to another, which serves the bytes.

    `faults` are used up, one a request for bytes: drop, 503, ignore-range, truncate, corrupt, page, shifted.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo = REPO
        self.faults: list[str] = []
        self.bodies = {"shard_00000.parquet": BODY}
        self.asked: list[str] = []
        """The Range of each request for bytes, "" where it had none."""
        self.hashes = True

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Store

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        body = self.server.bodies.get(name)
        if body is None:
            self.answer(404, b"no such entry")
        elif self.path == f"/datasets/{self.server.repo}/resolve/main/{name}":
            linked = {"X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Linked-Size": str(len(body))}
            self.answer(
                302, b"", {"Location": f"{self.server.root}/store/{name}", **(linked if self.server.hashes else {})}
            )
        else:
            self.serve(body)

    def serve(self, body: bytes) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and fault != "ignore-range" else 0
        if fault == "503":
            self.answer(503, b"busy", {"Retry-After": "0"})
        elif fault == "page":
            self.answer(200, b"<html>log in first</html>")
        elif fault == "truncate":
            self.answer(200, body[:HALF])
        elif fault == "corrupt":
            self.answer(200, body[:HALF] + b"?" + body[HALF + 1 :])
        elif start >= len(body):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        elif wanted and fault != "ignore-range":
            begin = start + (fault == "shifted")
            self.answer(
                206, body[begin:], {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}, fault == "drop"
            )
        else:
            self.answer(200, body, {}, fault == "drop")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, drop: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if drop else body)
