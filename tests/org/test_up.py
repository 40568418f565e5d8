"""A whole organisation on the toy task, through the real commands, tmux, git and runs: what `orgctl up` promises."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from lab.files import read_json
from lab.ledger import Ledger
from org import daemon
from tests.conftest import ORGCTL, TOY, Org, files_with, until
from tests.lab.conftest import first

pytestmark = pytest.mark.slow


def git(root: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=root, text=True, capture_output=True, check=True).stdout.strip()


def controller_pid(org: Org) -> int:
    return int((read_json(org.home.controller) or {})["pid"])


def test_up_in_an_empty_directory_does_research_and_finds_a_verified_improvement(org: Org) -> None:
    org.up("--slots", "2")
    assert git(org.root, "branch", "--show-current") == "org/trunk"
    assert {"org/trunk", "org/main/r1", "org/main/r2"} <= set(git(org.root, "branch", "--format=%(refname:short)").split())
    assert set(org.panes()) == {"board", "chief", "r1", "r2"}
    until(lambda: (now := org.state).promotions() and len(now.bank().values("audit")) >= 8, "a promotion, and its bank", 200)
    org("down")
    state = org.state
    first = state.promotions()[0]
    verdict = first.attempts[-1].verdict
    assert verdict is not None and verdict["verdict"] == "improved" and verdict["n"] >= 4 and verdict["m"] >= 8
    assert verdict["high"] < 0, "the whole interval lies on the better side"
    confirm = {run.seed for run in first.runs_for("confirm")}
    others = {run.seed for run in state.runs.values() if run.purpose != "confirm"}
    assert len(confirm) >= 4 and not confirm & others, "confirmed on fresh seeds"
    banked = [run for run in state.bank(first.attempts[-1].parent).runs if run.status == "ok"]
    started = min(run.started or 0 for run in first.runs_for("confirm"))
    assert len([run for run in banked if (run.ended or 0) < started]) >= 8, "the bank was there first"
    trunk = state.trunk
    assert git(org.root, "rev-parse", "org/trunk") == trunk
    assert git(org.root, "rev-parse", f"refs/org/exp/{first.id}/{len(first.attempts)}")
    assert git(org.root, "status", "--porcelain") == "", "the person's own checkout followed trunk"
    assert org("ledger", "verify").startswith(f"{state.last} facts")
    files = org("report").split()
    assert [Path(file).name for file in files] == ["progress.png", "results.tsv", "report.md"]
    text = (org.root / "report" / "report.md").read_text()
    assert f"**{first.id}**" in text and "confirmed best" in text and "## Claims" in text
    assert "reported effect" in org("exp", "show", first.id)


def test_every_run_is_recorded_whole_and_failures_with_their_log(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    worktree = org.home.worktrees / "r1"
    me = {"ORGCTL_AGENT": "r1", "ORGCTL_HOME": str(org.root)}
    model = worktree / "toy" / "model.py"
    model.write_text(model.read_text() + "\nraise RuntimeError('planted failure')\n")
    name = json.loads(org("exp", "propose", "--hypothesis", "it crashes", "--mechanism", "I raise", "--json", env=me))["experiment"]
    org("exp", "run", name, env=me)
    until(lambda: org.state.experiments[name].verdict, "the verdict")
    failed = org.state.experiments[name]
    assert failed.verdict == "crashed"
    assert "planted failure" in failed.runs[0].log_tail and "RuntimeError" in failed.runs[0].reason
    assert "planted failure" in org("exp", "show", name)
    until(lambda: len([run for run in org.state.runs.values() if run.status == "ok"]) >= 4, "the bank")
    run = next(run for run in org.state.runs.values() if run.status == "ok")
    for key in ("tokens", "steps", "flops", "params", "wall_seconds", "peak_memory_bytes", "device"):
        assert run.account.get(key), key
    assert run.metric.keys() == {"search", "audit"} and run.seed >= 1000 and run.budget["amount"] > 0
    spec = json.loads((org.home.runs / run.id / "spec.json").read_text())
    assert spec["org_hash"] == org.state.session["org_hash"]


def test_a_second_up_touches_nothing_that_is_well_and_restarts_what_died(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    before, pid = org.panes(), controller_pid(org)
    assert "is up already" in org.up()
    assert org.panes() == before and controller_pid(org) == pid
    os.kill(before["r1"][1], signal.SIGKILL)
    after = until(lambda: (found := org.panes()) and found.get("r1", before["r1"]) != before["r1"] and found, "r1 is back", 30)
    assert after["r2"] == before["r2"] and after["r1"][0] == before["r1"][0], "same pane, new process; the other untouched"


def test_a_killed_controller_costs_nothing(org: Org) -> None:
    org.up("--slots", "2")
    until(lambda: [run for run in org.state.runs.values() if run.status == "ok"], "a finished run")
    panes = org.panes()
    os.kill(controller_pid(org), signal.SIGKILL)
    org.up()
    assert org.panes() == panes, "agents did not notice"
    count = len(org.state.runs)
    until(lambda: len([run for run in org.state.runs.values() if run.status == "ok"]) > count, "it works on")
    state = org.state
    assert not [run for run in state.runs.values() if run.status == "crashed"]
    assert len({run.seed for run in state.runs.values()}) == len(state.runs), "no seed was used twice"
    assert org("ledger", "verify")


def test_down_keeps_every_fact_and_up_goes_on(org: Org) -> None:
    org.up("--slots", "2")
    until(lambda: len(org.state.experiments) >= 2, "two proposals")
    org("down")
    assert org.tmux("list-sessions") == ""
    state = org.state
    assert not [run for run in state.runs.values() if run.status == "running"]
    org.up()
    until(lambda: len(org.state.experiments) > len(state.experiments) + 1, "new proposals")
    assert list(org.state.experiments)[: len(state.experiments)] == list(state.experiments)


def test_for_stops_by_itself_prints_events_and_the_report(org: Org) -> None:
    done = subprocess.run(
        [*ORGCTL, "up", "--name", org.name, "--task", str(TOY), "--slots", "2", "--for", "15s"], cwd=org.root, env=org.env,
        text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "R0001" in done.stdout and "# " in done.stdout
    assert (org.root / "report" / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert org.tmux("list-sessions") == ""


def test_protected_files_and_other_peoples_powers_are_refused_by_name(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    worktree = org.home.worktrees / "r1"
    me = {"ORGCTL_AGENT": "r1", "ORGCTL_HOME": str(org.root)}
    name = json.loads(org("exp", "propose", "--hypothesis", "h", "--mechanism", "m", "--json", env=me))["experiment"]
    assert "nothing changed" in org("exp", "run", name, env=me, code=2)
    score = worktree / "toy" / "score.py"
    honest = score.read_text()
    score.write_text("print('always perfect')\n")
    assert "toy/score.py" in org("exp", "run", name, env=me, code=2)
    score.write_text(honest)
    model = worktree / "toy" / "model.py"
    model.write_text(model.read_text().replace("LR = ", "LR = 0.5 * ", 1))
    assert "belongs to r1" in org("exp", "run", name, env={**me, "ORGCTL_AGENT": "r2"}, code=2)
    org("exp", "run", name, env=me)
    assert "may not promote" in org("exp", "promote", name, env=me, code=2)
    words = ("exp", "propose", "--hypothesis", "h", "--mechanism", "m", "--json")
    assert f"was there before: {name} by r1" in org(*words, env=me, code=2)
    other = json.loads(org("exp", "propose", "--hypothesis", "smaller steps", "--mechanism", "less noise", "--json", env=me))
    assert f"was there before: {name} by r1" in org("exp", "run", other["experiment"], env=me, code=2)
    again = json.loads(org(*words, "--again", "to see whether it holds", env=me))["experiment"]
    assert json.loads(org("exp", "run", again, "--json", env=me))["similar"][0]["experiment"] == name


def test_a_moved_trunk_is_put_back_and_reported(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    trunk = org.state.trunk
    other = git(org.root, "-c", "user.name=x", "-c", "user.email=x@x", "commit-tree", f"{trunk}^{{tree}}", "-p", trunk, "-m", "mine")
    git(org.root, "update-ref", "refs/heads/org/trunk", other)
    until(lambda: git(org.root, "rev-parse", "org/trunk") == trunk, "trunk is back", 30)
    assert until(lambda: org.state.alarms, "an alarm")[0].startswith("org/trunk was moved")


def test_a_trunk_and_a_verdict_written_into_the_ledger_are_disowned_and_reported(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    trunk = org.state.trunk
    other = git(org.root, "-c", "user.name=x", "-c", "user.email=x@x", "commit-tree", f"{trunk}^{{tree}}", "-p", trunk, "-m", "mine")
    fact = Ledger(org.home.ledger).append("trunk", {"commit": other, "parent": trunk, "experiment": "", "why": "it is better"}, other)
    alarm = until(lambda: org.status()["alarms"], "an alarm")[0]
    assert alarm.startswith(f"fact {fact.id} (trunk {other}): it bears the laboratory's name and is not from it; it is passed over")
    assert org.state.trunk == trunk == git(org.root, "rev-parse", "org/trunk")
    assert f"disowned, and passed over by every reader: fact {fact.id}" in org("ledger", "verify")


def test_what_keeps_runs_from_starting_is_shown_as_long_as_it_lasts(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    score, there = org.home.protected / "toy" / "score.py", org.home.worktrees / "r1"
    honest = score.read_bytes()
    score.write_bytes(honest + b"\n")
    model = there / "toy" / "model.py"
    model.write_text(model.read_text().replace("LR = ", "LR = 2 * ", 1))
    org("exp", "propose", "--hypothesis", "h", "--mechanism", "m", cwd=there)
    org("exp", "run", "E0001", cwd=there)  # so that there is a run to start
    until(lambda: "score.py is not" in org.status()["controller"]["trouble"].get("laboratory", ""), "the trouble is shown")
    assert "trouble  protected file" in org("status")
    score.write_bytes(honest)
    until(lambda: not org.status()["controller"]["trouble"], "it is over")


def test_an_organisation_whose_ledger_is_damaged_is_stopped_and_goes_on_with_its_copy(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    org("down")
    org.up()
    with contextlib.closing(sqlite3.connect(org.home.ledger)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw = bytearray(org.home.ledger.read_bytes())
    raw[8192:] = b"\xa5" * (len(raw) - 8192)
    org.home.ledger.write_bytes(raw)
    before = daemon.alive(org.home)
    told = org("down", code=2)
    assert "agents and runs are ended, but the ledger" in told and len(told.strip().splitlines()) == 1
    assert before is not None and not before.alive() and org.panes() == {}
    for stale in org.home.org.glob("ledger.db*"):
        stale.unlink()
    shutil.copy(org.root / ".git" / "orgctl" / "ledger.db", org.home.ledger)
    org.up()
    assert "chain whole" in org("ledger", "verify")


def test_taking_over_is_recorded_and_shown(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    org("takeover", "r1")
    assert org.state.taken_over == {"r1"}
    until(lambda: [one for one in org.status()["agents"] if one["agent"] == "r1" and one["state"] == "taken_over"], "the state")
    org("release", "r1")
    assert org.state.taken_over == set()


def test_a_controller_that_is_asked_to_leave_by_a_signal_leaves_everything_as_it_is(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    panes, pid = org.panes(), controller_pid(org)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists(), "it has gone")
    assert org.panes() == panes
    org.up()
    assert org.panes() == panes and controller_pid(org) != pid


def test_hostile_request_files_stop_nobody(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    pile = org.home.requests
    (pile / "1-folder.json").mkdir()
    (pile / "2-deep.json").write_text("[" * 100_000)
    os.mkfifo(pile / "3-pipe.json")
    (pile / "4-link.json").symlink_to("/dev/zero")
    (pile / "5-kind.json").write_text(json.dumps({"kind": "run", "actor": "r1", "body": {"experiment": ["no"]}}))
    (pile / "6-junk.json").write_bytes(b"\xff\xfe\x00")
    until(lambda: list(pile.glob("*.json")) == [], "every one is dealt with", 30)
    assert len(list((pile / "bad").iterdir())) == 5
    assert org.status()["controller"]["alive"]
    org("takeover", "r1")


def test_a_deleted_trunk_is_restored_also_before_any_promotion(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    git(org.root, "update-ref", "-d", "refs/heads/org/trunk")
    until(lambda: git(org.root, "for-each-ref", "refs/heads/org/trunk"), "trunk is back", 30)
    assert "deleted" in until(lambda: org.state.alarms, "an alarm")[0]


def test_a_person_in_a_worktree_works_as_its_agent_and_up_there_founds_nothing(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    there = org.home.worktrees / "r2"
    model = there / "toy" / "model.py"
    model.write_text(model.read_text().replace("LR = ", "LR = 2 * ", 1))
    name = json.loads(org("exp", "propose", "--hypothesis", "h", "--mechanism", "m", "--json", cwd=there))["experiment"]
    org("exp", "run", name, cwd=there)
    assert org.state.experiments[name].agent == "r2"
    assert "up already" in org("up", "--detach", cwd=there)
    assert "inside" in org("up", str(there), "--detach", cwd=there, code=2)
    assert not (there / ".org").exists()


def test_a_persons_idea_in_a_sweeps_seat_is_left_alone_until_it_is_run(org: Org) -> None:
    org.up("--slots", "2")
    until(lambda: org.state.experiments, "the sweeps are at work")
    there = org.home.worktrees / "r1"
    made = json.loads(org("exp", "propose", "--hypothesis", "mine", "--mechanism", "m", "--json", cwd=there))["experiment"]
    until(lambda: [one for one in org.status()["agents"] if one["agent"] == "r1" and one["state"] == "paused"], "r1 holds")
    git(there, "reset", "--hard", "org/trunk")
    model = there / "toy" / "model.py"
    model.write_text(model.read_text() + "\n# a person was here\n")
    count = len(org.state.runs)
    until(lambda: len(org.state.runs) > count + 3, "the others work on")
    org("exp", "run", made, cwd=there)
    assert "a person was here" in org("exp", "diff", made)
    assert org.state.experiments[made].withdrawn is None
    mine = [one.id for one in org.state.experiments.values() if one.agent == "r1"]
    until(lambda: [one for one in org.state.experiments.values() if one.agent == "r1" and one.id not in mine], "r1 goes on")


def test_a_letter_to_nobody_is_refused(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    assert "nobody here is called 'cheif'" in org("mail", "send", "cheif", "hello", code=2)
    org("mail", "send", "r1", "hello")
    assert "hello" in org("mail", "read", cwd=org.home.worktrees / "r1")


def test_a_session_keeps_the_design_it_was_founded_with(org: Org, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: pair\nabout: x\nagents:\n  - {role: researcher, count: slots, backend: shell}\n")
    org.up("--slots", "2", "--design", str(mine))
    assert "up already" in org.up("--design", str(mine))
    mine.write_text(mine.read_text().replace("about: x", "about: y"))
    assert "another organisation" in org("up", "--detach", "--design", str(mine), code=2)
    assert "own source" in org("init", str(Path(__file__).parents[2]), code=2)


def test_an_idea_tried_while_a_person_has_the_pane_is_marked_as_assisted(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    there = org.home.worktrees / "r1"
    org("takeover", "r1")
    model = there / "toy" / "model.py"
    model.write_text(model.read_text().replace("LR = ", "LR = 2 * ", 1))
    org("exp", "propose", "--hypothesis", "h", "--mechanism", "m", cwd=there)
    org("exp", "run", "E0001", cwd=there)
    assert [run.assisted for run in org.state.experiments["E0001"].runs] == [True]
    assert not any(run.assisted for run in org.state.runs.values() if run.purpose == "bank")


def test_for_with_detach_stops_too(org: Org) -> None:
    org.up("--slots", "2", "--for", "5s")
    until(lambda: org.panes() == {} and not org.home.controller.exists(), "it stopped by itself", 60)
    assert org.state.session["stopped"]


def test_a_runner_ended_by_somebody_else_is_lost_and_its_run_repeated_once(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    there = org.home.worktrees / "r1"
    (there / "toy" / "train.py").write_text(first("import time; time.sleep(60)"))
    org("exp", "propose", "--hypothesis", "h", "--mechanism", "m", cwd=there)
    org("exp", "run", "E0001", cwd=there)
    for count in (1, 2):
        running = until(lambda: [one for one in org.state.experiments["E0001"].runs if one.status == "running"], "it runs")
        until(lambda one=running[0]: (org.home.runs / one.id / "stdout.log").exists(), "the runner is past its start")
        os.kill(running[0].pid, signal.SIGTERM)
        until(lambda n=count: len([one for one in org.state.experiments["E0001"].runs if one.status == "lost"]) == n, "lost")
    assert until(lambda: org.state.experiments["E0001"].verdict, "a verdict") == "crashed"


def test_a_full_disk_is_one_line(org: Org) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    small = org.root.parent / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        text = org("init", str(small), "--task", str(TOY), code=2)
        assert "free" in text and len(text.strip().splitlines()) == 1
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--design", "nonsense"], "unknown design"),
        (["--task", "nonsense"], "unknown task"),
        (["--scale", "huge"], "no scale 'huge'"),
        (["--role", "researcher=none.md"], "there is no such file"),
        (["--for", "soon"], "must be a time"),
        (["--backend", "claude"], "claude"),
        (["--name", "Bad Name"], "Bad Name"),
    ],
)
def test_bad_wishes_are_one_line_and_leave_nothing(org: Org, args: list[str], words: str) -> None:
    text = org("up", "--detach", *args, code=2)
    assert words in text and len(text.strip().splitlines()) == 1
    assert list(org.root.iterdir()) == []


def test_a_design_with_malformed_yaml_is_named_with_line_and_field(org: Org, tmp_path: Path) -> None:
    broken = tmp_path / "mine.yaml"
    broken.write_text("name: mine\nabout: x\nagents:\n  - role: researcher\n    colour: red\n")
    text = org("up", "--detach", "--design", str(broken), code=2)
    assert "line 5" in text and "colour" in text
    broken.write_text("name: mine\nagents: [\n")
    assert "line 3" in org("up", "--detach", "--design", str(broken), code=2)


def test_folders_that_cannot_be_a_home_are_refused(org: Org, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    assert "not empty" in org("up", "--detach", code=2, cwd=full)
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "init", "-q", "--bare", str(bare)], check=True)
    assert "bare" in org("up", "--detach", code=2, cwd=bare)
    org("init", str(tmp_path / "one"), "--task", str(TOY), "--name", org.name)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(tmp_path / "one"), str(clone)], check=True)
    (clone / "toy" / "model.py").write_text("dirty = True\n")
    assert "toy/model.py" in org("init", str(clone), "--task", str(TOY), code=2)
    git(clone, "checkout", "-q", "--", ".")
    assert "ready" in org("init", str(clone), "--task", str(TOY), "--name", org.name)
    assert sorted(path.name for path in full.iterdir()) == ["thesis.txt"]


def test_the_same_name_in_another_directory_is_refused(org: Org, tmp_path: Path) -> None:
    org.up("--slots", "2", "--design", "solo", "--backend", "shell")
    other = tmp_path / "other"
    other.mkdir()
    text = org("up", "--detach", "--name", org.name, "--task", str(TOY), code=2, cwd=other)
    assert str(org.root) in text and "--name" in text
    assert list(other.iterdir()) == []


def test_without_tmux_one_line_says_what_to_install(org: Org, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("git", "env"):
        (tools / tool).symlink_to(subprocess.run(["which", tool], text=True, capture_output=True).stdout.strip())
    text = org("up", "--detach", code=2, env={"PATH": str(tools)})
    assert "tmux" in text and "install" in text and len(text.strip().splitlines()) == 1
    assert list(org.root.iterdir()) == []


def test_commands_outside_an_organisation_say_so(org: Org) -> None:
    for command in (["status"], ["down"], ["report"], ["exp", "list"], ["logs", "r1"], ["attach"], ["mail", "inbox"]):
        assert "orgctl up" in org(*command, code=2)


def test_secrets_of_the_caller_reach_neither_panes_nor_runs(org: Org) -> None:
    secret = "sk-planted-" + "x" * 20
    org.env["ANTHROPIC_API_KEY"] = org.env["HF_TOKEN"] = secret
    org.up("--slots", "2")
    until(lambda: [run for run in org.state.runs.values() if run.status == "ok"], "a finished run")
    for _, pid in org.panes().values():
        assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    org("down")
    assert files_with(org.home.org, secret) + files_with(org.root / ".git" / "orgctl", secret) == []


