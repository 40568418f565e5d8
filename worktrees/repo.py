"""A research repository: trunk, one branch and worktree an agent, snapshots, clean checkouts, promotions.

Called by the laboratory and the organisation; imports nothing of ours but this room. Content moves by plumbing
(temporary indexes, blobs, compare-and-swap of refs), so agents' branches and indexes stay theirs, and a step that is
killed half-way is finished by doing it again. Paths, names and everything found in a worktree are untrusted.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from worktrees import snapshots, trees
from worktrees.aside import set_aside
from worktrees.founding import IGNORE, finish, found
from worktrees.plumbing import (
    AGENT,
    Conflict,
    GitError,
    NothingChanged,
    Plumbing,
    ProtectedChanged,
    check_agent,
    check_path,
    few,
    one_line,
    shown,
)
from worktrees.snapshots import Snapshot

__all__ = ["Conflict", "GitError", "NothingChanged", "ProtectedChanged", "Repo", "Snapshot", "trunk_branch"]

TAKEN = ("trunk", "exp", "audit", "lost")
"""Parts of branches and refs that are no program's name."""
OBJECT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
UNFINISHED = ("MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "AUTO_MERGE", "CHERRY_PICK_HEAD", "REVERT_HEAD", "SQUASH_MSG",
              "BISECT_LOG", "rebase-merge", "rebase-apply", "sequencer")  # fmt: skip
"""What git keeps of a merge or rebase under way; a reset ends it."""


