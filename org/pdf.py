"""A paper as PDF, page by page. A process of its own reads it, with limits of memory and time, so that a broken one costs a line.

Called by `org.memory`. `python -I -m org.pdf FILE` is that process: it prints a line of JSON for each page at once, so that of a file on
which it breaks off the pages before are kept.
"""

from __future__ import annotations

import io
import json
import re
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lab.files import read_plain

FILE_BYTES = 64_000_000
PAGES = 1_500
PAGE_CHARS = 30_000
SECONDS = 20
"""For one file; a paper of 20 pages takes about one."""
MEMORY_BYTES = 2 << 30


def pages(path: Path) -> tuple[list[str], str]:
    """(the text of each page, what went wrong: "" when nothing did). Never raises for what is in the file."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-m", "org.pdf", str(path)], env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    why = ""
    try:
        out, _ = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        why = f"takes more than {SECONDS} s to read"
        child.kill()
        out, _ = child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
    found: list[str] = []
    for line in out.splitlines():
        with suppress(ValueError, KeyError, TypeError):  # the line at which it was ended
            told = json.loads(line)
            why = why or told.get("why", "")
            found += [told["page"]] if "page" in told else []
    if child.returncode and not why:
        why = "is broken, or too much to hold in memory"
    if not why and not any(map(str.strip, found)):
        return [], "holds no text (pictures of pages?)"
    return found, f"{why}; what is read of it: {len(found)} pages" if why and found else why


def main(path: Path) -> None:
    """Print the pages of a file."""
    from pypdf import PdfReader  # here: it takes a quarter of a second, and every command imports the index

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        reader = PdfReader(io.BytesIO(read_plain(path, FILE_BYTES) or b""))
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("needs a password")
        for number in range(min(len(reader.pages), PAGES)):
            print(json.dumps({"page": plain(reader.pages[number].extract_text())}), flush=True)
        if len(reader.pages) > PAGES:
            raise ValueError(f"has {len(reader.pages):,} pages, and {PAGES:,} are read")
    except ValueError as error:
        print(json.dumps({"why": " ".join(str(error).split())[:200]}))
    except Exception as error:  # whatever a broken file makes of the library
        print(json.dumps({"why": f"is broken ({' '.join(str(error).split())[:100] or type(error).__name__})"}))


def plain(text: str) -> str:
    """A page's text: words that a line's end cut in two are whole again."""
    return re.sub(r"(?<=[^\W\d_])-\n(?=[a-z])", "", text[:PAGE_CHARS]).replace("\0", "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
