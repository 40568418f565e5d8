"""The `shell` backend: a seat with an interactive shell in its worktree, for a person or anything else that types.

It is started as the pane's own process by `python -I -m org.agents.shell`, which prints a banner and becomes the shell.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

from lab.home import Home
from org.agents import base


@dataclass(frozen=True)
class Shell:
    """Nothing to install, nothing to pay."""

    name: str = "shell"
    spends_money: bool = False

    def missing(self) -> str | None:
        return None

    def launch(self, seat: base.Seat) -> base.Launch:
        cwd = seat.worktree if seat.worktree.is_dir() else seat.home.root
        shell = os.environ.get("SHELL", "")
        return base.Launch([sys.executable, "-I", "-m", "org.agents.shell"], cwd, {"SHELL": shell} if shell else {})


BACKEND = Shell()


def become(banner: str) -> None:
    """Print the banner and replace this process by the user's shell (or /bin/sh). Does not return."""
    print(banner, flush=True)
    wanted = os.environ.get("SHELL", "")
    shell = wanted if wanted and shutil.which(wanted) else "/bin/sh"
    os.execv(shell, [shell, "-i"])


def main() -> None:
    agent, role = os.environ.get("ORGCTL_AGENT", "person"), os.environ.get("ORGCTL_ROLE", "")
    base.write_event(Home.find(), agent, "idle", "a shell is open")
    become(
        f"{agent} ({role}). Your worktree: {os.getcwd()}\n"
        "  orgctl exp propose --hypothesis ... --mechanism ...   then edit, then: orgctl exp run E0001\n"
        "  orgctl exp list    orgctl status    orgctl mail inbox    orgctl --help\n"
    )


if __name__ == "__main__":
    main()
