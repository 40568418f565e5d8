"""Promises of a research repository: how it begins, what trunk does, and that nobody's settings change any of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worktrees.conftest import EDITABLE, FILES, PROTECTED, Git
from worktrees.repo import GitError, Repo

Everything = Callable[[Path], dict[str, bytes]]


def change(repo: Repo, worktree: Path, ref: str, text: str = "LR = 0.03\n", parent: str = "") -> str:
    """A snapshot that sets nanochat/optim.py; returns its commit."""
    (worktree / "nanochat/optim.py").write_text(text)
    return repo.snapshot(worktree, "r1", ref, parent or repo.trunk(), EDITABLE, PROTECTED, "try").commit


# ---------------------------------------------------------------------- beginning


def test_a_new_repository_is_clean_and_on_trunk(tmp_path: Path, git: Git, everything: Everything) -> None:
    repo = Repo.create(tmp_path / "new" / "deep", FILES, "The task as shipped")
    assert git(repo.root, "symbolic-ref", "HEAD") == "refs/heads/org/trunk"
    assert git(repo.root, "status", "--porcelain") == ""
    assert git(repo.root, "log", "--format=%an <%ae> %s") == "orgctl <orgctl@orgctl.local> The task as shipped"
    found = everything(repo.root)
    assert found.pop(".gitignore") == b".org/\nreport/\n__pycache__/\n"
    assert found == FILES
    assert repo.dirty() == []


def test_a_program_has_a_trunk_of_its_own(tmp_path: Path, git: Git) -> None:
    repo = Repo.create(tmp_path / "a", FILES, "start", program="optimizers")
    assert repo.trunk_branch == "org/optimizers/trunk" and repo.branch("r1") == "org/optimizers/r1"
    assert git(repo.root, "rev-parse", "org/optimizers/trunk") == repo.trunk()


def test_a_repository_without_commits_is_used_and_keeps_its_settings(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "-q", "mine")
    git(tmp_path / "mine", "config", "user.name", "me")
    repo = Repo.create(tmp_path / "mine", FILES, "start")
    assert git(repo.root, "config", "user.name") == "me"
    assert git(repo.root, "status", "--porcelain") == ""


def test_a_sha256_repository_works_from_begin_to_promotion(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256", "new")
    repo = Repo.create(tmp_path / "new", FILES, "start")
    old = repo.trunk()
    assert len(old) == 64
    path = repo.root / ".org/worktrees/r1"
    repo.add_worktree("r1", path, old)
    (path / "nanochat/gpt.py").unlink()
    new = change(repo, path, "refs/org/exp/E0001/1")
    assert repo.changed_paths(old, new) == EDITABLE
    assert repo.advance_trunk(old, new) == ""
    assert git(repo.root, "status", "--porcelain") == ""
    assert not (repo.root / "nanochat/gpt.py").exists()


def test_a_repository_with_commits_is_not_begun_again(repo: Repo, git: Git, everything: Everything) -> None:
    before = everything(repo.root), git(repo.root, "for-each-ref")
    with pytest.raises(GitError, match="with commits already"):
        Repo.create(repo.root, {"other.py": b"x\n"}, "again")
    assert (everything(repo.root), git(repo.root, "for-each-ref")) == before


@pytest.mark.parametrize(
    "name", ["../out.py", "/etc/x", "a//b", "", ".git/hooks/post-commit", ".org/x", "a/.GIT/x", "a/./b"]
)
def test_no_file_is_created_outside_the_repository_or_inside_git(tmp_path: Path, name: str) -> None:
    with pytest.raises(GitError):
        Repo.create(tmp_path / "new", {"good.py": b"", name: b"x"}, "start")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_different_file_is_left_exactly_as_it_was(tmp_path: Path, everything: Everything) -> None:
    (tmp_path / "nanochat").mkdir()
    (tmp_path / "nanochat/gpt.py").write_text("my own\n")
    before = everything(tmp_path)
    with pytest.raises(GitError, match=r"different nanochat/gpt\.py"):
        Repo.create(tmp_path, FILES, "start")
    assert everything(tmp_path) == before and not (tmp_path / ".git").exists()


def test_a_machine_without_git_gets_one_line_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(GitError, match=r"^git was not found: install it"):
        Repo.create(tmp_path / "new", FILES, "start")
    assert not (tmp_path / "new").exists()


FULL = """
import resource, sys
from pathlib import Path
from worktrees.repo import GitError, Repo
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    Repo.create(Path(sys.argv[1]), {"a.py": b"x", "big.py": bytes(range(256)) * 400}, "start")
except GitError as error:
    print("refused", error)
