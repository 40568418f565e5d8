"""Promises to an agent about its worktree: it is made once, kept, and no work in it is lost."""

from __future__ import annotations

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

from tests.worktrees.conftest import FILES, Git
from worktrees.repo import GitError, Repo

Everything = Callable[[Path], dict[str, bytes]]


def again(repo: Repo, worktree: Path) -> str:
    return repo.add_worktree("r1", worktree, repo.trunk())


def test_an_agent_gets_the_files_of_trunk_on_a_branch_of_its_own(
    repo: Repo, worktree: Path, git: Git, everything: Everything
) -> None:
    assert {path: data for path, data in everything(worktree).items() if path in FILES} == FILES
    assert git(worktree, "symbolic-ref", "HEAD") == "refs/heads/org/main/r1"
    assert git(worktree, "status", "--porcelain") == ""
    assert git(worktree, "rev-parse", "--show-toplevel") == str(worktree)


def test_making_a_worktree_twice_touches_nothing(repo: Repo, worktree: Path, git: Git, everything: Everything) -> None:
    (worktree / "nanochat/gpt.py").write_text("in the middle of an edit\n")
    (worktree / "scratch.py").write_text("x\n")
    git(worktree, "switch", "-qc", "mine")
    before = everything(worktree), git(repo.root, "for-each-ref"), (repo.root / ".git/worktrees/r1/index").read_bytes()
    assert again(repo, worktree) == ""
    after = everything(worktree), git(repo.root, "for-each-ref"), (repo.root / ".git/worktrees/r1/index").read_bytes()
    assert after == before


def test_a_lost_folder_comes_back_with_the_agent_s_commits(repo: Repo, worktree: Path, git: Git) -> None:
    (worktree / "nanochat/optim.py").write_text("LR = 0.5\n")
    tip = repo.commit_worktree(worktree, "r1", "mine", ["nanochat/optim.py"])
    shutil.rmtree(worktree)
    assert again(repo, worktree) == ""
    assert git(worktree, "rev-parse", "HEAD") == tip
    assert (worktree / "nanochat/optim.py").read_text() == "LR = 0.5\n"
    assert git(worktree, "status", "--porcelain") == ""


def test_a_lost_registration_costs_no_file(repo: Repo, worktree: Path, git: Git) -> None:
    (worktree / "scratch.py").write_text("precious\n")
    shutil.rmtree(repo.root / ".git/worktrees/r1")
    assert "r1.kept" in again(repo, worktree)
    assert (worktree.with_name("r1.kept") / "scratch.py").read_text() == "precious\n"
    assert git(worktree, "status", "--porcelain") == ""


def test_only_the_stale_registration_of_that_agent_goes(tmp_path: Path, repo: Repo, worktree: Path, git: Git) -> None:
    """The user's own worktree may lie on a disk that is not mounted just now."""
    git(repo.root, "worktree", "add", "-q", "-b", "mine", str(tmp_path / "usb"))
    (tmp_path / "usb").rename(tmp_path / "unplugged")
    shutil.rmtree(worktree)
    again(repo, worktree)
    (tmp_path / "unplugged").rename(tmp_path / "usb")
    assert git(tmp_path / "usb", "status", "--porcelain") == ""


def test_a_moved_repository_finds_its_worktrees_again(tmp_path: Path, repo: Repo, worktree: Path, git: Git) -> None:
    (worktree / "nanochat/gpt.py").write_text("in the middle of an edit\n")
    repo.root.rename(tmp_path / "elsewhere")
    moved = Repo(tmp_path / "elsewhere")
    path = moved.root / ".org/worktrees/r1"
    assert moved.add_worktree("r1", path, moved.trunk()) == ""
    assert git(path, "status", "--porcelain") == " M nanochat/gpt.py"
    moved.reset_worktree(path, moved.trunk(), "r1")


def test_a_folder_or_link_in_the_place_is_set_aside(tmp_path: Path, repo: Repo, git: Git) -> None:
    place = repo.root / ".org/worktrees"
    (place / "r2").mkdir(parents=True)
    (place / "r2/notes.txt").write_text("precious\n")
    assert "r2.kept" in repo.add_worktree("r2", place / "r2", repo.trunk())
    assert (place / "r2.kept/notes.txt").read_text() == "precious\n"
    (tmp_path / "target").mkdir()
    (place / "r3").symlink_to(tmp_path / "target")
    assert "r3.kept" in repo.add_worktree("r3", place / "r3", repo.trunk())
    assert list((tmp_path / "target").iterdir()) == []
    for agent in ("r2", "r3"):
        assert git(place / agent, "status", "--porcelain") == ""


def test_a_branch_that_is_checked_out_elsewhere_is_named(tmp_path: Path, repo: Repo, git: Git) -> None:
    git(repo.root, "worktree", "add", "-q", "-b", "org/main/r1", str(tmp_path / "mine"))
    with pytest.raises(GitError, match=r"org/main/r1.*already.*mine"):
        repo.add_worktree("r1", repo.root / ".org/worktrees/r1", repo.trunk())


