"""What the backends `claude` and `codex` share: settings, the program and its version, skills, hooks, the record of conversations.

Everything of ours lies under `seat.folder`; nothing is written into a worktree or into the user's own configuration. Launching
twice is launching once: the controller also asks what a pane should run while the agent in it is well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lab.errors import UserError
from lab.files import write_atomic
from lab.text import clean
from org.agents.base import Retry, Seat, Told
from org.agents.chosen import validated
from org.agents.hook import LIMITED
from org.agents.prices import at_home, price_of

URLS = {"claude": "ANTHROPIC_BASE_URL", "codex": "OPENAI_BASE_URL"}
"""Where the environment names a compatible server."""
TIMEOUT = 30
"""Seconds after which a CLI gives up on a hook of ours."""


class Settings(BaseModel):
    """What a design may set under `settings` of an agent with one of these backends."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    credentials: Literal["env", "login"] = Field(
        "env", description="Keys of the environment, or the user's own login of the CLI."
    )
    model: str | None = Field(
        None, min_length=1, pattern=r"^[^-\s]\S*$", description="As the CLI names it. Default: the CLI's own."
    )
    effort: Literal["minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="How hard it thinks."
    )
    flags: list[str] = Field([], description="More words for the CLI's command line, after ours.")
    command: str | None = Field(None, min_length=1, description="Path of the program. Default: the one on PATH.")
    base_url: str | None = Field(
        None, pattern=r"^https?://", description="Of a compatible server. Default: from the environment."
    )
    network: bool = Field(False, description="May it use the CLI's own tools for fetching and searching the web?")
    budget_tokens: int | None = Field(None, ge=1, description="Tokens of any kind, in all lives of the agent.")
    budget_dollars: float | None = Field(None, gt=0, description="The same in dollars, by list prices.")


def read(backend: str, given: dict[str, Any]) -> Settings:
    """Raises UserError with the setting and what may stand there."""
    return validated(Settings, backend, given)


@dataclass(frozen=True)
class Program:
    """One of the two CLIs as a program on this machine."""

    name: str
    package: str
    """On npm."""
    oldest: tuple[int, int, int]
    """The oldest version that is known to understand what we tell it."""

    def find(self, settings: Settings) -> str | None:
        """Path of the program; None when there is none."""
        return shutil.which(os.path.expanduser(settings.command or self.name))

    def missing(self, given: dict[str, Any], key: str, keyed: bool, logged_in: bool, log_in: str) -> str | None:
        """Why it cannot start with these settings (one line with the remedy), or None. `keyed`: is there a key in the environment, best
        under the name `key`; `logged_in`: has the user a login, else `log_in` says how to get one."""
        try:
            settings = read(self.name, given)
        except UserError as error:
            return str(error)
        if trouble := self.trouble(settings) or self.unpriced(settings):
            return trouble
        if settings.credentials == "env" and not keyed:
            return f"no credentials for {self.name}: set {key}, or `credentials: login` in its settings to use your own login"
        if settings.credentials == "login" and not logged_in:
            return f"{self.name} has no login of yours: {log_in}, or set {key}"
        return None

    def unpriced(self, settings: Settings) -> str | None:
        """Why a budget in dollars cannot be kept (one line with the remedy), or None. Which model a CLI takes by itself is seen when it has
        answered (`org.spending`)."""
        if settings.budget_dollars is None:
            return None
        if not priced(url := settings.base_url or os.environ.get(URLS[self.name])):
            return f"what a model at {clean(url, 100)} costs is not known, so budget_dollars cannot be kept: set budget_tokens"
        if settings.model is None or price_of(settings.model):
            return None
        return (
            f"the price of {clean(settings.model, 60)} is not known, so budget_dollars cannot be kept: set budget_tokens, or name a model "
            "of the price list in full (org/agents/prices.yaml)"
        )

    def trouble(self, settings: Settings) -> str | None:
        """Why it cannot be used (one line with the remedy), or None."""
        given = os.path.expanduser(settings.command or "")
        if os.sep in given and not os.path.isabs(given):
            whole = "begin it with / or ~, since agents start in folders of their own"
            return f"the setting `command` of backend {self.name} is a relative path, {clean(given, 200)}: {whole}"
        path = self.find(settings)
        install = f"`npm install -g {self.package}@latest`"  # without @latest npm takes an old one on an old Node, and does not say so
        if path is None and settings.command:
            return f"{clean(settings.command, 200)} is no program: correct the setting `command` of backend {self.name}"
        if path is None:
            return f"{self.name} is not installed: {install}, or give its path with the setting `command`"
        found = version(path, os.path.getmtime(path))
        if found is None:
            return f"`{path} --version` names no version: install it anew ({install})"
        if found < self.oldest:
            wanted, there = (".".join(map(str, one)) for one in (self.oldest, found))
            return f"{self.name} {there} is too old, {wanted} is needed: {install}"
        return None


