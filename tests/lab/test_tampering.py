"""What somebody may do to ledger, artefacts and refs behind the laboratory's back, and the line by which `ledger verify` names it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import client
from lab.backup import back_up, folder
from lab.commands import app
from lab.errors import UserError
from lab.executors import local
from lab.home import Home
from lab.laboratory import Laboratory
from lab.ledger import GENESIS, Ledger, fact_hash
from lab.orders import Orders
from lab.requests import Request
from lab.slots import Slot
from lab.state import State, View, fold
from lab.steps import Policy
from tasks.spec import Task
from tests.conftest import until
from tests.lab.conftest import Bench
from worktrees.repo import Repo

pytestmark = pytest.mark.slow  # one real session of a dozen runs, shared by all

POLICY = Policy(confirmation="auto", promotion="auto")
Row = tuple[int, float, str, str, str, str, str]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A research repository in which E0001 was found `improved` and promoted, and E0002 crashed."""
    one = Bench(tmp_path_factory.mktemp("session"))
    trunk = one.repo.trunk()
    one.home.settings.write_text("")
    one.home.task.write_text(one.task.model_dump_json())
    ledger = Ledger(one.home.ledger, create=True)
    ledger.append("session", {"protected": one.hashes, "policy": dataclasses.asdict(POLICY)})
    ledger.append("trunk", {"commit": trunk, "parent": "", "experiment": "", "why": ""}, trunk)
    lab = Laboratory(one.home, one.task, POLICY, one.repo, [Slot(0, "cpu", None, ""), Slot(1, "cpu", None, "")])
    worktree = one.home.worktrees / "r1"
    one.repo.add_worktree("r1", worktree, trunk)
    model = worktree / "toy" / "model.py"
    honest = model.read_text()

    def finish(name: str, text: str) -> None:
        model.write_text(text)
        Orders(lab).take(Request(name, "run", "r1", {"experiment": name}))
        until(lambda: [lab.step(), lab.runs.start(0.0), lab.state.experiments[name].verdict][2], f"{name} is judged")

    client.propose(one.home, "r1", "a step five times as large arrives", "200 steps of 0.02 are too short", "optimiser")
    finish("E0001", honest.replace("LR = 0.02", "LR = 0.1"))
    client.propose(one.home, "r1", "it crashes", "the file does not parse", "other")
    finish("E0002", honest + "\nraise RuntimeError\n")
    until(lambda: [lab.step(), lab.runs.start(0.0), not lab.state.open][2], "every run is over")
    assert lab.state.experiments["E0001"].promoted and lab.state.experiments["E0002"].verdict == "crashed"
    back_up(one.home, lab.ledger)
    yield one.home.root
    for run in one.home.runs.iterdir():
        local.bury(run)


