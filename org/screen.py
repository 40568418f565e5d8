"""What a command prints for people: broken at words on a terminal, as it is into a file or a pipe, which have no edge."""

from __future__ import annotations

import shutil
import sys

from lab.text import printable, wrapped


def say(text: str, hang: int | None = None) -> None:
    """Print text that may hold other people's words. `hang`: columns by which a line that is broken goes on indented."""
    text = printable(text)
    print(wrapped(text, shutil.get_terminal_size().columns, hang) if sys.stdout.isatty() else text)
