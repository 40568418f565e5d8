"""A research repository in a folder of its own, and git as a user would call it, to check what ours did."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from worktrees.repo import Repo

FILES = {
    "nanochat/gpt.py": b"".join(b"LINE_%02d = %d\n" % (n, n) for n in range(20)),
    "nanochat/optim.py": b"LR = 0.02\n",
    "nanochat/data.py": b"print('protected')\n",
    "nanochat/evaluate.py": b"def score(): ...\n",
    "README.md": b"A task.\n",
}
EDITABLE = ["nanochat/gpt.py", "nanochat/optim.py"]
PROTECTED = ["nanochat/data.py", "nanochat/evaluate.py"]
Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """`git(folder, *args)` -> stdout, as a user without any configuration; fails when git does."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C",
        "GIT_AUTHOR_NAME": "user", "GIT_AUTHOR_EMAIL": "user@example.org",
        "GIT_COMMITTER_NAME": "user", "GIT_COMMITTER_EMAIL": "user@example.org",
    }  # fmt: skip

    def run(folder: Path, *args: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *args], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "surrogateescape").strip("\n")

    return run


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo.create(tmp_path / "research", FILES, "The task as shipped")


@pytest.fixture
def worktree(repo: Repo) -> Path:
    """The worktree of agent r1, on trunk."""
    path = repo.root / ".org" / "worktrees" / "r1"
    repo.add_worktree("r1", path, repo.trunk())
    return path


@pytest.fixture
def everything() -> Callable[[Path], dict[str, bytes]]:
    """`everything(folder)` -> path -> content of all files, links as their target; without `.git`."""

    def look(folder: Path) -> dict[str, bytes]:
        found = {}
        for base, folders, names in os.walk(os.fsencode(folder)):
            if b".git" in folders:
                folders.remove(b".git")
            for name in names:
                path = os.path.join(base, name)
                relative = os.path.relpath(path, os.fsencode(folder)).decode("utf-8", "surrogateescape")
                if relative == ".git":
                    continue
                if os.path.islink(path):
                    found[relative] = os.readlink(path)
                else:
                    with open(path, "rb") as handle:
                        found[relative] = handle.read()
        return found

    return look
