"""The first commit of a research repository: all of it, or nothing at all.

Called through `worktrees.repo.Repo.create` and `adopt`. The notable choice: `.git` is complete, commit and all, before
it is renamed into place, and a mark in it says that the files are still to be laid out; so a call that is killed at any
point leaves a folder in which the next one finishes the work.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from worktrees import trees
from worktrees.plumbing import NOBODY, GitError, Plumbing, ambient, check_path, one_line, shown
from worktrees.snapshots import update_index

IGNORE = (".org/", "report/", "__pycache__/")
"""What every research repository's .gitignore holds."""
MARK = "orgctl-unfinished"
"""File in `.git` while the first commit's files are being laid out."""


def found(root: Path, files: Mapping[str, bytes], message: str, trunk_ref: str) -> None:
    """Make the repository and its first commit: `files` and a .gitignore. Raises GitError, leaving nothing of ours."""
    content = {check_path(path): data for path, data in files.items()}
    lines = content.get(".gitignore", b"").decode("utf-8", "replace").splitlines()
    lines += [line for line in IGNORE if line not in lines]
    content[".gitignore"] = "".join(f"{line}\n" for line in lines).encode()
    fresh, had_git = not root.exists(), (root / ".git").exists()
    new: list[str] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        for path, data in content.items():
            there = trees.read_file(root, path)
            if there is not None and there != data:
                raise GitError(f"{root} holds a different {shown(path)} already: start in an empty directory")
            if there is None:
                new.append(path)
        make = _commit_in_place if had_git else _commit_beside
        make(root, content, message, trunk_ref)
        finish(Plumbing(root, root / ".git"))
    except BaseException as error:
        for path in new:
            trees.remove_file(root, path)
        if not had_git:
            shutil.rmtree(root / ".git", ignore_errors=True)
        if fresh:
            with suppress(OSError):
                root.rmdir()
        if isinstance(error, OSError):
            raise GitError(f"cannot make a repository in {root}: {error.strerror}") from error
        raise


def finish(git: Plumbing) -> None:
    """Lay out the first commit's files where a call was killed before it had; nothing otherwise.

    A file that was changed meanwhile is renamed to `<name>.kept`.
    """
    mark = git.git_dir / MARK
    if mark.exists() and (commit := git.ref("HEAD")) is not None:
        trees.lay(git, commit, before={})
        mark.unlink()


def _commit_beside(root: Path, content: Mapping[str, bytes], message: str, trunk_ref: str) -> None:
    """`git init` and the commit in a folder beside, then one rename. Takes away what killed calls left there."""
    org = root / ".org"
    org.mkdir(mode=0o700, exist_ok=True)
    for stale in org.glob("git-new-*"):
        shutil.rmtree(stale, ignore_errors=True)
    stage = Path(tempfile.mkdtemp(prefix="git-new-", dir=org))
    try:
        answer = ambient(["init", "-q", "--template=", "."], stage)
        if answer.status:
            raise GitError(f"git init failed in {root}: {one_line(answer.err)}")
        _commit(Plumbing(stage, stage / ".git"), content, message, trunk_ref)
        (stage / ".git").rename(root / ".git")
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        with suppress(OSError):
            org.rmdir()  # only when it is empty


def _commit_in_place(root: Path, content: Mapping[str, bytes], message: str, trunk_ref: str) -> None:
    """The commit in a repository that has none. Raises GitError when it has commits or staged files."""
    git = Plumbing(root, root / ".git")
    if git.run("for-each-ref", "--count=1", "--format=%(refname)").text or git.ref("HEAD"):
        raise GitError(f"{root} holds a repository with commits already: start in an empty directory")
    if trees.index_files(git) and not (git.git_dir / MARK).exists():
        raise GitError(f"{root} has staged files but no commit: unstage them, or start in an empty directory")
    head = git.run("symbolic-ref", "HEAD").text
    try:
        _commit(git, content, message, trunk_ref)
    except BaseException:
        git.run("read-tree", "--empty", allowed=range(256))
        git.run("symbolic-ref", "HEAD", head, allowed=range(256))
        (git.git_dir / MARK).unlink(missing_ok=True)
        raise


def _commit(git: Plumbing, content: Mapping[str, bytes], message: str, trunk_ref: str) -> None:
    (git.git_dir / MARK).touch()
    update_index(git, None, {path: trees.Entry(trees.FILE, git.write_blob(data)) for path, data in content.items()})
    commit = git.commit_tree(git.run("write-tree").text, [], message, NOBODY)
    git.run("symbolic-ref", "HEAD", trunk_ref)
    git.run("update-ref", trunk_ref, commit, "0" * len(commit))
