"""A fence round code that is not ours: where it may write, what it may read, no network. Landlock, without privileges.

The runner puts it round training and round the scorer; the scorer starts the model hosts, which run the experiment's
code, through a narrower one of their own: this file run as a script (`prefix`), so it imports nothing but the standard
library. Fenced processes cannot write outside their folders, signal others, or read others' environment and memory.
Where the kernel lacks Landlock (before 5.13; macOS) forgery is only detected. Namespaces, where the kernel grants them,
close what Landlock does not know: UDP, sockets with a file name, System V segments. Numbers: linux/landlock.h.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
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
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 1, 1 << 2, 1 << 12, 1 << 14, 1 << 18
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_BYTES = 2 << 30
_COVER_BYTES = 1 << 20
"""Size of the empty file systems that hide sockets: nothing of consequence fits in there, and Landlock lets nobody write."""

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_MAKE = _MAKE_CHAR | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_SYM
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
_GPU_DEVICES = ("nvidia*", "dri", "kfd", "dxg")
"""Below /dev; not all of it, since root could read the disk itself there."""
_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/run/opengl-driver",
    "/home/linuxbrew/.linuxbrew", "/etc/ld.so.cache", "/etc/localtime", "/etc/passwd", "/etc/group",
    "/etc/hosts", "/etc/nsswitch.conf", "/proc", "/sys",
)  # fmt: skip
"""Where programs, shared libraries and what the kernel tells of the machine lie."""


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
        self,
        writable: Iterable[Path],
        readable: Iterable[Path] = (Path("/"),),
        hidden: Iterable[Path] = (),
        *,
        masked: Iterable[Path] = (),
        gpu: bool = False,
        apart: bool = False,
        shared_memory: bool = False,
        covered: Iterable[Path] = (),
        kept: Iterable[Path] = (),
        loopback: bool = False,
    ) -> None:
        """Writing only below `writable` (and devices), reading there and below `readable`, but not below `hidden`.

        The deeper of two names decides: what is readable inside a hidden folder is open. `masked` is hidden too, with
        names still to be listed beside it: Python looks its modules up in the listing of a folder. With `gpu` its
        devices are open and files in /proc may be written: CUDA does not start otherwise (cuInit fails with 304).

        `apart` gives, where the kernel grants it: System V segments and a network of its own, without any device; with
        `shared_memory` a /dev/shm that ends with it (else that stays closed); and empty folders in the place of
        `covered`, but for what of `writable`, `readable` and `kept` lies below, so that no socket there can be reached.
        `loopback` opens TCP and starts the loopback in that network; where there is none TCP is open to everything.

        Where there is no Landlock the fence does nothing. Raises OSError when the kernel has it but refuses.
        """
        self._ruleset = -1
        writable, readable = [place.resolve() for place in writable], [place.resolve() for place in readable]
        self._shared_memory = shared_memory
        self._apart: Callable[[], bool] | None = None
        if not ABI:
            return
        if apart:
            back = [*writable, *readable, *(place.resolve() for place in kept)]
            self._apart = _Apart([place.resolve() for place in covered], back, shared_memory, loopback)
        write = _WRITE | (_REFER if ABI >= 2 else 0) | (_TRUNCATE if ABI >= 3 else 0)
        scopes = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL
        network = 0 if loopback else _BIND_TCP | _CONNECT_TCP  # no rule follows, so no port is allowed
        attributes = struct.pack("=QQQ", write | _READ, network, scopes)[: 8 if ABI < 4 else 16 if ABI < 6 else 24]
        self._ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
        try:
            masks = {place.resolve() for place in masked}
            closed = {place.resolve() for place in hidden} - {Path("/")} | masks  # "/": the home of some users
            ways = {parent for place in closed for parent in place.parents}
            for folder in set(readable) - closed:
                for path in _open_places(folder, closed, ways):
                    self._allow(path, _READ)
            for path in {place.parent for place in masks}:
                if any(path.is_relative_to(folder) for folder in readable):
                    self._allow(path, _READ_DIR)
            for path in writable:
                self._allow(path, _READ | write)
            devices = [Path("/dev", name) for name in _DEVICES]
            if gpu:
                devices += [Path("/proc"), *(path for name in _GPU_DEVICES for path in Path("/dev").glob(name))]
            for path in devices:
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
            if self._apart and _forked(self._apart) and self._apart() and self._shared_memory:
                self._allow(_SHARED_MEMORY, _READ | _WRITE | (_TRUNCATE if ABI >= 3 else 0))
            for number in _CAPABILITIES:  # refused to everybody but root, who alone has them
                _LIBC.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
            if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "no_new_privs")
            _syscall(_RESTRICT_SELF, self._ruleset, 0)

    def opens(self, files: Iterable[Path]) -> list[Path]:
        """Which of these files somebody inside could read: a fork goes in and tries."""
        wanted, (reader, writer) = list(files), os.pipe()
        with open(reader, "rb") as answer:
            child = os.fork()
            if not child:
                with contextlib.suppress(BaseException):
                    self.enter()
                    os.write(writer, bytes(_readable(path) for path in wanted))
                os._exit(0)
            os.close(writer)
            said = answer.read()
            os.waitpid(child, 0)
        if len(said) != len(wanted):
            raise OSError(f"the fence could not be tried ({len(said)} of {len(wanted)} answers)")
        return [path for path, read in zip(wanted, said, strict=True) if read]

    def close(self) -> None:
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1


def interpreter() -> list[Path]:
    """Folders that this Python needs, wherever they lie: a virtual environment may well be in a hidden folder.

    Not what .pth files add to its path: sources of other projects, in which an agent may keep something. Of a source
    checkout of ours that is installed for editing only the packages: sessions may be kept in it. They are needed, since
    `pickle` looks for a module `org.python`, with which it means Jython's, and stumbles when ours is closed.
    """
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    packages = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    places = [Path(place) for place in dict.fromkeys([*prefixes, *packages, *libraries]) if Path(place).is_absolute()]
    ours = Path(__file__).resolve().parents[1]
    if not any(ours.is_relative_to(place.resolve()) for place in places):
        places += sorted(package.parent for package in ours.glob("*/__init__.py"))
    return places


def system() -> list[Path]:
    """Folders and files that a program needs of the machine."""
    return [Path(place) for place in _SYSTEM]


def prefix(
    home: Path, readable: Iterable[Path], hidden: Iterable[Path], masked: Iterable[Path] = (), gpu: bool = False
) -> list[str]:
    """Words to put before a command, which then runs inside a `Fence` and may write below `home` alone.

    `home` becomes its HOME and TMPDIR; the rules are written beside it. Inherited descriptors stay open. Empty where there
    is no Landlock.
    """
    if not ABI:
        return []
    places = {"readable": readable, "hidden": hidden, "masked": masked}
    rules = home.with_name(f"{home.name}.rules.json")  # a file: a corpus may mask more than fits into a command
    rules.write_text(json.dumps({name: [str(place) for place in given] for name, given in places.items()}))
    words = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), "--home", str(home), "--rules", str(rules)]
    return [*words, *(["--gpu"] if gpu else []), "--"]


def _open_places(folder: Path, hidden: set[Path], ways: set[Path]) -> Iterator[Path]:
    """The largest files and folders that together are all of `folder` but what lies below `hidden`; `ways`: its parents.

    Landlock knows no exceptions, so the way down to each hidden folder is opened sibling by sibling. Links are left
    out: access is decided where they lead.
    """
    if folder not in ways:
        yield folder
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.is_symlink() and entry not in hidden:
            yield from _open_places(entry, hidden, ways)


def private_network() -> bool:
    """Does the kernel grant a network of one's own with a loopback in it? A fork tries."""
    return bool(ABI) and _forked(_Apart([], [], False, True))


