"""One stage of a run as a child process: bare environment, own process group, capped log, and nothing of it survives.

Called by the runner and by `prepare`. The environment is built from nothing, so no key or token of the user gets
through; a parent-death signal ends the child with its parent; a subreaping parent finds daemonised grandchildren too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

import psutil

from lab.disk import in_memory
from lab.fence import Fence
from lab.files import write_json
from lab.slots import usable_cores
from tasks.spec import Scale, TaskError

LOG_BYTES = 5_000_000
"""A log keeps this much from its beginning, and its end (TAIL_BYTES)."""
TAIL_BYTES = 8_192
LOG_TAIL_CHARACTERS = 2_000
KILL_SECONDS = 10.0
OUTLIVE_SECONDS = 0.5
PLACEHOLDER = re.compile(r"\{(python|data|scale|seed|budget|out|feed|gpus|counts|checkout|splits|result)\}")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TORCHRUN = re.compile(r"^[EW]\d{4} \S+ +\d+ torch/distributed/elastic/multiprocessing/api\.py.*", re.DOTALL | re.MULTILINE)
"""From here on a log holds what torchrun says of a process that failed: forty lines, none of which says why."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_stages: set[int] = set()
"""Pids of stages that are not collected yet."""
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def become_subreaper() -> bool:
    """Let orphaned descendants of this process become its children. False where the kernel cannot (not Linux)."""
    return _LIBC is not None and _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def bare_environment(folder: Path, scale: Scale, cuda: str, python_path: Path | None) -> dict[str, str]:
    """The whole environment of a stage, with nothing of ours in it. Makes `folder/home` and `folder/tmp` for it.

    User site-packages are off: whatever a stage leaves in its home must not be imported by a later one.
    """
    home, tmp = folder / "home", folder / "tmp"
    for place in (home, tmp):
        place.mkdir(parents=True, exist_ok=True)
    threads = str(scale.threads)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(tmp),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": cuda,
        **{f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
    }
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    if "LD_LIBRARY_PATH" in os.environ:  # a property of the machine: without it some interpreters do not even start
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment


def fill(command: list[str], values: Mapping[str, str]) -> list[str]:
    """Replace the words in braces of a task's command (`tasks.spec`). Raises TaskError for one this stage lacks."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise TaskError(f"the command {' '.join(command)!r} uses {match[0]}, which does not exist at this stage")
        return values[match[1]]

    return [PLACEHOLDER.sub(value, word) for word in command]


class Child:
    """A started stage. `poll()` until it is over, then `close()`; times in seconds on the monotonic clock."""

    def __init__(
        self,
        command: list[str],
        cwd: Path,
        environment: dict[str, str],
        log: Path,
        pass_fds: Iterable[int] = (),
        stdin: int = subprocess.DEVNULL,
        cpus: list[int] | None = None,
        fence: Fence | None = None,
    ) -> None:
        """Start it; raises OSError. Only from the main thread: the death signal comes when the starting thread ends."""
        pin = sorted(set(cpus or ()) & set(usable_cores()))
        self._inherited = psutil.Process().memory_info().rss
        self.started = time.monotonic()
        self.ended: float | None = None
        self.returncode: int | None = None
        self._popen = subprocess.Popen(
            command, cwd=cwd, env=environment, pass_fds=tuple(pass_fds),
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_preparation(os.getpid(), pin, fence),
        )
        self.pid = self._popen.pid
        self._peak = 0
        _stages.add(self.pid)
        with contextlib.suppress(OSError):  # out of memory: this goes before the controller and the agents
            Path(f"/proc/{self.pid}/oom_score_adj").write_text("500")
        assert self._popen.stdout is not None
        self.log = log
        self._reader = threading.Thread(target=_copy_log, args=(self._popen.stdout, log), daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Exit status when it is over (negative: the signal that ended it), else None."""
        if self.returncode is None:
            self._peak = max(self._peak, _high_water(self.pid))
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.ended = time.monotonic()
                _stages.discard(pid)
                self.returncode = self._popen.returncode = os.waitstatus_to_exitcode(status)
                reported = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                # A process inherits its parent's high-water mark through fork and exec: below that it is not its own.
                if reported > self._inherited * 1.05:
                    self._peak = max(self._peak, reported)
        return self.returncode

    @property
    def seconds(self) -> float:
        """How long it ran, or has been running."""
        return (self.ended if self.ended is not None else time.monotonic()) - self.started

    def memory(self, spare: Iterable[int] = ()) -> int:
        """Memory now, in bytes, of all that runs below this process but `spare`: resident, and in files that lie in memory
        alone. Remembers the highest seen.

        So a daemonised grandchild counts too. What several share counts for each of them.
        """
        pids = below(os.getpid(), set(spare))
        total = sum(_resident(pid) for pid in pids) + in_memory(pids)
        self._peak = max(self._peak, total)
        return total

    @property
    def peak_memory(self) -> int | None:
        """Highest memory in bytes, by the kernel's account at exit and what `memory` saw; None: unknown."""
        return self._peak or None

    def why(self) -> str:
        """How it ended, in one line with its last words: `exit code 1: ValueError: boom`."""
        code = self.returncode
        if code is None:
            return "still running"
        how = f"exit code {code}" if code >= 0 else f"killed by {_signal_name(-code)}"
        last = last_line(log_tail(self.log))
        return f"{how}: {last}" if last else how

    def kill(self) -> None:
        """Kill it at once, with its process group, and wait for its end."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)

    def close(self) -> None:
        """Finish the log. Descendants that still hold it open have to be dead by now; else the log stays as it is."""
        self._reader.join(timeout=KILL_SECONDS)


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """Living processes below a process (default: this one; with orphans, where it is a subreaper)."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return found


