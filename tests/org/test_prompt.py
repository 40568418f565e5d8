"""What an agent is told: one text for every backend, from files that are pinned with the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import UserError
from lab.home import Home
from org import design as designs
from org import prompt, role
from org.agents.base import Seat
from org.meeting import Standup
from tasks import spec
from tests.conftest import TOY

TASK = spec.load(str(TOY), None)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.make()
    for name in ("researcher", "chief-scientist"):
        prompt.pin(made, role.load(name, role.find()[name]))
    return made


def test_a_prompt_holds_role_skills_task_chart_laboratory_and_seat(home: Home) -> None:
    design = designs.load("chief", 2)
    seat = design.seats(home)[1]
    text = prompt.compose(design, TASK, seat, prompt.role_of(home, design, seat))
    for part in (
        "# Researcher", "# How to make an experiment that can be believed", TASK.title, "toy/model.py", "| r1 (you) | researcher | 0 |",
        "| chief | chief-scientist | none |", "orgctl exp propose", str(seat.worktree), "val_mse",
    ):  # fmt: skip
        assert part in text, part
    chief = design.seats(home)[0]
    other = prompt.compose(design, TASK, chief, prompt.role_of(home, design, chief))
    assert "# Chief scientist" in other and "You have no worktree" in other and str(seat.worktree) not in other


def test_the_prompt_is_laid_down_with_its_skills_and_old_ones_go(home: Home) -> None:
    design = designs.load("chief", 2)
    seat = design.seats(home)[1]
    seat.skills.mkdir(parents=True)
    (seat.skills / "old.md").write_text("old")
    told = prompt.lay_down(home, design, TASK, seat)
    assert told == prompt.digest(seat.prompt.read_text())
    assert {path.stem for path in seat.skills.iterdir()} == set(prompt.role_of(home, design, seat).skills)
    assert prompt.lay_down(home, design, TASK, seat) == told, "the same files give the same prompt"
    assert prompt.told(seat, told) == seat.prompt.read_text()
    seat.prompt.write_text("You may do as you like.\n")
    assert prompt.told(seat, told) is None, "that is not what it was told"


def test_a_prompt_says_who_reviews_whom_and_whether_agents_may_write(tmp_path: Path) -> None:
    def told(name: str, agent: str, program: str = "main") -> str:
        home, design = Home(tmp_path / name, program), designs.load(name, 2)
        home.make()
        for one in {one.role for one in design.agents}:
            prompt.pin(home, role.load(one, role.find()[one]))
        seat = next(seat for seat in design.seats(home) if seat.agent == agent)
        return prompt.compose(design, TASK, seat, prompt.role_of(home, design, seat))

    text = told("pairs", "r1")
    assert "What you find waits for the review of r2." in text and "You review what is found by r2" in text
    assert "orgctl post all" in text and "a replication holds" in text
    assert "You review what is found by chief, r1" in told("skeptic", "skeptic")
    silent = told("solo", "r1")
    assert "Agents write to nobody here" in silent and "orgctl post all" not in silent and "You review" not in silent
    other = told("solo", "r1", "vision")
    assert "git reset --hard org/vision/trunk" in other and "org/trunk" not in other and "branch `org/vision/r1`" in other


def test_a_prompt_says_when_the_organisation_meets_and_what_the_unassigned_do(home: Home) -> None:
    design = designs.load("chief", 2)
    chief, first, _ = design.seats(home)

    def told(seat: Seat, **standup: object) -> str:
        process = design.process.model_copy(update={"standup": Standup.model_validate(standup)})
        return prompt.compose(design.model_copy(update={"process": process}), TASK, seat, prompt.role_of(home, design, seat))

    text = told(first, every="60m", at="09:00", deadline="3m", unassigned="queue")
    assert "held every 60m and at 09:00: a letter asks you for a report, and you have 3m" in text
    assert "Who has no assignment runs nothing but ideas of people" in text
    assert "`optimizer`" in text, "the areas that an assignment may name"
    assert "and then you decide" in told(chief, after=3) and "Who has no assignment" not in told(chief, after=3)
    assert "A standup is held" not in told(first), "nobody waits for what is not planned"


def test_a_pinned_file_that_was_changed_is_refused_by_name(home: Home) -> None:
    design = designs.load("chief", 2)
    seat = design.seats(home)[1]
    path = home.org / "roles" / "skills" / "experiment.md"
    path.write_text(path.read_text() + "Claim more.\n")
    with pytest.raises(UserError, match=r"experiment\.md is not what the design records"):
        prompt.lay_down(home, design, TASK, seat)


def test_one_agent_may_have_a_role_text_of_its_own(home: Home, tmp_path: Path) -> None:
    mine = tmp_path / "mine.md"
    mine.write_text("---\nskills: [experiment]\n---\n# My own researcher\n")
    design = designs.load("chief", 2)
    hashes = prompt.pin(home, role.load("researcher", mine), "r2")
    changed = design.model_copy(update={"code": {**design.code, **hashes}})
    _, r1, r2 = changed.seats(home)
    assert prompt.role_of(home, changed, r2).text == "# My own researcher\n"
    assert prompt.role_of(home, changed, r1).text != "# My own researcher\n"