class _Apart:
    """Leaves what is shared with others for something empty. Called between fork and exec, before the fence is closed.

    False where that is refused; needs to be root, or a kernel that gives users namespaces. Half of it may be done then.
    """

    def __init__(self, covered: list[Path], kept: list[Path], shared_memory: bool, loopback: bool) -> None:
        self.shared_memory, self.loopback = shared_memory, loopback
        self.covered = _outermost({place for place in covered if os.path.isdir(place)} - {Path("/")})
        below = {place for place in kept if set(self.covered) & set(place.parents)}
        self.kept = _outermost({place for place in below if os.path.exists(place)})

    def __call__(self) -> bool:
        assert _LIBC is not None
        mounts = self.shared_memory or bool(self.covered)
        spaces = _CLONE_NEWIPC | _CLONE_NEWNET | (_CLONE_NEWNS if mounts else 0)
        if _LIBC.unshare(spaces) and not _as_user(spaces):
            return False
        if mounts:
            _mount(None, Path("/"), None, _MS_REC | _MS_PRIVATE)
        if self.shared_memory:
            _empty(_SHARED_MEMORY, _SHARED_MEMORY_BYTES, "1777")
        self._cover()
        if self.loopback:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
                request = struct.pack("16sH14x", b"lo", 0)
                flags = struct.unpack("16sH14x", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))[1]
                fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
        return True

    def _cover(self) -> None:
        """Empty folders over `covered`, and what is `kept` put back there."""
        here = Path.cwd()
        held = [(place, os.open(place, os.O_PATH | os.O_CLOEXEC)) for place in self.kept]
        for place in self.covered:
            _empty(place, _COVER_BYTES, "755")
        for place, descriptor in held:
            folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            (place if folder else place.parent).mkdir(parents=True, exist_ok=True)
            if not folder:
                place.touch()
            _mount(f"/proc/self/fd/{descriptor}", place, None, _MS_BIND | _MS_REC)
            os.close(descriptor)
        os.chdir(here)