@pytest.fixture
def home(session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the session, for a test to tamper with."""
    shutil.copytree(session, tmp_path / "research", symlinks=True)
    monkeypatch.setenv("ORGCTL_HOME", str(tmp_path / "research"))
    return Home(tmp_path / "research")


def problems() -> list[str]:
    """The lines of `orgctl ledger verify`."""
    done = CliRunner().invoke(app, ["ledger", "verify", "--json"])
    found: list[str] = json.loads(done.stdout)["problems"]
    assert done.exit_code == (1 if found else 0)
    return found


def state(home: Home) -> State:
    return fold(Ledger(home.ledger).facts())


def raw(home: Home, *statements: str) -> None:
    """SQL round the laboratory's own code, with the triggers out of the way."""
    database = sqlite3.connect(home.ledger)
    for statement in ("DROP TRIGGER facts_no_update", "DROP TRIGGER facts_no_delete", *statements):
        database.execute(statement)
    database.commit()
    database.close()


def rewrite(home: Home, change: Callable[[str, str, dict[str, Any]], None], keep: Callable[[Row], bool] = lambda row: True) -> None:
    """A ledger made anew with a whole chain, after `change` (kind, subject, body) of each fact that is kept."""
    rows: list[Row] = list(sqlite3.connect(home.ledger).execute("SELECT * FROM facts ORDER BY id"))
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (home.org / name).unlink(missing_ok=True)
    Ledger(home.ledger, create=True).close()
    database, previous = sqlite3.connect(home.ledger), GENESIS
    for number, (_, time, kind, subject, actor, text, _hash) in enumerate(filter(keep, rows), start=1):
        body = json.loads(text)
        change(kind, subject, body)
        text = json.dumps(body, sort_keys=True)
        previous = fact_hash(previous, time, kind, subject, actor, text)
        database.execute("INSERT INTO facts VALUES (?,?,?,?,?,?,?)", (number, time, kind, subject, actor, text, previous))
    database.commit()
    database.close()


def git(home: Home, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=home.root, text=True, capture_output=True, check=True).stdout.strip()


def a_run(home: Home) -> str:
    """A confirming run of E0001."""
    return state(home).experiments["E0001"].runs_for("confirm")[0].id


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_an_honest_session_is_derived_anew_without_a_difference(home: Home) -> None:
    assert problems() == []
    kinds = {fact.kind for fact in Ledger(home.ledger).facts()}
    assert {"nomination", "verdict", "trunk", "result", "attempt"} <= kinds, "there was something to derive"
    assert "facts: chain whole" in CliRunner().invoke(app, ["ledger", "verify"]).stdout


def test_a_fact_inserted_with_a_wrong_hash(home: Home) -> None:
    last = Ledger(home.ledger).head()[0]
    database = sqlite3.connect(home.ledger)  # the triggers do not mind an insert
    database.execute("INSERT INTO facts VALUES (?, 0.0, 'alarm', 'x', 'lab', '{\"text\": \"boo\"}', ?)", (last + 1, "f" * 64))
    database.commit()
    assert problems() == [f"fact {last + 1} (alarm x) does not match its hash"]


def test_a_verdict_claimed_by_a_stranger(home: Home) -> None:
    body = {**dict.fromkeys(("low", "high", "p", "n", "m", "sigma")), "attempt": 1, "verdict": "improved", "effect": -1.0, "reasoning": []}
    fact = Ledger(home.ledger).append("verdict", body, "E0002", "r1")
    assert problems() == [
        f"fact {fact.id} (verdict E0002) was written by r1: only the laboratory writes those",
        f"fact {fact.id} (verdict E0002): says improved, but the facts before it call for no verdict",
    ]
    found = state(home)
    assert found.experiments["E0002"].verdict == "crashed", "nobody believes it"
    assert found.alarms[-1] == f"fact {fact.id} (verdict) was written by r1: only the laboratory writes those, it is passed over"


@pytest.mark.parametrize(
    ("kind", "subject", "body", "told"),
    [
        ("confirm", "E0001", {"attempt": 1}, ", who does not decide here"),
        ("withdrawn", "E0001", {"why": "it is in my way"}, ", who does not decide here"),
        ("attempt", "E0002", {"number": 2, "parent": "p", "commit": "c", "diff": "", "changed": []}, ", who does not decide here"),
        ("audit_order", "A0001", {"trunk": "t", "steps": 1, "seeds": 2, "by": "chief", "ideas": []}, ", who does not decide here"),
        ("session", "", {"policy": {"bank": 2}, "chiefs": ["r2"]}, ": only the laboratory writes those"),
        ("proposal", "E0009", {"agent": "r1"}, " in the name of r1"),
    ],
    ids=["an order", "another's idea given up", "another's attempt", "an audit", "other rules", "another's name"],
)
def test_a_fact_written_by_who_may_not(home: Home, kind: str, subject: str, body: dict[str, Any], told: str) -> None:
    fact = Ledger(home.ledger).append(kind, body, subject, "r2")
    name = f"fact {fact.id} ({kind} {subject})"
    assert problems()[0] == f"{name} was written by r2{told}"


def test_a_verdict_claimed_in_the_laboratorys_name(home: Home) -> None:
    ledger = Ledger(home.ledger)
    proposal = ledger.facts(kind="proposal")[0].body
    ledger.append("proposal", proposal, "E0003", "r1")
    ledger.append("verdict", {"attempt": 1, "verdict": "improved", "effect": -1.0, "reasoning": []}, "E0003")
    assert problems() == [f"fact {ledger.head()[0]} (verdict E0003): nothing of that experiment was run"]


def test_a_promotion_of_what_is_not_improved(home: Home) -> None:
    now = state(home)
    commit = now.experiments["E0002"].attempts[-1].commit
    body = {"commit": commit, "parent": now.trunk, "experiment": "E0002", "why": "promoted by lab"}
    fact = Ledger(home.ledger).append("trunk", body, commit)
    assert problems() == [f"fact {fact.id} (trunk {commit}): promotes E0002, which is crashed and not improved"]


def test_a_second_result_of_a_run(home: Home) -> None:
    name, ledger = a_run(home), Ledger(home.ledger)
    before = ledger.facts(kind="result", subject=name)[0].body
    fact = ledger.append("result", {**before, "metric": {"search": 0.0, "audit": 0.0}}, name)
    assert problems() == [f"fact {fact.id} (result {name}): it had ended already"]
    assert state(home).runs[name].metric == before["metric"], "and it counts for nothing"


def test_facts_that_nobody_can_read_are_named_and_stop_no_reader(home: Home) -> None:
    ledger = Ledger(home.ledger)
    ledger.append("result", {"status": ["ok"]}, "R9999", "r1")
    ledger.append("proposal", {"agent": "r1"}, "E0009", "r1")
    ledger.append("verdict", {"attempt": 1, "verdict": "improved", "effect": "huge"}, "E0002")
    database = sqlite3.connect(home.ledger)
    database.execute(f"INSERT INTO facts VALUES ({ledger.head()[0] + 1}, 0.0, 'verdict', 'E0001', 'lab', '[not json', 'x')")
    database.commit()
    found = problems()
    assert any("(result R9999): there is no such run" in line for line in found)
    assert any("(proposal E0009) is malformed" in line for line in found)
    assert any("(verdict E0002) is malformed" in line for line in found)
    assert any("(verdict E0001) does not match its hash" in line for line in found)
    for command in (["list"], ["show", "E0002"], ["list", "--json"]):
        assert CliRunner().invoke(app, ["exp", *command]).exit_code == 0


def test_a_fact_changed_behind_the_triggers(home: Home) -> None:
    raw(home, "UPDATE facts SET body = replace(body, '\"improved\"', '\"neutral\"') WHERE kind = 'verdict' AND subject = 'E0001'")
    number = Ledger(home.ledger).facts(kind="verdict")[0].id
    found = problems()
    assert f"fact {number} (verdict E0001) does not match its hash" in found
    assert any(line.startswith("the ledger's trigger facts_no_update is gone") for line in found)
    assert any(line.startswith(f"fact {number} (verdict E0001): says neutral, but the facts before it give improved") for line in found)


def test_a_ledger_that_was_cut(home: Home) -> None:
    raw(home, "DELETE FROM facts WHERE id > 20")
    number = json.loads((folder(home) / "head.json").read_text())["fact"]
    assert f"the ledger was cut: it ends at fact 20, but fact {number} was copied to .git/orgctl/head.json" in problems()


def flatter(kind: str, subject: str, body: dict[str, Any]) -> None:
    if kind == "verdict" and subject == "E0001":
        body["effect"], body["low"], body["high"] = (2 * body[key] for key in ("effect", "low", "high"))


def test_a_ledger_rewritten_whole_with_a_larger_effect(home: Home) -> None:
    number = Ledger(home.ledger).facts(kind="verdict")[0].id
    rewrite(home, flatter)
    found = problems()
    assert Ledger(home.ledger).verify() == [], "its chain is whole"
    assert any(line.startswith("the ledger was rewritten: fact ") for line in found)
    (line,) = (line for line in found if line.startswith(f"fact {number} "))
    assert "(verdict E0001): says improved, but the facts before it give improved (effect " in line
    (folder(home) / "head.json").unlink()
    assert problems() == [line], "also without the copied head"


def test_a_better_metric_in_a_ledger_rewritten_whole(home: Home) -> None:
    name = a_run(home)

    def better(kind: str, subject: str, body: dict[str, Any]) -> None:
        if kind == "result" and subject == name:
            body["metric"]["audit"] -= 0.01

    rewrite(home, better)
    found = problems()
    assert any(line.startswith(f"{name}: result.json and the ledger differ in metric: audit ") for line in found)
    assert any(line.startswith(f"{name}: score.json gives ") for line in found)
    assert any("(verdict E0001): says improved, but the facts before it give improved (effect" in line for line in found)


def test_a_bad_run_left_out_of_a_ledger_rewritten_whole(home: Home) -> None:
    name = a_run(home)
    rewrite(home, lambda *_: None, keep=lambda row: row[3] != name)
    assert any("(verdict E0001): says improved, but the facts before it call for no verdict" in line for line in problems())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda found: found["metric"].update(audit=0.5), "result.json and the ledger differ in metric: audit 0.5 for"),
        (lambda found: found["account"].update(flops=1.0), "result.json and the ledger differ in account: flops 1 for"),
        (lambda found: found["hashes"].update(torch="9"), "result.json and the ledger differ in hashes: torch 9 for"),
        (lambda found: found.update(status="crashed"), "result.json says crashed, the ledger ok"),
        (lambda found: found.update(run="R0001"), "result.json is of R0001"),
    ],
)
def test_a_result_edited_afterwards(home: Home, change: Callable[[dict[str, Any]], None], line: str) -> None:
    name = a_run(home)
    edit(home.runs / name / "result.json", change)
    (found,) = problems()
    assert found.startswith(f"{name}: {line}")