class Repo:
    """One repository and one program (line of research) in it."""

    def __init__(self, root: Path, program: str = "main") -> None:
        """Open the repository whose working tree is `root`. Raises GitError when there is none, or it is bare."""
        self.program = _check_program(program)
        self.root = root.resolve()
        self.git = _open(self.root)

    @staticmethod
    def here(root: Path) -> bool:
        """Is there a repository of any kind in `root` itself?"""
        return os.path.lexists(root / ".git") or (root / "HEAD").is_file()

    @property
    def trunk_branch(self) -> str:
        """Name of the trunk's branch: `org/trunk`, or `org/<program>/trunk`."""
        return self.trunk_ref.removeprefix("refs/heads/")

    @property
    def trunk_ref(self) -> str:
        return _trunk_ref(self.program)

    def kept(self, path: str) -> str:
        """The ref under which this program keeps a commit that no branch holds: refs/org/<path>, or refs/org/<program>/<path>."""
        return f"refs/org/{path}" if self.program == "main" else f"refs/org/{self.program}/{path}"

    def branch(self, agent: str) -> str:
        """Name of an agent's branch. Raises GitError for a name that cannot be one."""
        return f"org/{self.program}/{check_agent(agent)}"

    def trunk(self) -> str:
        """Commit of the trunk's branch. Raises GitError when there is no such branch."""
        commit = self.git.ref(self.trunk_ref)
        if commit is None:
            raise GitError(f"{self.root} has no branch {self.trunk_branch}: run `orgctl up` in an empty directory")
        return commit

    @classmethod
    def create(cls, root: Path, files: Mapping[str, bytes], message: str, program: str = "main") -> Repo:
        """Make a repository in `root` (or use one without commits) whose first commit holds `files` and a .gitignore.

        HEAD ends on the trunk's branch. Files that lie there already must have the same content. Raises GitError;
        nothing of ours is left behind then.
        """
        _check_program(program)
        found(Path(os.path.abspath(root)), files, message, _trunk_ref(program))
        return cls(root, program)

    def has_commits(self) -> bool:
        """Is there anything in the repository yet?"""
        return self.git.ref("HEAD") is not None

    def adopt(self, needed: Sequence[str]) -> None:
        """Use a repository with commits: trunk starts where its branch is, else at HEAD. Twice is once.

        Raises GitError when tracked files are changed, or HEAD lacks one of the `needed` paths.
        """
        finish(self.git)
        if changed := self.dirty():
            raise GitError(f"{self.root} has uncommitted changes ({few(changed)}): commit or stash them first")
        commit = self.git.ref(self.trunk_ref) or self.git.commit_id("HEAD")
        missing = [path for path in needed if path not in trees.tree_files(self.git, commit)]
        if missing:
            raise GitError(
                f"{self.root} is no research repository of this task (it lacks {few(missing)}): use an empty directory"
            )
        if self.git.ref(self.trunk_ref) is None:
            self.git.run("update-ref", self.trunk_ref, commit, "0" * len(commit))
            if self.program == "main":  # another program leaves the person's checkout where it is
                self.git.run("symbolic-ref", "HEAD", self.trunk_ref)
        exclude = self._common() / "info" / "exclude"
        held = exclude.read_text("utf-8", "surrogateescape").splitlines() if exclude.is_file() else []
        if lines := [line for line in IGNORE[:2] if line not in held]:  # a .gitignore of theirs may not know us
            exclude.parent.mkdir(exist_ok=True)
            exclude.write_text("".join(f"{line}\n" for line in [*held, *lines]), "utf-8", "surrogateescape")

    def fork_point(self, branch: str, trunk: str) -> str:
        """The newest commit of `trunk`'s history that `branch` contains: what its work is based on. Raises GitError."""
        tip, wanted = self.git.commit_id(f"refs/heads/{branch}"), self.git.commit_id(trunk)
        answer = self.git.run("merge-base", tip, wanted, allowed=(0, 1))
        if answer.status:
            raise GitError(f"{branch} shares no history with trunk: run `git reset --hard {self.trunk_branch}` on it")
        return answer.text.split()[0]

    # ------------------------------------------------------------------ worktrees

    def add_worktree(self, agent: str, path: Path, start: str) -> str:
        """Give an agent a worktree at `path` on its own branch, from `start` unless the branch exists (commits stay).

        Doing it twice is doing it once. A worktree whose folder or registration was lost is made again; a folder there
        that is no worktree is renamed to `<path>.kept`. Returns "" or a note about that. Raises GitError.
        """
        branch, commit = self.branch(agent), self.git.commit_id(start)
        path = Path(os.path.abspath(path))
        note = ""
        if (admin := self._registered(path)) is not None:
            if _unfinished(admin):
                (path / ".git").unlink(missing_ok=True)
            elif (path / ".git").is_file():
                if not (admin / "index").exists():  # killed while the files were laid out
                    self._fill(self._at(path), self.git.ref(f"refs/heads/{branch}") or commit)
                return note
            self._forget(admin)
        if (path / ".git").is_file() and not (path / ".git").is_symlink():  # the repository was moved
            self.git.run("worktree", "repair", str(path), allowed=range(256))
            if self._registered(path) is not None:
                return note
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
            note = f"{path} was no worktree: renamed to {set_aside(path).name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        held = self.git.ref(f"refs/heads/{branch}")
        which = ["--", str(path), branch] if held else ["-b", branch, "--", str(path), commit]
        self.git.run("worktree", "add", "--no-checkout", *which)
        self._fill(self._at(path), held or commit)
        return note

    def reset_worktree(self, path: Path, commit: str, agent: str) -> list[str]:
        """Set the agent's branch, index and tracked files to `commit`; untracked files stay.

        A tip that would become unreachable is kept under refs/org/lost/<agent>/<time>. Returns new names of untracked
        files that lay where tracked ones had to go. Raises GitError.
        """
        branch, target = self.branch(agent), self.git.commit_id(commit)
        there = self._at(path)
        ref = f"refs/heads/{branch}"
        for old in {self.git.ref(ref), there.ref("HEAD")} - {None, target}:
            assert old is not None
            if not self._reachable(old, target, besides=ref):
                snapshots.save_lost(self.git, agent, old)
        self.git.run("update-ref", "-m", "orgctl reset", ref, target)
        there.run("symbolic-ref", "HEAD", ref)
        for name in UNFINISHED:
            place = there.git_dir / name
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
        return self._fill(there, target)

    def commit_worktree(self, path: Path, agent: str, message: str, paths: Sequence[str]) -> str:
        """Commit `paths` as they are in the agent's worktree to the agent's branch, under the agent's name.

        Returns the commit, or the branch's tip when nothing of them changed. Raises GitError, also when the worktree is
        not on the agent's branch.
        """
        branch, there = self.branch(agent), self._at(path)
        ref = f"refs/heads/{branch}"
        if there.run("symbolic-ref", "-q", "HEAD", allowed=(0, 1)).text != ref:
            raise GitError(f"the worktree {path} is not on {branch}: run `git switch {branch}` there")
        tip = there.commit_id("HEAD")
        before = trees.tree_files(self.git, tip)
        after = dict(before)
        for name in paths:
            content = trees.read_file(path, check_path(name))
            if content is None:
                after.pop(name, None)
            else:
                mode = before[name].mode if name in before and before[name].mode != trees.LINK else trees.FILE
                blob = trees.blob_id(content, like=tip)
                if name not in before or (before[name].mode, before[name].blob) != (mode, blob):
                    after[name] = trees.Entry(mode, self.git.write_blob(content))
        if after == before:
            return tip
        tree = snapshots.write_tree(self.git, tip, before, after)
        commit = self.git.commit_tree(tree, [tip], message, agent)
        self.git.run("update-ref", "-m", "orgctl commit", ref, commit, tip)
        changed = {name: entry for name, entry in after.items() if before.get(name) != entry}
        snapshots.update_index(there, None, changed, {name: before[name] for name in before if name not in after})
        return commit

    # ------------------------------------------------------------------ snapshots

    def snapshot(
        self,
        worktree: Path,
        agent: str,
        ref: str,
        parent: str,
        editable: Sequence[str],
        protected: Sequence[str],
        message: str,
    ) -> Snapshot:
        """Commit the worktree's content of the `editable` files on top of `parent`'s tree, kept at `ref` (refs/org/..).

        The agent's branch and index are not touched, and no filter runs. Deleted editable files are deleted in the
        commit; other new or changed files are named in `ignored`. Raises ProtectedChanged, NothingChanged, and GitError
        for a link, a special file or one over 1 MB among the editable.
        """
        return snapshots.snapshot(self.git, worktree, agent, ref, parent, editable, protected, message)

    def rebase(self, commit: str, old_parent: str, new_parent: str, ref: str, agent: str, message: str) -> Snapshot:
        """Apply the change old_parent -> commit to `new_parent`, as a commit kept at `ref`.

        Raises Conflict (naming files), or NothingChanged when new_parent holds the change already.
        """
        return snapshots.rebase(self.git, commit, old_parent, new_parent, ref, agent, message)

    def export(self, commit: str, dest: Path) -> None:
        """Write the files of a commit, byte for byte, without `.git`, into `dest` (missing or empty), or GitError."""
        trees.export(self.git, self.git.commit_id(commit), dest)

    def changed_paths(self, a: str, b: str) -> list[str]:
        """Paths that differ between two commits."""
        return snapshots.changed_paths(self.git, self.git.commit_id(a), self.git.commit_id(b))

    def changes(self, pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[list[str], str]]:
        """Commit -> (paths, unified diff without a cap) of each (parent, commit); one call of git for all. Those whose commits are not in
        the repository are left out."""
        gone = set(self.missing([commit for pair in pairs for commit in pair]))
        return snapshots.changes(self.git, [pair for pair in pairs if not gone & {*pair}])

    def diff(self, a: str, b: str) -> str:
        """Unified diff of two commits, capped at 200,000 characters with a note."""
        return snapshots.diff(self.git, self.git.commit_id(a), self.git.commit_id(b))

    def show_file(self, commit: str, path: str) -> bytes:
        """Content of a file in a commit. Raises GitError when it has none of that name."""
        entry = trees.tree_files(self.git, self.git.commit_id(commit)).get(path)
        if entry is None or entry.mode == trees.SUBMODULE:
            raise GitError(f"commit {commit[:10]} has no file {shown(path)}")
        return trees.blobs(self.git, [entry.blob])[entry.blob]

    def refs(self, prefix: str) -> dict[str, str]:
        """Full ref name -> object id of every ref under `prefix` (such as refs/org/exp)."""
        listed = self.git.run("for-each-ref", "--format=%(refname) %(objectname)", prefix).text
        return {name: commit for name, _, commit in (line.partition(" ") for line in listed.splitlines())}

    def missing(self, commits: Sequence[str]) -> list[str]:
        """Those of these full ids that are no commit in the repository; one call of git for all."""
        asked = [commit for commit in commits if OBJECT.fullmatch(commit)]
        lines = self.git.run("cat-file", "--batch-check=%(objecttype)", stdin="".join(f"{one}\n" for one in asked).encode())
        there = dict(zip(asked, lines.text.splitlines(), strict=True)) if asked else {}
        return [commit for commit in commits if there.get(commit) != "commit"]

    # ------------------------------------------------------------------ trunk

    def advance_trunk(self, expected_old: str, new: str) -> str:
        """Move trunk from `expected_old` to `new`; raises GitError (and moves nothing) when it is elsewhere.

        The main working tree follows when it is on trunk and clean. Returns "" or a warning that it was left alone.
        """
        old, target = self.git.commit_id(expected_old), self.git.commit_id(new)
        self.trunk()
        history = self.git.run("rev-list", "--first-parent", "--max-count=200", old).text.split()
        try:
            self.git.run("update-ref", "-m", "orgctl promotion", self.trunk_ref, target, old)
        except GitError as error:
            now = self.trunk()
            if now == old:
                raise
            raise GitError(f"{self.trunk_branch} is at {now[:10]}, not at {old[:10]}: somebody moved it") from error
        return self._follow(target, history)

    def restore_trunk(self, commit: str) -> bool:
        """Put the trunk's branch back to `commit`; True when somebody had moved (or deleted) it.

        What they had put there is kept under refs/org/lost/trunk/<time>; the main working tree is left alone.
        """
        target, now = self.git.commit_id(commit), self.git.ref(self.trunk_ref)
        if now == target:
            return False
        if now is not None and not self._reachable(now, target, besides=self.trunk_ref):
            snapshots.save_lost(self.git, "trunk", now)
        self.git.run("update-ref", "-m", "orgctl restores trunk", self.trunk_ref, target)
        return True

    def dirty(self) -> list[str]:
        """Tracked files of the main working tree that differ from its HEAD commit, staged or not."""
        index, head = trees.index_files(self.git), self.git.ref("HEAD")
        committed = trees.tree_files(self.git, head) if head else {}
        staged = {path for path in index.keys() | committed.keys() if not _equal(index.get(path), committed.get(path))}
        return sorted(staged | {path for path, entry in index.items() if not trees.same(self.root, path, entry)})

    def _follow(self, target: str, history: Sequence[str]) -> str:
        """Bring the main working tree to trunk's new commit if it holds an earlier trunk unchanged; else a warning."""
        if self.git.run("symbolic-ref", "-q", "HEAD", allowed=(0, 1)).text != self.trunk_ref:
            return ""
        left = f"{self.trunk_branch} moved to {target[:10]}, but the files in {self.root} stayed as they are"
        remedy = "put them aside, then run `git reset --hard` there"
        try:
            index, wanted = trees.index_files(self.git), trees.tree_files(self.git, target)
            # A file that is at its new content already was laid there by a call that was killed.
            changed = [
                path
                for path, entry in index.items()
                if not trees.same(self.root, path, entry) and not trees.same(self.root, path, wanted.get(path))
            ]
            if changed:
                return f"{left}: changes in {few(changed)} are not committed; {remedy}"
            tree = self.git.run("write-tree").text
            if not any(self.git.tree_id(commit) == tree for commit in history):
                return f"{left}: there are staged changes; {remedy}"
            kept = self._fill(self.git, target)
        except GitError as error:
            return f"{left}: {one_line(str(error))}"
        return f"files in the way of {self.trunk_branch} were renamed in {self.root}: {few(kept)}" if kept else ""

    # ------------------------------------------------------------------ inside

    def _common(self) -> Path:
        """The `.git` folder that all worktrees share."""
        return (self.root / self.git.run("rev-parse", "--git-common-dir").text).resolve()

    def _registered(self, path: Path) -> Path | None:
        """Folder in which git keeps the worktree at `path` (read directly: `worktree list -z` needs git 2.36)."""
        try:
            candidates = sorted((self._common() / "worktrees").iterdir())
        except OSError:
            return None
        wanted = os.path.realpath(path)
        for folder in candidates:
            try:
                text = os.fsdecode((folder / "gitdir").read_bytes()).removesuffix("\n")
            except OSError:
                continue
            if os.path.realpath(os.path.dirname(folder / text)) == wanted:
                return folder
        return None

    def _forget(self, admin: Path) -> None:
        """Drop a stale registration; only this one, since pruning might take the user's own along."""
        shutil.rmtree(admin, ignore_errors=True)
        if admin.exists():
            raise GitError(f"cannot remove the stale worktree registration {admin}: delete it")

    def _at(self, path: Path) -> Plumbing:
        """Git in an agent's worktree, by our registration and not by the `.git` file that lies there."""
        admin = self._registered(path)
        if admin is None or not path.is_dir():
            raise GitError(f"no worktree at {path}: run `orgctl up` to make it again")
        return Plumbing(Path(os.path.abspath(path)), admin)

    def _fill(self, there: Plumbing, commit: str) -> list[str]:
        """Lay a commit's files into a worktree; the index comes last, so that a killed call is seen and finished."""
        kept = trees.lay(there, commit, trees.index_files(there))
        there.run("read-tree", commit)
        return kept

    def _reachable(self, commit: str, target: str, besides: str) -> bool:
        """Will `commit` still be found once the ref `besides` points to `target`?"""
        if self.git.run("merge-base", "--is-ancestor", commit, target, allowed=(0, 1)).status == 0:
            return True
        refs = self.git.run("for-each-ref", f"--contains={commit}", "--format=%(refname)").text.split()
        return any(ref != besides for ref in refs)


