"""Requests to the controller: one JSON file each under `.org/requests/`, answered by a file of the same name in `done/`.

A command reads facts directly and asks for action here; with no controller the request waits. Content is untrusted.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Any

from lab.files import make_folder, read_json, write_json
from lab.home import Home

LIMIT_BYTES = 1_000_000


@dataclass(frozen=True)
class Request:
    """`kind` is one of run, confirm, control, promote, withdraw, audit, carry, stop, restart, takeover, release and those of
    `org.levers`; `actor` is who claims to ask."""

    id: str
    kind: str
    actor: str
    body: dict[str, Any]

    @property
    def time(self) -> float | None:
        """When it was made, in seconds since the epoch, by its id; None where that says nothing."""
        digits = self.id.partition("-")[0]
        return int(digits) / 1e9 if digits.isascii() and digits.isdigit() and len(digits) == 20 else None

    @property
    def pid(self) -> int | None:
        """The process that made it, by its id; None where that says nothing."""
        digits = self.id.partition("-")[2]
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def ask(home: Home, kind: str, actor: str, body: dict[str, Any]) -> str:
    """Leave a request and return its id (sorts by time)."""
    identity = f"{time.time_ns():020d}-{os.getpid()}"
    write_json(home.requests / f"{identity}.json", {"kind": kind, "actor": actor, "body": body}, home.org)
    return identity


def waiting(home: Home) -> list[Request]:
    """Requests not answered yet, oldest first. What is no request comes back as kind "malformed", to be refused."""
    found = []
    for path in sorted(home.requests.glob("*.json")):
        value = read_json(path, LIMIT_BYTES)
        if value and isinstance(value.get("kind"), str) and isinstance(value.get("body"), dict):
            found.append(Request(path.stem, value["kind"], str(value.get("actor", ""))[:64], value["body"]))
        elif path.exists() or path.is_symlink():
            found.append(Request(path.stem, "malformed", "", {}))
    return found


def answer(home: Home, request: Request, ok: bool, **body: Any) -> None:
    """Answer a request: {"ok":..., ...body} in done/, then take it off the pile. Something that was no request goes to bad/."""
    path = home.requests / f"{request.id}.json"
    if request.kind == "malformed":
        bad = home.requests / "bad"
        make_folder(bad, home.org)
        with contextlib.suppress(FileNotFoundError):
            path.rename(bad / f"{time.time_ns()}")
        return
    write_json(home.requests / "done" / path.name, {"ok": ok, "kind": request.kind, **body}, home.org)
    path.unlink(missing_ok=True)


def wait_answer(home: Home, identity: str, seconds: float) -> dict[str, Any] | None:
    """The answer to a request, waiting up to `seconds` for it; None when there is none yet."""
    path = home.requests / "done" / f"{identity}.json"
    deadline = time.monotonic() + seconds
    while True:
        value = read_json(path)
        if value is not None or time.monotonic() >= deadline:
            return value
        time.sleep(0.1)
