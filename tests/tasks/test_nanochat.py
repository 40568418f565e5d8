"""Promises about the shipped task: its scales load, its files exist, its knobs are there and start inside their ranges."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tasks import spec
from tasks.knobs import read_knobs
from tests.conftest import ORGCTL

SCALES = ["cpu", "tiny", "d4", "d6", "d8", "d12", "d16", "d20", "d24"]


def test_every_file_of_a_scale_is_in_the_list() -> None:
    where = spec.folder("nanochat")
    assert {path.stem for path in where.glob("*.yaml")} == {*SCALES, "task"}
    assert yaml.safe_load((where / "task.yaml").read_text())["scales"] == SCALES


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_loads_with_all_its_files(scale: str) -> None:
    task = spec.load("nanochat", scale)
    assert set(spec.workspace_files(task, spec.folder("nanochat"))) == {*task.editable, *task.protected}
    assert task.scale.name == scale


def test_the_ladder_leads_from_the_cpu_to_d24() -> None:
    following = {name: spec.load("nanochat", name).scale.next for name in SCALES}
    ladder = ["cpu"]
    while (after := following[ladder[-1]]) is not None:
        ladder.append(after)
    assert ladder == ["cpu", "d4", "d6", "d8", "d12", "d16", "d20", "d24"]
    depths = [spec.load("nanochat", name).scale.args["depth"] for name in ladder]
    assert depths == sorted(depths)


@pytest.mark.parametrize("name", [name for name in SCALES if name.startswith("d")])
def test_a_gpu_scale_spends_its_budget_in_whole_steps_that_the_feeder_can_serve(name: str) -> None:
    scale = spec.load("nanochat", name).scale
    rows, rest = divmod(scale.args["batch_tokens"], scale.args["context"])
    assert (scale.device, rest) == ("cuda", 0) and rows <= scale.args.get("max_rows", 256) and rows % scale.gpus == 0
    if scale.budget.kind == "tokens":
        assert scale.budget.amount % scale.args["batch_tokens"] == 0
        depth, vocab = scale.args["depth"], scale.args["vocab"]
        parameters = 12 * depth * (64 * depth) ** 2 + vocab * 64 * depth
        assert scale.budget.amount / parameters == pytest.approx(20, rel=0.01)


def test_d8_is_five_minutes_on_one_gpu() -> None:
    scale = spec.load("nanochat", "d8").scale
    assert (scale.gpus, scale.budget, scale.launch) == (1, spec.Budget(kind="time", amount=300), [])
    assert scale.args == {
        "corpus": "debian-docs+debian-source", "depth": 8, "context": 2048, "vocab": 8192, "batch_tokens": 1 << 19,
        "eval_rows": 256, "train_bytes": 750_000_000,
    }  # fmt: skip


def test_a_machine_without_a_gpu_says_so_in_a_line_before_anything_is_made(tmp_path: Path) -> None:
    root = tmp_path / "research"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}  # hides those there may be
    command = [*ORGCTL, "up", str(root), "--task", "nanochat", "--scale", "d8", "--backend", "shell", "--detach"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).strip()
    assert done.returncode == 2 and said.count("\n") == 0 and "no GPU found" in said and "choose" in said, said
    assert not root.exists()


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
    assert 8 <= len(task.knobs) <= 20
    assert all(len([knob for knob in task.knobs if knob.area == area]) >= 2 for area in task.areas())


def test_the_editable_files_are_short_enough_to_read_in_one_go() -> None:
    task = spec.load("nanochat")
    files = spec.workspace_files(task, spec.folder("nanochat"))
    assert sum(files[name].count(b"\n") for name in task.editable) < 900
