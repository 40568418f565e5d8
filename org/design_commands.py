"""`orgctl design show|check|diff|new|schema`: org designs looked at, checked and begun. Mounted by `org.commands`.

Nothing here starts anything or needs a session. The template of `new` and the JSON Schema are made from the types of `org.design`, so
that what a field means is said once, at the field.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lab.answer import as_data
from lab.errors import UserError
from lab.files import write_atomic
from lab.text import clean, printable
from org import design as designs
from org import role
from org.screen import say

design = typer.Typer(
    help="Org designs: who works in an organisation and by which rules. Shipped ones by name, your own by file.",
    no_args_is_help=True,
    add_completion=False,
)

SCHEMA = designs.DESIGNS / "schema.json"
"""The JSON Schema as shipped, for editors; a test keeps it equal to `schema()`."""
WIDTH = 100
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Which = Annotated[str, typer.Argument(help="A shipped name (such as chief) or a YAML file.", metavar="DESIGN")]
Slots = Annotated[int, typer.Option(min=1, max=64, help="Slots to resolve it for.")]
Backend = Annotated[str | None, typer.Option(help="Backend for every agent that is no human, as with `orgctl up`.")]
RoleFiles = Annotated[list[str] | None, typer.Option("--role", help="Another prompt for a role: NAME=FILE.md. Several times if need be.")]


@design.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """The designs that come with orgctl, and what each tests."""
    found = [{"name": name, "about": designs.read_file(name).about} for name in designs.shipped()]
    if not as_data(as_json, found):
        for one in found:
            say(f"{one['name']:14} {one['about']}", hang=15)


@design.command()
def show(which: Which, slots: Slots = 2, backend: Backend = None, role: RoleFiles = None, as_json: JsonFlag = False) -> None:
    """A design resolved: every agent with role, backend and slot, who reviews whom, the rules, and the hashes of what it consists of."""
    found = designs.load(which, slots, backend, _roles(role))
    answer = {**found.model_dump(mode="json"), "reviewers": found.reviewers(), "hash": found.hash(), "slots": slots}
    if not as_data(as_json, answer):
        say("\n".join(described(found, slots)))


@design.command()
def check(
    files: Annotated[list[str], typer.Argument(help="YAML files, or shipped names.", metavar="DESIGN...")],
    slots: Slots = 2, role: RoleFiles = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Everything that is wrong with a design, a line each with file, line and field. Exit code 2 when something is.

    What is allowed and unwise is a warning, and no more than that.
    """
    roles, found = _roles(role), {}
    for file in files:
        found[file] = designs.wrong(file, slots, roles)
    if not as_data(as_json, found):
        for file, lines in found.items():
            if not lines:
                valid = designs.load(file, slots, roles=roles)
                lines = [f"{file}: a valid design on {slots} slots ({valid.hash()[:12]})"]
                lines += [f"warning: {file}: {valid.process.caution}"] if valid.process.caution else []
            say("\n".join(lines))
    if any(found.values()):
        raise typer.Exit(2)


