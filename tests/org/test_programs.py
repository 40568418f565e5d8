"""Several programs of research in one repository: apart in everything, found by name, by environment and by working directory."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from comms.mailbox import Mail
from lab.backup import folder
from lab.errors import UserError
from lab.home import MAIN, Home, meant
from lab.slots import usable_cores
from org import design, session
from org.session import Wish, found, name_for, reopen, slots_of
from tests.conftest import TOY, Org, until
from worktrees.repo import GitError, Repo

ROOT = Path(__file__).resolve().parents[2]


def git(root: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=root, text=True, capture_output=True, check=True).stdout.strip()


def begin(root: Path, program: str = MAIN, slots: int | None = 1, name: str | None = None) -> Home:
    return found(root, Wish(design="autoresearch", task=str(TOY), slots=slots, name=name, program=program))


def test_a_program_has_a_home_a_trunk_and_slots_of_its_own_and_main_keeps_its_paths(tmp_path: Path) -> None:
    root = tmp_path / "research"
    main, vision = begin(root, slots=2), begin(root, "vision", slots=1)
    assert main.org == root / ".org" and vision.org == root / ".org" / "programs" / "vision"
    assert main.report == root / "report" and vision.report == root / "report" / "vision"
    assert folder(main) == root / ".git" / "orgctl" and folder(vision) == root / ".git" / "orgctl" / "programs" / "vision"
    for place in (root / ".org", vision.org):
        assert place.stat().st_mode & 0o777 == 0o700
    assert git(root, "branch", "--format=%(refname:short)").split() == ["org/trunk", "org/vision/trunk"]
    assert git(root, "branch", "--show-current") == "org/trunk", "the person's checkout stays on main"
    assert git(root, "rev-parse", "org/trunk") == git(root, "rev-parse", "org/vision/trunk")
    one, two = design.read(main), design.read(vision)
    assert (one.first, one.slots, two.first, two.slots) == (0, 2, 2, 1)
    assert (one.name, two.name) == ("research", "research-vision")
    assert [slot.index for slot in slots_of(vision, two)] == [0] and two.design.agents[0].slot == 0
    assert main.others() == [vision] and vision.others() == [main]
    assert reopen(root, Wish(program="vision")) == vision and session.exists(root, "vision") and not session.exists(root, "other")


def test_each_program_runs_on_cores_of_its_own_while_there_are_enough(tmp_path: Path) -> None:
    cores = usable_cores()
    if len(cores) < 2:
        pytest.skip("one core")
    homes = [begin(tmp_path / "research", name) for name in (MAIN, "vision")]
    assert [slots_of(home, design.read(home))[0].cpus for home in homes] == [[cores[0]], [cores[1]]]


def test_slots_that_are_another_programs_are_not_given_away(tmp_path: Path) -> None:
    root, cores = tmp_path / "research", len(usable_cores())
    begin(root, slots=cores)
    with pytest.raises(UserError, match=rf"no core is left: the other programs here \(main\) hold {cores} of {cores}"):
        begin(root, "vision", slots=None)
    assert not (root / ".org" / "programs" / "vision").exists(), "nothing is left half-made"
    assert (root / ".git").is_dir() and session.exists(root)
    assert design.read(begin(root, "vision", slots=1)).first == cores, "who asks by number shares cores"


def test_two_programs_cannot_share_a_tmux_name(tmp_path: Path) -> None:
    root = tmp_path / "research"
    begin(root, name="mine")
    with pytest.raises(UserError, match="--name mine: the program main of this repository is called so"):
        begin(root, "vision", name="mine")
    assert name_for(Path("/x/" + "long" * 9), Wish(program="vision")).endswith("-vision")
    assert len(name_for(Path("/x/" + "long" * 9), Wish(program="vision"))) == 24


def test_a_program_is_found_by_environment_and_by_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "research"
    main, vision = begin(root), begin(root, "vision")
    inside = vision.worktrees / "r1"
    inside.mkdir()
    assert Home.find(root) == main and Home.find(inside) == vision and meant(inside) == "vision"
    monkeypatch.setenv("ORGCTL_PROGRAM", "vision")
    assert Home.find(root) == vision
    monkeypatch.setenv("ORGCTL_HOME", str(root))
    assert Home.find(tmp_path) == vision
    monkeypatch.setenv("ORGCTL_PROGRAM", "other")
    with pytest.raises(UserError, match=r"holds no \.org/programs/other/org\.yaml"):
        Home.find(tmp_path)
    monkeypatch.delenv("ORGCTL_HOME")
    with pytest.raises(UserError, match="holds no program 'other': choose one of main, vision"):
        Home.find(root)


@pytest.mark.parametrize("name", ["../../etc", "A", "a/b", "trunk", "exp", "audit", "lost", "a" * 17, ".", "9a"])
def test_a_name_that_cannot_be_a_programs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ORGCTL_PROGRAM", name)
    with pytest.raises(UserError, match="--program"):
        Home.find(tmp_path)


def test_refs_of_a_program_are_its_own(tmp_path: Path) -> None:
    root = tmp_path / "research"
    begin(root)
    assert Repo(root).kept("exp/E0001/1") == "refs/org/exp/E0001/1"
    assert Repo(root, "vision").kept("exp/E0001/1") == "refs/org/vision/exp/E0001/1"
    with pytest.raises(GitError, match="cannot name a program"):
        Repo(root, "exp")


def test_every_room_opens_the_repository_of_its_program() -> None:
    """`Repo(home.root)` alone would be main's, whichever program asked."""
    files = [path for room in ("org", "lab") for path in (ROOT / room).rglob("*.py")]
    wrong = [f"{path.name}: {line.strip()}" for path in files for line in path.read_text().splitlines()
             if re.search(r"\bRepo\((self\.)?home\.root\)", line)]  # fmt: skip
    assert files and wrong == []


