"""What a command answers, as data: printed for `--json`, and handed beside the printed text to a program that listens.

Every command of the laboratory says its data here, once, before it prints text. `lab.tools` listens, so that one call of a
command, which may have done something, yields both.
"""

from __future__ import annotations

import json
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import typer

from lab.text import printable


@dataclass
class Listener:
    """Who called a command from within this process: hears its data; `gone` is set when nobody waits for it any more."""

    data: Any = None
    gone: Event = field(default_factory=Event)


LISTENER: ContextVar[Listener | None] = ContextVar("LISTENER", default=None)


def as_data(as_json: bool, value: Any) -> bool:
    """Say the answer as data. With `as_json` it is printed, and True comes back: then there is nothing more to print."""
    if listener := LISTENER.get():
        listener.data = value
    if as_json:
        print(json.dumps(value, indent=1, default=str))
    return as_json


def tell(answer: dict[str, Any], as_json: bool, text: str) -> None:
    """Say the answer to a request as data, else in these words; or that nobody has answered yet."""
    if as_data(as_json, answer):
        return
    if "waiting" in answer:
        print("no controller answered; the request waits until the next `orgctl up`")
    else:
        print(printable(text))


def pause(seconds: float) -> None:
    """Sleep, but not on when the listener has gone. Raises typer.Exit then."""
    listener = LISTENER.get()
    if listener is None:
        time.sleep(seconds)
    elif listener.gone.wait(seconds):
        raise typer.Exit(1)