def outliving(spare: set[int]) -> int:
    """How many processes below this one, without `spare` and what is below those, go on after training has ended. They get half a second
    to end by themselves."""
    deadline = time.monotonic() + OUTLIVE_SECONDS
    while True:
        left = [pid for pid in below(os.getpid(), spare) if _goes_on(pid)]
        if not left or time.monotonic() > deadline:
            return len(left)
        time.sleep(0.02)


def kill_descendants(spare: Iterable[int] = ()) -> None:
    """Kill everything below this process except `spare` and what is below those. Repeats until nothing new appears."""
    spared = set(spare)
    deadline = time.monotonic() + KILL_SECONDS
    while time.monotonic() < deadline:
        kept = spared | {process.pid for pid in spared for process in descendants(pid)}
        living = False
        for process in descendants():
            if process.pid in kept:
                continue
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    _reap_orphan(process)
                else:
                    process.kill()
                    living = True
        if not living:
            return
        time.sleep(0.005)


def below(pid: int, spare: set[int]) -> list[int]:
    """Pids below a process, without `spare` and what is below those. By the kernel's lists of children: looking through
    all processes of the machine costs milliseconds, several times a second."""
    found: list[int] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(word) for thread in threads for word in (thread / "children").read_text().split()]
    except OSError:  # gone, or a kernel without these lists
        children = _children(pid)
    for child in children:
        if child not in spare:
            found += [child, *below(child, spare)]
    return found


def log_tail(log: Path, characters: int = LOG_TAIL_CHARACTERS) -> str:
    """The last characters of a log that say something, without escapes and control characters. "" when there is none."""
    try:
        with open(log, "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - 8 * characters))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return (_TORCHRUN.sub("", clean(text)) or clean(text))[-characters:]


def clean(text: str) -> str:
    """Printable text: escapes and control characters out, carriage returns as line ends."""
    return _CONTROL.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def last_line(text: str, characters: int = 300) -> str:
    """The last line that says something, cut to `characters`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:characters] if lines else ""


def write_scale(folder: Path, scale: Scale) -> Path:
    """Write the scale's arguments for the task's own code; returns the path."""
    path = folder / "scale.json"
    write_json(path, scale.args)
    return path


def _reap_orphan(process: psutil.Process) -> None:
    """Collect an orphan that died under us. Our own stages are collected by `Child.poll`, which wants their account."""
    with contextlib.suppress(psutil.Error, ChildProcessError):
        if process.ppid() == os.getpid() and process.pid not in _stages:
            os.waitpid(process.pid, os.WNOHANG)


def _children(pid: int) -> list[int]:
    try:
        return [process.pid for process in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _goes_on(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _high_water(pid: int) -> int:
    """Most resident memory a process has had since its exec, in bytes; 0 where the kernel does not say."""
    try:
        found = re.search(rb"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_bytes())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _preparation(parent: int, cpus: list[int], fence: Fence | None) -> Callable[[], None]:
    """What the child does between fork and exec: its cores, its fence, die with the parent, no core file."""

    def prepare() -> None:
        if cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)
        if fence is not None:
            fence.enter()
        # After the fence: a change of credentials clears the signal.
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # the parent died before the signal was set
                os._exit(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return prepare


def _copy_log(source: IO[bytes], log: Path) -> None:
    """Copy a pipe to a file, at most LOG_BYTES and the end: a flood neither fills the disk nor blocks its writer."""
    written = dropped = 0
    tail: deque[bytes] = deque()
    kept = 0
    descriptor = source.fileno()
    try:
        with open(log, "wb", buffering=0) as target:
            while chunk := os.read(descriptor, 65536):
                room = max(0, LOG_BYTES - written)
                head, rest = chunk[:room], chunk[room:]
                if head:
                    target.write(head)
                    written += len(head)
                if rest:
                    if not dropped:
                        target.write(f"\n[log over {LOG_BYTES} bytes: the rest is dropped but for its end]\n".encode())
                    dropped += len(rest)
                    tail.append(rest[-TAIL_BYTES:])
                    kept += len(tail[-1])
                    while kept - len(tail[0]) >= TAIL_BYTES:
                        kept -= len(tail.popleft())
            if dropped:
                end = b"".join(tail)[-TAIL_BYTES:]
                target.write(f"[{dropped - len(end)} bytes dropped]\n".encode() + end)
    except OSError:  # disk full: keep draining, or training would block on a full pipe
        with contextlib.suppress(OSError):
            while os.read(descriptor, 65536):
                pass
    finally:
        source.close()