@pytest.mark.slow
def test_two_programs_work_side_by_side_and_know_nothing_of_each_other(org: Org) -> None:
    org("up", "--detach", "--name", org.name, "--task", str(TOY), "--slots", "1", "--backend", "shell", "--design", "solo")
    other = Home(org.root, "vision")
    words = ["--task", str(TOY), "--slots", "1", "--backend", "shell", "--design", "solo", "--name", f"{org.name}v"]
    vision = {"ORGCTL_PROGRAM": "vision"}
    try:
        said = org("up", "--detach", "--program", "vision", *words)
        assert "orgctl --program vision attach" in said and "stop: orgctl --program vision down" in said, "main is somebody else's"
        for home, message in ((org.home, "of main"), (other, "of vision")):
            there = home.worktrees / "r1"
            model = there / "toy" / "model.py"
            model.write_text(model.read_text().replace("MOMENTUM = ", "MOMENTUM = 0.9 * ", 1))
            made = json.loads(org("exp", "propose", "--hypothesis", message, "--mechanism", "m", "--json", cwd=there))
            assert made["experiment"] == "E0001", "each counts its own"
            org("exp", "run", "E0001", cwd=there)
        shown = [json.loads(org(*first, "exp", "show", "E0001", "--json"))["hypothesis"] for first in ([], ["--program", "vision"])]
        assert shown == ["of main", "of vision"]
        refs = git(org.root, "for-each-ref", "--format=%(refname)", "refs/org").split()
        assert refs == ["refs/org/exp/E0001/1", "refs/org/vision/exp/E0001/1"]
        assert {"org/main/r1", "org/vision/r1"} <= set(git(org.root, "branch", "--format=%(refname:short)").split())
        until(lambda: json.loads(org("exp", "list", "--json", env=vision))[0]["verdict"], "vision's verdict", 120)
        found = json.loads(org("programs", "--json"))
        assert [(one["program"], one["up"], one["experiments"]) for one in found] == [("main", True, 1), ("vision", True, 1)]
        Mail(other.comms).send("lab", "r1", "for vision's r1")
        assert "for vision's r1" in org("mail", "read", "--agent", "r1", env=vision)
        assert "for vision's r1" not in org("mail", "read", "--agent", "r1")
        org("report", env=vision)
        assert (org.root / "report" / "vision" / "report.md").is_file() and not (org.root / "report" / "report.md").exists()
        assert "orgctl --program vision up" in org("--program", "vision", "down")
        assert [one["up"] for one in json.loads(org("programs", "--json"))] == [True, False], "the other works on"
        assert org.status()["controller"]["alive"]
        assert org("ledger", "verify", env=vision) and org("ledger", "verify")
    finally:
        if other.settings.is_file():
            org("down", env=vision)
            subprocess.run(["tmux", "-L", f"orgctl-{org.name}v", "kill-server"], env=org.env, capture_output=True)
