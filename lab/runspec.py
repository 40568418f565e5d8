"""What one run is: `spec.json` in its folder, written once by the controller and read once by the runner.

Everything a run needs is in here: it goes on when agents and the controller die, and can be read years later.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lab.errors import UserError
from lab.fence import describe
from lab.files import as_object, read_plain, write_atomic
from lab.gpus import driver
from lab.slots import Slot
from tasks.spec import Budget, Task


def read_manifest(data: Path) -> tuple[dict[str, Any], str]:
    """A data folder's manifest, and the SHA-256 (hex) of the very bytes it was parsed from; ({}, "") where none can be read."""
    try:
        content = read_plain(data / "manifest.json")
    except (OSError, ValueError):
        content = None
    if content is None:
        return {}, ""
    return as_object(content) or {}, hashlib.sha256(content).hexdigest()


class RunSpec(BaseModel):
    """One run, fixed before it starts. Paths are absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    experiment: str
    """"" for a run of the baseline bank."""
    attempt: int
    agent: str
    purpose: str
    commit: str
    parent: str
    seed: int
    splits: list[str]
    task: Task
    budget: Budget
    """What this run may spend; may differ from the scale's own budget (controls at equal cost)."""
    dial: int | float | None = None
    """What the task's dial is set to; None: what the scale says."""
    repo: Path
    data: Path
    protected: Path
    protected_hashes: dict[str, str]
    """Path in the workspace -> SHA-256 (hex) of its content, as pinned at `up`."""
    manifest: str = ""
    """SHA-256 (hex) of the data's manifest as pinned when they were made, since it says what is hidden from training; "": not pinned."""
    slot: Slot
    org_hash: str
    limits: dict[str, float] | None = None
    """The baseline's largest values of what is limited (`lab.limits`); None for the bank itself, and before it has a run."""

    @property
    def keeps_checkpoint(self) -> bool:
        """Banks and confirmations keep what training left; other runs only hash and log."""
        return self.purpose in ("bank", "confirm")

    def write(self, run_dir: Path) -> None:
        """Write `run_dir/spec.json` atomically; makes the folder."""
        write_atomic(run_dir / "spec.json", self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, run_dir: Path) -> RunSpec:
        """Read `run_dir/spec.json`. Raises UserError naming the file and the field."""
        path = run_dir / "spec.json"
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}: start runs through the controller") from error
        except ValidationError as error:
            first: Any = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "file"
            raise UserError(f"{path}: {field}: {first['msg']}: start runs through the controller") from error

    def environment(self, manifest: dict[str, Any]) -> dict[str, str]:
        """What makes runs comparable: hashes of data (from its `manifest`), protected files and task, versions (`driver`: the GPU's).

        The task's hash leaves the budget, its deadline and the run's dial out: a control has others and is compared all the same.
        """
        pinned = json.dumps(sorted(self.protected_hashes.items()))
        task = self.task.model_dump_json(exclude={"scale": {"budget", "deadline_seconds"}})
        try:
            torch = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            torch = "absent"
        return {
            **{str(key): value for key, value in manifest.items() if isinstance(value, str)},
            "protected": hashlib.sha256(pinned.encode()).hexdigest(),
            "task": hashlib.sha256(task.encode()).hexdigest(),
            "org": self.org_hash,
            "torch": torch,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "driver": driver(self.slot.cuda) if self.slot.cuda else "",
            "fence": describe(),
        }
