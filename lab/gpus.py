"""The GPUs of a slot as nvidia-smi sees them: memory a stage takes at most, its clock, and whether somebody else is there.

Called by the runner. A guest of the driver: where nvidia-smi is missing or says nothing the answers are None and False.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading

NVIDIA_SMI_SECONDS = 30
SAMPLE_MILLISECONDS = 500
IDLE_BYTES = 1 << 30
"""More memory in use than this before or after a run, on a GPU that lists no process: somebody outside of our container."""


def query(cuda: str, *what: str) -> list[str]:
    """Lines of `nvidia-smi --id=CUDA WHAT... --format=csv,noheader,nounits`; none when it does not answer."""
    command = ["nvidia-smi", f"--id={cuda}", *what, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def gpu_name(cuda: str) -> str:
    """The name of a slot's GPUs, "8 x NAME" of several; "unknown" at worst."""
    names = query(cuda, "--query-gpu=name")
    return f"{len(names)} x {names[0]}" if len(names) > 1 else names[0] if names else "unknown"


def driver(cuda: str) -> str:
    """The version of the driver of a slot's GPUs; "unknown" at worst."""
    versions = query(cuda, "--query-gpu=driver_version")
    return versions[0] if versions else "unknown"


def occupied(cuda: str) -> bool:
    """Does anybody use these GPUs? Asked while nothing of ours runs there."""
    used = [int(line) << 20 for line in query(cuda, "--query-gpu=memory.used") if line.isdecimal()]
    return bool(query(cuda, "--query-compute-apps=pid")) or max(used, default=0) > IDLE_BYTES


def reading(line: str) -> tuple[int | None, int | None]:
    """(bytes in use, MHz of the SM clock) of a line of `--query-gpu=memory.used,clocks.sm`; None for what the GPU does not tell."""
    memory, _, clock = (part.strip() for part in line.partition(","))
    return int(memory) << 20 if memory.isdecimal() else None, int(clock) if clock.isdecimal() else None


class Gauge:
    """Follows memory in use and clock of a slot's GPUs until `close`. `pid` is nvidia-smi's, None where there is none."""

    def __init__(self, cuda: str) -> None:
        self.peak: int | None = None
        """Bytes in use on the fullest of the GPUs, at most; None: not seen."""
        self.pid: int | None = None
        self._clocks: list[int] = []
        self._process: subprocess.Popen[str] | None = None
        if not shutil.which("nvidia-smi"):
            return
        command = ["nvidia-smi", f"--id={cuda}", "--query-gpu=memory.used,clocks.sm", "--format=csv,noheader,nounits"]
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [*command, f"--loop-ms={SAMPLE_MILLISECONDS}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            self.pid = self._process.pid
            threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            memory, clock = reading(line)
            if memory is not None:
                self.peak = max(self.peak or 0, memory)
            if clock is not None:
                self._clocks.append(clock)

    @property
    def clock(self) -> float | None:
        """MHz: the median of what was seen, so that the idle ends of a stage count little; None: not seen."""
        return float(statistics.median(self._clocks)) if self._clocks else None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