def _outermost(places: set[Path]) -> list[Path]:
    return sorted(place for place in places if not places & set(place.parents))


def _empty(place: Path, size: int, mode: str) -> None:
    _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},mode={mode}")


def _mount(source: str | None, place: Path, kind: str | None, flags: int, options: str | None = None) -> None:
    assert _LIBC is not None
    words = [None if word is None else os.fsencode(word) for word in (source, place, kind, options)]
    if _LIBC.mount(*words[:3], ctypes.c_ulong(flags), words[3]):
        raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}", str(place))


def _as_user(spaces: int) -> bool:
    """The same by a user namespace, in which this process stays who it is, but root cannot read all any more."""
    assert _LIBC is not None
    user, group, own = os.geteuid(), os.getegid(), Path("/proc/self")
    if _LIBC.unshare(_CLONE_NEWUSER | spaces):
        return False
    # Root without CAP_SETFCAP, as inside of another fence, may not map itself; it is called nobody then and still owns its files.
    with contextlib.suppress(PermissionError) if user == 0 else contextlib.nullcontext():
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            (own / name).write_text(text)
    return os.access(sys.executable, os.R_OK | os.X_OK)


def _forked(deed: Callable[[], bool]) -> bool:
    """Would it work? A fork does it: of some deeds there is no way back."""
    probe = os.fork()
    if not probe:
        with contextlib.suppress(BaseException):
            os._exit(0 if deed() else 1)
        os._exit(1)
    return os.waitpid(probe, 0)[1] == 0


def _readable(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            handle.read(1)
    except OSError:
        return False
    return True


def _syscall(*arguments: object) -> int:
    assert _LIBC is not None
    result = int(_LIBC.syscall(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return result


def main(words: list[str]) -> int:
    """`python -I -S fence.py --home PATH --rules JSON [--gpu] -- COMMAND...`, see `prefix`.

    Becomes the command, fenced. Returns 126, after a line that says why, when it cannot.
    """
    parser = argparse.ArgumentParser(prog="fence.py", allow_abbrev=False)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--rules", type=Path, required=True)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(words)
    if not ABI:
        print("fence.py: this kernel offers no Landlock: run the command without a fence", file=sys.stderr)
        return 126
    try:
        rules = {name: [Path(place) for place in places] for name, places in json.loads(given.rules.read_bytes()).items()}
        readable, hidden, masked = rules["readable"], rules["hidden"], rules["masked"]
        Fence([given.home], readable, hidden, masked=masked, gpu=given.gpu, apart=True).enter()
        os.environ |= {"HOME": str(given.home), "TMPDIR": str(given.home)}
        os.execvp(given.command[0], given.command)
    except OSError as error:
        print(f"fence.py: {given.command[0]} cannot be started inside its fence: {error}", file=sys.stderr)
    return 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
