"""A model server on this machine that plays scripts: /v1/messages, /v1/responses and /v1/chat/completions, streamed or whole.

    with Server({"r1": Steps(run("ls"), "done")}) as server:
        ...  # base URL for r1: server.url("r1"), for whoever needs /v1 in it: server.url("r1") + "/v1"

A script is a function of the conversation so far and answers with text, tool calls or a failure (`talk.py`); ready-made ones
are in `scripts.py`. The wire formats, each in a file, were recorded from what the real programs accept.
"""

from tests.loopback.scripts import Steps, researcher, run
from tests.loopback.server import Request, Server
from tests.loopback.talk import Call, Conversation, Failure, Reply, Script, Turn

__all__ = [
    "Call",
    "Conversation",
    "Failure",
    "Reply",
    "Request",
    "Script",
    "Server",
    "Steps",
    "Turn",
    "researcher",
    "run",
]
