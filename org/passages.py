"""Folders of text (papers, Markdown, digests, notes) cut into passages with their lines, so that a find can be cited. Pure but for reading.

Called by `org.memory`. The folders are somebody else's: links are not followed, and what is hidden, binary or too large is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.files import read_plain

SUFFIXES = (".md", ".markdown", ".txt", ".rst", ".tex", ".org", ".bib")
PDF = ".pdf"
"""Read by `org.pdf`, and in a library only."""
FILE_BYTES = 4_000_000
FILES = 20_000
"""Files of one folder that are looked at."""
DEPTH = 12
SIZE = 1_500
"""Characters after which a passage ends at the next blank line: about as much as one thought of a paper."""
HEADING = re.compile(r"^#{1,6}\s+(.+)|^\\(?:sub)*section\*?\{(.+?)\}")


@dataclass(frozen=True)
class Passage:
    """Some paragraphs of a file. `line`: of the first one, from 1; `title`: the heading it stands under, "" above the first."""

    line: int
    title: str
    body: str


def cut(text: str) -> list[Passage]:
    """The passages of a text: cut at headings, and at blank lines from SIZE characters on. All lines but blank ones are in one."""
    found: list[Passage] = []
    lines: list[str] = []
    first, title, size = 1, "", 0

    def close() -> None:
        if any(line.strip() for line in lines):
            found.append(Passage(first, title, "\n".join(lines).rstrip()))

    for number, line in enumerate(text.split("\n"), start=1):
        heading = HEADING.match(line)
        if heading or (not line.strip() and size >= SIZE) or size >= 4 * SIZE:
            close()
            lines, size, first = [], 0, number
        if heading:
            title = (heading[1] or heading[2]).strip()[:200]
        if not lines and not line.strip():
            first = number + 1
            continue
        lines.append(line)
        size += len(line) + 1
    close()
    return found


def read(path: Path) -> str | None:
    """The text of a plain file; None when it is gone, a link, too large or binary. What is no UTF-8 in it becomes question marks."""
    try:
        data = read_plain(path, FILE_BYTES)
    except (OSError, ValueError):
        return None
    return None if data is None or b"\0" in data else data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


def files(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[tuple[str, int, int]]:
    """(path, time of change in ns, bytes) of the texts below a folder, at most FILES of them; none when it is no folder."""
    left, stack = FILES, [(str(folder), 0)]
    while stack:
        place, depth = stack.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.is_symlink():
                continue
            if entry.is_dir():
                if depth < DEPTH and entry.name not in ("node_modules", "__pycache__"):
                    stack.append((entry.path, depth + 1))
            elif entry.name.lower().endswith(suffixes) and entry.is_file() and left > 0:
                try:
                    facts = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                left -= 1
                yield entry.path, facts.st_mtime_ns, facts.st_size
