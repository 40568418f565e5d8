"""Files of a commit and files of a folder, without git's checkout: read, compared and written byte for byte.

Called by `worktrees.repo` and its neighbours. Git's own checkout and add run attributes and filters that anybody who
can write `.gitattributes` controls; here content goes through `cat-file` and `hash-object --no-filters` only, and no
path component that is a symbolic link is ever followed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worktrees.aside import set_aside
from worktrees.plumbing import GitError, Plumbing, check_path, shown

DRAFT = ".orgctl-draft-"
"""How files are named while they are written; a killed call leaves at most one, which the next `lay` removes."""
FILE, PROGRAM, LINK, SUBMODULE = "100644", "100755", "120000", "160000"


@dataclass(frozen=True)
class Entry:
    """One file of a tree: mode as git writes it, blob id, size in bytes (-1 where unknown)."""

    mode: str
    blob: str
    size: int = -1


def tree_files(git: Plumbing, commit: str) -> dict[str, Entry]:
    """Path -> entry of every file in a commit or tree."""
    found = {}
    for line in git.run("ls-tree", "-r", "-l", "-z", "--full-tree", commit).names():
        head, path = line.split("\t", 1)
        mode, _kind, blob, size = head.split()
        found[path] = Entry(mode, blob, int(size) if size != "-" else -1)
    return found


def index_files(git: Plumbing) -> dict[str, Entry]:
    """Path -> entry of the working tree's own index (of conflicting stages, one)."""
    found = {}
    for line in git.run("ls-files", "-s", "-z").names():
        head, path = line.split("\t", 1)
        mode, blob, _stage = head.split()
        found[path] = Entry(mode, blob)
    return found


