"""The HTTP server: who asks (by the first part of the path, or by the key), which script answers, streaming, failures."""

from __future__ import annotations

import contextlib
import json
import select
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.loopback import chat, messages, responses
from tests.loopback.talk import Conversation, Failure, Reply, Script

KEY = "sk-loopback-{}-000000000000000000000000"
"""A dummy key that says whose it is."""


@dataclass(frozen=True)
class Request:
    """What came in. `side`: a client's own question beside the conversation (a title, a probe), which no script sees."""

    time: float
    who: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    side: bool


class Server:
    """Use as a context. `scripts`: agent -> script; "*" plays for whoever has none. Without any the answer is "ok"."""

    def __init__(self, scripts: Mapping[str, Script] | Script | None = None) -> None:
        self.scripts: dict[str, Script] = {"*": scripts} if callable(scripts) else dict(scripts or {})
        self.requests: list[Request] = []
        self.talks: list[Conversation] = []
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"loopback": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def url(self, who: str = "") -> str:
        """The base URL, without /v1. With an agent's name in it the server knows who asks."""
        return f"http://127.0.0.1:{self._http.server_port}" + (f"/{who}" if who else "")

    @staticmethod
    def key(who: str) -> str:
        """A dummy key by which the server knows who asks."""
        return KEY.format(who)

    def asked(self, who: str) -> list[Conversation]:
        """What a script was asked for this agent, oldest first."""
        return [talk for talk in self.talks if talk.who == who]

    def script(self, who: str) -> Script:
        return self.scripts.get(who) or self.scripts.get("*") or (lambda _: Reply("ok"))


class Handler(BaseHTTPRequestHandler):
    loopback: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._json(200, None)

    def do_GET(self) -> None:
        self._json(200, {"object": "list", "data": [], "models": [], "has_more": False})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        path = self.path.split("?")[0]
        where, _, verb = path.partition("/v1/")
        who = where.strip("/") or self._by_key()
        side = self._side(body)
        self.loopback.requests.append(Request(time.time(), who, path, dict(self.headers), body, side is not None))
        api = {"messages": messages, "responses": responses, "chat/completions": chat}.get(verb)
        if verb == "messages/count_tokens":
            self._json(200, {"input_tokens": len(raw) // 4})
        elif api is None:
            self._json(404, {"type": "error", "error": {"type": "not_found_error", "message": path}})
        else:
            talk = api.read(body, who)
            if side is None:
                self.loopback.talks.append(talk)
            self._answer(api, talk, side)

    def _by_key(self) -> str:
        key = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        parts = key.removeprefix("sk-loopback-").rsplit("-", 1)
        return parts[0] if key.startswith("sk-loopback-") else ""

    def _side(self, body: dict[str, Any]) -> Reply | None:
        """The answer to a client's own question: those of the CLIs come without tools."""
        agent = self.headers.get("user-agent", "")
        if body.get("tools") or not ("claude-cli" in agent or "codex" in agent):
            return None
        return Reply('{"title": "a task", "isNewTopic": false}')

    def _answer(self, api: Any, talk: Conversation, side: Reply | None) -> None:
        answer = side or self.loopback.script(talk.who)(talk)
        fault = responses.error if api is chat else api.error
        if isinstance(answer, Failure) and not answer.midway:
            self._json(answer.status, fault(answer), answer.headers)
            return
        reply = Reply("It begins") if isinstance(answer, Failure) else answer
        if reply.delay and self.loopback.closing.wait(reply.delay):
            return
        if not talk.body.get("stream"):
            self._json(200, api.whole(talk, reply))
            return
        events = api.stream(talk, reply)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._stream(events, answer, api, fault)

    def _stream(
        self, events: Iterator[tuple[str, dict[str, Any]]], answer: Reply | Failure, api: Any, fault: Any
    ) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for number, (event, data) in enumerate(events):
            if number == 2 and isinstance(answer, Failure):
                self._event("error", fault(answer))
                break
            if number == 2 and isinstance(answer, Reply) and answer.hold and not self._held(answer.hold):
                break
            self._event(event, data)
        if api is chat:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, event: str, data: dict[str, Any]) -> None:
        self.wfile.write((f"event: {event}\n" if event else "").encode() + f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def _held(self, hold: threading.Event) -> bool:
        """Wait for the script's leave; False when the client or the server went away."""
        while not hold.wait(0.05):
            if self.loopback.closing.is_set():
                return False
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1):
                return False
        return True

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            for key, text in (headers or {}).items():
                self.send_header(key, text)
            self.end_headers()
            self.wfile.write(data)
