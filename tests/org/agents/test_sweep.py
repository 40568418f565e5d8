"""The sweep agents as processes in a real terminal, on a real session of the toy task. The test plays the controller's
part.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comms.mailbox import Mail
from lab import client
from lab.home import Home
from lab.ledger import Ledger
from lab.requests import Request, answer, waiting
from lab.similar import Near
from lab.state import State, fold
from org.agents import base
from org.agents.event import read_events
from org.agents.space import neighbours
from org.agents.sweep import BACKEND, reason, values_at
from org.reports import parse
from org.session import Wish, found
from tasks.spec import Task
from tests.conftest import TOY, until
from tests.org.agents.paper import Paper
from worktrees.repo import Repo

pytestmark = pytest.mark.slow


class Pane:
    """A process in a terminal of 100 x 24; `screen` is all it has written."""

    def __init__(self, home: Home, agent: str, role: str = "researcher", env: dict[str, str] | None = None) -> None:
        seat = base.Seat(home, agent, role, "sweep", None if role != "researcher" else 0)
        launch = BACKEND.launch(seat)
        self.master, slave = pty.openpty()
        surroundings = {
            "PATH": os.environ["PATH"], "HOME": str(home.root), "LANG": "C.UTF-8", "TERM": "xterm-256color", "COLUMNS": "100",
            "LINES": "24", "SHELL": "/bin/sh", **base.seat_env(seat), **launch.env, **(env or {}),
        }  # fmt: skip
        self.process = subprocess.Popen(
            launch.argv,
            cwd=launch.cwd,
            env=surroundings,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while select.select([self.master], [], []):
                data = os.read(self.master, 65536)
                if not data:
                    return
                self.screen += data.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """What was written, without escapes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.screen)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        os.close(self.master)


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    """A session that nobody serves; design solo unless the test asks for another."""
    design = getattr(request, "param", "solo")
    made = found(tmp_path / "research", Wish(design=design, task=str(TOY), name="t-sweep", slots=2))
    repo = Repo(made.root)
    for agent in ("r1", "r2"):
        repo.add_worktree(agent, made.worktrees / agent, repo.trunk())
    return made


@pytest.fixture
def panes() -> Iterator[list[Pane]]:
    opened: list[Pane] = []
    yield opened
    for pane in opened:
        pane.close()


def seat(panes: list[Pane], home: Home, agent: str = "r1", role: str = "researcher", **env: str) -> Pane:
    panes.append(Pane(home, agent, role, env))
    return panes[-1]


def state_of(home: Home) -> State:
    ledger = Ledger(home.ledger)
    try:
        return fold(ledger.facts())
    finally:
        ledger.close()


def asked(home: Home, kind: str) -> list[Request]:
    return [request for request in waiting(home) if request.kind == kind]


def git(folder: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=folder, text=True, capture_output=True, check=True).stdout.strip()


def states(home: Home, agent: str) -> list[str]:
    return [event["state"] for event in read_events(home, agent, 100)]


def test_a_researcher_proposes_edits_commits_and_hands_in_like_anybody(home: Home, panes: list[Pane]) -> None:
    pane = seat(panes, home)
    request = until(lambda: asked(home, "run"), "a request to run")[0]
    (experiment,) = state_of(home).experiments.values()
    assert request.body["experiment"] == experiment.id and request.actor == experiment.agent == "r1"
    (name, value) = next(iter(experiment.params.items()))
    assert name in experiment.hypothesis and "→" in experiment.hypothesis and "lowers val_mse" in experiment.hypothesis
    knob = next(knob for knob in Task.model_validate_json(home.task.read_text()).knobs if knob.name == name)
    assert knob.why in experiment.mechanism and experiment.family == knob.area
    assert experiment.min_effect == 0.002 and "budget" in experiment.held_constant
    worktree = home.worktrees / "r1"
    assert git(worktree, "status", "--porcelain") == ""
    assert git(worktree, "log", "-1", "--format=%an <%ae>") == "r1 <r1@orgctl.local>"
    changed = git(worktree, "diff", "org/trunk", "HEAD", "-U0").splitlines()
    assert [line for line in changed if re.match(r"[+-][A-Z]", line)][1] == f"+{name} = {value!r}"
    until(lambda: "no controller" in pane.text, "the pane says that nobody serves it")
    assert len(state_of(home).experiments) == 1, "the worktree belongs to the lab until it has answered"


