"""Knobs as source: reads and writes the module-level constants that a task declares, leaving every other byte as it is.

Called by the sweep agents, who edit real source and go through the same gates as anybody. The value is found by its place
in the syntax tree, so comments, formatting and line ends survive; all edits are checked before the first file is written.
"""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Mapping
from pathlib import Path

from tasks.spec import Knob, Task, TaskError

Value = float | int | bool | str


def read_knobs(source_dir: Path, task: Task) -> dict[str, Value]:
    """The value of every knob of the task, as `source_dir` (a workspace or worktree) has it, in the task's order.

    Raises TaskError when a file cannot be read or parsed, or a knob is missing, assigned twice or no literal.
    """
    sources: dict[str, _Source] = {}
    return {knob.name: _source(sources, source_dir, knob).value(knob.name) for knob in task.knobs}


def write_knobs(source_dir: Path, task: Task, values: Mapping[str, Value]) -> list[str]:
    """Set these knobs; returns the files that changed (relative, in the task's order), each replaced as a whole.

    Raises TaskError, before anything is written, for a name that is no knob, a value that has no literal (nan, a list) or
    is not among a knob's choices, and for everything that `read_knobs` raises it for.
    """
    knobs = {knob.name: knob for knob in task.knobs}
    sources: dict[str, _Source] = {}
    for name, value in values.items():
        if name not in knobs:
            raise TaskError(f"{name} is no knob of task {task.name}: choose from {', '.join(knobs) or 'none'}")
        _check(knobs[name], value)
        _source(sources, source_dir, knobs[name]).set(name, value)
    changed = {file: source for file, source in sources.items() if source.edits}
    for source in changed.values():
        source.write()
    return [file for file in task.editable if file in changed]


def _check(knob: Knob, value: Value) -> None:
    if not isinstance(value, float | int | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise TaskError(f"knob {knob.name} cannot be {value!r}: give a finite number, true, false or a string")
    if knob.choices is not None and not any(type(c) is type(value) and c == value for c in knob.choices):
        raise TaskError(f"knob {knob.name} cannot be {value!r}: choose from {', '.join(map(repr, knob.choices))}")
    if knob.choices is None and isinstance(value, bool | str):
        raise TaskError(f"knob {knob.name} cannot be {value!r}: give a number")


class _Source:
    """One Python file and the edits to come. Places are offsets in bytes, as the syntax tree counts columns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.edits: dict[str, tuple[int, int, bytes]] = {}
        try:
            self.raw = path.read_bytes()
            tree = ast.parse(self.raw, filename=str(path))
        except OSError as error:
            raise TaskError(f"{path} cannot be read: {error.strerror}") from error
        except (SyntaxError, ValueError) as error:
            where = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise TaskError(f"{path}{where} is no Python: {reason}: mend it before turning its knobs") from error
        self.found: dict[str, list[ast.expr | None]] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        plain = len(targets) == 1 and not isinstance(node, ast.AugAssign)
                        self.found.setdefault(target.id, []).append(node.value if plain else None)

    def value(self, name: str) -> Value:
        """The literal that `name` is set to."""
        node = self._node(name)
        value = ast.literal_eval(node)
        assert isinstance(value, float | int | str)
        return value

    def set(self, name: str, value: Value) -> None:
        """Replace the literal, unless it has that value (and type) already."""
        node = self._node(name)
        old = ast.literal_eval(node)
        if type(old) is type(value) and old == value:
            return
        self.edits[name] = (*self._place(node), repr(value).encode())

    def write(self) -> None:
        """Put the edited file in the place of the old one, with its mode."""
        raw = self.raw
        for start, end, text in sorted(self.edits.values(), reverse=True):
            raw = raw[:start] + text + raw[end:]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(raw)
            temporary.chmod(self.path.stat().st_mode & 0o7777)
            os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise TaskError(f"{self.path} cannot be written: {error.strerror}") from error

    def _node(self, name: str) -> ast.expr:
        nodes = self.found.get(name, [])
        if len(nodes) != 1:
            problem = "is not assigned" if not nodes else "is assigned more than once"
            raise TaskError(f"{self.path}: knob {name} {problem} at module level: keep exactly one `{name} = value`")
        node = nodes[0]
        signed = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd)
        literal = node.operand if isinstance(node, ast.UnaryOp) and signed else node
        allowed = (int, float) if signed else (int, float, bool, str)
        if node is None or not isinstance(literal, ast.Constant) or type(literal.value) not in allowed:
            raise TaskError(f"{self.path}: knob {name} is no plain number, true, false or string: write it as a literal")
        return node

    def _place(self, node: ast.expr) -> tuple[int, int]:
        # ast counts lines as Python does (\n, \r\n, \r; not \f), and the byte order mark is not part of the first line
        starts, offset = [], 3 if self.raw.startswith(b"\xef\xbb\xbf") else 0
        for line in _lines(self.raw[offset:]):
            starts.append(offset)
            offset += len(line)
        assert node.end_lineno is not None and node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _lines(raw: bytes) -> list[bytes]:
    """Lines with their ends, split as bytes.splitlines does: at \\n, \\r\\n and \\r alone."""
    return raw.splitlines(keepends=True)


def _source(sources: dict[str, _Source], source_dir: Path, knob: Knob) -> _Source:
    if knob.file not in sources:
        sources[knob.file] = _Source(source_dir / knob.file)
    return sources[knob.file]