def test_a_score_edited_afterwards(home: Home) -> None:
    name = a_run(home)
    edit(home.runs / name / "score.json", lambda found: found["metric"].update(audit=0.0))
    (found,) = problems()
    assert found.startswith(f"{name}: score.json gives {{'search': ")


def test_a_result_that_is_gone_and_a_run_folder_that_is_gone(home: Home) -> None:
    name, other = "R0001", a_run(home)
    shutil.rmtree(home.runs / name)
    (home.runs / other / "result.json").unlink()
    assert problems() == [f"{name}: its run folder is gone", f"{other}: result.json is gone or unreadable"]


def test_a_moved_and_a_deleted_snapshot(home: Home) -> None:
    now = state(home)
    first, second = (now.experiments[name].attempts[-1].commit for name in ("E0001", "E0002"))
    git(home, "update-ref", "refs/org/exp/E0001/1", second)
    git(home, "update-ref", "-d", "refs/org/exp/E0002/1")
    assert problems() == [
        f"E0001: refs/org/exp/E0001/1 is at {second[:10]}, the ledger says {first[:10]}",
        "E0002: its snapshot refs/org/exp/E0002/1 is gone",
    ]


def test_a_snapshot_whose_commit_is_gone(home: Home) -> None:
    commit = state(home).experiments["E0002"].attempts[-1].commit
    (home.root / ".git" / "objects" / commit[:2] / commit[2:]).unlink()
    assert f"E0002: commit {commit[:10]} is not in the repository" in problems()


