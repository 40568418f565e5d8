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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.files import read_json, write_atomic
from lab.home import MAIN, Home
from lab.ledger import Ledger
from lab.prepare import prepare
from lab.runspec import read_manifest
from lab.slots import Slot, discover
from lab.state import View
from org import design as designs
from org import programs, prompt, role
from org.agents import base
from org.swap import Swap, asked, rebacked
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
    roles: dict[str, str] = field(default_factory=dict)
    """Agent or role -> file of another prompt."""
    backends: dict[str, str] = field(default_factory=dict)
    """Agent or role -> backend, besides `backend` for all."""
    library: list[Path] | None = None
    """Folders of papers and Markdown; a session that is there has them added to its own."""
    program: str = MAIN

    def swap(self, session: designs.Session) -> Swap:
        """What of it changes an organisation that is there: settings and budgets too, when its design is named again."""
        design, budget = session.design, None
        settings: dict[str, dict[str, Any]] = {}
        written: dict[str, str] = {}
        backends = {one.name: self.backend for one in design.agents if self.backend and one.role != role.HUMAN} | self.backends
        if self.design is not None:
            again, before = designs.load(self.design, session.slots), {one.name: one for one in design.agents}
            given = asked(design.agents, backends)
            for one in again.agents:
                now = before[one.name]
                suits = base.suiting(dict(one.settings), one.backend, now.backend)[0] == now.settings
                if not suits or given.get(one.name, now.backend) != now.backend:
                    settings[one.name], written[one.name] = dict(one.settings), one.backend
            budget = again.process.budget.model_dump() if again.process.budget != design.process.budget else None
        return Swap(self.roles, backends, settings, written, budget)


def exists(root: Path, program: str = MAIN) -> bool:
    return Home(root, program).settings.is_file()


def found(root: Path, wish: Wish, say: Callable[[str], None] = lambda line: None) -> Home:
    """Make `root` the home of a new session. `say` hears what the backend `auto` has chosen. Raises UserError (nothing is left
    half-made) for anything that cannot work."""
    root = root.resolve()
    name = name_for(root, wish)
    task = spec.load(wish.task or "nanochat", wish.scale)
    folder = spec.folder(wish.task or "nanochat")
    files = spec.workspace_files(task, folder)
    library = shelves(wish)
    home = Home(root, wish.program)
    first, slots = programs.slots(home, task, wish.slots)
    programs.check_name(home, name)
    own = {name: Path(file).expanduser().resolve() for name, file in wish.roles.items()}
    known = role.find() | own
    design = rebacked(designs.load(wish.design or "chief", len(slots), wish.backend, known, say), wish.backends, say)
    for whose in own:
        if not any(one.role == whose for one in design.agents):
            raise UserError(f"--role {whose}=...: no agent of the design {design.name} has this role: {_roles_of(design)}")
    for agent in design.agents:
        missing = base.load(agent.backend).missing(dict(agent.settings))
        if missing:
            raise UserError(f"backend {agent.backend} cannot start: {missing}")
    roles = [role.load(name, known[name]) for name in dict.fromkeys(agent.role for agent in design.agents)]
    _disk(root)
    if home.ledger.exists():
        raise UserError(f"{home.org} holds a ledger but no org.yaml: restore it from .git/orgctl or {home.org}, or use another directory")
    fresh = not root.exists()
    begun = not fresh and Repo.here(root)
    try:
        repo = _repository(root, files, task, wish.program)
        begins = designs.Session.begin(design, name, str(folder), task.scale.name, len(slots), library)
        _lay_down(home, repo, task, begins.model_copy(update={"first": first}), slots, roles)
    except BaseException:
        shutil.rmtree(home.org, ignore_errors=True)
        if not begun:
            _undo(root, [*files, ".gitignore"], fresh)
        raise
    return home


def _roles_of(design: designs.Design) -> str:
    return "choose one of " + ", ".join(dict.fromkeys(one.role for one in design.agents))


