"""Promises about what gets into a run: the editable files byte for byte, and nothing else of the worktree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worktrees.conftest import EDITABLE, FILES, PROTECTED, Git
from worktrees.repo import Conflict, GitError, NothingChanged, ProtectedChanged, Repo, Snapshot

pytestmark = pytest.mark.slow  # five seconds together

Everything = Callable[[Path], dict[str, bytes]]
REF = "refs/org/exp/E0001/1"


def snap(repo: Repo, worktree: Path, ref: str = REF, parent: str = "", editable: list[str] = EDITABLE) -> Snapshot:
    return repo.snapshot(worktree, "r1", ref, parent or repo.trunk(), editable, PROTECTED, "E0001: a try")


def put(worktree: Path, path: str, data: bytes) -> None:
    (worktree / path).parent.mkdir(parents=True, exist_ok=True)
    (worktree / path).write_bytes(data)


# ---------------------------------------------------------------------- snapshots


def test_a_snapshot_holds_the_editable_files_and_nothing_else(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    put(worktree, "nanochat/gpt.py", b"no newline, \xff\x00 and \r\n")
    put(worktree, "lab/__init__.py", b"shadow\n")
    put(worktree, "nanochat/shadow.py", b"shadow\n")
    put(worktree, "torch.py", b"shadow\n")
    put(worktree, "README.md", b"changed, but not editable\n")
    found = snap(repo, worktree)
    assert found.changed == ["nanochat/gpt.py"] and found.parent == start
    assert found.ignored == ["README.md", "lab/", "nanochat/shadow.py", "torch.py"]
    assert git(repo.root, "diff", "--name-only", start, found.commit) == "nanochat/gpt.py"
    assert repo.show_file(found.commit, "nanochat/gpt.py") == b"no newline, \xff\x00 and \r\n"
    assert git(repo.root, "rev-parse", REF) == found.commit
    assert (
        git(repo.root, "log", "-1", "--format=%an <%ae> %P %s", found.commit)
        == f"r1 <r1@orgctl.local> {start} E0001: a try"
    )
    assert found.diff.startswith("diff --git a/nanochat/gpt.py b/nanochat/gpt.py\n") and "+no newline" in found.diff


def test_the_agent_does_not_notice_a_snapshot(repo: Repo, worktree: Path, git: Git, everything: Everything) -> None:
    put(worktree, "nanochat/gpt.py", b"staged\n")
    git(worktree, "add", "nanochat/gpt.py")
    put(worktree, "nanochat/gpt.py", b"newer than staged\n")
    put(worktree, "scratch.py", b"x\n")
    index = repo.root / ".git/worktrees/r1/index"
    before = everything(worktree), index.read_bytes(), git(worktree, "rev-parse", "HEAD")
    found = snap(repo, worktree)
    assert (everything(worktree), index.read_bytes(), git(worktree, "rev-parse", "HEAD")) == before
    assert repo.show_file(found.commit, "nanochat/gpt.py") == b"newer than staged\n"


def test_commits_of_the_agent_are_in_its_snapshot(repo: Repo, worktree: Path) -> None:
    put(worktree, "nanochat/optim.py", b"LR = 1\n")
    repo.commit_worktree(worktree, "r1", "mine", ["nanochat/optim.py"])
    assert snap(repo, worktree).changed == ["nanochat/optim.py"]


def test_new_and_deleted_editable_files_are_seen(repo: Repo, worktree: Path) -> None:
    (worktree / "nanochat/gpt.py").unlink()
    put(worktree, "models/new.py", b"x = 1\n")
    found = snap(repo, worktree, editable=[*EDITABLE, "models/new.py"])
    assert found.changed == ["models/new.py", "nanochat/gpt.py"] and found.ignored == []
    assert "deleted file" in found.diff and "new file" in found.diff


def test_changed_protected_files_are_refused_by_name(repo: Repo, worktree: Path) -> None:
    put(worktree, "nanochat/gpt.py", b"x\n")
    put(worktree, "nanochat/data.py", b"print('the answers')\n")
    (worktree / "nanochat/evaluate.py").unlink()
    with pytest.raises(ProtectedChanged, match=r"nanochat/data\.py, nanochat/evaluate\.py") as caught:
        snap(repo, worktree)
    assert caught.value.paths == PROTECTED
    assert repo.git.ref(REF) is None


@pytest.mark.parametrize("how", ["link", "folder", "linked parent"])
def test_a_protected_file_replaced_by_something_else_is_changed(
    tmp_path: Path, repo: Repo, worktree: Path, how: str
) -> None:
    """Also when the content reached through the link is the same."""
    put(worktree, "nanochat/gpt.py", b"x\n")
    place = worktree / "nanochat/data.py"
    if how == "linked parent":
        shutil.copytree(worktree / "nanochat", tmp_path / "copy")
        shutil.rmtree(worktree / "nanochat")
        (worktree / "nanochat").symlink_to(tmp_path / "copy")
    else:
        place.unlink()
        if how == "folder":
            place.mkdir()
        else:
            (tmp_path / "same").write_bytes(FILES["nanochat/data.py"])
            place.symlink_to(tmp_path / "same")
    with pytest.raises(ProtectedChanged):
        snap(repo, worktree)


def test_a_protected_change_hidden_from_git_is_still_seen(repo: Repo, worktree: Path, git: Git) -> None:
    git(worktree, "update-index", "--assume-unchanged", "nanochat/data.py")
    git(worktree, "update-index", "--skip-worktree", "nanochat/evaluate.py")
    put(worktree, "nanochat/gpt.py", b"x\n")
    put(worktree, "nanochat/data.py", FILES["nanochat/data.py"].upper())
    put(worktree, "nanochat/evaluate.py", FILES["nanochat/evaluate.py"].upper())
    assert git(worktree, "status", "--porcelain") == " M nanochat/gpt.py"
    with pytest.raises(ProtectedChanged):
        snap(repo, worktree)


def test_nothing_changed_is_said_so(repo: Repo, worktree: Path) -> None:
    put(worktree, "scratch.py", b"x\n")
    os.utime(worktree / "nanochat/gpt.py")
    (worktree / "nanochat/gpt.py").chmod(0o755)
    with pytest.raises(NothingChanged, match=r"nothing changed in .*nanochat/gpt\.py"):
        snap(repo, worktree)


def test_links_devices_and_large_files_are_no_source_code(tmp_path: Path, repo: Repo, worktree: Path) -> None:
    place = worktree / "nanochat/gpt.py"
    (tmp_path / "secret").write_text("key\n")
    put(worktree, "nanochat/gpt.py", b"#" * 1_000_001)
    with pytest.raises(GitError, match=r"gpt\.py.*over 1000000 bytes"):
        snap(repo, worktree)
    put(worktree, "nanochat/gpt.py", b"#" * 1_000_000)
    assert snap(repo, worktree).changed == ["nanochat/gpt.py"]
    place.unlink()
    place.symlink_to(tmp_path / "secret")
    with pytest.raises(GitError, match="symbolic link"):
        snap(repo, worktree)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(GitError, match="not a plain file"):
        snap(repo, worktree)
    place.unlink()
    place.mkdir()
    with pytest.raises(GitError, match="not a plain file"):
        snap(repo, worktree)


def test_the_lists_and_the_diff_stay_small(repo: Repo, worktree: Path) -> None:
    put(worktree, "nanochat/gpt.py", b"line\n" * 100_000)
    for number in range(150):
        put(worktree, f"scratch{number:03d}.txt", b"")
    for number in range(500):
        put(worktree, f"venv/lib/file{number}", b"")
    found = snap(repo, worktree)
    assert len(found.diff) < 200_200 and "the whole diff has 600" in found.diff
    assert len(found.ignored) == 101 and found.ignored[-1] == "... and 51 more"


def test_names_of_ignored_files_cannot_write_on_a_terminal(repo: Repo, worktree: Path) -> None:
    put(worktree, "nanochat/gpt.py", b"x\n")
    put(worktree, "a\n\x1b[31mred", b"")
    with open(os.fsencode(worktree) + b"/bad\xff", "wb"):
        pass
    ignored = snap(repo, worktree).ignored
    assert all(name.isprintable() for name in ignored) and len(ignored) == 2
    "\n".join(ignored).encode("utf-8")


def test_a_snapshot_made_again_after_a_crash_is_the_same_and_a_different_one_loses_nothing(
    repo: Repo, worktree: Path, git: Git
) -> None:
    put(worktree, "nanochat/optim.py", b"LR = 1\n")
    first = snap(repo, worktree)
    assert snap(repo, worktree) == first
    put(worktree, "nanochat/optim.py", b"LR = 2\n")
    second = snap(repo, worktree)
    assert git(repo.root, "rev-parse", REF) == second.commit != first.commit
    assert git(repo.root, "for-each-ref", "--format=%(objectname)", "refs/org/lost/r1") == first.commit


def test_snapshots_are_kept_for_ever(repo: Repo, worktree: Path, git: Git) -> None:
    put(worktree, "nanochat/optim.py", b"LR = 1\n")
    found = snap(repo, worktree)
    repo.reset_worktree(worktree, repo.trunk(), "r1")
    git(repo.root, "reflog", "expire", "--expire=now", "--all")
    git(repo.root, "gc", "-q", "--prune=now")
    assert repo.show_file(found.commit, "nanochat/optim.py") == b"LR = 1\n"


@pytest.mark.parametrize(
    "ref", ["refs/heads/org/trunk", "refs/org/../heads/x", "HEAD", "refs/org/a.lock", "refs/org/", "refs/org/a b"]
)
def test_a_snapshot_is_kept_under_refs_org_only(repo: Repo, worktree: Path, ref: str) -> None:
    put(worktree, "nanochat/optim.py", b"LR = 1\n")
    start = repo.trunk()
    with pytest.raises(GitError, match="no ref under refs/org"):
        snap(repo, worktree, ref)
    assert repo.trunk() == start


def test_editable_paths_cannot_reach_outside(repo: Repo, worktree: Path) -> None:
    for path in ("../r2/x.py", "/etc/passwd", ".git/config", "a/../../x"):
        with pytest.raises(GitError):
            snap(repo, worktree, editable=[path])


LETTERS = st.one_of(
    st.sampled_from("\n\t\"'\\ -:*?[]$~!#%éß漢\u0301\x7f"), st.characters(codec="utf-8", exclude_characters="/\0.")
)
PIECE = st.text(LETTERS, min_size=1, max_size=12)
HOSTILE = st.lists(PIECE, min_size=1, max_size=3).map("/".join)
RAW = st.binary(min_size=1, max_size=8).filter(
    lambda raw: b"/" not in raw and b"\0" not in raw and not raw.startswith(b".")
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.one_of(HOSTILE, RAW.map(os.fsdecode)), old=st.binary(max_size=200), new=st.binary(max_size=200))
def test_any_file_name_and_content_goes_through_unchanged(path: str, old: bytes, new: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        repo = Repo.create(root / "r", {path: old, "-rf": b"other\n", "keep/--help": b"\r\n"}, "start")
        start, worktree = repo.trunk(), root / "w"
        repo.add_worktree("r1", worktree, start)
        target = worktree / path
        assert target.read_bytes() == old
        target.write_bytes(new)
        if new == old:
            with pytest.raises(NothingChanged):
                repo.snapshot(worktree, "r1", REF, start, [path], ["-rf"], "try")
            return
        found = repo.snapshot(worktree, "r1", REF, start, [path], ["-rf"], "try")
        assert found.changed == repo.changed_paths(start, found.commit) == [path] and found.ignored == []
        assert repo.show_file(found.commit, path) == new
        repo.export(found.commit, root / "out")
        assert (root / "out" / path).read_bytes() == new
        assert (root / "out/-rf").read_bytes() == b"other\n" and (root / "out/keep/--help").read_bytes() == b"\r\n"
        assert repo.advance_trunk(start, found.commit) == ""
        assert (root / "r" / path).read_bytes() == new and repo.dirty() == []
        done = subprocess.run(["git", "-C", str(root / "r"), "status", "--porcelain"], capture_output=True, check=True)
        assert done.stdout == b""


# ---------------------------------------------------------------------- export


def test_an_export_is_the_commit_byte_for_byte(tmp_path: Path, repo: Repo, git: Git, everything: Everything) -> None:
    """Whatever .gitattributes says about exports, line ends, keywords and encodings."""
    attributes = b"secret.py export-ignore\n* export-subst text eol=crlf ident working-tree-encoding=UTF-16\n"
    files = {
        ".gitattributes": attributes, "secret.py": b"x\n", "v.py": b"$Format:%H$ $Id$\n", "crlf.txt": b"a\r\nb\n",
        "bin": bytes(range(256)), "empty": b"", "deep/er/f": b"no newline",
    }  # fmt: skip
    commit = Repo.create(tmp_path / "r", files, "start")
    commit.export("HEAD", tmp_path / "out")
    out = everything(tmp_path / "out")
    assert out.pop(".gitignore")
    assert out == files
    assert not (tmp_path / "out/.git").exists()


def test_an_export_keeps_programs_and_links_inside(tmp_path: Path, repo: Repo, git: Git) -> None:
    (repo.root / "run.sh").write_text("#!/bin/sh\n")
    (repo.root / "run.sh").chmod(0o755)
    (repo.root / "nanochat/link.py").symlink_to("../README.md")
    git(repo.root, "add", ".")
    git(repo.root, "commit", "-qm", "more")
    repo.export("HEAD", tmp_path / "out")
    assert os.access(tmp_path / "out/run.sh", os.X_OK) and not os.access(tmp_path / "out/README.md", os.X_OK)
    assert (tmp_path / "out/nanochat/link.py").read_bytes() == FILES["README.md"]


def test_an_export_never_mixes_with_other_files(tmp_path: Path, repo: Repo, everything: Everything) -> None:
    (tmp_path / "out").mkdir()
    repo.export(repo.trunk(), tmp_path / "out")
    before = everything(tmp_path / "out")
    with pytest.raises(GitError, match="not empty"):
        repo.export(repo.trunk(), tmp_path / "out")
    assert everything(tmp_path / "out") == before
    (tmp_path / "link").symlink_to(tmp_path / "void")
    with pytest.raises(GitError):
        repo.export(repo.trunk(), tmp_path / "link")


def raw_commit(repo: Repo, mode: bytes, name: bytes, what: str) -> str:
    """Commit of a tree with one entry, of a name that git itself would never write."""
    write = ["git", "-C", str(repo.root), "hash-object", "-w", "-t", "tree", "--literally", "--stdin"]
    row = mode + b" " + name + b"\0" + bytes.fromhex(what)
    done = subprocess.run(write, input=row, capture_output=True, check=True)
    return repo.git.commit_tree(done.stdout.decode().strip(), [], "crafted", "r1")


@pytest.mark.parametrize("name", [b"..", b".git", b".GIT", b"."])
def test_a_crafted_commit_cannot_write_outside_its_export(tmp_path: Path, repo: Repo, name: bytes) -> None:
    inner = raw_commit(repo, b"100644", b"evil", repo.git.write_blob(b"evil\n"))
    outer = raw_commit(repo, b"40000", name, repo.git.tree_id(inner))
    with pytest.raises(GitError):
        repo.export(outer, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "nanochat/../../x", ".."])
def test_a_link_that_leads_out_is_not_exported(tmp_path: Path, repo: Repo, git: Git, target: str) -> None:
    (repo.root / "link").symlink_to(target)
    git(repo.root, "add", "link")
    git(repo.root, "commit", "-qm", "link")
    with pytest.raises(GitError, match="leads out of the repository"):
        repo.export("HEAD", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- rebase


def lines(**changes: int) -> bytes:
    """The file gpt.py with some of its lines changed: lines(a7=8) sets line 7 to 8."""
    values = {n: n for n in range(20)} | {int(key[1:]): value for key, value in changes.items()}
    return b"".join(b"LINE_%02d = %d\n" % item for item in values.items())


def two(repo: Repo, worktree: Path, mine: dict[str, bytes], trunk: dict[str, bytes]) -> tuple[str, Snapshot, Snapshot]:
    """(start, a snapshot with my changes, a snapshot with those that became trunk)."""
    start = repo.trunk()
    made = []
    for ref, files in (("refs/org/exp/E0001/1", mine), ("refs/org/exp/E0002/1", trunk)):
        repo.reset_worktree(worktree, start, "r1")
        (worktree / "new.py").unlink(missing_ok=True)
        for path, data in files.items():
            put(worktree, path, data)
            if not data:
                (worktree / path).unlink()
        made.append(snap(repo, worktree, ref, start, editable=[*EDITABLE, "new.py"]))
    repo.advance_trunk(start, made[1].commit)
    return start, made[0], made[1]


def carry(repo: Repo, start: str, mine: Snapshot) -> Snapshot:
    return repo.rebase(mine.commit, start, repo.trunk(), "refs/org/exp/E0001/2", "r1", "E0001: carried")


def test_changes_in_different_places_of_one_file_are_both_kept(repo: Repo, worktree: Path, git: Git) -> None:
    start, mine, trunk = two(repo, worktree, {"nanochat/gpt.py": lines(a1=100)}, {"nanochat/gpt.py": lines(a15=7)})
    done = carry(repo, start, mine)
    assert repo.show_file(done.commit, "nanochat/gpt.py") == lines(a1=100, a15=7)
    assert done.parent == trunk.commit and done.changed == ["nanochat/gpt.py"]
    assert git(repo.root, "rev-parse", "refs/org/exp/E0001/2") == done.commit
    assert repo.advance_trunk(trunk.commit, done.commit) == ""
    assert (repo.root / "nanochat/gpt.py").read_bytes() == lines(a1=100, a15=7)


def test_changes_in_different_files_new_files_and_deletions_are_carried(repo: Repo, worktree: Path) -> None:
    mine = {"nanochat/gpt.py": b"", "new.py": b"x\r\n"}
    start, snapshot, _trunk = two(repo, worktree, mine, {"nanochat/optim.py": b"LR = 3\n"})
    done = carry(repo, start, snapshot)
    assert done.changed == ["nanochat/gpt.py", "new.py"]
    assert repo.show_file(done.commit, "nanochat/optim.py") == b"LR = 3\n"
    assert repo.show_file(done.commit, "new.py") == b"x\r\n"


@pytest.mark.parametrize(
    ("mine", "trunk"),
    [
        ({"nanochat/gpt.py": lines(a5=1)}, {"nanochat/gpt.py": lines(a5=2)}),
        ({"nanochat/gpt.py": b""}, {"nanochat/gpt.py": lines(a5=2)}),
        ({"nanochat/gpt.py": lines(a5=1)}, {"nanochat/gpt.py": b""}),
        ({"nanochat/gpt.py": b"\0binary"}, {"nanochat/gpt.py": lines(a5=2)}),
        ({"new.py": b"a\n"}, {"new.py": b"b\n"}),
    ],
    ids=["same line", "deleted here", "deleted there", "binary", "two new files"],
)
def test_a_conflict_names_its_files_and_leaves_nothing_behind(
    repo: Repo, worktree: Path, git: Git, everything: Everything, mine: dict[str, bytes], trunk: dict[str, bytes]
) -> None:
    start, snapshot, _trunk = two(repo, worktree, mine, trunk | {"nanochat/optim.py": b"LR = 3\n"})
    before = everything(repo.root), git(repo.root, "for-each-ref"), git(repo.root, "status", "--porcelain")
    with pytest.raises(Conflict, match="conflicts with trunk in") as caught:
        carry(repo, start, snapshot)
    assert caught.value.files == list(mine)
    assert (everything(repo.root), git(repo.root, "for-each-ref"), git(repo.root, "status", "--porcelain")) == before


def test_a_change_that_trunk_holds_already_is_nothing(repo: Repo, worktree: Path) -> None:
    start, snapshot, _ = two(repo, worktree, {"nanochat/gpt.py": lines(a5=1)}, {"nanochat/gpt.py": lines(a5=1, a15=2)})
    with pytest.raises(NothingChanged, match="already"):
        carry(repo, start, snapshot)


def test_the_same_change_on_both_sides_does_not_conflict(repo: Repo, worktree: Path) -> None:
    both = {"nanochat/optim.py": b"LR = 3\n"}
    start, snapshot, _ = two(repo, worktree, both | {"nanochat/gpt.py": lines(a1=3)}, both)
    assert carry(repo, start, snapshot).changed == ["nanochat/gpt.py"]


EDITS = st.dictionaries(st.integers(0, 19), st.one_of(st.none(), st.integers(100, 103)), min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(mine=EDITS, trunk=EDITS)
def test_a_rebase_is_what_git_cherry_pick_does(mine: dict[int, int | None], trunk: dict[int, int | None]) -> None:
    """Random edits and deletions of lines: the same file, or a conflict exactly where cherry-pick has one."""

    def edited(edits: dict[int, int | None]) -> bytes:
        values = {n: n for n in range(20)} | edits
        return b"".join(b"LINE_%02d = %d\n" % (n, value) for n, value in values.items() if value is not None)

    with tempfile.TemporaryDirectory() as folder:
        repo = Repo.create(Path(folder) / "r", FILES, "start")
        worktree = Path(folder) / "w"
        repo.add_worktree("r1", worktree, repo.trunk())
        start, snapshot, onto = two(
            repo, worktree, {"nanochat/gpt.py": edited(mine)}, {"nanochat/gpt.py": edited(trunk)}
        )
        repo.reset_worktree(worktree, onto.commit, "r1")
        name = ["-c", "user.name=u", "-c", "user.email=u@example.org"]
        pick = ["git", "-C", str(worktree), *name, "cherry-pick", "--no-commit", snapshot.commit]
        picked = subprocess.run(pick, capture_output=True)
        try:
            done = carry(repo, start, snapshot)
        except Conflict:
            assert picked.returncode != 0
        except NothingChanged:
            assert picked.returncode == 0 and (worktree / "nanochat/gpt.py").read_bytes() == edited(trunk)
        else:
            assert picked.returncode == 0, picked.stderr
            assert repo.show_file(done.commit, "nanochat/gpt.py") == (worktree / "nanochat/gpt.py").read_bytes()
