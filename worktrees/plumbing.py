"""Running git so that nobody's settings, hooks or environment change what it does; the errors that this room raises.

Called by `worktrees.repo` and its neighbours only. The notable choice: every call names its git directory, working tree
and index explicitly and switches off hooks, fsmonitor, attribute files, signing and user configuration, so a repository
behaves the same on every machine and an agent's `git config` starts no program in our process.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a machine without git gets our one line, not an ImportError

from git import Git
from git.exc import GitCommandNotFound

NOBODY = "orgctl"
"""Author of what no agent made."""
AGENT = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
REF = re.compile(r"refs(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
REVISION = re.compile(r"[0-9a-f]{7,64}|[A-Za-z0-9_][A-Za-z0-9_./-]*")
LOCK_SECONDS = 3.0
"""How long a call waits for another git that holds the same lock file."""
CONFIG = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.excludesFile=/dev/null",
    "core.autocrlf=false", "core.safecrlf=false", "core.quotePath=false", "core.fsync=committed,reference",
    "commit.gpgsign=false", "gc.auto=0", "maintenance.auto=false", "i18n.commitEncoding=UTF-8",
)  # fmt: skip


class GitError(RuntimeError):
    """Git refused or a path is not usable. `str(error)` is one printable line: what, where, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class ProtectedChanged(GitError):
    """Protected files differ from the trunk they started from; `paths` names them."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        super().__init__(f"protected files were changed: {few(paths)}: put them back as they were, then try again")


class NothingChanged(GitError):
    """A snapshot or merge that would equal its parent."""


class Conflict(GitError):
    """Two changes meet in the same place; `files` names where. Nothing was merged."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        super().__init__(f"the change conflicts with trunk in {few(files)}: redo it on the present trunk")


@dataclass(frozen=True)
class Answer:
    """What a git command said."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "surrogateescape").strip()

    def names(self) -> list[str]:
        """NUL-separated output as strings (undecodable bytes as surrogate escapes)."""
        return [item.decode("utf-8", "surrogateescape") for item in self.out.split(b"\0") if item]


@dataclass(frozen=True)
class Plumbing:
    """Git in one repository. `folder` is its working tree, `git_dir` the folder or file `.git` that belongs to it."""

    folder: Path
    git_dir: Path

    def run(
        self,
        *args: str,
        stdin: bytes | None = None,
        index: Path | None = None,
        author: str = NOBODY,
        allowed: Sequence[int] = (0,),
        bare: bool = False,
    ) -> Answer:
        """Run one git command. `index` is used instead of the working tree's own; `author` signs commits made by it.

        Raises GitError with git's own reason unless the exit status is among `allowed`.
        """
        environment = _environment(author)
        environment["GIT_DIR"] = str(self.git_dir)
        if not bare:
            environment["GIT_WORK_TREE"] = str(self.folder)
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        options = [part for setting in CONFIG for part in ("-c", setting)]
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            answer = _execute(self.folder, [*options, *args], environment, stdin)
            if answer.status in allowed:
                return answer
            if ".lock': File exists" not in answer.err or time.monotonic() > deadline:
                raise GitError(_explain(args[0], self.folder, answer))
            time.sleep(0.05)

    def commit_id(self, revision: str) -> str:
        """Full id of a commit. Raises GitError when there is no such commit."""
        if not REVISION.fullmatch(revision) or ".." in revision:
            raise GitError(f"'{shown(revision)}' is no commit id or ref name")
        answer = self.run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", allowed=(0, 1, 128))
        if answer.status:
            raise GitError(f"no commit {revision} in {self.folder}: it was never made here or has been pruned")
        return answer.text

    def ref(self, name: str) -> str | None:
        """Commit that a full ref name points to, or None."""
        answer = self.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", allowed=(0, 1, 128))
        return None if answer.status else answer.text

    def tree_id(self, commit: str) -> str:
        return self.run("rev-parse", "--verify", f"{commit}^{{tree}}").text

    def write_blob(self, data: bytes) -> str:
        """Store bytes as they are; returns the blob's id."""
        return self.run("hash-object", "-w", "--no-filters", "--stdin", stdin=data).text

    def commit_tree(self, tree: str, parents: Sequence[str], message: str, author: str) -> str:
        """A commit object (no ref is moved); returns its id."""
        clean = message.replace("\0", "").strip() or "(no message)"
        options = [part for parent in parents for part in ("-p", parent)]
        return self.run(
            "commit-tree", tree, *options, stdin=clean.encode("utf-8", "backslashreplace") + b"\n", author=author
        ).text

    @contextmanager
    def temporary_index(self) -> Iterator[Path]:
        """Path of an index that does not exist yet and is gone afterwards."""
        with temporary_folder() as folder:
            yield folder / "index"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards. Raises GitError where none can be made."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="orgctl-"))
    except OSError as error:
        place = tempfile.gettempdir()
        raise GitError(f"no temporary folder in {place}: {error.strerror}: free disk space or set TMPDIR") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ambient(args: Sequence[str], folder: Path) -> Answer:
    """Git outside any repository (init), never raising for an exit status."""
    return _execute(folder, list(args), _environment(NOBODY), None)


