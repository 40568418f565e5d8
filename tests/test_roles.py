"""Role prompts: every command, option and file that they name exists, and each says what an agent must be told."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

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


OPTIONS = sorted(
    (str(path.relative_to(ROLES)), option)
    for path in ROLES.rglob("*.md")
    for option in set(re.findall(r"`(--[a-z][a-z-]*)[^`]*`", path.read_text()))
)
FILES = sorted(
    (str(path.relative_to(ROLES)), name)
    for path in ROLES.rglob("*.md")
    for name in set(re.findall(r"`([\w./-]+\.(?:md|py|yaml|tsv|png|json|db))`", path.read_text()))
)
WRITTEN = ("report/report.md", "report/results.tsv", "report/progress.png")
"""What `orgctl report` writes into a research repository."""


def commands(group: Any = None, path: str = "orgctl") -> dict[str, Any]:
    """Every command by its words."""
    group = group or typer.main.get_command(orgctl.app)
    found = {}
    for name, one in group.commands.items():
        found |= commands(one, f"{path} {name}") if hasattr(one, "commands") else {f"{path} {name}": one}
    return found


def parse(line: str) -> None:
    """Parse a command line without running it. Raises when there is no such command, option or argument."""
    command, words = typer.main.get_command(orgctl.app), shlex.split(line)[1:]
    if words[:1] == ["--program"]:
        words = words[2:]
    while hasattr(command, "commands"):
        if not words and command.invoke_without_command:
            return
        assert words and words[0] in command.commands, f"no such command: {line}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context("orgctl", words)


@pytest.mark.parametrize(("file", "line"), COMMANDS)
@pytest.mark.slow
def test_a_command_in_a_role_prompt_exists_with_its_options(file: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize(("file", "option"), OPTIONS)
def test_an_option_that_is_named_by_itself_exists(file: str, option: str) -> None:
    known = {name for command in commands().values() for parameter in command.params for name in parameter.opts}
    assert option in known


@pytest.mark.parametrize(("file", "name"), FILES)
def test_a_file_that_is_named_exists(file: str, name: str) -> None:
    assert name in WRITTEN or (ROLES.parent / name).is_file()


@pytest.mark.parametrize("line", ["orgctl fly", "orgctl exp", "orgctl exp show E0001 --loud", "orgctl exp propose"])
def test_a_command_that_does_not_exist_would_be_noticed(line: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        parse(line)


def test_the_prompts_name_the_whole_way_of_an_idea() -> None:
    named = {" ".join(line.split()[1:3]) for file, line in COMMANDS}
    for step in ("propose", "run", "show", "list", "diff", "review", "confirm", "replicate", "promote", "audit", "carry", "withdraw"):
        assert f"exp {step}" in named
    assert {"mail send", "mail inbox", "mail read", "report", "status"} <= named


def test_every_shipped_role_can_be_read_with_its_skills() -> None:
    found = role.find()
    assert set(found) == {
        role.CHIEF, role.SKEPTIC, role.HUMAN, *role.RESEARCHERS, "engineer", "librarian",
    }  # fmt: skip
    for name, path in found.items():
        one = role.load(name, path)
        assert one.title and one.text.startswith(f"# {one.title}")
        assert bool(one.skills) is (name != "autoresearch"), "its one page is all that it gets"


def test_every_shipped_skill_is_a_role_s_and_says_how() -> None:
    listed = {skill for name, path in role.find().items() for skill in role.load(name, path).skills}
    assert listed == {path.stem for path in (ROLES / "skills").glob("*.md")}
    for path in (ROLES / "skills").glob("*.md"):
        assert path.read_text().startswith("# How to "), path


@pytest.mark.parametrize("name", sorted(set(role.find()) - {role.HUMAN}))
def test_a_role_says_what_an_agent_has_to_be_told(name: str) -> None:
    text = role.find()[name].read_text()
    for part in ("## You decide", "## You never"):
        assert part in text
    assert re.search(r"^## (Your round|The loop)$", text, re.MULTILINE)
    assert re.search(r"\bGood: .+\bBad:\s", text, re.DOTALL), "what good and bad experiments look like"
    assert re.search(r"wait for (a run|anything) in your shell", text), "runs take longer than an agent's shell lives"
    assert re.search(r"end\s+your\s+turn", text, re.IGNORECASE) and re.search(r"by\s+mail|mail\s+wakes", text)
    assert "orgctl mail read" in text and "orgctl exp show" in text
    assert len(text.split()) < 750, "a prompt that is read at every turn is short"


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
