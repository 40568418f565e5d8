"""Role prompts: every command that they name exists and takes the options and arguments they give it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

import orgctl
from lab.errors import UserError
from org import design, role

ROLES = Path(__file__).resolve().parent.parent / "roles"
COMMANDS = sorted(
    (str(path.relative_to(ROLES)), found[1] or found[2])
    for path in ROLES.rglob("*.md")
    for found in re.finditer(r"`(orgctl[^`]*)`|^    (orgctl.*)$", path.read_text(), re.MULTILINE)
)


def parse(line: str) -> None:
    """Parse a command line without running it. Raises when there is no such command, option or argument."""
    command, words = typer.main.get_command(orgctl.app), shlex.split(line)[1:]
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no such command: {line}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context("orgctl", words)


@pytest.mark.parametrize(("file", "line"), COMMANDS)
def test_a_command_in_a_role_prompt_exists_with_its_options(file: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize("line", ["orgctl fly", "orgctl exp", "orgctl exp show E0001 --loud", "orgctl exp propose"])
def test_a_command_that_does_not_exist_would_be_noticed(line: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        parse(line)


def test_the_prompts_name_the_whole_way_of_an_idea() -> None:
    named = {" ".join(line.split()[1:3]) for file, line in COMMANDS}
    for step in ("propose", "run", "show", "list", "confirm", "promote", "withdraw"):
        assert f"exp {step}" in named
    assert {"mail send", "mail inbox", "mail read", "report", "status"} <= named


def test_every_shipped_role_can_be_read_with_its_skills() -> None:
    found = role.find()
    assert {role.CHIEF, "researcher", role.HUMAN} == set(found)
    for name, path in found.items():
        one = role.load(name, path)
        assert one.title and one.text.startswith(f"# {one.title}") and one.skills


def test_every_role_of_a_shipped_design_is_shipped() -> None:
    for name in design.shipped():
        assert {agent.role for agent in design.load(name, 2).agents} <= set(role.find())


def test_an_own_role_file_replaces_a_shipped_one_and_may_use_shipped_skills(tmp_path: Path) -> None:
    own = tmp_path / "researcher.md"
    own.write_text("---\ntitle: Mine\nskills: [experiment]\n---\nDo it my way.\n")
    one = role.load("researcher", role.find(tmp_path)["researcher"])
    assert one.title == "Mine" and one.skills["experiment"] == (ROLES / "skills" / "experiment.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\ntitle: x\n", "no closing line"),
        ("---\ntitle: [\n---\n", "line 2: malformed YAML"),
        ("---\nmodel: big\n---\n", "may hold `title` and `skills` only"),
        ("---\nskills: experiment\n---\n", "skills: must be a list"),
        ("---\nskills: [../../etc/passwd]\n---\n", "skills: must be a list of names"),
    ],
)
def test_a_malformed_role_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "researcher.md"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        role.load("researcher", path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
