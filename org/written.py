"""A YAML file that a person wrote, as a typed object; and what is wrong with one, a line each with file, line and field.

Called by `org.design` and `orgctl design check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lab.errors import UserError


class Model(BaseModel):
    """What people write, field by field: unknown fields are refused, and a field's docstring is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PlainLoader(yaml.SafeLoader):
    """YAML without merge keys (`<<`): ten of them, each merging the one before ten times, take longer than anybody waits."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read: write it out", key.start_mark)
        super().flatten_mapping(node)


VALUES, DEEP = 20_000, 50
"""Values that a file may hold, each as often as an alias repeats it, and how deep."""
TOO_LARGE = f"nested deeper than {DEEP} levels, or more than {VALUES} values with what its aliases repeat: write it plainly"
M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], path: Path, example: Path) -> M:
    """The file as that model; `example`: one that is well-formed. Raises UserError with file, line and field."""
    try:
        return model.model_validate(mapping(path, example))
    except ValidationError as error:
        raise UserError(complaints(path, error)[0]) from error


def mapping(path: Path, example: Path) -> dict[str, Any]:
    """What a YAML file says, field by field. Raises UserError where it is no such file."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path}: {line}malformed YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError:
        raise UserError(f"{path}: {TOO_LARGE}") from None
    if not _modest(value):
        raise UserError(f"{path}: {TOO_LARGE}")
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be a mapping of fields, as in {example}")
    return value


def _modest(value: object) -> bool:
    """Can it be walked through? A few lines of aliases of aliases stand for millions of values."""
    left, stack = VALUES, [(value, 0)]
    while stack:
        one, depth = stack.pop()
        left -= 1
        if left < 0 or depth > DEEP:
            return False
        inner = [*one.keys(), *one.values()] if isinstance(one, dict) else one if isinstance(one, list) else []
        if len(inner) > left:
            return False
        stack += [(part, depth + 1) for part in inner]
    return True


def complaints(path: Path, error: ValidationError) -> list[str]:
    """Everything that is wrong with a file, a line each: file, line, field and what is the matter."""
    plain = {"missing": "is missing", "extra_forbidden": "no such field"}
    lines = []
    for one in error.errors():
        message = plain.get(one["type"], one["msg"].removeprefix("Value error, "))
        lines.append(f"{at(path, *one['loc'])}: {message}")
    return list(dict.fromkeys(lines))


def at(path: Path, *location: int | str) -> str:
    """File, line and field of a place in a YAML file that parsed."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return ": ".join([f"{path}: line {_line(node, location)}", *([".".join(map(str, location))] if location else [])])


def _line(node: Any, location: tuple[int | str, ...]) -> int:
    """Line (from 1) of a field; where it is missing, of the mapping that lacks it."""
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return int(line)
