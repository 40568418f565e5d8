"""The fake CLI as a backend, offered by an entry point as another package's would be. `offer` makes that package."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from org.agents import base
from tests.org.agents import fake_cli


class Fake(base.Backend):
    """`persona` of the CLI; a `liar` says that it is idle whatever it is at."""

    name, typed = "fake", True
    persona, liar = "plain", False

    def launch(self, seat: base.Seat) -> base.Launch:
        words = ["--persona", self.persona, "--log", str(seat.folder / "log"), "--state", str(seat.folder / "state")]
        return base.Launch([sys.executable, "-I", str(Path(fake_cli.__file__)), *words], seat.cwd, {})

    def told(self, seat: base.Seat, pid: int) -> base.Told | None:
        try:
            said = json.loads((seat.folder / "state").read_text())
        except (OSError, ValueError):
            return base.Told("starting", None, "")
        if said.get("until"):
            return base.Told("rate_limited", said["since"], "limit", said["until"])
        state = {"busy": "working", "waiting": "needs_person"}.get(said["status"], "idle")
        return base.Told("idle" if self.liar else state, said["since"], said.get("waitingFor") or "")

    def box(self, screen: str) -> str | None:
        return fake_cli.box(base.plain(screen))

    def retry(self, screen: str) -> base.Retry | None:
        found = re.search(r"^! (.+), next try in (\d+) s, (\d+) of (\d+)", screen, re.MULTILINE)
        return base.Retry(found[1], int(found[3]), int(found[4]), float(found[2])) if found else None


BACKEND = Fake()


def offer(folder: Path) -> Path:
    """Make an installed package in `folder` that offers this backend as `fake`; put it on sys.path to install it."""
    package = folder / "fake_backend-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-backend\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[orgctl.backends]\nfake = tests.org.agents.fake_backend:BACKEND\n")
    return folder
