"""One run: what it measures, what it says when something goes wrong, and that nothing outlives it. All of it real."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import psutil
import pytest

from lab.child import LOG_BYTES, clean
from lab.executors import local
from lab.limits import SLACK
from lab.process import Identity
from lab.runspec import RunSpec
from tests.conftest import until
from tests.lab.conftest import Bench, first

pytestmark = pytest.mark.slow  # whole runs, most of a second each

Make = Callable[..., Bench]
SLEEP = "import time; time.sleep(60)"


# ---------------------------------------------------------------- what a run measures


def test_a_run_measures_metric_compute_time_and_memory(bench: Make) -> None:
    one = bench()
    result = one.run(splits=("search", "audit"))
    account = result["account"]
    assert (result["status"], result["reason"]) == ("ok", "")
    assert 0 < result["metric"]["search"] < 1 and 0 < result["metric"]["audit"] < 1
    assert (account["tokens"], account["steps"], account["params"]) == (4096, 256, 13)
    assert account["flops"] == 4096 * 6 * 13
    assert 0 < account["train_seconds"] < account["wall_seconds"]
    assert 5e6 < account["peak_memory_bytes"] < 1e8
    assert result["hashes"]["corpus"] == json.loads((one.home.data / "manifest.json").read_text())["corpus"]
    assert "loss" in result["log_tail"]


@pytest.mark.slow
def test_the_seed_alone_decides_the_metric(bench: Make) -> None:
    one = bench()
    values = [one.run(seed=seed)["metric"]["search"] for seed in (3, 3, 4)]
    assert values[0] == values[1] != values[2]


@pytest.mark.slow
def test_a_better_learning_rate_wins_by_more_than_three_sigma_and_more_width_costs_flops(bench: Make) -> None:
    source = first("", "toy/model.py")
    base, fast = bench(), bench(committed={"toy/model.py": source.replace("LR = 0.02", "LR = 0.2")})
    wide = bench(committed={"toy/model.py": source.replace("WIDTH = 4", "WIDTH = 16")})
    bank = [base.run(seed=seed)["metric"]["search"] for seed in range(4)]
    assert fast.run(seed=9)["metric"]["search"] < statistics.fmean(bank) - 3 * statistics.stdev(bank)
    assert wide.run()["account"]["flops"] > 3 * base.run()["account"]["flops"]


def test_a_control_may_have_another_budget_and_still_counts_as_the_same_task(bench: Make) -> None:
    one = bench()
    usual = one.run()
    budget = {"kind": "steps", "amount": 10}
    scale = {**one.task.scale.model_dump(), "budget": budget, "deadline_seconds": 7}
    control = one.run(budget=budget, task={**one.task.model_dump(), "scale": scale})
    assert (control["account"]["steps"], control["account"]["tokens"]) == (10, 160)
    assert control["hashes"] == usual["hashes"]


def test_a_task_without_a_feeder_reads_its_data_itself_and_has_unknown_tokens(bench: Make) -> None:
    train = """
