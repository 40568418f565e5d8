"""What the model may do: a shell in its worktree, and files. The laboratory's verbs go through the shell as `orgctl`, as every
role describes them: one way to do a thing, and few tools for small models.

Edits outside the worktree are refused by choice: detection, not security. The shell gets no secret, and is its own process
group, which ends with the call: nothing stays behind in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab.files import write_atomic, write_json
from lab.process import Identity
from lab.text import clean
from org.agents import shell
from org.agents.chat.models import Tool
from org.agents.chat.transcript import Call, Result

OUTPUT = 16_000
"""Characters of a tool's answer, about 4,000 tokens: half of it the beginning, half the end."""
LONGEST = 600.0
"""Seconds a command may take at most."""
GRACE = 2.0
"""Seconds between asking a command to end and killing it."""
FILE_LIMIT = 2_000_000
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|^ANTHROPIC_|^OPENAI_|^AWS_|^TMUX", re.IGNORECASE)
"""Names of variables that no command of the model's sees. TMUX: it would let a command type into other panes."""


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Shell(_Arguments):
    """Run a command with bash in your worktree and get its output (stdout and stderr) and exit status. No input, no terminal; what it
    leaves running in the background is ended. `orgctl` is there: proposals, runs, mail, status."""

    command: str = Field(description="The command line.", min_length=1)
    timeout: float = Field(120, gt=0, le=LONGEST, description="Seconds after which it is ended.")


class View(_Arguments):
    """Show a text file with line numbers, or list a folder."""

    path: str = Field(description="Absolute, or relative to your worktree.", min_length=1)
    first: int = Field(1, ge=1, description="First line.")
    last: int | None = Field(None, ge=1, description="Last line; default: as far as fits.")


class Edit(_Arguments):
    """Replace a piece of a file in your worktree. `old` must occur exactly once, with its white space."""

    path: str = Field(min_length=1)
    old: str = Field(min_length=1)
    new: str


class Write(_Arguments):
    """Write a whole file in your worktree, new or in place of what was there."""

    path: str = Field(min_length=1)
    text: str


KINDS: dict[str, type[_Arguments]] = {"shell": Shell, "view": View, "edit": Edit, "write": Write}


def offered() -> list[Tool]:
    found = []
    for name, kind in KINDS.items():
        schema = kind.model_json_schema()
        about = " ".join(schema.pop("description").split())
        schema.pop("title")
        for one in schema["properties"].values():
            one.pop("title", None)
        found.append(Tool(name, about, schema))
    return found


class Refused(Exception):
    """A call that cannot be done; the sentence goes to the model."""


@dataclass(frozen=True)
class Place:
    """Where one agent's tools work. `note`: a file that names the running command, so that a next life can end it."""

    agent: str
    worktree: Path
    note: Path


def environment(agent: str) -> dict[str, str]:
    """What a command sees: our own environment without secrets, made for a reader that is no terminal."""
    kept = {
        name: value
        for name, value in shell.surroundings(agent).items()
        if not SECRET.search(name) or name.startswith("GIT_AUTHOR")
    }
    return {
        **kept,
        "TERM": "dumb",
        "NO_COLOR": "1",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_EDITOR": "true",
        "GIT_TERMINAL_PROMPT": "0",
    }


async def run(call: Call, place: Place, heard: Callable[[str], None]) -> Result:
    """Do what a call asks. Whatever goes wrong is the result's text. Output of a command is told line by line meanwhile."""
    kind = KINDS.get(call.name)
    try:
        if call.broken:
            raise Refused(call.broken)
        if kind is None:
            raise Refused(f"there is no tool {clean(call.name, 60)!r}: there are {', '.join(KINDS)}")
        given: Any = kind.model_validate(call.arguments)
        if isinstance(given, Shell):
            status, text = await command(given, place, heard)
            return Result(id=call.id, text=text, failed=status != 0)
        if isinstance(given, View):
            done = view(given, place.worktree)
        else:
            done = edit(given, place.worktree) if isinstance(given, Edit) else write(given, place.worktree)
        return Result(id=call.id, text=done)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        names = ", ".join(kind.model_fields) if kind else ""
        text = f"{clean('.'.join(map(str, first['loc'])), 60)}: {first['msg']}; {call.name} takes {names}"
    except Refused as error:
        text = str(error)
    except OSError as error:
        text = f"{error.filename or call.name}: {error.strerror or error}"
    except UnicodeError:
        text = "this is no UTF-8 text"
    except (ValueError, RuntimeError) as error:  # a NUL character where the system takes none; links that lead round in a circle
        text = f"{call.name} cannot be done with these arguments: {clean(error, 200)}"
    return Result(id=call.id, text=text, failed=True)


# Commands


