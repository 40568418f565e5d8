"""The example of docs/tasks.md is a task that works, and whose budget holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.fence import ABI
from tests.conftest import Org, until
from tests.lab.conftest import Bench

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "docs" / "example-task"
TRAIN = (EXAMPLE / "workspace" / "fit" / "train.py").read_text()


def test_the_documented_example_task_runs_and_is_judged(org: Org) -> None:
    org("up", "--detach", "--name", org.name, "--task", str(EXAMPLE), "--slots", "2", "--design", "solo", "--backend", "shell")
    me = {"ORGCTL_AGENT": "r1", "ORGCTL_HOME": str(org.root)}
    train = org.home.worktrees / "r1" / "fit" / "train.py"
    train.write_text(train.read_text().replace("RATE = 0.02", "RATE = 0.05"))
    org("exp", "propose", "--hypothesis", "a larger step arrives", "--mechanism", "200 steps of 0.02 are too short", env=me)
    org("exp", "run", "E0001", env=me)
    until(lambda: org.state.promotions(), "the example's improvement is confirmed and promoted", 90)
    until(lambda: "RATE = 0.05" in (org.root / "fit" / "train.py").read_text(), "the person's own checkout follows trunk")
    assert {run.account["steps"] for run in org.state.runs.values() if run.status == "ok"} == {200}


CHEATS = {
    "twenty times the steps": ("range(steps)", "range(steps * 20)"),
    "the truth of the data folder": ("import socket\n", "import socket\nprint(open('DATA/truth.json').read())\n"),
    "the truth of the protected files": ("import socket\n", "import socket\nfrom fit.score import true_a, true_b\n"),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_the_examples_budget_and_its_truth_are_out_of_trainings_reach(tmp_path: Path, cheat: str) -> None:
    honest = Bench(tmp_path / "honest", name=str(EXAMPLE))
    result = honest.run(splits=("search", "audit"))
    assert (result["status"], result["account"]["steps"], result["account"]["params"]) == ("ok", 200, 2), honest.log()
    if "folder" in cheat and not ABI:
        pytest.skip("this kernel has no Landlock")
    before, after = CHEATS[cheat]
    assert TRAIN.count(before) == 1
    text = TRAIN.replace(before, after.replace("DATA", str(tmp_path / "cheat" / "research" / ".org" / "data")))
    one = Bench(tmp_path / "cheat", name=str(EXAMPLE), committed={"fit/train.py": text})
    assert (one.home.data / "truth.json").is_file()
    result = one.run()
    assert result["status"] == "crashed" and result["metric"] == {}, one.log()
