"""Founding and reopening a session: the research repository, its `.org/`, the pinned task and the ledger's first facts.

Called by `orgctl up` and `orgctl init`. Everything is checked before anything is made; `.org/org.yaml` is written last, so a
folder either is a session or is not one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import UserError
from lab.files import read_json, write_atomic
from lab.home import Home
from lab.ledger import Ledger
from lab.prepare import prepare
from lab.records import View
from lab.slots import Slot, discover
from org import design as designs
from org.agents import base
from tasks import spec
from worktrees.repo import Repo

FREE_BYTES = 500_000_000
"""Least free disk to begin with: data, checkpoints of banks and logs of a day on the cpu scale fit."""


@dataclass(frozen=True)
class Wish:
    """What the person asked for on the command line; None means the default, or what the session already has."""

    design: str | None = None
    task: str | None = None
    scale: str | None = None
    name: str | None = None
    backend: str | None = None
    slots: int | None = None
    roles: dict[str, Path] | None = None


def exists(root: Path) -> bool:
    return (root / ".org" / "org.yaml").is_file()


def found(root: Path, wish: Wish) -> Home:
    """Make `root` the home of a new session. Raises UserError (nothing is left half-made) for anything that cannot work."""
    root = root.resolve()
    name = name_for(root, wish)
    task = spec.load(wish.task or "nanochat", wish.scale)
    folder = spec.folder(wish.task or "nanochat")
    files = spec.workspace_files(task, folder)
    slots = discover(task.scale.device, wish.slots, task.scale.gpus)
    design = designs.load(wish.design or "chief", len(slots), wish.backend, wish.roles)
    for agent in design.agents:
        missing = base.load(agent.backend).missing()
        if missing:
            raise UserError(f"backend {agent.backend} cannot start: {missing}")
    _disk(root)
    home = Home(root)
    if home.ledger.exists():
        raise UserError(f"{home.org} holds a ledger but no org.yaml: restore it from .git/orgctl or {home.org}, or use another directory")
    fresh = not root.exists()
    begun = not fresh and Repo.here(root)
    try:
        repo = _repository(root, files, task)
        _lay_down(home, repo, task, designs.Session.begin(design, name, str(folder), task.scale.name, len(slots)), slots)
    except BaseException:
        shutil.rmtree(home.org, ignore_errors=True)
        if not begun:
            _undo(root, [*files, ".gitignore"], fresh)
        raise
    return home


def _lay_down(home: Home, repo: Repo, task: spec.Task, session: designs.Session, slots: list[Slot]) -> None:
    """Everything under `.org`; org.yaml last."""
    home.make()
    commit = repo.trunk()
    hashes = {}
    for path in task.protected:
        content = repo.show_file(commit, path)
        write_atomic(home.protected / path, content)
        hashes[path] = hashlib.sha256(content).hexdigest()
    write_atomic(home.task, task.model_dump_json(indent=1))
    if task.scale.next:
        write_atomic(home.next_task, spec.load(session.task, task.scale.next).model_dump_json(indent=1))
    ledger = Ledger(home.ledger, create=True)
    first = {
        "name": session.name,
        "task": task.name,
        "scale": task.scale.name,
        "org_hash": session.hash,
        "design": session.design.name,
        "program": "main",
        "slots": len(slots),
        "device": slots[0].device,
        "protected": hashes,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "hashes": {},
    }
    founding = {"commit": commit, "parent": "", "experiment": "", "why": "the task as shipped"}
    ledger.append_all([("session", "", first), ("trunk", commit, founding)])
    ledger.close()
    designs.write(home, session)


def _undo(root: Path, files: list[str], fresh: bool) -> None:
    """Take away the repository that could not be finished; the folder was empty before, or did not exist."""
    shutil.rmtree(root / ".git", ignore_errors=True)
    for path in files:
        (root / path).unlink(missing_ok=True)
        for folder in list((root / path).parents)[: len(Path(path).parts) - 1]:
            with contextlib.suppress(OSError):
                folder.rmdir()
    if fresh:
        with contextlib.suppress(OSError):
            root.rmdir()


def reopen(root: Path, wish: Wish) -> Home:
    """The session that lives in `root`. Raises UserError when the wish contradicts what it was founded with."""
    home = Home(root.resolve())
    session = designs.read(home)
    asked = {"scale": wish.scale, "name": wish.name, "slots": wish.slots}
    have = {"scale": session.scale, "name": session.name, "slots": session.slots}
    for key, value in asked.items():
        if value is not None and value != have[key]:
            raise UserError(
                f"{root} already holds a session with {key} {have[key]!r}: start {key} {value!r} in another directory"
            )
    if wish.task is not None and str(spec.folder(wish.task)) != session.task:
        raise UserError(
            f"{root} already holds a session of the task {session.task}: start another task in another directory"
        )
    if wish.design is not None or wish.backend is not None or wish.roles is not None:
        design = designs.load(wish.design or session.design.name, session.slots, wish.backend, wish.roles)
        if design.hash() != session.hash:
            raise UserError(
                f"{root} already holds a session of another organisation (design {session.design.name}, hash {session.hash[:8]}; "
                f"asked for {design.name}, {design.hash()[:8]}): start it in another directory"
            )
    _disk(root)
    home.make()
    return home


def ready_data(home: Home, say: Callable[[str], None]) -> None:
    """Build the task's data once, and write its hashes down; quick when it is there."""
    task = spec.Task.model_validate_json(home.task.read_text())
    if not task.prepare:
        return
    ledger = Ledger(home.ledger)
    try:
        view = View(ledger)
        view.refresh()
        manifest = read_json(home.data / "manifest.json")
        if manifest is None or not view.state.session.get("hashes"):
            say(f"preparing the data of task {task.name}, once")
            began = time.monotonic()
            manifest = prepare(task, home.protected, home.data, home.org / "prepare.log", view.state.session["protected"])
            say(f"data ready in {time.monotonic() - began:.0f} s")
        hashes = {key: value for key, value in manifest.items() if isinstance(value, str)}
        before = view.state.session.get("hashes") or {}
        if before and before != hashes:
            raise UserError(
                f"{home.data} is not the data this session began with (hashes differ): restore it, or begin a new session"
            )
        if not before:
            ledger.append("session", {"hashes": hashes})
    finally:
        ledger.close()


