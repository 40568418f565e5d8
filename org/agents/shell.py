"""The `shell` backend: a seat with an interactive shell in its worktree, for a person or anything else that types.

It is started as the pane's own process by `python -I -m org.agents.shell`, which prints a banner and becomes the
shell. A sweep agent that a person takes over opens the same shell with `visit` and comes back when it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lab.home import Home
from org.agents import base
from org.agents.event import write_event


class Shell(base.Backend):
    """Nothing to install, nothing to pay."""

    name = "shell"

    def launch(self, seat: base.Seat) -> base.Launch:
        cwd = seat.worktree if seat.worktree.is_dir() else seat.home.root
        shell = os.environ.get("SHELL", "")
        return base.Launch([sys.executable, "-I", "-m", "org.agents.shell"], cwd, {"SHELL": shell} if shell else {})


BACKEND = Shell()


def program() -> str:
    """The user's shell, or /bin/sh where SHELL names none that can be run."""
    wanted = os.environ.get("SHELL", "")
    return wanted if wanted and shutil.which(wanted) else "/bin/sh"


def surroundings(agent: str) -> dict[str, str]:
    """The environment of a person's shell: `orgctl` on the path, commits under the agent's name as everywhere here."""
    name = {f"GIT_{who}_NAME": agent for who in ("AUTHOR", "COMMITTER")}
    address = {f"GIT_{who}_EMAIL": f"{agent}@orgctl.local" for who in ("AUTHOR", "COMMITTER")}
    return {**os.environ, "PATH": base.path(), **name, **address}


def visit(agent: str, folder: Path, banner: str) -> int:
    """Run the shell in the foreground until it ends; returns its exit status. Ctrl-C belongs to the shell meanwhile."""
    print(banner, flush=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def at_start() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    try:
        return subprocess.run([program(), "-i"], cwd=folder, env=surroundings(agent), preexec_fn=at_start).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    agent, role = os.environ.get("ORGCTL_AGENT", "person"), os.environ.get("ORGCTL_ROLE", "")
    write_event(Home.find(), agent, "idle", "a shell is open")
    print(
        f"{agent} ({role}). Your worktree: {os.getcwd()}\n"
        "  orgctl exp propose --hypothesis ... --mechanism ...   then edit, then: orgctl exp run E0001\n"
        "  orgctl exp list    orgctl status    orgctl mail inbox    orgctl --help\n",
        flush=True,
    )
    os.execve(program(), [program(), "-i"], surroundings(agent))


if __name__ == "__main__":
    main()
