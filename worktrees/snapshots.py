"""Commits made without touching anybody's branch or index: snapshots of a worktree's editable files, and their rebases.

Called through `worktrees.repo.Repo`. The notable choice: a snapshot starts from its parent's tree and takes nothing but
the editable paths, so whatever else lies in a worktree (a `lab/` folder that would shadow ours) cannot get into a run.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worktrees.plumbing import (
    REF,
    Conflict,
    GitError,
    NothingChanged,
    Plumbing,
    ProtectedChanged,
    check_agent,
    check_path,
    shown,
    temporary_folder,
)
from worktrees.trees import FILE, LINK, SUBMODULE, Entry, blob_id, blobs, read_file, same, tree_files, write_file

FILE_LIMIT = 1_000_000
"""Bytes of one editable file; source code is smaller, data and weights do not belong into a snapshot."""
DIFF_LIMIT = 200_000
"""Characters of a diff that is kept beside the commit."""
IGNORED_LIMIT = 100


@dataclass(frozen=True)
class Snapshot:
    """A commit kept under a ref of ours, and what it changes against its parent.

    `diff` is unified text (capped, with a note); `changed` are the paths in the commit, `ignored` printable names of
    files in the worktree that differ from the parent and were left out.
    """

    commit: str
    parent: str
    diff: str
    changed: list[str]
    ignored: list[str]


def snapshot(
    git: Plumbing,
    worktree: Path,
    agent: str,
    ref: str,
    parent: str,
    editable: Sequence[str],
    protected: Sequence[str],
    message: str,
) -> Snapshot:
    """See `Repo.snapshot`."""
    check_agent(agent)
    base = git.commit_id(parent)
    if not worktree.is_dir():
        raise GitError(f"no worktree at {worktree}: run `orgctl up` to make it again")
    before = tree_files(git, base)
    touched = [path for path in protected if path in before and not same(worktree, check_path(path), before[path])]
    if touched:
        raise ProtectedChanged(touched)
    after = dict(before)
    new: dict[str, bytes] = {}
    for path in editable:
        content = read_file(worktree, check_path(path), FILE_LIMIT)
        if content is None:
            after.pop(path, None)
            continue
        blob = blob_id(content, like=base)
        if path not in before or before[path].blob != blob or before[path].mode == LINK:
            mode = before[path].mode if path in before and before[path].mode != LINK else FILE
            after[path], new[blob] = Entry(mode, blob), content
    if after == before:
        raise NothingChanged(f"nothing changed in the editable files ({', '.join(editable)}): edit one of them first")
    for blob, content in new.items():
        if git.write_blob(content) != blob:
            raise GitError(f"git in {git.folder} stored a file under another id than expected: its hash is unknown")
    tree = write_tree(git, base, before, after)
    commit = keep(git, ref, agent, tree, base, message)
    return describe(git, commit, base, left_out(git, worktree, before, after, set(editable) | set(protected)))


def rebase(
    git: Plumbing, commit: str, old_parent: str, new_parent: str, ref: str, agent: str, message: str
) -> Snapshot:
    """See `Repo.rebase`."""
    check_agent(agent)
    theirs, base, ours = git.commit_id(commit), git.commit_id(old_parent), git.commit_id(new_parent)
    tree = merge(git, base, ours, theirs)
    if tree == git.tree_id(ours):
        raise NothingChanged(f"trunk {ours[:10]} holds the whole change {theirs[:10]} already: nothing is left to run")
    return describe(git, keep(git, ref, agent, tree, ours, message), ours, [])


def merge(git: Plumbing, base: str, ours: str, theirs: str) -> str:
    """Tree that applies base -> theirs to ours. Raises Conflict; never leaves anything behind.

    `read-tree -m` and `merge-file` rather than `merge-tree --merge-base`, which git before 2.40 lacks.
    """
    with git.temporary_index() as index:
        git.run("read-tree", "-i", "-m", "--aggressive", base, ours, theirs, index=index)
        stages: dict[str, dict[int, Entry]] = {}
        for line in git.run("ls-files", "-u", "-z", index=index).names():
            head, path = line.split("\t", 1)
            mode, blob, stage = head.split()
            stages.setdefault(path, {})[int(stage)] = Entry(mode, blob)
        merged, conflicts = {}, []
        for path, versions in stages.items():
            entry = _merge_file(git, versions)
            if entry is None:
                conflicts.append(path)
            else:
                merged[path] = entry
        if conflicts:
            raise Conflict(sorted(conflicts))
        update_index(git, index, merged)
        return git.run("write-tree", index=index).text


def _merge_file(git: Plumbing, versions: Mapping[int, Entry]) -> Entry | None:
    """The merged file, or None when its versions conflict (also: deleted here and changed there, links, binaries)."""
    if set(versions) != {1, 2, 3} or any(entry.mode in (LINK, SUBMODULE) for entry in versions.values()):
        return None
    old, ours, theirs = versions[1], versions[2], versions[3]
    mode = theirs.mode if ours.mode == old.mode else ours.mode
    content = blobs(git, (entry.blob for entry in versions.values()))
    with temporary_folder() as folder:
        names = []
        for label, entry in (("ours", ours), ("base", old), ("theirs", theirs)):
            write_file(folder, label, content[entry.blob], FILE)
            names.append(str(folder / label))
        answer = git.run("merge-file", "-p", "-q", *names, allowed=range(256))
    return Entry(mode, git.write_blob(answer.out)) if answer.status == 0 else None


def write_tree(git: Plumbing, base: str, before: Mapping[str, Entry], after: Mapping[str, Entry]) -> str:
    """Tree of `base` with the difference between two listings applied; through an index of its own."""
    with git.temporary_index() as index:
        git.run("read-tree", base, index=index)
        changed = {path: entry for path, entry in after.items() if before.get(path) != entry}
        update_index(git, index, changed, {path: entry for path, entry in before.items() if path not in after})
        return git.run("write-tree", index=index).text


def update_index(
    git: Plumbing, index: Path | None, changed: Mapping[str, Entry], removed: Mapping[str, Entry] | None = None
) -> None:
    """Put entries into an index (None: the working tree's own) and take others out of it."""
    # First all away: a file may take the place of a folder. Mode 0 removes; the id only has to have the right length.
    lines = [f"0 {entry.blob}\t{path}" for path, entry in [*(removed or {}).items(), *changed.items()]]
    lines += [f"{entry.mode} {entry.blob}\t{path}" for path, entry in changed.items()]
    if lines:
        raw = "".join(f"{line}\0" for line in lines).encode("utf-8", "surrogateescape")
        git.run("update-index", "-z", "--index-info", stdin=raw, index=index)


def keep(git: Plumbing, ref: str, agent: str, tree: str, parent: str, message: str) -> str:
    """A commit kept at `ref`. Made again after a crash it is the same; what else lay there goes to refs/org/lost."""
    if not REF.fullmatch(ref) or not ref.startswith("refs/org/") or ".." in ref or ref.endswith(".lock"):
        raise GitError(f"'{shown(ref)}' is no ref under refs/org/")
    held = git.ref(ref)
    if held is not None:
        parents = git.run("rev-list", "--parents", "-n", "1", held).text.split()[1:]
        if git.tree_id(held) == tree and parents == [parent]:
            return held
        save_lost(git, agent, held)
    commit = git.commit_tree(tree, [parent], message, agent)
    git.run("update-ref", "-m", "orgctl snapshot", ref, commit, held or "0" * len(commit))
    return commit


def save_lost(git: Plumbing, owner: str, commit: str) -> str:
    """Keep a commit that is about to lose its name, under refs/org/lost/<owner>/<nanoseconds>."""
    ref = f"refs/org/lost/{owner}/{time.time_ns()}"
    git.run("update-ref", ref, commit)
    return ref


def describe(git: Plumbing, commit: str, parent: str, ignored: list[str]) -> Snapshot:
    return Snapshot(commit, parent, diff(git, parent, commit), changed_paths(git, parent, commit), ignored)


def changed_paths(git: Plumbing, a: str, b: str) -> list[str]:
    """Paths whose content or mode differs between two commits."""
    return git.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-commit-id", a, b).names()


AS_TEXT = (
    "-r", "-p", "-U3", "--text", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


def changes(git: Plumbing, pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[list[str], str]]:
    """Commit -> (paths, unified diff) of each (parent, commit)."""
    asked = "".join(f"{commit} {parent}\n" for parent, commit in pairs).encode()
    found: dict[str, tuple[list[str], str]] = {commit: ([], "") for _, commit in pairs}
    names = git.run("diff-tree", "--stdin", "-r", "--name-status", "--no-renames", stdin=asked).out.decode("utf-8", "replace")
    for commit, lines in _by_commit(names, found):
        found[commit] = ([line.partition("\t")[2] for line in lines], "")
    texts = git.run("diff-tree", "--stdin", *AS_TEXT, stdin=asked).out.decode("utf-8", "replace")
    for commit, lines in _by_commit(texts, found):
        found[commit] = (found[commit][0], "\n".join(lines))
    return found


def _by_commit(text: str, commits: Container[str]) -> Iterator[tuple[str, list[str]]]:
    """Split what `diff-tree --stdin` prints at its lines that name a commit: no line of a diff, and none with a status, is one."""
    commit, lines = "", list[str]()
    for line in text.split("\n"):
        if line in commits:
            if commit:
                yield commit, lines
            commit, lines = line, []
        elif line:
            lines.append(line)
    if commit:
        yield commit, lines


def diff(git: Plumbing, a: str, b: str) -> str:
    """Unified diff of two commits as text, at most DIFF_LIMIT characters and a note. Binary files too are text here."""
    out = git.run("diff-tree", *AS_TEXT, "--no-commit-id", a, b).out.decode("utf-8", "replace")
    if len(out) <= DIFF_LIMIT:
        return out
    return out[:DIFF_LIMIT] + f"\n[cut: the whole diff has {len(out)} characters; see `git diff {a[:10]} {b[:10]}`]\n"


def left_out(
    git: Plumbing, worktree: Path, before: Mapping[str, Entry], after: Mapping[str, Entry], known: set[str]
) -> list[str]:
    """Printable names of files in a worktree, besides `known`, that are new or differ from `before`.

    At most IGNORED_LIMIT and a count of the rest. A new folder counts once, as `name/`. What the worktree's own
    .gitignore hides is not named.
    """
    found = [path for path, entry in before.items() if path not in known and not same(worktree, path, entry)]
    there = Plumbing(worktree, git.git_dir)
    with git.temporary_index() as index:
        update_index(there, index, {**before, **after})
        answer = there.run(
            "ls-files", "--others", "--exclude-standard", "--directory", "--no-empty-directory", "-z", index=index
        )
    found += [path for path in answer.names() if path not in known]
    found.sort()
    names = [shown(path) for path in found[:IGNORED_LIMIT]]
    return names + ([f"... and {len(found) - IGNORED_LIMIT} more"] if len(found) > IGNORED_LIMIT else [])