def test_a_study_of_its_own_trials_repeats_anothers_with_the_reason_on_record(home: Home, panes: list[Pane]) -> None:
    task = Task.model_validate_json(home.task.read_text())
    now = values_at(Repo(home.root), task, state_of(home).trunk)
    for knob in task.knobs:  # whatever r1 turns first, r2 has it already
        for value in neighbours(knob, now[knob.name], up_first=True):
            client.propose(home, "r2", f"{knob.name} {value}", "m", params={knob.name: value})
    before = state_of(home).experiments
    seat(panes, home)
    request = until(lambda: asked(home, "run"), "a request to run")[0]
    experiment = state_of(home).experiments[request.body["experiment"]]
    assert experiment.id not in before and experiment.again is not None
    (known,) = experiment.again["near"]
    assert before[known].params == experiment.params
    assert experiment.again["why"] == f"{known} is r2's: this study draws on its own trials alone"


def test_why_a_study_tries_again(tmp_path: Path) -> None:
    paper = Paper(tmp_path)
    paper.tried({"A": 2.0}, 1.0)
    winner = paper.tried({"B": 2.0}, 0.95)
    near = [Near("E0001", 1.0, "knobs", True), Near("E0002", 0.5, "knobs", False)]
    assert reason(paper.state, near, "r1") == "E0001 told this study nothing (queued)"
    paper.promote(winner, (0.95, 0.97, 0.93, 0.95))
    assert reason(paper.state, near, "r1") == "E0001 was on trunk t0, this is on E0002.1"
    assert reason(paper.state, near[1:], "r1") == ""


def test_a_killed_researcher_goes_on_where_it_was(home: Home, panes: list[Pane]) -> None:
    first = seat(panes, home)
    until(lambda: asked(home, "run"), "a request to run")
    first.process.kill()
    first.process.wait()
    seat(panes, home)
    until(lambda: states(home, "r1").count("starting") == 2 and states(home, "r1")[-1] == "working", "it works again")
    assert len(state_of(home).experiments) == 1 and len(asked(home, "run")) == 1


def test_a_refusal_is_shown_the_idea_withdrawn_and_the_next_one_tried(home: Home, panes: list[Pane]) -> None:
    pane = seat(panes, home)
    request = until(lambda: asked(home, "run"), "a request to run")[0]
    answer(home, request, False, error="it is the same change as E0099")
    gone = until(lambda: asked(home, "withdraw"), "a request to withdraw")[0]
    assert gone.body["experiment"] == request.body["experiment"] and "E0099" in gone.body["why"]
    until(lambda: "same change as E0099" in pane.text, "the refusal on the pane")
    ledger = Ledger(home.ledger)
    ledger.append("withdrawn", {"why": gone.body["why"]}, gone.body["experiment"])
    ledger.append("from_the_future", {"what": "ever"}, "E0001")
    ledger.append("verdict", {"no": "attempt"}, "E0001")
    ledger.close()
    answer(home, gone, True)
    following = until(lambda: asked(home, "run"), "the next idea")[0]
    tried = state_of_tolerant(home)
    assert following.body["experiment"] == "E0002"
    assert tried["E0001"] != tried["E0002"]
    assert pane.process.poll() is None


def state_of_tolerant(home: Home) -> dict[str, object]:
    """Parameters by experiment."""
    ledger = Ledger(home.ledger)
    try:
        return {fact.subject: fact.body["params"] for fact in ledger.facts("proposal")}
    finally:
        ledger.close()


def test_sigterm_ends_it_quickly_and_leaves_the_alternate_screen(home: Home, panes: list[Pane]) -> None:
    pane = seat(panes, home)
    until(lambda: "r1" in pane.text, "a first frame")
    pane.process.send_signal(signal.SIGTERM)
    assert pane.process.wait(3) == 0
    until(lambda: pane.screen.rfind("\x1b[?1049l") > pane.screen.rfind("\x1b[?1049h"), "the ordinary screen is back", 5)


