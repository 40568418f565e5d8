"""Requests to the controller: one JSON file each under `.org/requests/`, answered by a file of the same name in `done/`.

A command reads facts directly and asks for action here; with no controller the request waits. Content is untrusted.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from lab.files import read_json, write_json
from lab.home import Home

LIMIT_BYTES = 1_000_000


@dataclass(frozen=True)
class Request:
    """`kind` is one of run, confirm, promote, withdraw, stop, restart, takeover, release; `actor` is who claims to ask."""

    id: str
    kind: str
    actor: str
    body: dict[str, Any]


def ask(home: Home, kind: str, actor: str, body: dict[str, Any]) -> str:
    """Leave a request and return its id (sorts by time)."""
    identity = f"{time.time_ns():020d}-{os.getpid()}"
    write_json(home.requests / f"{identity}.json", {"kind": kind, "actor": actor, "body": body})
    return identity


def waiting(home: Home) -> list[Request]:
    """Requests not answered yet, oldest first. A malformed file comes back as kind "malformed" so that it gets answered too."""
    found = []
    for path in sorted(home.requests.glob("*.json")):
        try:
            value = read_json(path) if path.stat().st_size <= LIMIT_BYTES else None
        except OSError:
            continue
        if value and isinstance(value.get("kind"), str) and isinstance(value.get("body"), dict):
            found.append(Request(path.stem, value["kind"], str(value.get("actor", ""))[:64], value["body"]))
        else:
            found.append(Request(path.stem, "malformed", "", {}))
    return found


def answer(home: Home, request: Request, ok: bool, **body: Any) -> None:
    """Answer a request: {"ok":..., ...body} in done/, then take it off the pile."""
    write_json(home.requests / "done" / f"{request.id}.json", {"ok": ok, "kind": request.kind, **body})
    (home.requests / f"{request.id}.json").unlink(missing_ok=True)


def wait_answer(home: Home, identity: str, seconds: float) -> dict[str, Any] | None:
    """The answer to a request, waiting up to `seconds` for it; None when there is none yet."""
    path = home.requests / "done" / f"{identity}.json"
    deadline = time.monotonic() + seconds
    while True:
        value = read_json(path)
        if value is not None or time.monotonic() >= deadline:
            return value
        time.sleep(0.1)
