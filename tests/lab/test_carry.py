"""Promoted ideas at the next scale: what is run there, what is refused, and how much of an effect arrives."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from lab import carry, commands, requests
from lab.errors import UserError
from lab.orders import Orders
from lab.report import write_report
from lab.runspec import read_manifest
from lab.slots import Slot
from lab.steps import Write
from lab.verdict import welch
from org.events import describe
from org.news import letters
from tasks.spec import Task
from tests.conftest import ORGCTL, Org, until
from tests.lab.conftest import Bench
from tests.lab.story import TASK, Story
from tests.lab.test_audit import commanded, stack
from tests.lab.test_promotion import Site


def scaled(task: Task, **changes: Any) -> Task:
    return Task.model_validate({**task.model_dump(), "scale": {**task.scale.model_dump(), "name": "next", **changes}})


def order(story: Story, names: list[str]) -> str:
    body = {"scale": "next", "seeds": 4, "by": "chief", "ideas": names}
    return story.ledger.append_new("carry_order", "C", body).subject


def runs(story: Story, commit: str, mean: float, name: str = "", status: str = "ok") -> None:
    for index in range(4):
        story.run("carry", commit, name, attempt=0, status=status, factor=10.0, audit=mean + 0.001 * (index - 1.5))


def test_each_idea_and_the_first_trunk_get_fresh_seeds_at_the_next_scale_and_the_first_trunk_once(story: Story) -> None:
    one, two = stack(story, -0.02, -0.04)
    order(story, [one])
    wanted = [("carry", "t0", "")] * 4 + [("carry", "c1", one)] * 4
    assert [(step.purpose, step.commit, step.experiment) for step in story.next()] == wanted
    runs(story, "t0", 1.2)
    runs(story, "c1", 1.195, one)
    (step,) = story.next()
    assert isinstance(step, Write) and (step.kind, step.subject) == ("carry", one)
    story.tell(step)
    assert story.next() == [], "runs at another scale are no other environment: the bank stands"
    order(story, [two])
    assert [(step.purpose, step.commit) for step in story.next()] == [("carry", "c2")] * 4, "the first trunk's runs are there"


def test_the_ratio_compares_effects_relative_to_their_baselines(story: Story) -> None:
    (one,) = stack(story, -0.02)
    order(story, [one])
    runs(story, "t0", 1.2)
    runs(story, "c1", 1.195, one)
    body = story.next()[0].body
    here, there = -0.02 / 2.45025, -0.005 / 1.2
    assert body["effect"] == pytest.approx(-0.005) and body["here"][0] == pytest.approx(-0.02) and (body["n"], body["m"]) == (4, 4)
    assert body["ratio"][0] == pytest.approx(there / here) and body["ratio"][1] < body["ratio"][0] < body["ratio"][2]
    story.tell(story.next()[0])
    assert f"transfer ratio {there / here:.2f} (95 % interval " in carry.said(story.state, story.state.carries["C0001"], "nats")[1]


def test_without_a_clear_effect_here_no_interval_bounds_the_ratio() -> None:
    sample = [1.0, 1.01, 0.99, 1.0]
    ratio, low, high = carry.transfer(([0.9, 0.91, 0.89], sample), ([1.001, 1.011, 0.991], sample))
    assert ratio is not None and low is None and high is None
    assert carry.transfer((sample, sample), (sample, sample)) == [None, None, None]


def test_the_interval_of_the_ratio_covers_what_it_should() -> None:
    source, hits, bounded = random.Random(5), 0, 0
    for _ in range(2000):
        there, here = (
            [[source.gauss(mean, sigma) for _ in range(8)] for mean in (base * (1 + effect), base)]
            for base, effect, sigma in ((1.2, -0.01, 0.006), (2.4, -0.02, 0.012))
        )
        _, low, high = carry.transfer(there, here)
        if low is not None and high is not None:
            bounded += 1
            hits += low <= 0.5 <= high
    assert bounded > 1900 and 0.93 < hits / bounded < 0.97


def test_what_fails_at_the_next_scale_is_said_and_ends_it(story: Story) -> None:
    (one,) = stack(story, -0.02)
    order(story, [one])
    runs(story, "t0", 1.2)
    for _ in range(3):
        story.run("carry", "c1", one, attempt=0, status="crashed", factor=10.0)
    (step,) = story.next()
    assert step.body["effect"] is None and "ended crashed: why" in step.body["why"]
    story.tell(step)
    assert story.next() == [] and "not measured at scale next" in carry.said(story.state, story.state.carries["C0001"], "nats")[1]


def test_a_scale_that_these_slots_cannot_run_is_refused_in_a_line() -> None:
    assert "has no next one" in str(carry.refusal(TASK, None))
    assert "runs on 1 GPU and the slots of this session do not" in str(carry.refusal(TASK, scaled(TASK, device="cuda")))
    assert "they have no ratio" in str(carry.refusal(TASK, scaled(TASK, target={"value": 2.0, "cost": "tokens"})))
    assert carry.refusal(TASK, scaled(TASK)) is None


@pytest.mark.slow
def test_a_promoted_idea_is_run_at_the_next_scale_by_the_laboratory_at_work(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    following = scaled(one.task, budget={"kind": "tokens", "amount": 3 * one.task.scale.budget.amount})
    site = Site(one, bank=3)
    home = commanded(site, monkeypatch)
    for value, purpose in ((2.45, "bank"), (2.40, "nominate")):
        if purpose == "nominate":
            site.promote(site.idea("MOMENTUM = ", "MOMENTUM = 0.8 + "), value)
        else:
            site.lab.step()
            site.end(value, purpose)
    with pytest.raises(UserError, match="has no next one"):
        site.ask("carry")
    alone = CliRunner().invoke(commands.app, ["exp", "carry"])
    assert isinstance(alone.exception, UserError) and "has no next one" in str(alone.exception)
    home.next_task.write_text(following.model_dump_json())
    site.open([Slot(0, "cpu", None, "")], 3)
    with pytest.raises(UserError, match="are not prepared"):
        site.ask("carry")
    with pytest.raises(UserError, match="'E0009' is no promoted idea"):
        site.ask("carry", experiments=["E0009"])
    asked = subprocess.Popen([*ORGCTL, "exp", "carry", "--json"], cwd=home.root, stdout=subprocess.PIPE, text=True)

    def answered() -> bool:
        for request in requests.waiting(home):
            requests.answer(home, request, True, **Orders(site.lab).take(request))
        return asked.poll() is not None

    until(answered, "the command's answer")
    assert asked.stdout is not None and json.loads(asked.stdout.read())["ideas"] == ["E0001"]

    manifest = home.next_data / "manifest.json"
    honest = manifest.read_bytes()
    manifest.write_bytes(honest + b"\n")
    site.lab.step()
    site.lab.write("replication_order", "E0001", {"attempt": 1, "seeds": 2, "by": "person"}, "person")
    site.lab.step()
    with pytest.raises(UserError, match=r"next-data/manifest.json is not what was pinned .*exp carry` prepares it again"):
        until(lambda: [site.lab.step(), site.lab.runs.start(0.0)][1], "nothing but what is carried is held up", 30)
    assert {run.purpose for run in site.lab.state.open.values()} == {"carry"}
    again = Orders(site.lab).take(requests.Request("2", "carry", "person", {"seeds": 3}))
    assert (again["carry"], again["ideas"]) == ("C0002", ["E0001"]), "data that were made anew may be pinned"
    manifest.write_bytes(honest)
    Orders(site.lab).take(requests.Request("3", "carry", "person", {"seeds": 3}))

    def done() -> bool:
        site.lab.step()
        site.lab.runs.start(0.0)
        return bool(site.lab.state.carries["C0001"].results)

    until(done, "the runs at the next scale", 120)
    state = site.lab.state
    mine = [run for run in state.runs.values() if run.purpose == "carry"]
    assert {run.status for run in mine} == {"ok"} and {run.account["tokens"] for run in mine} == {following.scale.budget.amount}
    spec = json.loads((home.runs / mine[0].id / "spec.json").read_text())
    assert (spec["data"], spec["task"]["scale"]["name"]) == (str(home.next_data), "next")
    assert spec["manifest"] == read_manifest(home.next_data)[1] != ""
    body = state.carries["C0001"].results["E0001"]
    values = [[run.metric["audit"] for run in mine if run.commit == commit] for commit in (state.trunk, site.first)]
    assert body["effect"] == pytest.approx(welch(*values).effect) and body["ratio"] is not None and (body["n"], body["m"]) == (3, 3)
    with pytest.raises(UserError, match=r"E0001 at scale next on 3 seeds: asked for already, `orgctl exp carry --show`"):
        site.ask("carry")
    shown = CliRunner().invoke(commands.app, ["exp", "carry", "--show"]).output
    assert "C0001: to scale next on 3 seeds, ordered by person" in shown and "transfer ratio" in shown
    _, table, page = write_report(home, state, one.task, home.root / "out")
    assert "## At the next scale" in page.read_text() and "\tnext\t" in table.read_text()
    fact = site.lab.ledger.facts("carry")[0]
    assert str(describe(fact, state)).startswith("E0001 at scale next: ") and letters(fact, state, ["r1"], one.task)[0][1] == "carry"


@pytest.mark.slow
def test_the_commands_reach_the_controller_and_say_what_there_is_nothing_of(org: Org) -> None:
    org.up("--slots", "1", "--design", "solo", "--backend", "shell")
    assert "trunk holds no promoted idea: there is nothing to carry" in org("exp", "carry", code=2)
    assert Task.model_validate_json(org.home.next_task.read_text()).scale.name == "big"
    assert "trunk holds no promoted idea: there is nothing to leave out" in org("exp", "audit", code=2)
    assert json.loads(org("exp", "carry", "--show", "--json")) == json.loads(org("exp", "audit", "--show", "--json")) == []