def check_agent(agent: str) -> str:
    """The name itself. Raises GitError when it could not be part of a branch and folder name."""
    if not AGENT.fullmatch(agent) or agent == "trunk":
        raise GitError(
            f"'{shown(agent)}' cannot name an agent: use 1 to 31 of a-z, 0-9 and -, not starting with -, not `trunk`"
        )
    return agent


def check_path(path: str) -> str:
    """The path itself. Raises GitError unless it is relative, stays inside and touches neither `.git` nor `.org`."""
    parts = path.split("/")
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise GitError(f"'{shown(path)}' is not a path inside the repository")
    if any(part.casefold() in (".git", ".org") for part in parts):
        raise GitError(f"'{shown(path)}' lies in .git or .org, which belong to git and to the organisation")
    return str(PurePosixPath(path))


def shown(text: str) -> str:
    """A name as people may see it on one line: control characters and undecodable bytes escaped."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def few(names: Sequence[str], limit: int = 5) -> str:
    """The first names, printable, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown(name) for name in names[:limit]) + more


def one_line(text: str, limit: int = 300) -> str:
    """Text of a program on one printable line."""
    return shown(" ".join(text.split()))[:limit]


def _environment(author: str) -> dict[str, str]:
    email = f"{author}@orgctl.local"
    return {
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
        # git before 2.32 knows no GIT_CONFIG_GLOBAL; without a home it finds no user configuration either.
        "HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent",
        "GIT_ATTR_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_AUTHOR_NAME": author, "GIT_AUTHOR_EMAIL": email,
        "GIT_COMMITTER_NAME": author, "GIT_COMMITTER_EMAIL": email,
    }  # fmt: skip


def _execute(folder: Path, args: list[str], environment: dict[str, str], stdin: bytes | None) -> Answer:
    """One git process through GitPython; the caller's GIT_* variables (set inside a hook, say) do not reach it."""
    client = Git()  # not Git(folder): that would expand `~` and `$` in the path
    inherited = [name for name in os.environ if name.startswith("GIT_") and not name.startswith("GIT_PYTHON_")]
    prefix = ["env", *(part for name in inherited for part in ("-u", name))] if inherited else []
    if inherited:
        prefix += [f"{name}={value}" for name, value in environment.items()]
    try:
        with tempfile.TemporaryFile() as source:
            if stdin is not None:
                source.write(stdin)
                source.seek(0)
            status, out, err = client.execute(
                [*prefix, Git.GIT_PYTHON_GIT_EXECUTABLE or "git", "-C", str(folder), *args],
                istream=source,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                env=environment,
            )
    except GitCommandNotFound as error:
        raise GitError("git was not found: install it (Debian: apt-get install git)") from error
    except OSError as error:
        raise GitError(f"git cannot be run in {folder}: {error.strerror}: free disk space or set TMPDIR") from error
    return Answer(status, out if isinstance(out, bytes) else b"", str(err))


def _explain(command: str, folder: Path, answer: Answer) -> str:
    """Git's complaint as one line with what to do."""
    said = one_line(answer.err.replace("fatal: ", "").replace("error: ", "")) or f"exit status {answer.status}"
    remedy = ""
    if ".lock': File exists" in answer.err:
        remedy = ": another git is at work there; if none is, delete that lock file and try again"
    elif "No space left" in answer.err:
        remedy = ": free disk space, then try again"
    return f"git {command} failed in {shown(str(folder))}: {said}{remedy}"