@functools.cache
def version(path: str, changed: float) -> tuple[int, int, int] | None:
    """What `PATH --version` says. `changed` (the file's mtime) makes the answer of a replaced program a new one."""
    with_home = {"HOME": os.environ.get("HOME", "/"), "PATH": os.environ.get("PATH", os.defpath)}
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, env=with_home, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


LIMIT = 300.0
"""Seconds for which a limit counts when nobody said when it ends; then the agent may be woken, and finds out."""


def limited(since: float, text: str, until: object, now: float) -> Told:
    """The state of an agent that was sent away with a limit at `since`: idle again when that is over."""
    known = float(until) if isinstance(until, int | float) and 0 <= until < 1e11 else None
    over = now >= (since + LIMIT if known is None else known)
    return Told("idle", since, f"{text} (that should be over)") if over else Told("rate_limited", since, text, known)


TRIES = "tries again after: "
"""Begins the text of an agent that works and whose provider does not."""
UNNAMED, OWN_WAIT = 2, 2.0
"""In its first two attempts Claude Code does not say which error it was, and waits at most two seconds by itself: for longer only where
the provider asked for it, which is a limit."""
LONGEST = 30 * 86400.0
"""Seconds; a longer wait than any provider asks for stands on a screen because somebody wrote it there."""


def trying(told: Told, retry: Retry | None, now: float) -> Told:
    """The state of an agent that works by its records, with the error after which it tries again: a limit where that is what it says."""
    if retry is None:
        return told
    text = f"{TRIES}{retry.error} (attempt {retry.attempt} of {retry.most})"
    until = None if retry.wait is None or retry.wait > LONGEST else float(round(now + retry.wait))
    sent_away = retry.attempt <= UNNAMED and (retry.wait or 0) > OWN_WAIT
    return Told("rate_limited" if sent_away or LIMITED.search(retry.error) else "working", told.since, text, until)


def told(seat: Seat) -> str:
    """What the agent is told at its start; "" when nothing was laid down."""
    try:
        return seat.prompt.read_text(encoding="utf-8")
    except OSError:
        return ""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def priced(url: str | None) -> bool:
    return not at_home(url)


def lay_skills(source: Path, target: Path) -> None:
    """Each `<skill>.md` of `source` as `target/<skill>/SKILL.md` with the front matter that both CLIs ask for; what lies there
    and is none of them goes, hidden folders (the CLI's own) stay."""
    wanted = {path.stem: path for path in sorted(source.glob("*.md"))} if source.is_dir() else {}
    if target.is_dir():
        for old in target.iterdir():
            if old.name not in wanted and not old.name.startswith(".") and old.is_dir() and not old.is_symlink():
                shutil.rmtree(old, ignore_errors=True)
    for name, path in wanted.items():
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---\n") and "\n---\n" in text[4:]:
            text = text[4:].partition("\n---\n")[2]
        write_atomic(
            target / name / "SKILL.md",
            f"---\nname: {name}\ndescription: {json.dumps(_about(name, text))}\n---\n\n{text}",
        )


def _about(name: str, text: str) -> str:
    """A line for the list of skills: the heading, else the name."""
    heading = next((line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")), "")
    return clean(heading, 200) or f"How to {name}"


def hook_command(backend: str) -> str:
    """The command line that a hook runs, isolated: nothing in a worktree can shadow it."""
    return shlex.join([sys.executable, "-I", "-m", "org.agents.hook", backend])


def hooks(backend: str, events: Iterable[str], **more: Any) -> dict[str, Any]:
    """The `hooks` object of both CLIs' settings."""
    one = {"type": "command", "command": hook_command(backend), "timeout": TIMEOUT, **more}
    return {event: [{"hooks": [one]}] for event in events}


def identity(agent: str) -> dict[str, str]:
    """Commits under the agent's name, as everywhere here."""
    name = {f"GIT_{who}_NAME": agent for who in ("AUTHOR", "COMMITTER")}
    return name | {f"GIT_{who}_EMAIL": f"{agent}@orgctl.local" for who in ("AUTHOR", "COMMITTER")}


def from_file(path: Path) -> list[str]:
    """A command line that becomes the one in this file: {"argv": [...]}."""
    code = "import json, os, sys; argv = json.load(open(sys.argv[1]))['argv']; os.execvp(argv[0], argv)"
    return [sys.executable, "-I", "-c", code, str(path)]
