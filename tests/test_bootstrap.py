"""The set-up that `make` does: what it says when something is missing and may not be installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "dirname", "git", "touch", "rm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The only folder on PATH: no tmux, no package manager, nobody's root."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or "")
    (folder / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python3").chmod(0o755)
    program(folder, "id", "echo 1000")
    return folder


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def bootstrap(path: Path) -> subprocess.CompletedProcess[str]:
    """Run the set-up with that PATH and a virtual environment that is not there yet."""
    venv = path.parent / "venv"
    env = {"PATH": str(path), "HOME": str(path.parent), "VENV": str(venv)}
    done = subprocess.run(
        ["sh", str(ROOT / "bootstrap.sh")], env=env, cwd=path.parent, capture_output=True, text=True, timeout=60
    )
    assert not venv.exists(), "something was half made"
    return done


def test_a_missing_tmux_is_named_in_one_line(path: Path) -> None:
    done = bootstrap(path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "make: tmux missing (Python must be 3.11 or newer): install them with your package manager, then make again\n"
    )


def test_without_root_the_command_to_give_is_shown(path: Path) -> None:
    program(path, "apt-get", "echo must not run; exit 1")
    (path / "git").unlink()
    done = bootstrap(path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "make: tmux git missing: run `sudo apt-get install tmux git`, then make again\n"


def test_root_installs_what_is_missing_and_says_so_when_that_fails(path: Path) -> None:
    program(path, "id", "echo 0")
    program(path, "apt-get", f'echo "$@" >> {path.parent}/asked; [ "$1" = update ]')
    (path / "env").symlink_to(shutil.which("env") or "")
    done = bootstrap(path)
    assert done.returncode == 2
    assert done.stdout == "installing tmux with apt-get\n"
    assert done.stderr == "make: apt-get could not install tmux: install them yourself, then make again\n"
    update, install = (path.parent / "asked").read_text().splitlines()
    assert update.startswith("update") and install.startswith("install -y") and install.endswith(" tmux")


def test_an_old_python_is_not_enough(path: Path) -> None:
    program(path, "python3", "exit 1")
    program(path, "tmux", "exit 0")
    done = bootstrap(path)
    assert done.returncode == 2
    assert done.stderr.startswith("make: python3 python3-venv missing (Python must be 3.11 or newer)")