def _unfinished(admin: Path) -> bool:
    """Was `git worktree add` killed before it had written all of its registration?"""
    if not (admin / "HEAD").is_file() or not (admin / "commondir").is_file():
        return True
    try:
        return (admin / "locked").read_text(errors="replace").startswith("initializing")
    except OSError:
        return False


def _check_program(program: str) -> str:
    if not AGENT.fullmatch(program) or program in TAKEN:
        raise GitError(f"'{shown(program)}' cannot name a program: use 1 to 31 of a-z, 0-9 and -, and none of {', '.join(TAKEN)}")
    return program


def trunk_branch(program: str) -> str:
    """Name of a program's trunk branch."""
    return "org/trunk" if program == "main" else f"org/{program}/trunk"


def _trunk_ref(program: str) -> str:
    return f"refs/heads/{trunk_branch(program)}"


def _equal(a: trees.Entry | None, b: trees.Entry | None) -> bool:
    """Same content and kind? (An index does not know sizes.)"""
    return (a and (a.mode, a.blob)) == (b and (b.mode, b.blob))


def _open(root: Path) -> Plumbing:
    """Git in `root` itself: a repository further up is not meant."""
    if not root.is_dir():
        raise GitError(f"no folder {root}: run `orgctl up` in an existing one")
    if not os.path.lexists(root / ".git"):
        if (root / "HEAD").is_file() and (root / "objects").is_dir() and (root / "refs").is_dir():
            raise GitError(f"{root} is a bare repository, without files to work on: clone it and use the clone")
        raise GitError(f"no git repository in {root}: run `orgctl up` in an empty directory")
    git = Plumbing(root, root / ".git")
    if git.run("rev-parse", "--is-bare-repository", bare=True).text == "true":
        raise GitError(f"{root} is a bare repository, without files to work on: clone it and use the clone")
    return git