async def command(given: Shell, place: Place, heard: Callable[[str], None]) -> tuple[int, str]:
    """Exit status and output. When it is cancelled the whole process group is ended first.

    The pipe is ours and not asyncio's, whose `wait` would wait for everything in the background that holds it open.
    """
    began = time.monotonic()
    ours, theirs = os.pipe()
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(ours, "rb", buffering=0)
    )
    try:
        process = await asyncio.create_subprocess_exec(
            "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh", "-c", given.command, cwd=place.worktree,
            env=environment(place.agent), stdin=asyncio.subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
    except BaseException:
        transport.close()
        raise
    finally:
        os.close(theirs)
    identity = Identity.of(process.pid)
    if identity:
        write_json(place.note, {"pid": identity.pid, "started": identity.started})
    output = Output(OUTPUT)
    reader = asyncio.create_task(_read(stream, output, heard))
    late = False
    try:
        await asyncio.wait_for(process.wait(), given.timeout)
    except TimeoutError:
        late = True
    finally:
        await _end(process)
        await asyncio.wait([reader], timeout=0.5)  # what it wrote last; a daemon of its own may hold the pipe open
        reader.cancel()
        transport.close()
        place.note.unlink(missing_ok=True)
    status = process.returncode if process.returncode is not None else -1
    seconds = time.monotonic() - began
    ending = f"ended after {given.timeout:.0f} s, its timeout" if late else f"exit status {status}" if status else ""
    parts = [output.text.rstrip(), f"({ending}, {seconds:.1f} s)" if ending else ""]
    return (status or 1) if late else status, "\n".join(part for part in parts if part) or "(no output)"


async def _read(stream: asyncio.StreamReader, output: Output, heard: Callable[[str], None]) -> None:
    while data := await stream.read(65536):
        text = data.decode("utf-8", "replace")
        output.add(text)
        heard(text)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what is left of the group: politely while its leader lives, then firmly. Cancelling does not stop this."""

    def send(number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)

    if process.returncode is None:
        send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while process.returncode is None and time.monotonic() < deadline:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
    send(signal.SIGKILL)
    while process.returncode is None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)


def clear(place: Place) -> bool:
    """End a command that an earlier life of this agent left running. True if there was one."""
    left = Identity.recorded(place.note)
    there = left is not None and left.alive()
    if left is not None:
        left.signal_group(signal.SIGKILL)
    place.note.unlink(missing_ok=True)
    return there


class Output:
    """Text of any length, of which the beginning and the end are kept."""

    def __init__(self, limit: int) -> None:
        self.half = limit // 2
        self.head = self.tail = ""
        self.length = 0

    def add(self, text: str) -> None:
        self.length += len(text)
        room = self.half - len(self.head)
        self.head += text[:room]
        self.tail = (self.tail + text[room:])[-self.half :] if len(text) > room else self.tail

    @property
    def text(self) -> str:
        left = self.length - len(self.head) - len(self.tail)
        return (
            f"{self.head}\n… {left} characters are left out here …\n{self.tail}" if left > 0 else self.head + self.tail
        )


# Files


def _inside(path: str, worktree: Path) -> Path:
    """The real place of a path, which must lie in the worktree."""
    found = (worktree / path).resolve()
    if not found.is_relative_to(worktree.resolve()):
        raise Refused(f"{clean(path)} lies outside of your worktree {worktree}: only files in it are edited")
    if ".git" in found.relative_to(worktree.resolve()).parts:
        raise Refused("git's own files are changed with git")
    return found


def _text(path: Path) -> str:
    """A text file. Nothing is read from devices, pipes and /proc, where our own environment could be read."""
    if path.is_relative_to("/proc"):
        raise Refused("files in /proc are not shown")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as handle:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise Refused("this is no plain file")
        if facts.st_size > FILE_LIMIT:
            raise Refused(f"this file has {facts.st_size} bytes, over {FILE_LIMIT}: look at parts of it with the shell")
        return handle.read(FILE_LIMIT).decode()


def view(given: View, worktree: Path) -> str:
    path = (worktree / given.path).resolve()
    if path.is_dir():
        names = sorted(f"{one.name}/" if one.is_dir() else one.name for one in path.iterdir() if one.name != ".git")
        output = Output(OUTPUT)
        output.add("\n".join(names) or "(empty)")
        return output.text
    lines = _text(path).splitlines()
    chosen = lines[given.first - 1 : given.last]
    if not chosen:
        return f"(the file has {len(lines)} lines)"
    rows: list[str] = []
    left = OUTPUT
    for number, line in enumerate(chosen, given.first):
        shown = f"{number:5} {line}"
        left -= len(shown) + 1
        if left < 0 and rows:
            rows.append(f"… of {len(lines)} lines: go on with first={number}")
            break
        rows.append(shown[:OUTPUT])
    return "\n".join(rows)


def edit(given: Edit, worktree: Path) -> str:
    path = _inside(given.path, worktree)
    text = _text(path)
    count = text.count(given.old)
    if count != 1:
        raise Refused(
            f"`old` occurs {count} times in {clean(given.path)}: "
            + ("look at the file again" if not count else "give more lines around it")
        )
    place = text.index(given.old)
    _replace(path, text.replace(given.old, given.new, 1))
    first = text.count("\n", 0, place) + 1
    return f"{clean(given.path)}: replaced at line {first}"


def write(given: Write, worktree: Path) -> str:
    path = _inside(given.path, worktree)
    there = path.exists()
    if there and not path.is_file():
        raise Refused(f"{clean(given.path)} is no plain file")
    _replace(path, given.text)
    return f"{clean(given.path)}: {'rewritten' if there else 'new'}, {len(given.text.splitlines())} lines"


def _replace(path: Path, text: str) -> None:
    """Write a file anew, keeping its permissions."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    write_atomic(path, text)
    path.chmod(mode)