def blobs(git: Plumbing, ids: Iterable[str]) -> dict[str, bytes]:
    """Blob id -> content, by one `cat-file --batch`."""
    wanted = list(dict.fromkeys(ids))
    if not wanted:
        return {}
    out = git.run("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in wanted).encode()).out
    found, position = {}, 0
    for blob in wanted:
        end = out.index(b"\n", position)
        header = out[position:end].split()
        if len(header) != 3:
            raise GitError(f"object {blob} is missing: the repository {git.folder} is damaged (run `git fsck` there)")
        size = int(header[2])
        found[blob] = out[end + 1 : end + 1 + size]
        position = end + size + 2
    return found


def blob_id(data: bytes, like: str) -> str:
    """Id that git gives this content, in the hash (SHA-1 or SHA-256) of the id `like`."""
    digest = hashlib.sha1(usedforsecurity=False) if len(like) == 40 else hashlib.sha256()
    digest.update(b"blob %d\0" % len(data))
    digest.update(data)
    return digest.hexdigest()


@contextmanager
def opened_parent(root: Path, path: str, create: bool = False) -> Iterator[tuple[int, str]]:
    """(descriptor of the folder that holds `path`, last name). Symbolic links on the way are not followed: OSError."""
    *folders, name = path.split("/")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=descriptor)
            inner = os.open(folder, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, name
    finally:
        os.close(descriptor)


def read_file(root: Path, path: str, limit: int | None = None) -> bytes | None:
    """Content of a plain file below `root`; None when there is none.

    Raises GitError when it (or a folder on the way) is a symbolic link or no plain file, or exceeds `limit` bytes.
    """
    try:
        with opened_parent(root, path) as (parent, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            try:
                facts = os.fstat(descriptor)
                if not stat.S_ISREG(facts.st_mode):
                    raise GitError(f"{shown(path)} in {root} is not a plain file: replace it by one")
                if limit is not None and facts.st_size > limit:
                    raise GitError(f"{shown(path)} in {root} is over {limit} bytes ({facts.st_size}): make it smaller")
                with open(descriptor, "rb", closefd=False) as handle:
                    return handle.read() if limit is None else handle.read(limit)
            finally:
                os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise GitError(
                f"{shown(path)} in {root} is or lies behind something that is no plain file or folder "
                "(a symbolic link?): replace it by a plain file"
            ) from error
        raise GitError(f"{shown(path)} in {root} cannot be read: {error.strerror}: check its permissions") from error


def same(root: Path, path: str, entry: Entry | None) -> bool:
    """Does the folder hold this file with this content (None: nothing of this name)? Unreadable is not the same."""
    if entry is None:
        return not os.path.lexists(root / path)
    try:
        with opened_parent(root, path) as (parent, name):
            facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if entry.mode == LINK:
                link = os.readlink(name, dir_fd=parent)  # OSError when it is none
                return blob_id(os.fsencode(link), entry.blob) == entry.blob
            if entry.mode == SUBMODULE:
                return stat.S_ISDIR(facts.st_mode)
            if not stat.S_ISREG(facts.st_mode) or entry.size not in (-1, facts.st_size):
                return False
        data = read_file(root, path)
        return data is not None and blob_id(data, entry.blob) == entry.blob
    except (OSError, GitError):
        return False


def write_file(root: Path, path: str, data: bytes, mode: str) -> None:
    """Put a file (or link, by mode) at `path`, through a temporary name. GitError when something is in the way."""
    try:
        with opened_parent(root, path, create=True) as (parent, name):
            temporary = f"{DRAFT}{os.getpid()}"
            try:
                if mode == LINK:
                    os.symlink(os.fsdecode(data), temporary, dir_fd=parent)
                else:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    descriptor = os.open(temporary, flags, 0o777 if mode == PROGRAM else 0o666, dir_fd=parent)
                    with open(descriptor, "wb") as handle:
                        handle.write(data)
                os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
    except OSError as error:
        raise GitError(f"{shown(path)} cannot be written in {root}: {error.strerror}") from error


def remove_file(root: Path, path: str) -> None:
    """Take a file away, and the folders that this empties. Nothing when it is not there or a link is on the way."""
    parts = path.split("/")
    try:
        with opened_parent(root, path) as (parent, name):
            os.unlink(name, dir_fd=parent)
    except OSError:
        return
    for depth in range(len(parts) - 1, 0, -1):
        try:
            with opened_parent(root, "/".join(parts[:depth])) as (parent, name):
                os.rmdir(name, dir_fd=parent)
        except OSError:
            return


def export(git: Plumbing, commit: str, dest: Path) -> None:
    """Write the files of a commit into `dest`, byte for byte, without `.git`.

    Raises GitError when `dest` holds anything, or the commit holds a name or link that would lead out of it.
    """
    files = {path: entry for path, entry in tree_files(git, commit).items() if entry.mode != SUBMODULE}
    content = blobs(git, (entry.blob for entry in files.values()))
    for path, entry in files.items():
        check_export(path, content[entry.blob] if entry.mode == LINK else None)
    existed = dest.is_dir()
    try:
        dest.mkdir(parents=True, exist_ok=True)
        occupied = dest.is_symlink() or any(dest.iterdir())
    except OSError as error:
        raise GitError(f"cannot export to {dest}: {error.strerror}") from error
    if occupied:
        raise GitError(f"cannot export to {dest}: it is not empty")
    written: list[str] = []
    try:
        for path, entry in files.items():
            write_new(dest, path, content[entry.blob], entry.mode)
            written.append(path)
    except BaseException:
        for path in written:
            remove_file(dest, path)
        if not existed:
            with suppress(OSError):
                dest.rmdir()
        raise


def write_new(root: Path, path: str, data: bytes, mode: str) -> None:
    """`write_file` where nothing may lie yet (two names that a file system cannot tell apart, say)."""
    if os.path.lexists(root / path):
        raise GitError(f"{shown(path)} cannot be written in {root}: this file system holds another file of that name")
    write_file(root, path, data, mode)


def check_export(path: str, link: bytes | None) -> None:
    """Raises GitError when a tree's path, or the target of a link there, leads out of the tree or into `.git`."""
    check_path(path)
    if link is None:
        return
    target = os.fsdecode(link)
    place = os.path.normpath(os.path.join(os.path.dirname(path), target))
    if os.path.isabs(target) or place == ".." or place.startswith("../"):
        raise GitError(f"{shown(path)} is a symbolic link that leads out of the repository: replace it by a file")


def lay(git: Plumbing, commit: str, before: Mapping[str, Entry]) -> list[str]:
    """Make the tracked files of a working tree those of `commit`; `before` is what was tracked there until now.

    Untracked files stay; one that lies where a tracked file must go is renamed to `<name>.kept`. Returns the new names.
    """
    root, wanted = git.folder, tree_files(git, commit)
    _remove_drafts(root, {path.rpartition("/")[0] for path in wanted})
    for path in before:
        if path not in wanted:
            remove_file(root, path)
    stale = {path: entry for path, entry in wanted.items() if entry.mode != SUBMODULE and not same(root, path, entry)}
    content = blobs(git, (entry.blob for entry in stale.values()))
    kept = []
    for path, entry in stale.items():
        kept += _clear_the_way(root, check_path(path), tracked=path in before)
        write_file(root, path, content[entry.blob], entry.mode)
    for path, entry in wanted.items():
        if entry.mode in (FILE, PROGRAM):
            _set_executable(root, path, entry.mode == PROGRAM)
    return kept


def _remove_drafts(root: Path, folders: Iterable[str]) -> None:
    for folder in folders:
        with suppress(OSError), opened_parent(root, f"{folder}/." if folder else ".") as (place, _):
            for name in os.listdir(place):
                if name.startswith(DRAFT):
                    os.unlink(name, dir_fd=place)


def _clear_the_way(root: Path, path: str, tracked: bool) -> list[str]:
    """Rename what stands where a file must go: a non-folder on the way, a folder in its place, an untracked file."""
    parts = path.split("/")
    kept = []
    for depth in range(1, len(parts) + 1):
        place = root / "/".join(parts[:depth])
        last = depth == len(parts)
        if not os.path.lexists(place):
            break
        folder = place.is_dir() and not place.is_symlink()
        in_the_way = folder or not tracked if last else not folder
        if not in_the_way:
            continue
        kept.append(str(set_aside(place).relative_to(root)))
    return kept


def _set_executable(root: Path, path: str, wanted: bool) -> None:
    try:
        with opened_parent(root, path) as (parent, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            try:
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                if bool(mode & 0o100) != wanted:
                    os.fchmod(descriptor, mode | (mode & 0o444) >> 2 if wanted else mode & ~0o111)
            finally:
                os.close(descriptor)
    except OSError:
        return