"""


@pytest.mark.parametrize("free", ["10", "200", "5000"])
def test_a_disk_that_fills_up_leaves_nothing_half_made(tmp_path: Path, free: str) -> None:
    """A limit on the size of files: writing fails half-way just as on a full disk, for git as well."""
    argv = [sys.executable, "-c", FULL, str(tmp_path / "new"), free]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.stdout.startswith("refused ") and done.stdout.count("\n") == 1, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


CREATE = f"""
import sys
from pathlib import Path
from worktrees.repo import Repo
print("ready", flush=True)
Repo.create(Path(sys.argv[1]), {FILES!r}, "start")
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_beginning_killed_at_any_moment_is_finished_by_the_next(
    tmp_path: Path, git: Git, everything: Everything
) -> None:
    draw = random.Random(7)
    cut = 0
    for number in range(16):
        root = tmp_path / f"r{number}"
        child = subprocess.Popen(
            [sys.executable, "-c", CREATE, str(root)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.06))  # not a wait: the moment of the kill is what varies
        os.killpg(child.pid, signal.SIGKILL)  # git as well
        cut += child.stdout.read() == ""
        child.wait()
        child.stdout.close()
        assert set(os.listdir(root) if root.exists() else []) <= {".git", ".org", ".gitignore", "README.md", "nanochat"}
        for lock in root.rglob("*.lock"):
            lock.unlink()
        repo = Repo(root) if (root / ".git").exists() else Repo.create(root, FILES, "start")
        repo.adopt(list(FILES))
        assert git(root, "status", "--porcelain", "--untracked-files=no") == ""
        assert {path: data for path, data in everything(root).items() if path in FILES} == FILES
    assert cut >= 4, "the kills came too late to prove anything"


def test_only_the_repository_s_own_folder_will_do(tmp_path: Path, repo: Repo, git: Git) -> None:
    inside = repo.root / "research"
    inside.mkdir()
    with pytest.raises(GitError, match="no git repository in"):
        Repo(inside)
    git(tmp_path, "init", "-q", "--bare", "store.git")
    with pytest.raises(GitError, match=r"bare repository.*clone it"):
        Repo(tmp_path / "store.git")
    git(repo.root, "config", "core.bare", "true")
    with pytest.raises(GitError, match="bare repository"):
        Repo(repo.root)
    with pytest.raises(GitError, match="no folder"):
        Repo(tmp_path / "nothing")


def test_a_clone_is_adopted_only_when_clean_and_of_this_task(tmp_path: Path, repo: Repo, git: Git) -> None:
    git(tmp_path, "clone", "-q", str(repo.root), "clone")
    clone = Repo(tmp_path / "clone")
    (clone.root / "README.md").write_text("changed\n")
    with pytest.raises(GitError, match=r"uncommitted changes \(README\.md\)"):
        clone.adopt(EDITABLE)
    git(clone.root, "checkout", "-q", "--", "README.md")
    with pytest.raises(GitError, match=r"lacks other\.py"):
        clone.adopt(["other.py"])
    clone.adopt(EDITABLE)
    clone.adopt(EDITABLE)
    assert clone.trunk() == repo.trunk()


def test_an_adopted_repository_never_shows_the_organisation_s_files(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "-q", "mine")
    mine = tmp_path / "mine"
    (mine / "a.py").write_text("x\n")
    git(mine, "add", "a.py")
    git(mine, "commit", "-qm", "mine")
    Repo(mine).adopt(["a.py"])
    Repo(mine).adopt(["a.py"])
    (mine / ".org").mkdir()
    (mine / ".org/org.yaml").write_text("x\n")
    assert git(mine, "status", "--porcelain") == ""
    assert (mine / ".git/info/exclude").read_text().count(".org/") == 1