def test_p_pauses_and_goes_on(home: Home, panes: list[Pane]) -> None:
    pane = seat(panes, home)
    request = until(lambda: asked(home, "run"), "a request to run")[0]
    pane.type("p")
    until(lambda: states(home, "r1")[-1] == "paused", "paused")
    answer(home, request, False, error="not now")
    until(lambda: "not now" in pane.text, "the answer is read")
    assert states(home, "r1")[-1] == "paused" and len(state_of(home).experiments) == 1
    pane.type("p")
    until(lambda: states(home, "r1")[-1] != "paused", "goes on")


def test_q_leaves_to_a_shell_and_the_agent_returns_when_it_ends(home: Home, panes: list[Pane]) -> None:
    pane = seat(panes, home, PS1="ready$ ")
    until(lambda: asked(home, "run"), "a request to run")
    pane.type("q")
    until(lambda: "ready$" in pane.text, "the shell's prompt")
    assert asked(home, "takeover")[0].actor == "r1" and not asked(home, "release")
    assert states(home, "r1")[-1] == "taken_over"
    pane.type("pwd; echo '# mine' >> toy/model.py; echo author=$GIT_AUTHOR_NAME\n")
    until(lambda: "author=r1" in pane.text.replace("author=$", ""), "the command ran")
    assert str(home.worktrees / "r1") in pane.text
    pane.type("exit\n")
    until(lambda: asked(home, "release"), "the seat is given back")
    until(lambda: states(home, "r1")[-1] == "working", "the agent is back")
    subject = until(
        lambda: [line for line in git(home.root, "log", "--all", "--format=%s").splitlines() if "person" in line],
        "kept",
    )
    assert subject == ["Left by a person"]
    assert "# mine" in git(
        home.root, "show", f"{git(home.root, 'log', '--all', '--format=%H', '--grep=Left by')}:toy/model.py"
    )
    assert pane.process.poll() is None


def test_without_a_terminal_it_works_and_prints_lines(home: Home) -> None:
    seat_ = base.Seat(home, "r1", "researcher", "sweep", 0)
    env = {"PATH": os.environ["PATH"], "HOME": str(home.root), "LANG": "C.UTF-8", **base.seat_env(seat_)}
    process = subprocess.Popen(
        BACKEND.launch(seat_).argv,
        cwd=seat_.worktree,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: asked(home, "run"), "a request to run")
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "r1 working: hands in E0001" in out and "\x1b" not in out


@pytest.mark.parametrize("home", ["chief"], indirect=True)
def test_a_researcher_turns_only_the_knobs_it_was_assigned(home: Home, panes: list[Pane]) -> None:
    pane = seat(panes, home)
    until(
        lambda: states(home, "r1")[-1:] == ["waiting"] or "no assignment yet" in pane.text,
        "it waits for its assignment",
    )
    Mail(home.comms).send("r2", "r1", "areas: [optimizer]\n", kind="assignment")
    assign(home, "r1", "schedule")
    until(lambda: asked(home, "run"), "a request to run")
    (experiment,) = state_of(home).experiments.values()
    assert experiment.family == "schedule", "and only the chief assigns"


def assign(home: Home, agent: str, *areas: str, deadline: float | None = None) -> None:
    ledger = Ledger(home.ledger)
    body = {"agent": agent, "areas": list(areas), "hypothesis": "", "idea": "", "gpu_hours": None, "deadline": deadline, "why": "w"}
    ledger.append_new("assignment", "W", body, "chief")
    ledger.close()


@pytest.mark.parametrize("home", ["chief"], indirect=True)
def test_a_restarted_researcher_knows_its_assignment_and_keeps_out_of_dead_ends_and_spent_areas(home: Home, panes: list[Pane]) -> None:
    assign(home, "r1", "optimizer", "schedule", "architecture")
    ledger = Ledger(home.ledger)
    ledger.append("retired", {"evidence": ["E0001"], "why": "w"}, "architecture", "person")
    ledger.append("budget", {"gpu_hours": 0.0}, "optimizer", "person")
    ledger.close()
    pane = seat(panes, home)
    until(lambda: asked(home, "run"), "a request to run")
    (experiment,) = state_of(home).experiments.values()
    assert experiment.family == "schedule" and "no assignment" not in pane.text