def _lay_down(
    home: Home, repo: Repo, task: spec.Task, session: designs.Session, slots: list[Slot], roles: list[role.Role]
) -> None:
    """Everything under `.org`; org.yaml last."""
    home.make()
    for one in roles:
        prompt.pin(home, one)
    commit = repo.trunk()
    hashes = {}
    for path in task.protected:
        content = repo.show_file(commit, path)
        write_atomic(home.protected / path, content)
        hashes[path] = hashlib.sha256(content).hexdigest()
    write_atomic(home.task, task.model_dump_json(indent=1))
    if task.scale.next:
        write_atomic(home.next_task, spec.load(session.task, task.scale.next).model_dump_json(indent=1))
    if not session.design.process.messages:
        write_atomic(home.comms / "closed", "The org design says `messages: false`: agents do not write to each other.\n")
    ledger = Ledger(home.ledger, create=True)
    first = {
        "name": session.name,
        "task": task.name,
        "scale": task.scale.name,
        "org_hash": session.hash,
        "design": session.design.name,
        "program": home.program,
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
    home = Home(root.resolve(), wish.program)
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
    if wish.design is not None:
        design = designs.load(wish.design, session.slots)
        if design.shape() != session.design.shape():
            raise UserError(
                f"{root} already holds a session of another organisation (design {session.design.name}, hash {session.hash[:8]}; "
                f"asked for {design.name}): start it in another directory"
            )
    _disk(root)
    home.make()
    if new := [folder for folder in shelves(wish) if folder not in session.library]:
        designs.write(home, session.model_copy(update={"library": [*session.library, *new]}))
    return home


def shelves(wish: Wish) -> list[str]:
    """The library that was asked for, as absolute paths. Raises UserError for what is no folder."""
    for folder in wish.library or []:
        if not folder.is_dir():
            raise UserError(f"--library {folder}: there is no such folder")
    return list(dict.fromkeys(str(folder.resolve()) for folder in wish.library or []))


def ready_data(home: Home, say: Callable[[str], None], serving: bool = False) -> None:
    """Build the task's data once, and write its hashes down; quick when it is there. Beside a controller that is `serving` nothing is
    written: it would be taken for an imposter's.

    Data that were lost and are prepared again here may have another manifest, since it names absolute paths: with the hashes on record
    it is pinned anew, with an alarm. Raises UserError for any other data than those on record.
    """
    task = spec.Task.model_validate_json(home.task.read_text())
    if not task.prepare:
        return
    ledger = Ledger(home.ledger)
    try:
        view = View(ledger)
        view.refresh()
        made, lost = None, read_json(home.data / "manifest.json") is None
        if lost or not view.state.session.get("hashes"):
            say(f"preparing the data of task {task.name}, once")
            began = time.monotonic()
            made = prepare(task, home.protected, home.data, home.org / "prepare.log", view.state.session["protected"])
            say(f"data ready in {time.monotonic() - began:.0f} s")
        manifest, now = read_manifest(home.data)
        hashes = {key: value for key, value in manifest.items() if isinstance(value, str)}
        before, pinned = view.state.session.get("hashes") or {}, view.state.session.get("manifest")
        anew = lost and manifest == made and before == hashes and pinned not in (None, now)
        if before and (before != hashes or pinned not in (None, now)) and not anew:
            raise UserError(
                f"{home.data} is not the data this session began with (hashes differ): restore it, or remove it to have it prepared again"
            )
        if serving and (not before or pinned is None or anew):
            shutil.rmtree(home.data)
            raise UserError(
                f"{home.data} is gone, and made again it has another manifest, which is not pinned while the organisation is up: "
                f"`{home.command} down`, then `{home.command} up` prepares it"
            )
        if not before or pinned is None:
            ledger.append("session", {"hashes": hashes, "manifest": now})
        elif anew:
            text = f"{home.data} was gone and has been prepared again: the same hashes, and another manifest, which is pinned from now on"
            ledger.append_all([("session", "", {"hashes": hashes, "manifest": now}), ("alarm", "data", {"text": text})])
    finally:
        ledger.close()


def slots_of(home: Home, session: designs.Session) -> list[Slot]:
    """The slots of a session on this machine."""
    task = spec.Task.model_validate_json(home.task.read_text())
    return programs.own(discover(task.scale.device, session.first + session.slots, task.scale.gpus), session.first)


def name_for(root: Path, wish: Wish) -> str:
    """The name of the session in `root`: what it has, else what is asked for, else the folder's name made fit."""
    if exists(root, wish.program):
        return designs.read(Home(root, wish.program)).name
    if wish.name is not None:
        try:
            return designs.check_name(wish.name)
        except ValueError as error:
            raise UserError(f"--name: {error}") from error
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in root.name.lower()).strip("-")
    ending = "" if wish.program == MAIN else f"-{wish.program}"
    kept = kept.lstrip("0123456789-")[: 24 - len(ending)].rstrip("-")
    return (kept or "org") + ending


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


def _repository(root: Path, files: dict[str, bytes], task: spec.Task, program: str) -> Repo:
    """A new research repository in an empty folder, or one that is there: clean, not bare, holding the task's files."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file: give an empty directory")
    if (root / "orgctl.py").is_file() and (root / "lab").is_dir():
        raise UserError(f"{root} is orgctl's own source: `mkdir research && cd research && orgctl up`")
    if Repo.here(root):
        repo = Repo(root, program)
        if repo.has_commits():
            repo.adopt([*task.editable, *task.protected])
            return repo
    strangers = [item.name for item in root.iterdir() if item.name not in (".git", ".org")] if root.is_dir() else []
    if strangers:
        raise UserError(f"{root} is not empty (it has {sorted(strangers)[0]}): run `orgctl up` in an empty directory")
    return Repo.create(root, files, f"The task {task.name} as shipped", program)