def test_names_that_cannot_be_branches_are_refused(repo: Repo) -> None:
    for name in ("", "trunk", "-x", "a/b", "a..b", "A", "x" * 32, "a b", "r1\n", "é", ".", "r1.lock", "@{0}"):
        with pytest.raises(GitError, match="cannot name an agent"):
            repo.branch(name)
    for name in ("trunk", "../x", "", "a/b"):
        with pytest.raises(GitError, match="cannot name a program"):
            Repo(repo.root, name)
    for revision in ("--all", "HEAD..", "@{-1}", "a b", "", "refs/heads/../x", "0" * 40):
        with pytest.raises(GitError):
            repo.diff(revision, "HEAD")


# ---------------------------------------------------------------------- trunk


def test_trunk_moves_only_from_where_it_is_expected(repo: Repo, worktree: Path) -> None:
    start = repo.trunk()
    first = change(repo, worktree, "refs/org/exp/E0001/1")
    other = change(repo, worktree, "refs/org/exp/E0002/1", "LR = 0.04\n")
    assert repo.advance_trunk(start, first) == ""
    with pytest.raises(GitError, match=f"is at {first[:10]}, not at {start[:10]}"):
        repo.advance_trunk(start, other)
    assert repo.trunk() == first


RACE = """
import sys
from pathlib import Path
from worktrees.repo import GitError, Repo
repo = Repo(Path(sys.argv[1]))
sys.stdin.readline()
try:
    repo.advance_trunk(sys.argv[2], sys.argv[3])
    print("won")
except GitError as error:
    print("lost", error)
"""


def test_of_two_promotions_at_once_exactly_one_wins(repo: Repo, worktree: Path) -> None:
    start = repo.trunk()
    rivals = [change(repo, worktree, f"refs/org/exp/E000{n}/1", f"LR = 0.{n}\n") for n in (1, 2, 3)]
    argv = [sys.executable, "-c", RACE, str(repo.root), start]
    children = [
        subprocess.Popen([*argv, rival], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for rival in rivals
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60)[0] for child in children]
    winners = [rival for rival, line in zip(rivals, said, strict=True) if line.startswith("won")]
    assert len(winners) == 1, said
    assert repo.trunk() == winners[0]
    assert repo.dirty() == []