# While a controller serves, and before one begins


@pytest.fixture
def serving(home: Home) -> Laboratory:
    """The laboratory of a controller that serves the session."""
    task, repo = Task.model_validate_json(home.task.read_text()), Repo(home.root)
    return Laboratory(home, task, dataclasses.replace(POLICY, promotion="chief"), repo, [Slot(0, "cpu", None, "")], {"chief"}, alone=True)


IMPROVED = {
    "attempt": 1, "verdict": "improved", "effect": -1.0, "low": -1.1, "high": -0.9, "p": 0.0, "n": 4, "m": 8, "sigma": 0.01,
    "reasoning": [],
}  # fmt: skip


def test_a_verdict_in_the_laboratorys_name_is_disowned_and_nothing_is_promoted_by_it(home: Home, serving: Laboratory) -> None:
    serving.refresh()
    trunk, before = serving.state.trunk, View(Ledger(home.ledger))
    before.refresh()
    fact = Ledger(home.ledger).append("verdict", IMPROVED, "E0002")
    before.refresh()
    assert before.state.experiments["E0002"].verdict == "improved", "whoever reads it in that moment cannot know"
    with pytest.raises(UserError, match="E0002 is crashed: only an experiment with the verdict `improved` can be promoted"):
        Orders(serving).take(Request("1", "promote", "chief", {"experiment": "E0002"}))
    serving.step()
    before.refresh()
    told = f"fact {fact.id} (verdict E0002): it bears the laboratory's name and is not from it; it is passed over"
    for found in serving.state, before.state, state(home):
        assert found.experiments["E0002"].verdict == "crashed" and found.trunk == trunk
        assert found.alarms[-1].startswith(told)
    assert problems() == [], "what was disowned claims nothing any more"


