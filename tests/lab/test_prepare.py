"""Preparing data: once, whole or not at all, and with nothing of the user's environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.errors import UserError
from lab.prepare import prepare
from tests.lab.conftest import Bench, first


def test_prepared_data_comes_with_its_hashes_and_is_prepared_only_once(bench: Callable[..., Bench]) -> None:
    one = bench()
    before = (one.home.data / "points.json").stat()
    manifest = prepare(one.task, one.home.protected, one.home.data, one.home.org / "prepare.log", one.hashes)
    assert len(manifest["corpus"]) == 64
    assert (one.home.data / "points.json").stat().st_mtime_ns == before.st_mtime_ns
    assert "points" in (one.home.org / "prepare.log").read_text()


def test_a_preparation_that_fails_says_why_and_leaves_nothing(bench: Callable[..., Bench], tmp_path: Path) -> None:
    one = bench()
    (one.home.protected / "toy" / "prepare.py").write_text("print('half way')\nraise OSError('no corpus here')")
    with pytest.raises(UserError, match=r"preparing the task toy failed: exit code 1: OSError: no corpus here"):
        prepare(one.task, one.home.protected, tmp_path / "new" / "data", tmp_path / "log")
    assert list((tmp_path / "new").iterdir()) == []


def test_preparation_without_a_manifest_is_refused(bench: Callable[..., Bench], tmp_path: Path) -> None:
    one = bench()
    (one.home.protected / "toy" / "prepare.py").write_text("")
    with pytest.raises(UserError, match=r"left no manifest\.json"):
        prepare(one.task, one.home.protected, tmp_path / "data", tmp_path / "log")


def test_preparation_sees_none_of_the_users_keys(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-hush")
    one = bench()
    show = "import os, json; print(json.dumps(dict(os.environ)))"
    (one.home.protected / "toy" / "prepare.py").write_text(first(show, "toy/prepare.py"))
    prepare(one.task, one.home.protected, tmp_path / "data", tmp_path / "log")
    seen = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert "ANTHROPIC_API_KEY" not in seen and "PATH" in seen
