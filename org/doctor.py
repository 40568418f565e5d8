"""The examination of a machine: what orgctl finds here, and what each missing thing costs. Called by `orgctl doctor`.

Only looks: nothing is started but `tmux -V`, `git --version` and `nvidia-smi -L`, torch is not imported, and of
credentials nothing is kept but whether they are there.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.home import Home
from lab.slots import usable_cores
from org.session import FREE_BYTES
from tasks import spec

TMUX_OLDEST, TMUX_SIGNAL = (3, 2), (3, 3)
"""The oldest tmux that works; the first that tells which signal ended a pane's process."""
TORCH_OLDEST = (2, 11)
PYTHON_OLDEST = (3, 11)
DISK_WARN_BYTES = 2_000_000_000
PROBE_SECONDS = 20


@dataclass(frozen=True)
class Check:
    """One thing looked for. `ok`: True it is there, None it works without, False nothing starts until it is put right.

    `found` is what was seen; `cost` what its absence costs, or what to do ("" where nothing is lost).
    """

    name: str
    ok: bool | None
    found: str
    cost: str


def checks(place: Path) -> list[Check]:
    """Look at this machine from `place`: a session's home, or the directory in which one shall be."""
    return [
        python(), tmux(), git(), torch(), gpus(), processor(), memory(place), disk(place),
        *(agent_cli(name) for name in ("claude", "codex")),
        credential("Anthropic", "ANTHROPIC_API_KEY", _folder("CLAUDE_CONFIG_DIR", "~/.claude") / ".credentials.json"),
        credential("OpenAI", "OPENAI_API_KEY", _folder("CODEX_HOME", "~/.codex") / "auth.json"),
    ]


def required_ok(found: Iterable[Check]) -> bool:
    """Can `orgctl up` work here?"""
    return all(check.ok is not False for check in found)


def python() -> Check:
    """The interpreter we run on."""
    good = tuple(map(int, platform.python_version_tuple()[:2])) >= PYTHON_OLDEST
    return Check("python", good, platform.python_version(), "" if good else "orgctl needs Python 3.11: install it")


def tmux() -> Check:
    """The terminal multiplexer that the organisation sits in."""
    said = _says(["tmux", "-V"])
    if said is None:
        return Check("tmux", False, "not installed", "no organisation without it: install tmux 3.2 or newer")
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None:
        return Check("tmux", None, said, "its version cannot be read; 3.2 or newer is needed")
    version = (int(found[1]), int(found[2]))
    if version < TMUX_OLDEST:
        return Check("tmux", False, said, "too old: install tmux 3.2 or newer")
    if version < TMUX_SIGNAL:
        return Check("tmux", True, said, "before 3.3 it does not tell which signal ended an agent; that is all")
    return Check("tmux", True, said, "")


def git() -> Check:
    """Worktrees, snapshots and trunk are git's."""
    said = _says(["git", "--version"])
    cost = "" if said else "no worktrees and no snapshots without it: install git"
    return Check("git", said is not None, said or "not installed", cost)


def torch() -> Check:
    """What the shipped task trains with; read from its metadata."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Check("torch", False, "not installed", "the task nanochat cannot train: pip install 'torch>=2.11'")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    good = numbers >= TORCH_OLDEST
    return Check("torch", good, version, "" if good else "too old: pip install 'torch>=2.11'")


def gpus() -> Check:
    """NVIDIA GPUs, as `nvidia-smi` lists them."""
    said = _says(["nvidia-smi", "-L"])
    names = [re.sub(r"\s*\(UUID.*", "", line) for line in (said or "").splitlines() if line.startswith("GPU ")]
    if not names:
        return Check("GPU", None, "none", "runs take place on the CPU, at the scale cpu")
    found = f"{len(names)}: {'; '.join(names)}" if len(names) < 4 else f"{len(names)}: {names[0]}; ..."
    try:
        built_for_cpu = importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        built_for_cpu = False
    return Check("GPU", True, found, "this torch is built for the CPU and cannot use them" if built_for_cpu else "")


def processor() -> Check:
    """Cores that this process may use."""
    cores = len(usable_cores())
    found = f"{cores} core{'s' if cores > 1 else ''}: {min(max(cores, 2), 4)} CPU slots by default"
    cost = "slots share one core: every run takes longer and its timing means little" if cores < 2 else ""
    return Check("CPU", None if cores < 2 else True, found, cost)


def memory(place: Path) -> Check:
    """Free memory against what the slots may use at once."""
    free = psutil.virtual_memory().available
    task = _task(place)
    slots = min(max(len(usable_cores()), 2), 4)
    need = slots * task.scale.memory_gib * 2**30 if task is not None and task.scale.device == "cpu" else 2**30
    good = free >= need
    found = f"{free / 2**30:.1f} GiB free"
    cost = "" if good else f"{slots} runs at once may use {need / 2**30:.1f} GiB: use fewer slots (--slots)"
    return Check("memory", True if good else None, found, cost)


def disk(place: Path) -> Check:
    """Free disk where the session is or shall be."""
    folder = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    kept = sorted(_size(run) for run in Home(place).runs.glob("R*"))
    if kept:
        found += f"; a run here keeps {kept[len(kept) // 2] / 1e6:.1f} MB (median of {len(kept)})"
    if free < FREE_BYTES:
        return Check("disk", False, found, f"`up` wants {FREE_BYTES / 1e6:.0f} MB: free some, or choose another place")
    if free < DISK_WARN_BYTES:
        return Check("disk", None, found, "a long session may fill it: logs and some checkpoints are kept")
    return Check("disk", True, found, "")


def agent_cli(name: str) -> Check:
    """A coding agent's program on PATH; it is not run."""
    path = shutil.which(name)
    cost = "" if path else f"agents with the backend {name} cannot start"
    return Check(name, True if path else None, path or "not on PATH", cost)


def credential(owner: str, variable: str, login: Path) -> Check:
    """Is a key in the environment, or a CLI's login file there? Neither is read."""
    places = [f"{variable} is set"] if os.environ.get(variable) else []
    if login.expanduser().is_file():
        places.append(f"{login} exists")
    cost = "" if places else f"agents that use {owner}'s models cannot start"
    return Check(f"{owner} key or login", True if places else None, ", ".join(places) or "none", cost)


def table(found: Iterable[Check]) -> Table:
    """The examination for people."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "what", "found", "what it costs"):
        grid.add_column(title, overflow="fold")
    marks = {True: Text("ok", "green"), None: Text("--", "yellow"), False: Text("NO", "bold red")}
    for check in found:
        grid.add_row(marks[check.ok], Text(check.name), Text(check.found), Text(check.cost))
    return grid


def show(found: list[Check]) -> None:
    """Print the table and, in the last line, whether `up` can work."""
    console = Console()
    console.print(table(found))
    wrong = [check.name for check in found if check.ok is False]
    console.print(f"put right first: {', '.join(wrong)}" if wrong else "orgctl up can work here", highlight=False)


def to_json(found: Iterable[Check]) -> str:
    """The examination for programs: a list of {name, ok, found, cost}."""
    return json.dumps([asdict(check) for check in found], indent=1)


def _folder(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or otherwise)


def _says(command: list[str]) -> str | None:
    """What a program prints; None when it is not there, does not answer or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _task(place: Path) -> spec.Task | None:
    """The session's task, or the default one; None where neither can be read."""
    try:
        return spec.Task.model_validate_json(Home(place).task.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    try:
        return spec.load("nanochat")
    except spec.TaskError:
        return None


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total