@pytest.mark.parametrize("actor", ["lab", "chief", "person"])
def test_a_trunk_written_into_the_ledger_moves_nothing(home: Home, serving: Laboratory, actor: str) -> None:
    serving.refresh()
    trunk, commit = serving.state.trunk, serving.state.experiments["E0002"].attempts[-1].commit
    body = {"commit": commit, "parent": trunk, "experiment": "E0002", "why": "promoted by chief"}
    fact = Ledger(home.ledger).append("trunk", body, commit, actor)
    serving.step()
    serving.mirror_trunk()
    assert (serving.state.trunk, Repo(home.root).trunk()) == (trunk, trunk)
    assert serving.state.alarms[-1].startswith(f"fact {fact.id} (trunk {commit}): ")


def test_a_result_written_for_a_run_that_goes_on_does_not_take_the_place_of_its_own(home: Home, serving: Laboratory) -> None:
    serving.step()
    serving.write("confirm", "E0001", {"attempt": 1}, "person")  # an order of its own is no imposter's
    serving.write("replication_order", "E0001", {"attempt": 1, "seeds": 2, "by": "person"}, "person")
    serving.step()
    run = next(iter(serving.state.open.values()))
    until(lambda: [serving.refresh(), serving.runs.start(0.0), run.status == "running"][2], "a run goes on")
    body = {
        "status": "ok", "reason": "", "metric": {"search": 0.0, "audit": 0.0}, "account": {}, "hashes": {}, "log_tail": "", "ended": None,
    }  # fmt: skip
    fact = Ledger(home.ledger).append("result", body, run.id)
    until(lambda: [serving.step(), serving.runs.start(0.0), not serving.state.open][2], "every run is over")
    for found in serving.state, state(home):
        assert found.runs[run.id].metric["audit"] > 0 and found.alarms[-1].startswith(f"fact {fact.id} (result {run.id}): ")
        assert len(found.alarms) == 1
    assert problems() == []


def test_what_commands_write_themselves_is_no_imposture(home: Home, serving: Laboratory) -> None:
    serving.refresh()
    name = client.propose(home, "r1", "smaller steps", "less noise", "optimiser")
    client.review(home, "r1", name, "not convinced", "doubt")
    one = Ledger(home.ledger).append("session", {"hashes": {"corpus": "x"}, "manifest": "y"})
    other = Ledger(home.ledger).append("session", {"policy": {"bank": 2}})
    serving.refresh()
    assert serving.state.experiments[name].reviews
    assert serving.state.disowned == {one.id, other.id} and serving.state.session["policy"]["bank"] == POLICY.bank
    assert "manifest" not in serving.state.session


def test_what_was_forged_while_nobody_served_is_derived_anew_and_disowned(home: Home, serving: Laboratory) -> None:
    ledger, commit = Ledger(home.ledger), state(home).experiments["E0002"].attempts[-1].commit
    body = {"commit": commit, "parent": state(home).trunk, "experiment": "E0002", "why": "promoted by lab"}
    forged = [ledger.append("verdict", IMPROVED, "E0002").id, ledger.append("trunk", body, commit).id]
    ledger.append("proposal", ledger.facts(kind="proposal")[0].body, "E0003", "r1")
    later = Laboratory(home, serving.task, POLICY, serving.repo, serving.slots, alone=True)
    later.vet()
    assert later.state.disowned == set(forged) and "E0003" in later.state.experiments
    assert later.state.experiments["E0002"].verdict == "crashed" and later.state.trunk == later.repo.trunk()
    assert "the facts before it call for no verdict; it is passed over" in later.state.alarms[-2]
    assert problems() == []


