"""A fence round code that is not ours: where it may write, what it may not read. Linux Landlock, no privileges needed.

The runner puts it round training and round the scorer, whose model host runs the experiment's code. Fenced processes
cannot write outside their folders, signal others, or read others' environment and memory: training cannot forge a
result. Where the kernel lacks Landlock (before 5.13; macOS) forgery is only detected. Numbers: linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITIES = [number for number in range(64) if number not in (1, 2, 3)]
"""What root loses inside: all but DAC_OVERRIDE, DAC_READ_SEARCH and FOWNER, by which its own files may be reachable.

PERFMON above all: with it root reads other processes' environment past Landlock (seen on Linux 6.18)."""

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
_MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = 1 << 9, 1 << 10, 1 << 11, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_MAKE = _MAKE_CHAR | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_SYM
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE


def landlock() -> int:
    """Version of the kernel's Landlock interface; 0 where there is none, or it is switched off."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))) if _LIBC else 0


ABI = landlock()


def describe() -> str:
    """What fences are made of here, for the record: `landlock 7` or `none`."""
    return f"landlock {ABI}" if ABI else "none"


class Fence:
    """Rules, laid down before the fork. In the child call `enter()`; in the parent `close()` afterwards."""

    def __init__(
        self, writable: Iterable[Path], hidden: Iterable[Path] = (), readable: Iterable[Path] = (), gpu: bool = False
    ) -> None:
        """Writing only below `writable` (and devices); reading everywhere but below `hidden`, except in `readable`.

        What is writable is readable too. With `gpu` files in /proc may be written: CUDA does not start otherwise
        (cuInit fails with 304). Where there is no Landlock the fence does nothing. Raises OSError when the kernel
        has it but refuses.
        """
        self._ruleset = -1
        if not ABI:
            return
        write = _WRITE | (_REFER if ABI >= 2 else 0) | (_TRUNCATE if ABI >= 3 else 0)
        scopes = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL
        attributes = struct.pack("=QQQ", write | _READ, 0, scopes)[: 8 if ABI < 4 else 16 if ABI < 6 else 24]
        self._ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
        try:
            for path in _open_places({place.resolve() for place in hidden}):
                self._allow(path, _READ)
            for path in readable:
                self._allow(path.resolve(), _READ)
            for path in [*writable, Path("/dev/shm")]:
                self._allow(path.resolve(), _READ | write)
            for path in [Path("/dev"), *([Path("/proc")] if gpu else [])]:
                self._allow(path, _READ | _WRITE_FILE | (_TRUNCATE if ABI >= 3 else 0))
        except BaseException:
            self.close()
            raise

    def _allow(self, path: Path, access: int) -> None:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # gone, or not ours to open: then it stays closed
            return
        try:
            rule = struct.pack("=Qi", access if path.is_dir() else access & _ON_FILES, descriptor)
            _syscall(_ADD_RULE, self._ruleset, _PATH_BENEATH, rule, 0)
        finally:
            os.close(descriptor)

    def enter(self) -> None:
        """Fence this process and all it will start, for good. Raises OSError."""
        if self._ruleset >= 0:
            assert _LIBC is not None
            for number in _CAPABILITIES:  # refused to everybody but root, who alone has them
                _LIBC.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
            if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "no_new_privs")
            _syscall(_RESTRICT_SELF, self._ruleset, 0)

    def close(self) -> None:
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1


def interpreter() -> list[Path]:
    """Folders that this Python needs, wherever they lie: a virtual environment may well be in a hidden folder."""
    return [Path(place) for place in dict.fromkeys([sys.prefix, sys.base_prefix, *sys.path]) if place]


def _open_places(hidden: set[Path], folder: Path = Path("/")) -> Iterator[Path]:
    """The largest folders and files that together are everything but what lies below `hidden`.

    Landlock knows no exceptions, so the way down to each hidden folder is opened sibling by sibling. Links are left
    out: access is decided where they lead.
    """
    hidden = {place for place in hidden if place != Path("/")}
    if not hidden:
        yield folder
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink() or entry in hidden:
            continue
        below = {place for place in hidden if entry in place.parents}
        if below:
            yield from _open_places(below, entry)
        else:
            yield entry


def _syscall(*arguments: object) -> int:
    assert _LIBC is not None
    result = int(_LIBC.syscall(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return result
