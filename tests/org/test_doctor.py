"""The examination of the machine: what is required, what is optional, and that no secret ever shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from lab.home import Home
from org import doctor


def named(found: list[doctor.Check], name: str) -> doctor.Check:
    return next(check for check in found if check.name == name)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH: git in it, and what a test adds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").symlink_to(shutil.which("git") or "")
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, says: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)


def test_this_machine_can_work_and_everything_missing_says_what_it_costs(tmp_path: Path) -> None:
    found = doctor.checks(tmp_path)
    assert doctor.required_ok(found)
    assert all(check.cost for check in found if check.ok is not True)
    assert named(found, "torch").found.startswith("2.")


def test_without_tmux_nothing_starts(tmp_path: Path, path: Path) -> None:
    found = doctor.checks(tmp_path)
    assert named(found, "tmux").ok is False and "install tmux" in named(found, "tmux").cost
    assert named(found, "git").ok is True and not doctor.required_ok(found)


@pytest.mark.parametrize(
    ("said", "ok", "cost"),
    [
        ("tmux 3.1c", False, "too old"),
        ("tmux 3.2a", True, "which signal"),
        ("tmux 3.3a", True, ""),
        ("tmux next-3.6", True, ""),
        ("tmux 10.0", True, ""),
        ("tmux unknown", None, "cannot be read"),
    ],
)
def test_the_version_of_tmux_decides(path: Path, said: str, ok: bool | None, cost: str) -> None:
    program(path, "tmux", said)
    check = doctor.tmux()
    assert check.ok is ok and cost in check.cost and bool(cost) == bool(check.cost)


def test_gpus_are_listed_without_their_serial_numbers(path: Path) -> None:
    assert doctor.gpus().ok is None
    program(path, "nvidia-smi", "GPU 0: NVIDIA H200 (UUID: GPU-0a1b)\nGPU 1: NVIDIA H200 (UUID: GPU-2c3d)")
    assert doctor.gpus().found == "2: GPU 0: NVIDIA H200; GPU 1: NVIDIA H200"


def test_keys_and_logins_are_noticed_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "CLAUDE_CONFIG_DIR", "CODEX_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert named(doctor.checks(tmp_path), "Anthropic key or login").ok is None
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex" / "auth.json").write_text('{"token": "secret-2"}')
    found = doctor.checks(tmp_path)
    assert named(found, "Anthropic key or login").found == "ANTHROPIC_API_KEY is set"
    assert named(found, "OpenAI key or login").found == "~/.codex/auth.json exists"
    console = Console(width=300)
    with console.capture() as shown:
        console.print(doctor.table(found))
    assert "ANTHROPIC_API_KEY is set" in shown.get()
    assert "secret" not in shown.get() and "secret" not in doctor.to_json(found)


def test_the_disk_is_looked_at_where_the_session_will_be(tmp_path: Path) -> None:
    check = doctor.disk(tmp_path / "not" / "made" / "yet")
    assert str(tmp_path) in check.found and not (tmp_path / "not").exists()
    home = Home(tmp_path)
    home.make()
    (home.runs / "R0001").mkdir()
    (home.runs / "R0001" / "stdout.log").write_bytes(b"x" * 2_000_000)
    assert "a run here keeps 2.0 MB (median of 1)" in doctor.disk(tmp_path).found


def test_programs_get_the_same_facts(tmp_path: Path) -> None:
    rows = json.loads(doctor.to_json(doctor.checks(tmp_path)))
    assert [set(row) for row in rows] == [{"name", "ok", "found", "cost"}] * len(rows)
    assert {"tmux", "git", "torch", "GPU", "disk", "claude", "codex"} <= {row["name"] for row in rows}