def test_the_main_files_follow_trunk_when_clean(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    (repo.root / "notes.txt").write_text("mine\n")
    (worktree / "nanochat/gpt.py").unlink()
    new = change(repo, worktree, "refs/org/exp/E0001/1")
    assert repo.advance_trunk(start, new) == ""
    assert (repo.root / "nanochat/optim.py").read_text() == "LR = 0.03\n"
    assert not (repo.root / "nanochat/gpt.py").exists()
    assert git(repo.root, "status", "--porcelain") == "?? notes.txt"


def test_uncommitted_work_in_the_main_files_survives_a_promotion(repo: Repo, worktree: Path) -> None:
    start = repo.trunk()
    (repo.root / "README.md").write_text("my words\n")
    new = change(repo, worktree, "refs/org/exp/E0001/1")
    warning = repo.advance_trunk(start, new)
    assert "README.md" in warning and "\n" not in warning
    assert repo.trunk() == new
    assert (repo.root / "README.md").read_text() == "my words\n"
    assert (repo.root / "nanochat/optim.py").read_text() == "LR = 0.02\n"


def test_staged_work_in_the_main_files_survives_a_promotion(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    (repo.root / "new.py").write_text("staged\n")
    git(repo.root, "add", "new.py")
    assert "staged" in repo.advance_trunk(start, change(repo, worktree, "refs/org/exp/E0001/1"))
    assert git(repo.root, "show", ":new.py") == "staged"
    assert (repo.root / "new.py").read_text() == "staged\n"


def test_main_files_left_behind_by_a_killed_promotion_catch_up(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    first = change(repo, worktree, "refs/org/exp/E0001/1")
    git(repo.root, "update-ref", "refs/heads/org/trunk", first)  # the ref moved, the files not
    (repo.root / "nanochat/gpt.py").write_bytes((worktree / "nanochat/gpt.py").read_bytes())
    second = change(repo, worktree, "refs/org/exp/E0002/1", "LR = 0.05\n")
    assert start != first and repo.advance_trunk(first, second) == ""
    assert git(repo.root, "status", "--porcelain") == ""
    assert (repo.root / "nanochat/optim.py").read_text() == "LR = 0.05\n"


def test_a_user_on_another_branch_is_left_alone(repo: Repo, worktree: Path, git: Git, everything: Everything) -> None:
    start = repo.trunk()
    git(repo.root, "checkout", "-qb", "mine")
    before = everything(repo.root)
    new = change(repo, worktree, "refs/org/exp/E0001/1", parent=start)
    before[".org/worktrees/r1/nanochat/optim.py"] = b"LR = 0.03\n"
    assert repo.advance_trunk(start, new) == ""
    assert everything(repo.root) == before
    assert git(repo.root, "status", "--porcelain") == ""


def test_a_moved_or_deleted_trunk_is_put_back_and_the_strangers_commit_kept(repo: Repo, git: Git) -> None:
    start = repo.trunk()
    assert repo.restore_trunk(start) is False
    (repo.root / "README.md").write_text("by hand\n")
    git(repo.root, "commit", "-qam", "by hand")
    foreign = repo.trunk()
    assert repo.restore_trunk(start) is True
    assert repo.trunk() == start
    assert git(repo.root, "for-each-ref", "--format=%(objectname)", "refs/org/lost/trunk") == foreign
    git(repo.root, "update-ref", "-d", "refs/heads/org/trunk")
    with pytest.raises(GitError, match="no branch org/trunk"):
        repo.trunk()
    assert repo.restore_trunk(start) is True
    assert repo.trunk() == start


def test_dirty_names_every_changed_tracked_file_and_nothing_else(repo: Repo, git: Git) -> None:
    (repo.root / "untracked.py").write_text("x\n")
    (repo.root / "README.md").write_text("changed\n")
    (repo.root / "nanochat/gpt.py").unlink()
    git(repo.root, "rm", "-q", "--cached", "nanochat/optim.py")
    (repo.root / "staged\n.py").write_text("x\n")
    git(repo.root, "add", "staged\n.py")
    os.utime(repo.root / "nanochat/data.py")
    assert repo.dirty() == ["README.md", "nanochat/gpt.py", "nanochat/optim.py", "staged\n.py"]


# ---------------------------------------------------------------------- nobody's settings


def whole_trip(root: Path) -> str:
    """From creation to promotion; returns the tree of trunk."""
    repo = Repo.create(root, FILES, "start")
    start, path = repo.trunk(), root / ".org/worktrees/r1"
    repo.add_worktree("r1", path, start)
    (path / "nanochat/gpt.py").write_bytes(FILES["nanochat/gpt.py"].replace(b"= 7", b"= 8"))
    repo.commit_worktree(path, "r1", "mine", ["nanochat/gpt.py"])
    snapshot = repo.snapshot(path, "r1", "refs/org/exp/E0001/1", start, EDITABLE, PROTECTED, "try")
    assert repo.advance_trunk(start, snapshot.commit) == ""
    repo.reset_worktree(path, start, "r1")
    repo.export(snapshot.commit, root / ".org/out")
    return repo.git.tree_id(repo.trunk())


HOSTILE_CONFIG = """
[commit]
gpgsign = true
[gpg]
program = {trap}
[core]
autocrlf = true
hooksPath = {hooks}
fsmonitor = {trap}
attributesFile = {attributes}
editor = {trap}
pager = {trap}
[filter "trap"]
clean = {trap}
smudge = {trap}
required = true
[diff]
external = {trap}
noprefix = true
[user]
useConfigOnly = true
[init]
templateDir = {template}
defaultBranch = other
defaultObjectFormat = sha1
"""


def traps(folder: Path) -> tuple[Path, str]:
    """A program that leaves a trace when run, and a git configuration that runs it wherever git can be made to."""
    folder.mkdir()
    trap, trace = folder / "trap", folder / "trace"
    trap.write_text(f"#!/bin/sh\necho \"$0 $@\" >> '{trace}'\ncat\n")
    trap.chmod(0o755)
    for name in ("hooks", "template/hooks"):
        (folder / name).mkdir(parents=True)
        for hook in ("post-checkout", "reference-transaction", "post-index-change", "pre-commit", "post-commit"):
            shutil.copy(trap, folder / name / hook)
    (folder / "attributes").write_text("* filter=trap\n")
    values = {
        "trap": trap,
        "hooks": folder / "hooks",
        "attributes": folder / "attributes",
        "template": folder / "template",
    }
    return trace, HOSTILE_CONFIG.format(**values)


def test_a_user_s_git_configuration_changes_nothing_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: Git
) -> None:
    expected = whole_trip(tmp_path / "plain")
    trace, config = traps(tmp_path / "traps")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(config)
    monkeypatch.setenv("HOME", str(home))
    assert whole_trip(tmp_path / "configured") == expected
    assert not trace.exists(), trace.read_text()
    subprocess.run(["git", "-C", str(tmp_path / "configured"), "status"], capture_output=True)
    assert trace.exists(), "the trap must be able to spring"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_repository_on_somebody_else_s_volume_works(repo: Repo, worktree: Path) -> None:
    """In a container the mounted folder usually belongs to another user id, which git on its own refuses."""
    for folder, _names, files in os.walk(repo.root):
        for name in [folder, *(os.path.join(folder, file) for file in files)]:
            os.chown(name, 4321, 4321)
    assert subprocess.run(
        ["git", "-C", str(repo.root), "log"], capture_output=True, env={"PATH": os.environ["PATH"]}
    ).returncode
    start = repo.trunk()
    assert Repo(repo.root).advance_trunk(start, change(repo, worktree, "refs/org/exp/E0001/1")) == ""


def test_a_broken_git_configuration_of_the_user_does_not_stop_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gitconfig").write_text("[broken\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert subprocess.run(["git", "init", str(tmp_path / "x")], capture_output=True).returncode != 0
    assert whole_trip(tmp_path / "ours")


def test_a_repository_s_configuration_and_attributes_run_nothing_in_our_process(
    tmp_path: Path, repo: Repo, worktree: Path
) -> None:
    trace, config = traps(tmp_path / "traps")
    with open(repo.root / ".git/config", "a") as handle:
        handle.write(config)
    (repo.root / ".git/info").mkdir(exist_ok=True)
    (worktree / ".gitattributes").write_text("* filter=trap text eol=crlf ident\n")
    (repo.root / ".gitattributes").write_text("* filter=trap text eol=crlf ident\n")
    start = repo.trunk()
    (worktree / "nanochat/gpt.py").write_bytes(b"$Id$\r\nnew\n")
    snapshot = repo.snapshot(worktree, "r1", "refs/org/exp/E0001/1", start, EDITABLE, PROTECTED, "try")
    assert repo.show_file(snapshot.commit, "nanochat/gpt.py") == b"$Id$\r\nnew\n"
    repo.commit_worktree(worktree, "r1", "mine", ["nanochat/gpt.py", ".gitattributes"])
    repo.add_worktree("r2", repo.root / ".org/worktrees/r2", snapshot.commit)
    assert (repo.root / ".org/worktrees/r2/nanochat/gpt.py").read_bytes() == b"$Id$\r\nnew\n"
    repo.reset_worktree(worktree, start, "r1")
    repo.advance_trunk(start, snapshot.commit)
    assert (repo.root / "nanochat/gpt.py").read_bytes() == b"$Id$\r\nnew\n"
    assert repo.dirty() == []
    repo.restore_trunk(start)
    assert not trace.exists(), trace.read_text()
    subprocess.run(["git", "-C", str(repo.root), "status"], capture_output=True)
    assert trace.exists(), "the trap must be able to spring"


def test_git_variables_of_the_caller_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: Git) -> None:
    """Commands may be started from inside a hook, where git has set all of these."""
    expected = whole_trip(tmp_path / "plain")
    git(tmp_path, "init", "-q", "other")
    other = tmp_path / "other"
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git/objects"))
    monkeypatch.setenv("GIT_NAMESPACE", "elsewhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.autocrlf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    assert whole_trip(tmp_path / "called") == expected
    assert not (other / ".git/index").exists()
    assert not list((other / ".git/objects").glob("??"))


@pytest.mark.slow
def test_paths_with_any_letters_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole_trip(tmp_path / "plain")
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/somewhere")
    for name in ("$HOME", "~root", "a:b;c d", "new\nline", "-dash", "ünï'\""):
        assert whole_trip(tmp_path / name) == expected, json.dumps(name)


def test_a_lock_of_a_dead_git_is_reported_with_its_remedy(
    repo: Repo, worktree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worktrees.plumbing.LOCK_SECONDS", 0.2)
    lock = repo.root / ".git/worktrees/r1/index.lock"
    lock.touch()
    with pytest.raises(GitError, match=r"index\.lock.*delete that lock file"):
        repo.reset_worktree(worktree, repo.trunk(), "r1")
    lock.unlink()
    repo.reset_worktree(worktree, repo.trunk(), "r1")
