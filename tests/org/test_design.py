"""Org designs: what people write, what it resolves to, and what the hash stands for."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.errors import UserError
from lab.home import Home
from lab.names import RESERVED
from org import design, role
from org.agents import base
from org.process import Restart

MINIMAL = "name: x\nabout: y\nagents:\n  - role: researcher\n"
BOMB = "    settings:\n      a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"      {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefgh")
)
"""Nine to the power of eight values."""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_every_shipped_design_resolves_on_any_number_of_slots() -> None:
    assert design.shipped() == ["autoresearch", "chief", "pairs", "skeptic", "solo"]
    for name in design.shipped():
        for slots in (1, 2, 4, 16):
            if slots == 1 and name in ("pairs", "skeptic"):
                with pytest.raises(UserError, match=r"2 agents want a slot|`partner`, but only 1 agent has a slot"):
                    design.load(name, slots)
                continue
            resolved = design.load(name, slots)
            assert resolved.name == name
            seats = 1 if name == "autoresearch" else slots
            assert sorted(one.slot for one in resolved.agents if one.slot is not None) == list(range(seats))
            assert all(one.backend in base.SHIPPED for one in resolved.agents)


def test_a_chief_assigns_those_who_have_ideas_of_their_own() -> None:
    assert design.load("skeptic", 3).researchers == ["r1", "r2"], "a skeptic answers to what is found"
    assert design.load("chief", 2).researchers == ["r1", "r2"] and design.load("solo", 2).researchers == ["r1", "r2"]


def test_the_default_design_is_a_chief_and_a_researcher_for_each_slot() -> None:
    resolved = design.load("chief", 3)
    assert resolved.names == ["chief", "r1", "r2", "r3"]
    assert resolved.chief == "chief" and resolved.agents[0].slot is None
    assert resolved.promotion == resolved.confirmation == "chief"
    assert resolved.process.queue_ahead == 2 and resolved.process.bank == 8
    assert resolved.process.confirm_stages == [2, 4, 8, 14]


def test_solo_has_nobody_to_wait_for() -> None:
    resolved = design.load("solo", 2)
    assert resolved.names == ["r1", "r2"] and resolved.chief is None
    assert resolved.promotion == resolved.confirmation == "auto" and not resolved.process.messages


def test_a_skeptic_has_a_slot_and_the_last_word_and_partners_need_two_slots() -> None:
    resolved = design.load("skeptic", 3)
    assert [(one.name, one.slot) for one in resolved.agents] == [("chief", None), ("skeptic", 0), ("r1", 1), ("r2", 2)]
    assert (resolved.promotion, resolved.confirmation) == ("skeptic", "chief")
    resolved = design.load("pairs", 2)
    assert (resolved.names, resolved.promotion, resolved.confirmation) == (["r1", "r2"], "partner", "auto")


def test_the_backend_option_replaces_every_backend_but_a_humans_shell(tmp_path: Path) -> None:
    mixed = written(tmp_path, MINIMAL + "    backend: shell\n  - role: human\n    backend: shell\n    slot: false\n")
    assert [one.backend for one in design.load(mixed, 2).agents] == ["shell", "shell"]
    resolved = design.load(mixed, 2, backend="sweep")
    assert {one.name: one.backend for one in resolved.agents} == {"r1": "sweep", "human": "shell"}


def test_a_design_made_for_a_later_backend_runs_when_another_is_chosen(tmp_path: Path) -> None:
    later = written(tmp_path, MINIMAL + "    backend: nobody\n")
    assert design.load(later, 1, backend="sweep").agents[0].backend == "sweep"


def test_auto_takes_the_first_that_can_start_with_the_agents_settings_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in os.environ if one.startswith(("ANTHROPIC_", "OPENAI_", "CLAUDE", "CODEX"))]:
        monkeypatch.delenv(name)
    program = tmp_path / "codex"
    program.write_text("#!/bin/sh\necho 99.0.0\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-dummy")
    agents = "  - {role: researcher, backend: auto}\n  - {role: researcher, backend: auto, settings: {provider: openai-responses}}\n"
    file = written(tmp_path, "name: x\nabout: y\nagents:\n  - {role: chief-scientist, slot: false, backend: auto}\n" + agents)
    said: list[str] = []
    assert [one.backend for one in design.load(file, 2, say=said.append).agents] == ["codex", "codex", "chat"]
    first, second = said
    assert first.startswith("backend auto for chief, r1: codex, the best that can start here; it may spend money (claude: claude is not")
    assert second.startswith("backend auto for r2: chat, ") and "codex: settings of backend codex: provider: there is no such" in second
    monkeypatch.delenv("OPENAI_API_KEY")
    said.clear()
    assert {one.backend for one in design.load(file, 2, say=said.append).agents} == {"sweep"}
    assert all("sweep, the best that can start here; spends nobody's money" in line for line in said)


def test_agents_that_are_counted_leave_the_other_slots_to_the_open_group(tmp_path: Path) -> None:
    text = MINIMAL + "    count: slots\n  - role: researcher\n    names: [ada, grace]\n    count: 2\n"
    resolved = design.load(written(tmp_path, text), 5)
    assert resolved.names == ["r1", "r2", "r3", "ada", "grace"]
    assert [one.slot for one in resolved.agents] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1, column 8: malformed YAML"),
        ("name: x\nabout: y\n", "line 1: agents: is missing"),
        ("- a\n", "must be a mapping"),
        ("", "must be a mapping"),
        (MINIMAL + "    colour: red\n", "line 5: agents.0.colour: no such field"),
        (MINIMAL + "    count: many\n", "line 5: agents.0.count: must be a number from 1 to 64, or `slots`"),
        (MINIMAL + "    count: true\n", "line 5: agents.0.count: must be a number"),
        (MINIMAL + "    count: 9\n", "9 agents want a slot of their own and there are 4"),
        (MINIMAL + "    count: slots\n    slot: false\n", "line 4: agents.0: `count: slots` needs `slot: true`"),
        (MINIMAL + "    count: slots\n  - {role: researcher, count: slots}\n", "only one entry may say `count: slots`"),
        (MINIMAL + "    backend: nobody\n", "line 5: agents.0.backend: unknown backend 'nobody': choose one of claude"),
        (MINIMAL + "    backend: magic\n", "choose one of claude, codex"),
        (MINIMAL + "  - role: human\n", "line 5: agents.1.backend: a human sits at a shell"),
        (MINIMAL + "promotion: chief\n", "line 5: promotion: `chief`, but no agent is a chief-scientist"),
        (MINIMAL + "promotion: skeptic\n", "line 5: promotion: `skeptic`, but no agent is a skeptic: add one"),
        (MINIMAL + "promotion: partner\n", "line 5: promotion: `partner`, but only 1 agent has a slot"),
        (MINIMAL + "promotion: anybody\n", "line 5: promotion: Input should be 'auto', 'chief', 'skeptic' or 'partner'"),
        (MINIMAL + "confirmation: skeptic\n", "line 5: confirmation: Input should be 'auto' or 'chief'"),
        (MINIMAL + "    slot: false\n", "line 4: agents.0: a sweep turns knobs and needs a slot for that"),
        (MINIMAL + "process: {messages: perhaps}\n", "line 5: process.messages: "),
        (MINIMAL.replace("researcher", "reseacher"), "line 4: agents.0.role: unknown role 'reseacher': choose one of"),
        (MINIMAL + "  - {role: chief-scientist, slot: false, count: 2}\n", "two chiefs"),
        (MINIMAL + "    names: [Bob]\n", "line 5: agents.0.names: bad name 'Bob'"),
        (MINIMAL + "    names: [../x]\n", "bad name '../x'"),
        *((MINIMAL + f"    names: [{name}]\n", f"'{name}' is a reserved name") for name in RESERVED),
        (MINIMAL + "    names: [a, b]\n", "2 names for 1 agents"),
        (MINIMAL + "    count: 2\n    names: [a, a]\n", "two agents are called 'a'"),
        (MINIMAL + "process: {confirm_stages: [3, 3]}\n", "line 5: process.confirm_stages: must be numbers of runs that rise"),
        (MINIMAL + "process: {confirm_stages: [1, 6]}\n", "from 2 to 64 at most"),
        (MINIMAL + "process: {confirm_stages: []}\n", "line 5: process.confirm_stages: "),
        (MINIMAL + "process:\n  bank: 1\n", "line 6: process.bank: Input should be greater than or equal to 2"),
        (MINIMAL + "    settings: {since: 2020-01-01}\n", "line 5: agents.0.settings.since"),
        ("[" * 5_000, "nested deeper than"),
        (MINIMAL + f"    settings: {{x: {'[' * 60}{']' * 60}}}\n", "nested deeper than"),
        (MINIMAL + "    settings: {a: &a {b: 1}, c: {<<: *a}}\n", "line 5, column 34: malformed YAML: merge keys (<<) are not read"),
        (MINIMAL + BOMB, "more than 20000 values with what its aliases repeat"),
    ],
)
def test_a_wrong_design_is_refused_in_one_line_that_names_file_line_and_field(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        design.load(path, 4)
    assert str(caught.value).startswith(path) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_design_is_answered_with_the_ones_there_are() -> None:
    with pytest.raises(UserError, match="unknown design 'cheif': not one of autoresearch, chief, pairs, skeptic, solo"):
        design.load("cheif", 2)


def test_an_unknown_backend_option_is_answered_with_the_ones_there_are() -> None:
    with pytest.raises(UserError, match="--backend: unknown backend 'nobody': choose one of "):
        design.load("chief", 2, backend="nobody")


def test_the_hash_changes_with_every_role_skill_and_rule_and_with_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "roles"
    (folder / "skills").mkdir(parents=True)
    (folder / "researcher.md").write_text("---\nskills: [how]\n---\nResearch.\n")
    (folder / "skills" / "how.md").write_text("Like this.\n")
    path = written(tmp_path, MINIMAL)

    def hashed(slots: int = 1) -> str:
        return design.load(path, slots, roles=role.find(folder)).hash()

    first = hashed()
    assert hashed() == first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert design.load(written(elsewhere, MINIMAL), 1, roles=role.find(folder)).hash() == first
    (folder / "unused.md").write_text("Nobody has this role.\n")
    assert hashed() == first
    seen = {first}
    (folder / "skills" / "how.md").write_text("Like that.\n")
    seen.add(hashed())
    (folder / "researcher.md").write_text("---\nskills: [how]\n---\nResearch well.\n")
    seen.add(hashed())
    Path(path).write_text(MINIMAL + "process: {bank: 5}\n")
    seen.add(hashed())
    Path(path).write_text(MINIMAL + "    count: slots\n")
    seen.update({hashed(1), hashed(2)} - {first})
    assert len(seen) == 5  # `count: slots` on one slot is the roles and rules of the third


def test_the_example_in_the_documentation_is_a_design(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "designs.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert design.load(written(tmp_path, example), 2).names == ["chief", "r1", "r2"]
    for name in design.shipped():
        assert f"| `{name}` |" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "says nothing"), ("---\ntitle: R\n---\n \n", "says nothing"), ("word " * 30_000, "more than 100,000 bytes"),
     (f"---\nskills: {'[' * 3_000}\n---\nx", "malformed YAML in the front matter"), ("---\nx: \x07\n---\nx", "malformed YAML")],
    ids=["empty", "nothing but a title", "a novel", "deep", "no text"],
)  # fmt: skip
def test_a_role_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "researcher.md").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        role.load("researcher", tmp_path / "researcher.md")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_where_a_role_was_holds_nobody_up(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "researcher.md")
    with pytest.raises(UserError, match=r"role researcher: .*researcher\.md cannot be read"):
        role.load("researcher", tmp_path / "researcher.md")


def test_a_missing_skill_is_named(tmp_path: Path) -> None:
    (tmp_path / "researcher.md").write_text("---\nskills: [nowhere]\n---\nResearch.\n")
    with pytest.raises(UserError, match=r"skill nowhere \(listed by .*researcher.md\)"):
        design.load(written(tmp_path, MINIMAL), 1, roles=role.find(tmp_path))


@settings(max_examples=40, deadline=None)
@given(
    name=st.text(min_size=1, max_size=40),
    created=st.floats(min_value=0, max_value=4e9),
    about=st.text(max_size=200),
    knobs=st.dictionaries(st.text(max_size=9), st.integers() | st.text() | st.booleans()),
)
@example(name="s", created=0.0, about="\x85", knobs={})
@pytest.mark.slow
def test_the_session_file_gives_back_exactly_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, created: float, about: str, knobs: dict[str, str | int]
) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    home.make()
    plain = design.load("chief", 2)
    agents = [one.model_copy(update={"settings": knobs}) for one in plain.agents]
    resolved = plain.model_copy(update={"about": about, "agents": agents})
    begun = design.Session.begin(resolved, name, "nanochat", "cpu", 2).model_copy(update={"created": created})
    design.write(home, begun)
    back = design.read(home)
    assert back == begun and back.design.hash() == resolved.hash() == back.hash


def test_a_design_edited_in_the_session_file_is_noticed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    design.write(home, design.Session.begin(design.load("chief", 2), "s", "nanochat", "cpu", 2))
    assert design.read(home).design.promotion == "chief"
    home.settings.write_text(home.settings.read_text().replace("promotion: chief", "promotion: auto"))
    with pytest.raises(UserError, match="the design was changed after `up`"):
        design.read(home)


def test_seats_carry_the_session_and_the_slot(tmp_path: Path) -> None:
    home = Home(tmp_path)
    seats = design.load("chief", 2).seats(home)
    assert [(seat.agent, seat.role, seat.slot) for seat in seats] == [
        ("chief", "chief-scientist", None), ("r1", "researcher", 0), ("r2", "researcher", 1),
    ]
    assert seats[1].worktree == tmp_path / ".org" / "worktrees" / "r1"


def test_restarts_back_off_and_end() -> None:
    rule = Restart(first_seconds=1, longest_seconds=5, attempts=4)
    assert [rule.wait(count) for count in range(6)] == [1, 2, 4, 5, None, None]