import json, sys
from pathlib import Path
data, out = Path(sys.argv[1]), Path(sys.argv[2])
points = json.loads((data / "points.json").read_text())["train"]
(out / "weights.json").write_text(json.dumps([0.0, 0.0, 0.0, sum(y for _, y in points) / len(points)]))
"""
    one = bench(
        task={"feed": [], "train": ["{python}", "-P", "-m", "toy.train", "{data}", "{out}"]},
        committed={"toy/train.py": train},
    )
    result = one.run()
    assert result["status"] == "ok", result
    assert result["account"]["tokens"] is None and result["account"]["flops"] is None
    assert result["account"]["params"] == 4


@pytest.mark.slow
def test_the_checkpoint_of_a_bank_run_is_kept_and_of_a_nomination_only_the_log(bench: Make) -> None:
    one = bench()
    one.run(purpose="bank")
    assert (one.folder / "out" / "weights.json").is_file()
    one.run(purpose="nominate")
    kept = {path.name for path in one.folder.iterdir()}
    assert {"spec.json", "result.json", "score.json", "counts.json", "stdout.log"} <= kept
    assert not [name for name in kept if (one.folder / name).is_dir()]


def test_a_run_stays_on_the_cores_of_its_slot(bench: Make) -> None:
    core = max(os.sched_getaffinity(0))
    one = bench(committed={"toy/train.py": first("import os; print('cores', os.sched_getaffinity(0))")})
    one.run(slot={"index": 1, "device": "cpu", "cpus": [core], "cuda": ""})
    assert f"cores {{{core}}}" in one.log()


def test_a_spec_read_back_is_the_spec_that_was_written(bench: Make) -> None:
    one = bench()
    spec = one.spec(slot={"index": 1, "device": "cuda", "cpus": [0, 1], "cuda": "3"})
    assert RunSpec.read(one.folder) == spec


@pytest.mark.slow
def test_the_runner_takes_less_than_a_tenth_of_a_core_beside_training(bench: Make) -> None:
    one = bench(committed={"toy/train.py": first(SLEEP)})
    spec = one.spec()
    runner = local.start(one.home, spec.run)
    until(lambda: (one.folder / "counts.json").exists(), "training runs")
    process = psutil.Process(runner.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(3)  # the span that is measured
    assert sum(process.cpu_times()[:2]) - before < 0.3
    local.stop(runner, 10, one.folder)


# ---------------------------------------------------------------- what goes wrong, in a line


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("raise ValueError('boom')", "crashed", "exit code 1: ValueError: boom"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "killed by SIGSEGV"),
        ("import sys; sys.exit(0)", "invalid", "training left no weights.json: No such file or directory"),
    ],
)
def test_a_run_that_fails_says_why_in_a_line(bench: Make, code: str, status: str, reason: str) -> None:
    one = bench(committed={"toy/train.py": first(code)})
    result = one.run()
    assert (result["status"], result["reason"]) == (status, reason)
    assert result["metric"] == {}


def test_a_metric_that_is_no_number_is_invalid(bench: Make) -> None:
    train = first("").replace("json.dumps(network.weights)", "json.dumps([float('nan')] * 13)")
    result = bench(committed={"toy/train.py": train}).run()
    assert (result["status"], result["reason"]) == ("invalid", "val_mse on the split search is nan")


def test_a_run_over_its_deadline_is_killed_as_timeout(bench: Make) -> None:
    train = first(f"print('here', flush=True)\n{SLEEP}")
    one = bench(committed={"toy/train.py": train}, scale={"deadline_seconds": 0.5})
    result = one.run()
    assert (result["status"], result["reason"]) == ("timeout", "training ran over its deadline of 0.5 s")
    assert "here" in result["log_tail"]
    assert 0.5 <= result["account"]["train_seconds"] < 2
    assert one.left() == []


def test_a_scorer_over_its_limit_is_killed_as_timeout(bench: Make) -> None:
    model = first("import sys\nif 'toy.train' not in sys.orig_argv: " + SLEEP, "toy/model.py")
    one = bench(committed={"toy/model.py": model}, scale={"score_seconds": 0.5})
    result = one.run()
    assert (result["status"], result["reason"]) == ("timeout", "scoring ran over its limit of 0.5 s")
    assert one.left() == []


def test_memory_over_the_limit_ends_the_run_and_is_named(bench: Make) -> None:
    # In a child of training: its memory counts too.
    eat = "import os, time\nif os.fork() == 0:\n    block = b'x' * 300_000_000\ntime.sleep(60)"
    one = bench(committed={"toy/train.py": first(eat)}, scale={"memory_gib": 0.2})
    result = one.run()
    assert result["status"] == "crashed"
    assert result["reason"].startswith("out of memory: used 0.") and result["reason"].endswith("GiB of 0.2")
    assert result["account"]["peak_memory_bytes"] > 0.2 * 2**30
    assert one.left() == []


def test_memory_over_the_limit_while_scoring_is_invalid_and_named(bench: Make) -> None:
    eat = "import sys, time\nif 'toy.train' not in sys.orig_argv:\n    block = b'x' * 300_000_000\n    " + SLEEP
    one = bench(committed={"toy/model.py": first(eat, "toy/model.py")}, scale={"memory_gib": 0.2})
    result = one.run()
    assert result["status"] == "invalid"
    assert result["reason"].startswith("out of memory while scoring: used 0.") and result["reason"].endswith("GiB of 0.2")
    assert one.left() == []


IN_TMP = "hold = open(os.environ['TMPDIR'] + '/full', 'wb')"
IN_OUT = "hold = open(sys.argv[sys.argv.index('--out') + 1] + '/full', 'wb')"
DELETED = "hold = open('full', 'wb'); os.unlink('full')"


@pytest.mark.parametrize("fill", [IN_TMP, IN_OUT, DELETED, f"{IN_TMP}; ends = True", f"{IN_OUT}; ends = True"])
def test_a_run_that_fills_the_disk_is_invalid_and_what_it_wrote_is_freed(bench: Make, fill: str) -> None:
    then = "sys.exit(0)" if "ends" in fill else "time.sleep(60)"
    code = f"import os, sys, time\n{fill}\nos.posix_fallocate(hold.fileno(), 0, 5 << 29)\n{then}"
    one = bench(committed={"toy/train.py": first(code)})
    result = one.run(purpose="bank")
    assert result["status"] == "invalid"
    assert result["reason"].startswith("the disk fills: 2.") and result["reason"].endswith("GiB written, of 2 allowed")
    assert one.left() == [] and sum(path.stat().st_size for path in one.folder.rglob("*")) < 1e6


def test_a_hosted_model_that_fills_the_disk_is_invalid_and_what_it_wrote_is_freed(bench: Make) -> None:
    code = f"import os, sys, time\nif 'toy.train' not in sys.orig_argv:\n    {IN_TMP}"
    code += "\n    os.posix_fallocate(hold.fileno(), 0, 5 << 29)\n    time.sleep(60)"
    one = bench(committed={"toy/model.py": first(code, "toy/model.py")}, scale={"score_seconds": 10})
    result = one.run()
    assert (result["status"], result["reason"][:18]) == ("invalid", "the disk fills: 2.")
    assert one.left() == [] and sum(path.stat().st_size for path in one.folder.rglob("*")) < 1e6


HELD = "import os, sys, time\nheld = os.memfd_create('held')\nos.posix_fallocate(held, 0, 300_000_000)\n"


def test_memory_shared_with_the_scorer_is_memory_and_no_disk(bench: Make) -> None:
    # As the logits of a model on a GPU: a GiB for each of two hosts.
    model = first(f"{HELD}if 'toy.train' not in sys.orig_argv: time.sleep(2)", "toy/model.py")
    result = bench(committed={"toy/model.py": model}, scale={"disk_gib": 0.1}).run()
    assert (result["status"], result["reason"]) == ("ok", "")
    assert result["account"]["score_memory_bytes"] > 300_000_000


def test_memory_that_no_process_has_mapped_counts_too(bench: Make) -> None:
    one = bench(committed={"toy/train.py": first(f"{HELD}time.sleep(60)")}, scale={"memory_gib": 0.2, "deadline_seconds": 20})
    result = one.run()
    assert result["status"] == "crashed"
    assert result["reason"].startswith("out of memory: used 0.") and result["reason"].endswith("GiB of 0.2")
    assert one.left() == []


LARGE = first("").replace("(given.out /", "(given.out / 'more').write_text('x' * 300_000)\n    (given.out /", 1)
HOSTED = "import sys, time\nif 'toy.train' not in sys.orig_argv:\n    "


@pytest.mark.parametrize(
    ("limits", "committed", "reason"),
    [
        (
            {"checkpoint_bytes": 100_000}, {"toy/train.py": LARGE},
            "what training left takes 293.? KiB: the baseline 97.7 KiB, and 2 times that and 64.0 KiB are allowed",
        ),
        (
            {"source_bytes": 5000}, {"toy/model.py": first("# " + "x" * 20_000, "toy/model.py")},
            "the editable files take 2*.* KiB: the baseline 4.9 KiB, and 2 times that and 4.0 KiB are allowed",
        ),
        (
            {"score_seconds": 0.1}, {"toy/model.py": first(HOSTED + "time.sleep(60)", "toy/model.py")},
            "scoring took 5.* s: the baseline 0.1 s, and 2 times that and 5.0 s are allowed",
        ),
        (
            {"score_memory_bytes": 2 << 20},
            {"toy/model.py": first(HOSTED + "block = b'x' * 300_000_000\n    time.sleep(60)", "toy/model.py")},
            "scoring used *.* MiB: the baseline 2.0 MiB, and 2 times that and 256.0 MiB are allowed",
        ),
    ],
    ids=["checkpoint", "source", "seconds", "memory"],
)  # fmt: skip
def test_more_than_twice_what_the_baseline_took_is_invalid_with_both_numbers(
    bench: Make, limits: dict[str, float], committed: dict[str, str], reason: str
) -> None:
    one = bench(committed=committed, scale={"memory_gib": 2})
    result = one.run(limits=limits)
    assert result["status"] == "invalid" and fnmatch(result["reason"], reason), result["reason"]
    assert one.left() == []


def test_a_baselines_own_figures_leave_room_for_the_baseline(bench: Make) -> None:
    one = bench()
    account = one.run()["account"]
    limits = {name: account[name] for name in SLACK if account[name] is not None}
    assert {"source_bytes", "checkpoint_bytes", "score_seconds", "score_memory_bytes"} <= set(limits)
    assert one.run(limits=limits)["status"] == "ok"


def test_training_that_goes_on_after_its_budget_of_seconds_is_invalid(bench: Make) -> None:
    feed = first("", "toy/feed.py").replace('"time": now}', '"time": now, "startup_seconds": 0.0}')
    train = first("").replace("    (given.out /", "    __import__('time').sleep(3)\n    (given.out /", 1)
    one = bench(committed={"toy/train.py": train}, pinned={"toy/feed.py": feed})
    budget = {"kind": "time", "amount": 256}  # steps, as the toy's feeder counts: over in no time
    assert one.run(budget=budget, limits={"overtime_seconds": 0.0})["status"] == "ok"
    budget["amount"] = 0.25
    result = one.run(budget=budget, limits={"overtime_seconds": 0.0})
    said = re.match(r"after its budget training went on for (\d+\.\d) s: the baseline 0\.0 s, ", result["reason"])
    assert result["status"] == "invalid" and said and float(said[1]) >= 2.0, result["reason"]


@pytest.mark.parametrize(("value", "status"), [(0.9, "ok"), (0.001, "invalid")])
def test_with_a_target_a_run_is_measured_by_what_it_cost_to_reach_it(bench: Make, value: float, status: str) -> None:
    one = bench(scale={"target": {"value": value, "cost": "tokens"}})
    result = one.run(splits=("search",))
    assert (result["status"], result["metric"]) == (status, {"search": 4096.0} if status == "ok" else {})
    assert result["reason"] == ("" if status == "ok" else "missed the target: val_mse on audit was to be at most 0.001")
    assert list(json.loads((one.folder / "score.json").read_text())["metric"]) == ["search"]


def test_a_feeder_that_fails_is_blamed_by_name(bench: Make) -> None:
    result = bench(pinned={"toy/feed.py": "raise RuntimeError('no data')"}).run()
    assert result["status"] == "crashed"
    assert "the feeder: exit code 1: RuntimeError: no data" in result["reason"]


def test_protected_files_that_changed_since_they_were_pinned_stop_the_run_which_is_lost(bench: Make) -> None:
    one = bench()
    (one.home.protected / "toy/score.py").write_text("print('mine now')")
    result = one.run()
    assert result["status"] == "lost" and "toy/score.py is not what was pinned" in result["reason"]


def test_a_commit_that_does_not_exist_is_a_result_too(bench: Make) -> None:
    result = bench().run(commit="f" * 40)
    assert result["status"] == "crashed" and "ffffffffff" in result["reason"]


def test_an_unreadable_spec_exits_2_with_a_line_that_names_the_field(bench: Make) -> None:
    one = bench()
    one.spec()
    spec = json.loads((one.folder / "spec.json").read_text())
    del spec["seed"]
    (one.folder / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run([sys.executable, "-I", "-m", "lab.runner", str(one.folder)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "spec.json: seed: Field required" in done.stderr


def test_a_full_disk_leaves_no_half_result_and_says_so(bench: Make) -> None:
    one = bench()
    one.spec()
    done = subprocess.run(
        [sys.executable, "-I", "-m", "lab.runner", str(one.folder)], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "result.json: cannot be written" in done.stderr
    assert [path.name for path in one.folder.iterdir() if "result" in path.name] == []


def test_a_flood_of_output_neither_fills_the_disk_nor_stops_the_run(bench: Make) -> None:
    flood = "import sys\nfor _ in range(300): sys.stdout.write('x' * 99_999 + '\\n')\nsys.stdout.flush()"
    one = bench(committed={"toy/train.py": first(flood)})
    result = one.run()
    assert result["status"] == "ok"
    assert LOG_BYTES < (one.folder / "stdout.log").stat().st_size < LOG_BYTES + 20_000
    assert "the rest is dropped" in one.log() and result["log_tail"].endswith("\n") and "step 256" in result["log_tail"]


def test_a_log_tail_is_plain_text_whatever_was_printed() -> None:
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07a\x00b\rc\td\n\x9b") == "red ab\nc\td\n"


# ---------------------------------------------------------------- nothing outlives a run


@pytest.mark.parametrize(
    "escape",
    [
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork() or time.sleep(60)\n    os._exit(0)",
    ],
    ids=["background", "daemon"],
)
@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"], ids=["ok", "crash"])
def test_a_grandchild_does_not_survive_its_run(bench: Make, escape: str, end: str) -> None:
    one = bench(committed={"toy/train.py": first(escape + "\n" + end)})
    found = one.run()
    assert found["status"] == ("crashed" if end else "ok") and found["account"]["outlived"] == 1
    assert one.left() == []


def test_a_commit_that_changes_what_is_not_editable_never_runs(bench: Make, tmp_path: Path) -> None:
    one, there = bench(), tmp_path / "r1"
    trunk = one.repo.trunk()
    one.repo.add_worktree("r1", there, trunk)
    (there / "toy" / "extra.py").write_text("WEIGHTS = [1.0]\n")
    commit = one.repo.commit_worktree(there, "r1", "mine", ["toy/extra.py"])
    found = one.run(commit=commit, parent=trunk)
    assert found["status"] == "invalid" and "changes toy/extra.py, which no experiment may change" in found["reason"]


def test_sigterm_to_the_runner_ends_the_tree_and_writes_the_result_killed(bench: Make) -> None:
    one = bench(committed={"toy/train.py": first(f"print('started', flush=True)\n{SLEEP}")})
    spec = one.spec()
    runner = local.start(one.home, spec.run)
    until(lambda: (one.folder / "stdout.log").exists() and "started" in one.log(), "training has started")
    assert len(one.left()) == 2
    local.stop(runner, 10, one.folder)
    assert not runner.alive() and one.left() == []
    result = json.loads((one.folder / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("killed", "stopped by a signal to the runner")


def test_when_the_runner_is_killed_feeder_and_training_die_and_the_rest_can_be_buried(bench: Make) -> None:
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nprint('started', flush=True)\n"
    one = bench(committed={"toy/train.py": first(daemon + SLEEP)})
    spec = one.spec()
    runner = local.start(one.home, spec.run)
    until(lambda: (one.folder / "stdout.log").exists() and "started" in one.log(), "training has started")
    assert len(one.left()) == 3
    os.kill(runner.pid, signal.SIGKILL)
    until(lambda: len(one.left()) == 1, "the death signal reaches feeder and training", 5)
    assert not (one.folder / "result.json").exists()
    assert local.bury(one.folder) == 1
    until(lambda: one.left() == [], "the daemon is gone", 5)


def test_a_runner_that_does_not_answer_is_ended_with_all_its_tree(bench: Make) -> None:
    one = bench(committed={"toy/train.py": first(f"print('started', flush=True)\n{SLEEP}")})
    spec = one.spec()
    runner = local.start(one.home, spec.run)
    until(lambda: (one.folder / "stdout.log").exists() and "started" in one.log(), "training has started")
    os.kill(runner.pid, signal.SIGSTOP)
    local.stop(runner, 0.2, one.folder)
    assert not runner.alive() and one.left() == []


def test_a_runner_is_a_session_of_its_own_and_carries_none_of_its_starters_keys(
    bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-hush")
    one = bench(committed={"toy/train.py": first(SLEEP)})
    spec = one.spec()
    runner = local.start(one.home, spec.run)
    until(lambda: (one.folder / "counts.json").exists(), "training runs")
    assert set(psutil.Process(runner.pid).environ()) <= set(local.PASSED_ON)
    assert os.getsid(runner.pid) == runner.pid != os.getsid(0)
    local.stop(runner, 10, one.folder)


def test_a_run_goes_on_when_its_starter_dies(bench: Make) -> None:
    one = bench()
    spec = one.spec()
    starter = f"""
import sys
from pathlib import Path
from lab.executors import local
from lab.limits import SLACK
from lab.home import Home
runner = local.start(Home(Path({str(one.home.root)!r})), {spec.run!r})
print(runner.pid, runner.started)
"""
    done = subprocess.run([sys.executable, "-I", "-c", starter], capture_output=True, text=True, check=True)
    pid, started = done.stdout.split()
    until(lambda: not Identity(int(pid), float(started)).alive(), "the run has ended", 30)
    assert json.loads((one.folder / "result.json").read_text())["status"] == "ok"
