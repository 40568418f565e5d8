"""`orgctl design`: what is shown, checked, compared and begun, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import orgctl
from lab.errors import UserError
from org import design
from org.design_commands import SCHEMA, compared, schema, template
from org.process import Process, Restart

WRONG = "name: X\nabout: 1\ncolour: red\nagents:\n  - {role: researcher, count: many}\n  - {role: nobody}\n"


def run(*words: str, code: int = 0) -> str:
    """An `orgctl design` command's output. A UserError is raised as it is: the door makes its one line."""
    done = CliRunner().invoke(orgctl.app, ["design", *words])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("name", design.shipped())
def test_show_says_who_works_by_which_rules_and_of_what_it_consists(name: str) -> None:
    resolved = design.load(name, 3)
    text = run("show", name, "--slots", "3")
    for agent in resolved.agents:
        assert f"  {agent.name} " in text and f" {agent.role} " in text
    assert resolved.hash() in text and f"promotion: {resolved.promotion}" in text and "bank: 8" in text
    for path, digest in resolved.code.items():
        assert f"{digest[:16]}  {path}" in text
    data = json.loads(run("show", name, "--slots", "3", "--json"))
    assert data["hash"] == resolved.hash() and [one["name"] for one in data["agents"]] == resolved.names
    assert data["reviewers"] == resolved.reviewers()


def test_show_takes_another_backend_and_another_prompt(tmp_path: Path) -> None:
    mine = tmp_path / "mine.md"
    mine.write_text("# Mine\n")
    data = json.loads(run("show", "solo", "--backend", "shell", "--role", f"solo={mine}", "--json"))
    assert {one["backend"] for one in data["agents"]} == {"shell"} and list(data["code"]) == ["roles/solo.md"]
    with pytest.raises(UserError, match=r"write NAME=FILE\.md"):
        run("show", "solo", "--role", "solo")


def test_a_bank_below_eight_is_warned_of_with_its_figure_and_allowed(tmp_path: Path) -> None:
    mine, said = tmp_path / "mine.yaml", list[str]()
    mine.write_text("name: mine\nabout: few baselines\nagents: [{role: researcher, backend: shell}]\nprocess: {bank: 2}\n")
    words = "process.bank: 2: fewer baseline runs than the 8 that verdicts are made for"
    valid, warning = run("check", str(mine)).splitlines()
    assert "a valid design" in valid and warning.startswith(f"warning: {mine}: {words}") and "63 are found instead of 90" in warning
    assert json.loads(run("check", str(mine), "--json")) == {str(mine): []}
    assert design.load(str(mine), 1, say=said.append).process.bank == 2 and said == [warning]
    mine.write_text(mine.read_text().replace("bank: 2", "bank: 8"))
    assert len(run("check", str(mine)).splitlines()) == 1


def test_check_names_everything_that_is_wrong_one_line_each(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WRONG)
    lines = run("check", str(wrong), code=2).splitlines()
    assert [line.removeprefix(f"{wrong}: ").split(": ")[:2] for line in lines] == [
        ["line 1", "name"], ["line 2", "about"], ["line 5", "agents.0.count"], ["line 3", "colour"], ["line 6", "agents.1.role"],
    ]  # fmt: skip
    wrong.write_text("name: x\nabout: y\nagents:\n  - {role: nobody}\n")
    (line,) = run("check", str(wrong), code=2).splitlines()
    assert "line 4: agents.0.role: unknown role 'nobody'" in line