@pytest.mark.parametrize("home", ["chief"], indirect=True)
def test_the_chief_assigns_by_its_lever_one_after_the_other_and_not_twice(home: Home, panes: list[Pane]) -> None:
    seat(panes, home, "chief", "chief-scientist")
    first = until(lambda: asked(home, "assign"), "an assignment")[0]
    assign(home, first.body["agent"], *first.body["areas"])
    answer(home, first, True)
    second = until(lambda: asked(home, "assign"), "the other one's")[0]
    assert {first.body["agent"], second.body["agent"]} == {"r1", "r2"} and first.actor == "chief" and first.body["why"]
    assert sorted(first.body["areas"] + second.body["areas"]) == ["architecture", "optimizer", "schedule"]
    assign(home, second.body["agent"], *second.body["areas"])
    answer(home, second, True)
    name = client.propose(home, "person", "tie the two layers", "fewer weights")
    told = until(lambda: asked(home, "answer"), "an answer to a person's idea")[0]
    assert told.body["experiment"] == name and "optimisers" in told.body["answer"] and not asked(home, "assign")


@pytest.mark.parametrize("home", ["chief"], indirect=True)
def test_an_optimiser_reports_to_a_standup_by_what_the_ledger_says(home: Home, panes: list[Pane]) -> None:
    assign(home, "r1", "schedule")
    ledger = Ledger(home.ledger)
    body = {"what": "opened", "number": 1, "why": "w", "agents": ["r1", "r2"], "deadline": time.time() + 60, "finished": 0}
    ledger.append("standup", body, "S0001")
    ledger.close()
    Mail(home.comms).send("lab", "r1", "Standup 1", kind="standup", about="S0001")
    seat(panes, home)
    path = home.org / "standups" / "1" / "r1.md"
    until(path.is_file, "its report")
    report = parse(path.read_text(), 6000)
    assert report.signed == ["r1"] and "nothing finished" in report.done and "schedule" in report.next


@pytest.mark.parametrize("home", ["chief"], indirect=True)
def test_the_chief_orders_a_confirmation_once_and_does_not_nag(home: Home, panes: list[Pane]) -> None:
    trunk = state_of(home).trunk
    ledger = Ledger(home.ledger)
    proposal = {
        "agent": "r1", "hypothesis": "h", "mechanism": "m", "family": "schedule", "direction": "improves", "min_effect": 0.0,
        "held_constant": "", "params": {"COOLDOWN": 0.5}, "base": trunk,
    }  # fmt: skip
    ledger.append_new("proposal", "E", proposal)
    ledger.append("attempt", {"number": 1, "parent": trunk, "commit": "c" * 40, "diff": "", "changed": []}, "E0001")
    body = {"attempt": 1, "nominated": True, "value": 0.1, "sigmas": 9.0, "bank_mean": 0.2, "bank_sigma": 0.01}
    ledger.append("nomination", body, "E0001")
    ledger.close()
    pane = seat(panes, home, "chief", "chief-scientist")
    request = until(lambda: asked(home, "confirm"), "an order to confirm")[0]
    assert request.body["experiment"] == "E0001" and request.actor == "chief"
    answer(home, request, False, error="the moon is full")
    until(lambda: "the moon is full" in pane.text, "the refusal on the pane")
    until(lambda: states(home, "chief")[-1] == "idle", "it lets the matter rest")
    assert not asked(home, "confirm")


def test_old_trunks_can_be_read_and_lost_knobs_are_left_out(home: Home) -> None:
    repo, task = Repo(home.root), Task.model_validate_json(home.task.read_text())
    trunk = repo.trunk()
    values = values_at(repo, task, trunk)
    assert values["LR"] == 0.02 and len(values) == len(task.knobs)
    model = home.worktrees / "r1" / "toy" / "model.py"
    model.write_text(model.read_text().replace("LR = 0.02", "LR = 0.01 * 2"))
    commit = repo.commit_worktree(home.worktrees / "r1", "r1", "no literal", ["toy/model.py"])
    assert set(values) - set(values_at(repo, task, commit)) == {"LR"}