ADD = """
import sys
from pathlib import Path
from worktrees.repo import Repo
repo = Repo(Path(sys.argv[1]))
print("ready", flush=True)
repo.add_worktree("r1", Path(sys.argv[2]), repo.trunk())
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_worktree_whose_making_was_killed_is_finished_by_the_next_call(
    tmp_path: Path, git: Git, everything: Everything
) -> None:
    draw = random.Random(11)
    cut = 0
    many = FILES | {f"data/{number}.txt": b"x" * number for number in range(150)}
    first = Repo.create(tmp_path / "first", many, "start")
    for number in range(12):
        repo = Repo(shutil.copytree(first.root, tmp_path / f"r{number}"))
        path = repo.root / ".org/worktrees/r1"
        argv = [sys.executable, "-c", ADD, str(repo.root), str(path)]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0, 0.1))  # not a wait: the moment of the kill is what varies
        os.killpg(child.pid, signal.SIGKILL)  # git as well
        cut += child.stdout.read() == ""
        child.wait()
        child.stdout.close()
        for lock in (repo.root / ".git").rglob("*.lock"):
            lock.unlink()
        again(repo, path)
        assert {name: data for name, data in everything(path).items() if name in many} == many
        assert git(path, "status", "--porcelain") == ""
        assert git(path, "symbolic-ref", "HEAD") == "refs/heads/org/main/r1"
    assert cut >= 3, "the kills came too late to prove anything"


# ---------------------------------------------------------------------- reset


def test_a_reset_sets_tracked_files_and_keeps_everything_else(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    (worktree / "nanochat/optim.py").write_text("LR = 9\n")
    (worktree / "nanochat/gpt.py").unlink()
    (worktree / "nanochat/data.py").chmod(0o755)
    (worktree / "scratch").mkdir()
    (worktree / "scratch/notes.md").write_text("precious\n")
    assert repo.reset_worktree(worktree, start, "r1") == []
    assert git(worktree, "status", "--porcelain") == "?? scratch/"
    assert (worktree / "nanochat/gpt.py").read_bytes() == FILES["nanochat/gpt.py"]
    assert (worktree / "scratch/notes.md").read_text() == "precious\n"


def test_commits_that_a_reset_leaves_behind_are_kept(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    (worktree / "nanochat/optim.py").write_text("LR = 1\n")
    tip = repo.commit_worktree(worktree, "r1", "mine", ["nanochat/optim.py"])
    git(worktree, "checkout", "-q", "--detach")
    (worktree / "nanochat/optim.py").write_text("LR = 2\n")
    git(worktree, "commit", "-qam", "on no branch")
    detached = git(worktree, "rev-parse", "HEAD")
    repo.reset_worktree(worktree, start, "r1")
    repo.reset_worktree(worktree, start, "r1")
    lost = git(repo.root, "for-each-ref", "--format=%(objectname)", "refs/org/lost/r1").split()
    assert detached in lost and set(lost) <= {tip, detached}
    git(repo.root, "reflog", "expire", "--expire=now", "--all")
    git(repo.root, "gc", "-q", "--prune=now")
    for commit in (tip, detached):
        git(repo.root, "cat-file", "-e", f"{commit}^{{commit}}")
    assert git(worktree, "symbolic-ref", "HEAD") == "refs/heads/org/main/r1"


def test_a_reset_forward_needs_no_copy_of_the_old_tip(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    (worktree / "nanochat/optim.py").write_text("LR = 1\n")
    tip = repo.commit_worktree(worktree, "r1", "mine", ["nanochat/optim.py"])
    git(repo.root, "branch", "keeper", tip)
    repo.reset_worktree(worktree, start, "r1")
    repo.reset_worktree(worktree, tip, "r1")
    assert git(repo.root, "for-each-ref", "refs/org/lost") == ""


def test_untracked_files_in_the_way_of_a_reset_are_renamed(
    tmp_path: Path, repo: Repo, worktree: Path, git: Git
) -> None:
    start = repo.trunk()
    (worktree / "new.py").write_text("tracked\n")
    (worktree / "lib").mkdir()
    (worktree / "lib/a.py").write_text("tracked\n")
    tip = repo.commit_worktree(worktree, "r1", "more", ["new.py", "lib/a.py"])
    repo.reset_worktree(worktree, start, "r1")
    assert not (worktree / "lib").exists()
    (worktree / "new.py").write_text("my scratch\n")
    (tmp_path / "outside").mkdir()
    (worktree / "lib").symlink_to(tmp_path / "outside")
    assert sorted(repo.reset_worktree(worktree, tip, "r1")) == ["lib.kept", "new.py.kept"]
    assert (worktree / "new.py.kept").read_text() == "my scratch\n"
    assert (worktree / "lib/a.py").read_text() == "tracked\n"
    assert list((tmp_path / "outside").iterdir()) == [], "nothing is written through a link"


def test_a_tracked_folder_swapped_for_a_link_is_never_followed(tmp_path: Path, repo: Repo, worktree: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "gpt.py").write_text("somebody's\n")
    shutil.rmtree(worktree / "nanochat")
    (worktree / "nanochat").symlink_to(outside)
    repo.reset_worktree(worktree, repo.trunk(), "r1")
    assert (outside / "gpt.py").read_text() == "somebody's\n"
    assert sorted(os.listdir(outside)) == ["gpt.py"]
    assert not (worktree / "nanochat").is_symlink()
    assert (worktree / "nanochat/gpt.py").read_bytes() == FILES["nanochat/gpt.py"]


def test_a_reset_ends_a_merge_under_way(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    git(worktree, "checkout", "-qb", "side")
    (worktree / "nanochat/optim.py").write_text("LR = 1\n")
    git(worktree, "commit", "-qam", "side")
    git(worktree, "checkout", "-q", "org/main/r1")
    (worktree / "nanochat/optim.py").write_text("LR = 2\n")
    git(worktree, "commit", "-qam", "mine")
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.invalid"]
    subprocess.run(["git", "-C", str(worktree), *identity, "merge", "side"], capture_output=True)
    assert git(worktree, "status", "--porcelain") == "UU nanochat/optim.py"
    repo.reset_worktree(worktree, start, "r1")
    assert git(worktree, "status", "--porcelain") == ""
    assert "merging" not in git(worktree, "status")


def test_a_worktree_that_is_gone_is_one_line(repo: Repo, worktree: Path) -> None:
    shutil.rmtree(worktree)
    with pytest.raises(GitError, match=r"^no worktree at .*: run `orgctl up`"):
        repo.reset_worktree(worktree, repo.trunk(), "r1")


# ---------------------------------------------------------------------- commits


def test_an_agent_s_commit_bears_its_name_and_holds_only_what_was_named(repo: Repo, worktree: Path, git: Git) -> None:
    (worktree / "nanochat/optim.py").write_text("LR = 1\n")
    (worktree / "nanochat/gpt.py").write_text("not yet\n")
    (worktree / "notes.md").write_text("new\n")
    (worktree / "README.md").unlink()
    tip = repo.commit_worktree(worktree, "r1", "Raise LR\n\nbecause", ["nanochat/optim.py", "notes.md", "README.md"])
    assert (
        git(worktree, "log", "-1", "--format=%H %an <%ae> %cn %B")
        == f"{tip} r1 <r1@orgctl.local> r1 Raise LR\n\nbecause"
    )
    changes = git(worktree, "show", "--format=", "--name-status", "HEAD").split("\n")
    assert changes == ["D\tREADME.md", "M\tnanochat/optim.py", "A\tnotes.md"]
    assert git(worktree, "status", "--porcelain") == " M nanochat/gpt.py"
    assert repo.commit_worktree(worktree, "r1", "again", ["nanochat/optim.py"]) == tip


def test_a_commit_on_another_branch_or_through_a_link_is_refused(
    tmp_path: Path, repo: Repo, worktree: Path, git: Git
) -> None:
    (tmp_path / "secret").write_text("key\n")
    (worktree / "leak.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(GitError, match=r"leak\.txt.*symbolic link"):
        repo.commit_worktree(worktree, "r1", "m", ["leak.txt"])
    for path in ("../r2/x", "/etc/passwd", ".git"):
        with pytest.raises(GitError):
            repo.commit_worktree(worktree, "r1", "m", [path])
    git(worktree, "switch", "-qc", "mine")
    with pytest.raises(GitError, match="git switch org/main/r1"):
        repo.commit_worktree(worktree, "r1", "m", ["README.md"])


def test_what_an_agent_s_work_is_based_on_is_found(repo: Repo, worktree: Path, git: Git) -> None:
    start = repo.trunk()
    (worktree / "nanochat/optim.py").write_text("LR = 1\n")
    tip = repo.commit_worktree(worktree, "r1", "mine", ["nanochat/optim.py"])
    assert repo.fork_point(repo.branch("r1"), start) == start
    git(repo.root, "update-ref", "refs/heads/org/trunk", tip)
    assert repo.fork_point(repo.branch("r1"), repo.trunk()) == tip
    git(worktree, "checkout", "-q", "--orphan", "fresh")
    git(worktree, "commit", "-qm", "no parents")
    git(repo.root, "update-ref", "refs/heads/org/main/r1", git(worktree, "rev-parse", "HEAD"))
    with pytest.raises(GitError, match="shares no history with trunk"):
        repo.fork_point(repo.branch("r1"), start)
    with pytest.raises(GitError, match="no commit"):
        repo.fork_point(repo.branch("r9"), start)