@design.command()
def diff(
    a: Which,
    b: Annotated[str, typer.Argument(help="Another one; or the same, with other prompts.", metavar="DESIGN")],
    slots: Slots = 2,
    role_a: Annotated[list[str] | None, typer.Option(help="Another prompt for a role of the first: NAME=FILE.md.")] = None,
    role_b: Annotated[list[str] | None, typer.Option(help="Another prompt for a role of the second: NAME=FILE.md.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """How two designs differ: field by field as resolved, and line by line in the texts of their roles and skills. Exit code 0."""
    fields, texts = compared((a, _roles(role_a)), (b, _roles(role_b)), slots)
    if not as_data(as_json, {"fields": fields, "texts": texts}):
        lines = [f"{path}: {_said(was)} -> {_said(now)}" for path, (was, now) in fields.items()]
        say("\n".join(lines) if lines or texts else f"{a} and {b} do not differ on {slots} slots")
        for text in texts.values():
            print(printable(f"\n{text.rstrip()}"))


@design.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name; the file is NAME.yaml in the working directory.")],
    like: Annotated[str, typer.Option(help="Begin with the agents and rules of this design.")] = "chief",
    as_json: JsonFlag = False,
) -> None:
    """Write NAME.yaml: a design with every field, its default, and what it means as a comment. Nothing is overwritten."""
    try:
        designs.check_name(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    path = Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path} exists already: choose another name, or remove it first")
    write_atomic(path, template(name, designs.read_file(like)))
    if not as_data(as_json, {"file": str(path.resolve())}):
        print(f"{path} is written. Check it: orgctl design check {path}    start it: orgctl up elsewhere --design {path}")


@design.command("schema")
def schema_() -> None:
    """The JSON Schema of a design, with what each field means; editors complete the YAML with it."""
    print(json.dumps(schema(), indent=2))


Side = tuple[str, dict[str, Path] | None]
"""A design by name or file, and the role files that it is read with."""


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what people write."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "An org design of orgctl"}
    return {**designs.DesignFile.model_json_schema(), **head}


def described(found: designs.Design, slots: int) -> list[str]:
    """A resolved design in lines."""
    lines = [f"{found.name} on {slots} slots, hash {found.hash()}", clean(found.about, 2000), "", "agents"]
    reviewers = found.reviewers()
    for one in found.agents:
        slot = f"slot {one.slot}" if one.slot is not None else "no slot"
        settings = f"  settings {json.dumps(one.settings)}" if one.settings else ""
        reviewed = f"  reviewed by {', '.join(reviewers[one.name])}" if reviewers.get(one.name) else ""
        lines.append(f"  {one.name:14} {one.role:16} {one.backend:7} {slot}{reviewed}{settings}")
    lines += ["", "process", f"  promotion: {found.promotion}", f"  confirmation: {found.confirmation}"]
    lines += [f"  {path}: {_said(value)}" for path, value in _leaves(found.process.model_dump(mode="json"))]
    return [*lines, "", "code (SHA-256)", *(f"  {digest[:16]}  {path}" for path, digest in found.code.items())]


def compared(a: Side, b: Side, slots: int) -> tuple[dict[str, tuple[Any, Any]], dict[str, str]]:
    """({field: (in a, in b)}, {role or skill file: unified diff}) of two designs; agents by name. Raises UserError.

    Where the agent of a name has another role in b, the two roles' texts are compared; a file that only one side uses is new whole.
    """
    pair = [designs.load(which, slots, roles=roles) for which, roles in (a, b)]
    sides = [dict(_leaves(_by_name(one))) for one in pair]
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    fields = {key: (sides[0].get(key), sides[1].get(key)) for key in keys if sides[0].get(key) != sides[1].get(key)}
    was, now = (_texts(one, roles) for one, (_, roles) in zip(pair, (a, b), strict=True))
    roles = [{one.name: f"roles/{one.role}.md" for one in side.agents} for side in pair]
    became = {roles[1][name]: path for name, path in roles[0].items() if name in roles[1] and roles[1][name] not in was}
    found = {}
    for path in sorted({*now, *(was.keys() - now.keys() - set(became.values()))}):
        before = became.get(path, path)
        old, young = (side.get(one, "").splitlines(keepends=True) for side, one in ((was, before), (now, path)))
        if text := "".join(difflib.unified_diff(old, young, f"{pair[0].name}/{before}", f"{pair[1].name}/{path}")):
            found[path] = text
    return fields, found


def _by_name(found: designs.Design) -> dict[str, Any]:
    whole = found.model_dump(mode="json", exclude={"code", "agents"})
    return {**whole, "agents": {one.name: one.model_dump(mode="json", exclude={"name"}) for one in found.agents}}


def _texts(found: designs.Design, roles: dict[str, Path] | None) -> dict[str, str]:
    """File -> text of every role and skill that a design uses."""
    files: dict[str, bytes] = {}
    known = roles or role.find()
    for name in {one.role for one in found.agents}:
        files |= role.load(name, known[name]).files
    return {path: content.decode("utf-8", "replace") for path, content in files.items()}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything that is no mapping."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(one, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _said(value: Any) -> str:
    return "none" if value is None else clean(value if isinstance(value, str) else json.dumps(value), 400)


def _roles(files: list[str] | None) -> dict[str, Path] | None:
    """Role name -> file, with those of the command line. Raises UserError for one that is not there."""
    if not files:
        return None
    found = role.find()
    for item in files:
        key, equals, file = item.partition("=")
        if not equals or not Path(file).is_file():
            raise UserError(f"--role {item}: write NAME=FILE.md, and the file must exist")
        found[key] = Path(file).resolve()
    return found


# The template


def template(name: str, like: designs.DesignFile) -> str:
    """A design file with every field: what `like` says, else the default, and before it as a comment what it means."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA.as_uri()}",
        "# An org design: who works in an organisation, and by which rules.",
        "",
    ]
    for key, field in designs.DesignFile.model_fields.items():
        value = {"name": name, "about": "What does this organisation test? A sentence or two."}.get(key, getattr(like, key))
        lines += _comment(field)
        if key == "agents":
            lines += ["agents:", *(line for number, group in enumerate(value) for line in _group(group, explain=not number))]
        elif isinstance(value, BaseModel):
            lines += [f"{key}:", *_model(value, 2)]
        else:
            lines.append(_field(key, value))
        lines.append("")
    return "\n".join(lines)


def _group(group: designs.Group, explain: bool) -> list[str]:
    """One entry of `agents`; the first has every field and explains it, the others only what they say."""
    body = [
        line for key, field in type(group).model_fields.items() if explain or key in group.model_fields_set
        for line in [*(_comment(field) if explain else []), _field(key, getattr(group, key))]
    ]  # fmt: skip
    first = next(number for number, line in enumerate(body) if not line.startswith("#"))
    return [*(f"  {line}" for line in body[:first]), f"  - {body[first]}", *(f"    {line}" for line in body[first + 1 :])]


def _model(value: BaseModel, indent: int) -> list[str]:
    """The fields of a mapping, each below what it means."""
    lines: list[str] = []
    for key, field in type(value).model_fields.items():
        one, margin = getattr(value, key), " " * indent
        lines += [margin + line for line in _comment(field)]
        lines += [f"{margin}{key}:", *_model(one, indent + 2)] if isinstance(one, BaseModel) else [margin + _field(key, one)]
    return lines


def _field(key: str, value: Any) -> str:
    """`key: value` as YAML on one line."""
    plain = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return f"{key}: {plain.removesuffix('...').strip()}"


def _comment(field: FieldInfo) -> list[str]:
    """What a field means, wrapped."""
    words, lines = " ".join((field.description or "").split()).split(" "), ["#"]
    for word in words:
        if len(lines[-1]) + len(word) >= WIDTH:
            lines.append("#")
        lines[-1] += f" {word}"
    return lines if words != [""] else []
