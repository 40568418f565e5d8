"""The home of one session: a research repository and its `.org/` folder, and where each kind of fact lives in it.

Every command starts here: `Home.find()` looks at ORGCTL_HOME, else walks up from the working directory to `.org/org.yaml`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lab.errors import UserError


@dataclass(frozen=True)
class Home:
    """Paths of one session. `root` is the research repository; everything else lies under `root/.org`."""

    root: Path

    @property
    def org(self) -> Path:
        return self.root / ".org"

    @property
    def settings(self) -> Path:
        """The resolved design of this session (YAML) and its hash."""
        return self.org / "org.yaml"

    @property
    def ledger(self) -> Path:
        return self.org / "ledger.db"

    @property
    def requests(self) -> Path:
        """Requests to the controller; the answered ones move to `requests/done`."""
        return self.org / "requests"

    @property
    def runs(self) -> Path:
        return self.org / "runs"

    @property
    def worktrees(self) -> Path:
        return self.org / "worktrees"

    @property
    def comms(self) -> Path:
        return self.org / "comms"

    @property
    def agents(self) -> Path:
        return self.org / "agents"

    @property
    def locks(self) -> Path:
        return self.org / "locks"

    @property
    def data(self) -> Path:
        """What the task's `prepare` command built: corpus, tokenizer, manifest.json with their hashes."""
        return self.org / "data"

    @property
    def protected(self) -> Path:
        """The protected files as pinned at `up`; laid over every checkout, and alone on the scorer's import path."""
        return self.org / "protected"

    @property
    def task(self) -> Path:
        """The resolved task with the scale in use, as JSON (`tasks.spec.Task`)."""
        return self.org / "task.json"

    @property
    def next_task(self) -> Path:
        """The same task at the next scale of its ladder; missing at the last."""
        return self.org / "next.json"

    @property
    def next_data(self) -> Path:
        """What `prepare` built for the next scale, once something is carried there."""
        return self.org / "next-data"

    @property
    def controller(self) -> Path:
        """{pid, started, heartbeat} of the controller that serves this home."""
        return self.org / "controller.json"

    @property
    def until(self) -> Path:
        """{time} at which the controller stops by itself (`up --for`), in seconds since the epoch; usually missing."""
        return self.org / "until.json"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def make(self) -> None:
        """Create the folders (mode 0700 on `.org`). Doing it twice is doing it once."""
        self.org.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (
            self.requests / "done",
            self.runs,
            self.worktrees,
            self.comms,
            self.agents,
            self.locks,
            self.data,
        ):
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def find(cls, start: Path | None = None) -> Home:
        """The home of the session that `start` (default: the working directory) lies in.

        Raises UserError when ORGCTL_HOME names no session, or none is found on the way up.
        """
        named = os.environ.get("ORGCTL_HOME")
        if named:
            home = cls(Path(named).resolve())
            if not home.settings.is_file():
                raise UserError(f"ORGCTL_HOME={named} holds no .org/org.yaml: unset it, or run `orgctl up` there first")
            return home
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / ".org" / "org.yaml").is_file():
                return cls(folder)
        raise UserError(f"no organisation found in {here} or above it: run `orgctl up` in an empty directory first")
