"""Promises about a training run: it repeats to the digit, keeps to its budget, and fails in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.nanochat.conftest import TinyRun

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_number_alone_and_beside_another_run(
    tiny_run: Callable[[str], TinyRun], trained: TinyRun
) -> None:
    runs = [tiny_run("same"), tiny_run("other")]
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda pair: pair[0].train(pair[1])[0], zip(runs, (0, 1), strict=True)))
    assert codes == [0, 0]
    saved = [torch.load(run.work / "out" / "checkpoint.pt", weights_only=True)["model"] for run in (trained, *runs)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    assert not all(torch.equal(saved[0][name], saved[2][name]) for name in saved[0])
    same, other = (run.score()["metric"]["search"] for run in runs)
    first = trained.result["metric"]["search"]
    assert same == first
    assert other != first


@pytest.mark.slow
def test_a_run_spends_its_budget_exactly_and_reports_every_tenth(trained: TinyRun) -> None:
    counts = trained.counts
    assert counts["tokens"] == counts["amount"] == 20480 and counts["done"] is True
    log = (trained.work / "stdout.log").read_text()
    lines = re.findall(r"^ *(\d+)%  step +(\d+)  loss (\S+)  tokens ([\d,]+)", log, re.M)
    assert len(lines) == 11
    assert lines[-1][0] == "100" and lines[-1][3] == "20,480"
    assert float(lines[-1][2]) < float(lines[0][2]) - 1.5


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_in_one_line(tiny_run: Callable[[str], TinyRun]) -> None:
    run = tiny_run("nan")
    run.edit("optim.py", "MATRIX_LR = 0.02", "MATRIX_LR = 1e38")
    code, log = run.train()
    assert code == 1
    assert re.search(r"^nanochat.train: loss is (nan|inf) at step \d+ \(progress \d+%\): lower a learning rate$", log, re.M)
    assert "Traceback" not in log
    assert not (run.work / "out" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_training_stops_with_one_line_when_its_feeder_dies(tiny_run: Callable[[str], TinyRun]) -> None:
    run = tiny_run("orphan")
    run.edit("train.py", "        self.optimizer.step(", "        time.sleep(0.1)\n        self.optimizer.step(")
    counts = run.work / "counts.json"

    def kill_feeder() -> None:
        while not counts.exists() or run.counts["tokens"] < 512:
            pass
        for child in psutil.Process().children():
            if str(counts) in child.cmdline():
                child.kill()

    killer = threading.Thread(target=kill_feeder)
    killer.start()
    code, log = run.train()
    killer.join()
    assert code == 1
    assert re.search(r"^nanochat.train: the feeder is gone after \d+ tokens", log, re.M)
    assert "Traceback" not in log


@pytest.mark.slow
def test_code_from_elsewhere_is_not_trained(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nanochat.train"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "outside of this checkout" in done.stdout and done.stdout.count("\n") == 1


@pytest.mark.slow
def test_a_person_trains_by_hand_without_a_feeder(data: Path, tmp_path: Path, trained: TinyRun) -> None:
    words = [sys.executable, "-m", "nanochat.train", "--out", str(tmp_path / "mine"), "--budget", '{"kind": "steps", "amount": 3}']
    words += ["--scale", str(trained.work / "scale.json"), "--data", str(data)]
    env: dict[str, Any] = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(words, cwd=trained.work / "checkout", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "mine" / "checkpoint.pt").is_file()
    assert "100%  step     3" in done.stdout


def by_hand(trained: TinyRun, data: Path, out: Path, *words: str, launch: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Weights of a run of eight steps that a person started."""
    command = [sys.executable, *launch, "-m", "nanochat.train", "--out", str(out), "--budget", '{"kind": "steps", "amount": 8}']
    command += ["--scale", str(trained.work / "scale.json"), "--data", str(data), "--seed", "3", *words]
    env = {"PATH": os.environ["PATH"], "HOME": str(out.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=trained.work / "checkout", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, torch.Tensor] = torch.load(out / "checkpoint.pt", weights_only=True)["model"]
    return found


@pytest.mark.slow
def test_a_run_that_was_resumed_ends_where_it_would_have(data: Path, tmp_path: Path, trained: TinyRun) -> None:
    whole = by_hand(trained, data, tmp_path / "whole", "--save-every", "5")
    rest = by_hand(trained, data, tmp_path / "rest", "--resume", str(tmp_path / "whole" / "state.pt"))
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    other = [sys.executable, "-m", "nanochat.train", "--resume", str(tmp_path / "whole" / "checkpoint.pt"), "--data", str(data)]
    other += ["--scale", str(trained.work / "scale.json"), "--out", str(tmp_path / "none")]
    done = subprocess.run(other, cwd=trained.work / "checkout", env={"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and "cannot be resumed from" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_under_torchrun_train_the_same_model(data: Path, tmp_path: Path, trained: TinyRun) -> None:
    alone = by_hand(trained, data, tmp_path / "alone")
    both = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost", "--nproc-per-node", "2")
    shared = by_hand(trained, data, tmp_path / "shared", launch=both)
    far = {name: float((alone[name] - shared[name]).norm() / alone[name].norm()) for name in alone}
    # Adam takes a gradient of rounding noise for a whole step; matrices and head hardly have such
    assert max(far.values()) < 0.05, far


@pytest.mark.slow
def test_a_depth_or_a_budget_that_cannot_be_is_one_line(data: Path, tmp_path: Path, trained: TinyRun) -> None:
    for extra, message in ((["--budget", '{"kind": "tokens", "amount": 5}'], "smaller than one row"), (["--feed", "77"], "no open socket")):
        words = [sys.executable, "-m", "nanochat.train", "--out", str(tmp_path), "--data", str(data), *extra]
        words += ["--scale", str(trained.work / "scale.json")]
        done = subprocess.run(words, cwd=trained.work / "checkout", env={"HOME": str(tmp_path)}, capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stdout.splitlines()[-1]
        assert "Traceback" not in done.stdout + done.stderr
