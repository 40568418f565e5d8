"""A person's seat: a shell in the worktree, with a banner and a name for commits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lab.home import Home
from org.agents import base
from org.agents.event import read_events


def seat(root: Path, slot: int | None = 0) -> base.Seat:
    return base.Seat(Home(root), "human", "human", "shell", slot)


def test_the_shell_backend_starts_without_anything_installed_and_costs_nothing(tmp_path: Path) -> None:
    backend = base.load("shell")
    assert backend.missing({}) is None and not backend.spends_money
    assert backend.launch(seat(tmp_path)).cwd == tmp_path, "no worktree yet: the repository"
    (tmp_path / ".org" / "worktrees" / "human").mkdir(parents=True)
    assert backend.launch(seat(tmp_path)).cwd == tmp_path / ".org" / "worktrees" / "human"


@pytest.mark.parametrize("wanted", ["/bin/sh", "/no/such/shell", ""])
def test_it_becomes_the_users_shell_or_sh_and_says_what_can_be_done(tmp_path: Path, wanted: str) -> None:
    home = Home(tmp_path)
    home.make()
    home.settings.write_text("name: t\n")
    place = seat(tmp_path, None)
    launch = base.load("shell").launch(place)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **base.seat_env(place), **launch.env, "SHELL": wanted}
    done = subprocess.run(
        launch.argv, cwd=launch.cwd, env=env, input="echo shell=$0; echo me=$GIT_AUTHOR_NAME; exit 7\n", text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 7, "the shell is the pane's own process"
    assert "shell=/bin/sh" in done.stdout and "me=human" in done.stdout
    assert "orgctl exp propose" in done.stdout and str(tmp_path) in done.stdout
    assert read_events(home, "human")[0]["state"] == "idle"
