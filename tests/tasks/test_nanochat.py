"""Promises about the shipped task: its scales load, its files exist, its knobs are there and start inside their ranges."""

from __future__ import annotations

import pytest

from tasks import spec
from tasks.knobs import read_knobs


@pytest.mark.parametrize("scale", ["cpu", "tiny"])
def test_every_scale_loads_with_all_its_files(scale: str) -> None:
    task = spec.load("nanochat", scale)
    assert set(spec.workspace_files(task, spec.folder("nanochat"))) == {*task.editable, *task.protected}
    assert task.scale.name == scale


def test_cpu_is_the_scale_that_is_used_unless_another_is_named() -> None:
    assert spec.load("nanochat").scale.name == "cpu"


def test_every_knob_is_a_constant_that_starts_inside_its_range() -> None:
    task = spec.load("nanochat")
    for name, value in read_knobs(spec.workspace(spec.folder("nanochat")), task).items():
        knob = next(knob for knob in task.knobs if knob.name == name)
        if knob.choices is not None:
            assert value in knob.choices
        else:
            assert knob.low is not None and knob.high is not None
            assert knob.low <= float(value) <= knob.high, name


def test_there_is_something_to_hand_out_to_several_researchers() -> None:
    task = spec.load("nanochat")
    assert 3 <= len(task.areas()) <= 4
    assert 8 <= len(task.knobs) <= 14
    assert all(len([knob for knob in task.knobs if knob.area == area]) >= 2 for area in task.areas())


def test_the_editable_files_are_short_enough_to_read_in_one_go() -> None:
    task = spec.load("nanochat")
    files = spec.workspace_files(task, spec.folder("nanochat"))
    assert sum(files[name].count(b"\n") for name in task.editable) < 900