def test_nothing_of_an_honest_session_is_disowned_although_no_head_was_copied(home: Home, serving: Laboratory) -> None:
    (folder(home) / "head.json").unlink()
    serving.vet()
    assert serving.state.disowned == set() and serving.state.alarms == []


def test_who_disowns_a_verdict_that_is_right_is_disowned(home: Home, serving: Laboratory) -> None:
    right = Ledger(home.ledger).facts(kind="verdict", subject="E0001")[0].id
    fact = Ledger(home.ledger).append("disowned", {"facts": [right], "why": ["it displeases me"]})
    assert state(home).experiments["E0001"].verdict is None
    assert any(line.startswith(f"fact {right} (verdict E0001) was disowned, although") for line in problems())
    later = Laboratory(home, serving.task, POLICY, serving.repo, serving.slots, alone=True)
    later.vet()
    assert later.state.disowned == {fact.id} and later.state.experiments["E0001"].verdict == "improved"
    serving.refresh()
    assert state(home).experiments["E0001"].verdict == "improved" and problems() == []


def smuggled(home: Home, serving: Laboratory) -> tuple[str, dict[str, Any]]:
    """A proposal of r1's, and the attempt at it that r1 writes itself: a commit that changes more than it may, and a diff that is none."""
    name = client.propose(home, "r1", "smaller steps", "less noise", "optimiser")
    trunk = serving.state.trunk
    (home.org / "extra.py").write_text("WEIGHTS = [1.0]\n")
    blob = git(home, "hash-object", "-w", str(home.org / "extra.py"))
    listed = f"{git(home, 'ls-tree', trunk + ':toy')}\n100644 blob {blob}\textra.py\n"
    folder_ = subprocess.run(["git", "mktree"], cwd=home.root, input=listed, text=True, capture_output=True, check=True).stdout.strip()
    others = "\n".join(line for line in git(home, "ls-tree", trunk).splitlines() if not line.endswith("\ttoy"))
    whole = f"{others}\n040000 tree {folder_}\ttoy\n".lstrip("\n")
    tree = subprocess.run(["git", "mktree"], cwd=home.root, input=whole, text=True, capture_output=True, check=True).stdout.strip()
    commit = git(home, "-c", "user.name=r1", "-c", "user.email=r1@x", "commit-tree", tree, "-p", trunk, "-m", "mine")
    git(home, "update-ref", f"refs/org/exp/{name}/1", commit)
    return name, {"number": 1, "parent": trunk, "commit": commit, "diff": "-LR = 0.08\n+LR = 0.081\n", "changed": ["toy/model.py"]}


def test_an_attempt_that_an_agent_writes_itself_is_disowned_and_never_runs(home: Home, serving: Laboratory) -> None:
    serving.refresh()
    name, body = smuggled(home, serving)
    fact = Ledger(home.ledger).append("attempt", body, name, "r1")
    serving.step()
    assert serving.state.disowned == {fact.id} and not serving.state.experiments[name].runs and not serving.state.open
    assert serving.state.alarms[-1].startswith(f"fact {fact.id} (attempt {name}): such facts come through the controller")


def test_an_attempt_written_while_nobody_served_is_held_against_git(home: Home, serving: Laboratory) -> None:
    serving.refresh()
    name, body = smuggled(home, serving)
    Ledger(home.ledger).append("attempt", body, name, "r1")
    found = f"commit {body['commit'][:10]} changes toy/extra.py, which no experiment may change"
    assert problems() == [f"{name}: {found}"]
    later = Laboratory(home, serving.task, POLICY, serving.repo, serving.slots, alone=True)
    later.vet()
    assert later.state.experiments[name].attempts == [] and found in later.state.alarms[-1]