def slots_of(home: Home, session: designs.Session) -> list[Slot]:
    """The slots of a session on this machine."""
    task = spec.Task.model_validate_json(home.task.read_text())
    return discover(task.scale.device, session.slots, task.scale.gpus)


def name_for(root: Path, wish: Wish) -> str:
    """The name of the session in `root`: what it has, else what is asked for, else the folder's name made fit."""
    if exists(root):
        return designs.read(Home(root)).name
    if wish.name is not None:
        try:
            return designs.check_name(wish.name)
        except ValueError as error:
            raise UserError(f"--name: {error}") from error
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in root.name.lower()).strip("-")
    kept = kept.lstrip("0123456789-")[:24].rstrip("-")
    return kept or "org"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _disk(root: Path) -> None:
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < FREE_BYTES:
        raise UserError(
            f"only {free / 1e6:.0f} MB are free on the disk of {place}: free at least {FREE_BYTES / 1e6:.0f} MB"
        )


def _repository(root: Path, files: dict[str, bytes], task: spec.Task) -> Repo:
    """A new research repository in an empty folder, or one that is there: clean, not bare, holding the task's files."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file: give an empty directory")
    if (root / "orgctl.py").is_file() and (root / "lab").is_dir():
        raise UserError(f"{root} is orgctl's own source: `mkdir research && cd research && orgctl up`")
    if Repo.here(root):
        repo = Repo(root)
        if repo.has_commits():
            repo.adopt([*task.editable, *task.protected])
            return repo
    strangers = [item.name for item in root.iterdir() if item.name not in (".git", ".org")] if root.is_dir() else []
    if strangers:
        raise UserError(f"{root} is not empty (it has {sorted(strangers)[0]}): run `orgctl up` in an empty directory")
    return Repo.create(root, files, f"The task {task.name} as shipped")
