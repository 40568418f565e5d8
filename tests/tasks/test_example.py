"""The example of docs/tasks.md is a task that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Org, until

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "docs" / "example-task"


def test_the_documented_example_task_runs_and_is_judged(org: Org) -> None:
    org("up", "--detach", "--name", org.name, "--task", str(EXAMPLE), "--slots", "2", "--design", "solo", "--backend", "shell")
    me = {"ORGCTL_AGENT": "r1", "ORGCTL_HOME": str(org.root)}
    train = org.home.worktrees / "r1" / "fit" / "train.py"
    train.write_text(train.read_text().replace("RATE = 0.02", "RATE = 0.05"))
    org("exp", "propose", "--hypothesis", "a larger step arrives", "--mechanism", "200 steps of 0.02 are too short", env=me)
    org("exp", "run", "E0001", env=me)
    until(lambda: org.state.promotions(), "the example's improvement is confirmed and promoted", 90)
    until(lambda: "RATE = 0.05" in (org.root / "fit" / "train.py").read_text(), "the person's own checkout follows trunk")