def test_a_diff_on_record_that_is_not_the_commits(home: Home) -> None:
    def flatter(kind: str, subject: str, body: dict[str, Any]) -> None:
        if (kind, subject) == ("attempt", "E0001"):
            body["diff"] = body["diff"].replace("+LR = 0.1", "+LR = 0.021")

    rewrite(home, flatter)
    commit = state(home).experiments["E0001"].attempts[0].commit
    assert f"E0001: the diff on record is not that of commit {commit[:10]}" in problems()


def test_trunk_moved_back_by_a_step_was_moved_by_somebody(home: Home, serving: Laboratory) -> None:
    serving.refresh()
    serving.mirror_trunk()
    now, before = serving.state.trunk, serving.state.trunks[-1].parent
    git(home, "update-ref", "refs/heads/org/trunk", before)
    serving.mirror_trunk()
    assert Repo(home.root).trunk() == now
    assert serving.state.alarms[-1] == (
        f"org/trunk was moved to {before[:8]} by somebody else: put back to {now[:8]}, which the ledger names"
    )


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("trunk", {"experiment": ["x"], "why": ""}),
        ("result", {"status": "ok", "metric": [["search", 0.001], ["audit", 0.001]], "account": [], "hashes": []}),
    ],
)
def test_what_is_malformed_and_was_written_while_nobody_served_is_disowned(home: Home, kind: str, more: dict[str, Any]) -> None:
    before = state(home)
    commit = before.experiments["E0002"].attempts[-1].commit
    run = next(run for run in before.runs.values() if run.status == "ok")
    body = {"commit": commit, "parent": before.trunk, "reason": "", "log_tail": "", "ended": None, **more}
    fact = Ledger(home.ledger).append(kind, body, commit if kind == "trunk" else run.id)
    task = Task.model_validate_json(home.task.read_text())
    later = Laboratory(home, task, POLICY, Repo(home.root), [Slot(0, "cpu", None, "")], alone=True)
    later.vet()
    later.mirror_trunk()
    assert later.state.disowned == {fact.id} and later.state.trunk == before.trunk == Repo(home.root).trunk()
    assert state(home).runs[run.id].metric == run.metric


@pytest.mark.parametrize("kind", ["trunk", "run"])
def test_what_was_vetted_long_ago_cannot_be_disowned_while_nobody_serves(home: Home, serving: Laboratory, kind: str) -> None:
    old = Ledger(home.ledger).facts(kind=kind)[-1]
    fact = Ledger(home.ledger).append("disowned", {"facts": [old.id], "why": ["it displeases me"]})
    later = Laboratory(home, serving.task, POLICY, serving.repo, serving.slots, alone=True)
    later.vet()
    serving.refresh()
    assert later.state.disowned == {fact.id} and state(home).trunk == serving.repo.trunk()
    seeds = [run.seed for run in later.state.runs.values()]
    later.write("replication_order", "E0001", {"attempt": 1, "seeds": 2, "by": "person"}, "person")
    later.step()
    assert not {run.seed for run in later.state.open.values()} & set(seeds), "and no seed is given twice"


def test_an_imposter_is_looked_at_again_where_the_ledger_could_not_be_written(
    home: Home, serving: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.refresh()
    fact = Ledger(home.ledger).append("verdict", IMPROVED, "E0002")
    monkeypatch.setattr(serving.ledger, "append", lambda *_: (_ for _ in ()).throw(UserError("the disk is full")))
    with pytest.raises(UserError, match="full"):
        serving.refresh()
    monkeypatch.undo()
    serving.refresh()
    assert serving.state.disowned == {fact.id}


def test_a_manifest_that_is_pinned_anew_while_nobody_serves_is_an_alarm(home: Home, serving: Laboratory) -> None:
    serving.refresh()
    serving.write("session", "", {"hashes": {}, "manifest": "a" * 64})
    back_up(home, serving.ledger)
    fact = Ledger(home.ledger).append("session", {"hashes": {}, "manifest": "b" * 64})
    for _ in range(2):
        later = Laboratory(home, serving.task, POLICY, serving.repo, serving.slots, alone=True)
        later.vet()
    assert [text for text in later.state.alarms if "was pinned anew by fact" in text] == [
        f"{home.data} was pinned anew by fact {fact.id} while nobody served: right if the data were lost then"
    ]
