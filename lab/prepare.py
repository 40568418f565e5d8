"""Preparing a task's data, once a session: runs the task's `prepare` command, as bare as a run, for its manifest.

Called by `up` before the first run. The command fills a temporary folder that is renamed: the data is whole or absent.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import child as stages
from lab.child import Child
from lab.errors import UserError
from lab.files import read_json, write_json
from lab.overlay import lay_protected, remove
from tasks.spec import Task

POLL_SECONDS = 0.02


def prepare(
    task: Task, protected: Path, data: Path, log: Path, protected_hashes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Fill `data` with the task's `prepare` command and return its manifest (flat). Done already: only read.

    `protected` holds the pinned files, checked against `protected_hashes` where given. Output goes to `log`. Raises
    UserError with the log's last line when the command fails, takes longer than the scale's `prepare_seconds`, or leaves no
    manifest.json.
    """
    done = read_json(data / "manifest.json")
    if done is not None:
        return done
    data.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=data.parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        fresh = folder / "data"
        fresh.mkdir()
        if task.prepare:
            python_path = protected
            if protected_hashes is not None:
                python_path = folder / "protected"
                python_path.mkdir()
                lay_protected(protected, protected_hashes, python_path)
            _run(task, folder, python_path, fresh, log)
            manifest = read_json(fresh / "manifest.json")
            if manifest is None:
                raise UserError(f"preparing the task {task.name} left no manifest.json: see {log}")
        else:
            manifest = {}
            write_json(fresh / "manifest.json", manifest)
        remove(data)
        fresh.rename(data)
    return manifest


def _run(task: Task, folder: Path, python_path: Path, data: Path, log: Path) -> None:
    words = {
        "python": sys.executable, "data": str(data), "scale": str(stages.write_scale(folder, task.scale)),
        "budget": json.dumps(task.scale.budget.model_dump()),
    }
    environment = stages.bare_environment(folder, task.scale, "", python_path)
    try:
        child = Child(stages.fill(task.prepare, words), python_path, environment, log)
    except OSError as error:
        raise UserError(f"preparing the task {task.name} cannot start: {error}") from error
    try:
        while child.poll() is None and child.seconds < task.scale.prepare_seconds:
            time.sleep(POLL_SECONDS)
        late = child.poll() is None
    finally:
        child.kill()
        child.close()
    if late:
        raise UserError(f"preparing the task {task.name} took over {task.scale.prepare_seconds:g} s (prepare_seconds): see {log}")
    if child.returncode != 0:
        raise UserError(f"preparing the task {task.name} failed: {child.why()}: see {log}")
