"""Promises about turning knobs: what is written is read back, every other byte stays, and what is no knob is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import spec
from tasks.knobs import Value, read_knobs, write_knobs

FILE = "pkg/train.py"
HEAD = '# -*- coding: utf-8 -*-\n"""Größe: 10 µm."""\nimport math\n'
LINES = {
    "PLAIN": "PLAIN = 0.02   # how fast",
    "TIGHT": "TIGHT=3;OTHER = 1",
    "TYPED": 'TYPED : "float"= -1e-3 # ü, and PLAIN = 7',
    "NAME": "é = 'ß'; NAME = ('relu' '2')",
    "FLAG": "FLAG = True",
    "SPREAD": "SPREAD = (\n    5.0  # in brackets\n)",
}
TAIL = "\ndef PLAINLY():\n    PLAIN = 9\n    return f'PLAIN = {PLAIN}'\n\nif True:\n    LATER = 1\n"


def task_of(*names: str, **choices: list[Value]) -> spec.Task:
    """The shipped task with knobs of ours; its other fields do not matter here."""
    knobs = []
    for name in names:
        room = {"choices": choices[name]} if name in choices else {"low": -1e9, "high": 1e9}
        knobs.append(spec.Knob.model_validate({"name": name, "file": FILE, "area": "a", "why": "w", **room}))
    return spec.load("nanochat").model_copy(update={"knobs": knobs, "editable": [FILE]})


TASK = task_of(*LINES, NAME=["relu2", "gelu"], FLAG=[True, False])


def workspace(folder: Path, text: str) -> Path:
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12)
values_of = st.fixed_dictionaries(
    {},
    optional={
        "PLAIN": numbers, "TIGHT": numbers, "TYPED": numbers, "SPREAD": numbers,
        "NAME": st.sampled_from(["relu2", "gelu"]), "FLAG": st.booleans(),
    },
)  # fmt: skip


@given(values_of, st.permutations(list(LINES)), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read_back_and_every_other_byte_stays(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Value], order: list[str], newline: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "knobs"
    text = (HEAD + "\n".join(LINES[name] for name in order) + TAIL).replace("\n", newline)
    path = workspace(folder, text)
    before = read_knobs(folder, TASK)
    changed = write_knobs(folder, TASK, values)
    after = read_knobs(folder, TASK)
    expected = {**before, **values}
    assert after == expected and {k: type(v) for k, v in after.items()} == {k: type(v) for k, v in expected.items()}
    assert changed == ([FILE] if {k: (type(v), v) for k, v in before.items()} != {k: (type(v), v) for k, v in expected.items()} else [])
    # take each new literal out of the new text again: what is left is the old text
    left = path.read_bytes().decode()
    for name, value in values.items():
        if (type(value), value) != (type(before[name]), before[name]):
            old = LINES[name].replace("\n", newline)
            literal = {"PLAIN": "0.02", "TIGHT": "3", "TYPED": "-1e-3", "NAME": "'relu' '2'", "FLAG": "True", "SPREAD": "5.0"}[name]
            new = old.replace(literal, repr(value), 1)
            assert left.count(new) >= 1
            left = left.replace(new, old, 1)
    assert left == text


def test_nothing_is_written_when_nothing_changes_or_when_one_value_is_wrong(tmp_path: Path) -> None:
    path = workspace(tmp_path, HEAD + "\n".join(LINES.values()))
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert write_knobs(tmp_path, TASK, read_knobs(tmp_path, TASK)) == []
    for wrong in ({"PLAIN": 1.0, "COLOUR": 1}, {"PLAIN": 1.0, "TIGHT": math.nan}, {"PLAIN": 1.0, "NAME": "tanh"}):
        with pytest.raises(spec.TaskError):
            write_knobs(tmp_path, TASK, wrong)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"COLOUR": 1}, "COLOUR is no knob of task nanochat: choose from PLAIN"),
        ({"PLAIN": math.inf}, "knob PLAIN cannot be inf: give a finite number"),
        ({"PLAIN": [1]}, r"knob PLAIN cannot be \[1\]"),
        ({"PLAIN": True}, "knob PLAIN cannot be True: give a number"),
        ({"PLAIN": "0.1"}, "knob PLAIN cannot be '0.1': give a number"),
        ({"FLAG": 1}, "knob FLAG cannot be 1: choose from True, False"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(tmp_path: Path, values: dict[str, Value], message: str) -> None:
    workspace(tmp_path, "\n".join(LINES.values()))
    with pytest.raises(spec.TaskError, match=message):
        write_knobs(tmp_path, TASK, values)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("OTHER = 1", "is not assigned at module level"),
        ("def f():\n    PLAIN = 1", "is not assigned at module level"),
        ("PLAIN = 1\nPLAIN = 2", "assigned more than once"),
        ("PLAIN = 1\nPLAIN += 1", "assigned more than once"),
        ("PLAIN = 2 * 3", "no plain number"),
        ("PLAIN = None", "no plain number"),
        ("PLAIN = -True", "no plain number"),
        ("PLAIN = OTHER = 3", "no plain number"),
        ("PLAIN: float", "no plain number"),
        ("PLAIN = (", "line 1 is no Python"),
    ],
)
def test_source_without_exactly_one_literal_is_refused_with_the_reason(tmp_path: Path, source: str, message: str) -> None:
    path = workspace(tmp_path, source)
    with pytest.raises(spec.TaskError, match=message) as caught:
        read_knobs(tmp_path, task_of("PLAIN"))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(spec.TaskError, match=message):
        write_knobs(tmp_path, task_of("PLAIN"), {"PLAIN": 0.5})
    assert path.read_text() == source


def test_a_missing_file_is_named_and_the_mode_of_a_file_survives(tmp_path: Path) -> None:
    with pytest.raises(spec.TaskError, match=r"train.py cannot be read: No such file"):
        read_knobs(tmp_path, task_of("PLAIN"))
    path = workspace(tmp_path, "PLAIN = 1")
    path.chmod(0o755)
    write_knobs(tmp_path, task_of("PLAIN"), {"PLAIN": 2})
    assert path.stat().st_mode & 0o777 == 0o755
    assert [one.name for one in path.parent.iterdir()] == ["train.py"]