def test_check_counts_chiefs_slots_and_skeptics_in_the_same_go(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    chiefs = "  - {role: chief-scientist, slot: false}\n  - {role: chief-scientist, slot: false, backend: shell}\n"
    wrong.write_text(f"name: x\nabout: y\npromotion: skeptic\nagents:\n  - {{role: reseacher, count: 9}}\n{chiefs}")
    said = [line.removeprefix(f"{wrong}: ") for line in run("check", str(wrong), code=2).splitlines()]
    assert [" ".join(line.split()[:6]) for line in said] == [
        "line 5: agents.0.role: unknown role 'reseacher':", "line 4: agents: 9 agents want", "line 7: agents.2.role: two chiefs: only",
        "line 3: promotion: `skeptic`, but no",
    ]  # fmt: skip
    wrong.write_text(wrong.read_text().replace("about: y", "about: [y]").replace("count: 9", "count: many"))
    said = [line.removeprefix(f"{wrong}: ") for line in run("check", str(wrong), code=2).splitlines()]
    assert [line.split(": ")[1] for line in said] == ["about", "agents.0.count", "agents.0.role", "agents.2.role", "promotion"]


def test_check_of_several_says_which_are_valid_and_on_how_many_slots(tmp_path: Path) -> None:
    text = run("check", *design.shipped(), "--slots", "2")
    assert text.count("a valid design on 2 slots") == len(design.shipped())
    found = json.loads(run("check", "chief", "pairs", "missing.yaml", "--slots", "1", "--json", code=2))
    assert found["chief"] == [] and "two slots are the least" in found["pairs"][0] and "unknown design" in found["missing.yaml"][0]


def test_diff_shows_fields_and_the_texts_of_roles_and_skills(tmp_path: Path) -> None:
    text = run("diff", "chief", "skeptic", "--slots", "3")
    assert "promotion: chief -> skeptic" in text and "agents.skeptic.role: none -> skeptic" in text
    assert "process." not in text, "nothing else differs between the two, or neither could be blamed on the skeptic"
    assert "+++ skeptic/roles/skeptic.md" in text and "roles/researcher.md" not in text, "what is the same is not shown"
    fields, texts = compared(("pairs", None), ("solo", None), 2)
    assert fields["agents.r1.role"] == ("researcher", "solo") and fields["process.messages"] == (True, False)
    assert texts["roles/solo.md"].startswith("--- pairs/roles/researcher.md\n+++ solo/roles/solo.md\n"), "the seat's text changed"
    assert "roles/researcher.md" not in texts
    prompt = tmp_path / "mine.md"
    prompt.write_text((design.role.SHIPPED / "solo.md").read_text().replace("You find changes", "You hunt changes"))
    text = run("diff", "solo", "solo", "--role-b", f"solo={prompt}")
    assert "-You find changes" in text and "+You hunt changes" in text and " -> " not in text
    assert "do not differ" in run("diff", "solo", "solo")
    seats = "name: x\nabout: y\nagents:\n  - {{role: {}, names: [ada]}}\n  - {{role: {}, names: [bob]}}\n"
    for name, order in (("one", ("researcher", "solo")), ("two", ("solo", "researcher"))):
        (tmp_path / f"{name}.yaml").write_text(seats.format(*order))
    fields, texts = compared((str(tmp_path / "one.yaml"), None), (str(tmp_path / "two.yaml"), None), 2)
    assert set(fields) == {"agents.ada.role", "agents.bob.role"} and texts == {}, "seats were swapped, no text was"
    assert json.loads(run("diff", "solo", "solo", "--json")) == {"fields": {}, "texts": {}}


@pytest.mark.parametrize("like", design.shipped())
def test_new_writes_a_design_that_is_what_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert "orgctl design check mine.yaml" in run("new", "mine", "--like", like)
    assert design.wrong("mine.yaml", 3) == []
    fields, texts = compared((like, None), ("mine.yaml", None), 3)
    assert set(fields) == {"name", "about"} and texts == {}
    text = Path("mine.yaml").read_text()
    for model in (design.DesignFile, design.Group, Process, Restart):
        for key, field in model.model_fields.items():
            assert f"{key}:" in text and " ".join((field.description or "?").split()[:4]) in text, f"{key} is not explained"
    assert max(map(len, text.splitlines()[1:])) <= 120
    with pytest.raises(UserError, match="exists already"):
        run("new", "mine")
    assert Path("mine.yaml").read_text() == text


@pytest.mark.parametrize("name", ["../evil", "Big", "a b", ""])
def test_new_refuses_a_name_that_no_design_can_bear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="bad name"):
        run("new", name)
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_schema_is_that_of_the_types_and_every_design_points_to_it() -> None:
    assert json.loads(SCHEMA.read_text()) == schema() == json.loads(run("schema")), "orgctl design schema > org/designs/schema.json"
    for path in design.DESIGNS.glob("*.yaml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    assert template("x", design.read_file("chief")).startswith(f"# yaml-language-server: $schema={SCHEMA.as_uri()}\n")


def test_every_field_of_the_schema_is_explained() -> None:
    def fields(part: dict[str, Any]) -> list[str]:
        return [name for name, one in part.get("properties", {}).items() if "description" not in one and "$ref" not in one]

    found = schema()
    assert fields(found) == [] and [fields(part) for part in found["$defs"].values()] == [[]] * len(found["$defs"])


@pytest.mark.parametrize("name", design.shipped())
def test_a_design_says_what_it_tests(name: str) -> None:
    written = yaml.safe_load((design.DESIGNS / f"{name}.yaml").read_text())
    assert written["name"] == name and len(written["about"].split()) > 25
