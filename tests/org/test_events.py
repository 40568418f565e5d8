"""Facts as news: one harmless line of plain English each, whatever an agent wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.home import Home
from lab.ledger import Fact
from lab.state import State, fold
from lab.text import clean, deviations, figure
from org.events import describe
from tests.org.sample import tell


def fact(kind: str, body: dict[str, Any], subject: str = "", actor: str = "lab") -> Fact:
    return Fact(1, 0.0, kind, subject, actor, body, "")


def test_a_session_reads_as_a_story(tmp_path: Path) -> None:
    facts = tell(Home(tmp_path)).ledger.facts()
    state = fold(facts)
    lines = [line for one in facts if (line := describe(one, state))]
    for words in (
        "session demo begins: task nanochat, scale cpu, design chief (01234567), 2 slots on cpu",
        "trunk begins at aaaaaaa: the task as shipped",
        "R0001 bank seed 1001: started on slot 0",
        "R0001 bank seed 1001: 2.4500 on audit",
        "r1 started (researcher, sweep)",
        "E0001 r1 proposes MATRIX_LR=0.031: larger steps settle faster",
        "E0001 submitted as bbbbbbb (nanochat/optim.py)",
        "R0005 E0001 r1 nominate seed 1005: 2.4300 on search (bank 2.4600 ± 0.0016, n 4)",
        "E0001 nominated: 2.4300 on search, 12.2 sigma better (bank 2.4600 ± 0.0016); one run only nominates",
        "E0001 goes to confirmation on fresh seeds (ordered by chief)",
        "R0006 E0001 r1 confirm seed 1006: 2.4310 on audit (bank 2.4500 ± 0.0016, n 4)",
        "E0001 improved: -0.0190 [-0.0220, -0.0160] against its parent's bank (3 runs against 4)",
        "E0001 promoted: trunk is now bbbbbbb",
        "R0014 E0003 r1 nominate seed 1014 crashed: RuntimeError: loss is NaN",
        "E0003 crashed: R0007 ended: crashed",
        "r2 restarted (it had exited with status 1)",
    ):
        assert words in lines, words
    assert not any("None" in line for line in lines)
    assert sum("promoted" in line for line in lines) == 1, "a promotion is told once"


TOUCHED = {"what": "touched", "paths": ["toy/model.py"], "at_work": ["r2"]}
STARVED = {"what": "restarted", "signal": "SIGKILL", "memory": True}
GAVE_UP = {"what": "gave_up", "restarts": 5, "exit": 3}
REBASED = {"number": 2, "parent": "p" * 40, "commit": "c" * 40}
SINGLE = {"verdict": "neutral", "effect": -0.001, "low": None, "high": None, "n": 1, "m": 4}


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (fact("agent", TOUCHED, "r1"), "r1 did nothing and its worktree was changed (toy/model.py): by a person, another agent or what it "
         "left running; at work then: r2"),
        (fact("agent", STARVED, "r1"), "r1 restarted (it was killed by SIGKILL when memory ran out)"),
        (fact("agent", GAVE_UP, "r1"), "r1 given up after 5 restarts, it had exited with status 3: `orgctl logs r1 --screen`"),
        (
            fact("agent", {**GAVE_UP, "screen": "starts\nerror: no such flag\nUsage: codex"}, "r1"),
            "r1 given up after 5 restarts, it had exited with status 3, saying: error: no such flag: `orgctl logs r1 --screen`",
        ),
        (fact("agent", {"what": "restarted", "signal": "SIGKILL"}, "r1"), "r1 restarted (it was killed by SIGKILL)"),
        (fact("agent", {"what": "restarted", "why": "by request"}, "r1"), "r1 restarted (by request)"),
        (fact("agent", {"what": "stopped"}, "r1"), "r1 stopped"),
        (fact("intervention", {"what": "taken_over"}, "r1", "person"), "r1 taken over by person"),
        (fact("intervention", {"what": "released"}, "r1", "person"), "r1 released by person"),
        (fact("alarm", {"text": "org/trunk was moved"}, "org/trunk"), "ALARM org/trunk: org/trunk was moved"),
        (fact("withdrawn", {"why": ""}, "E0001", "r1"), "E0001 withdrawn by r1: no reason given"),
        (fact("session", {"stopped": 1.0, "kept_runs": False}), "the organisation stopped"),
        (fact("session", {"hashes": {"corpus": "x"}}), "the task's data is ready"),
        (fact("attempt", REBASED, "E0001"), "carried to trunk ppppppp as ccccccc"),
        (fact("amendment", {"min_effect": 0.1, "again": None}, "E0001", "r1"),
         "E0001 amended by r1 before its first run: min effect: 0.1"),
        (fact("review", {"finding": "leak", "text": "it knows\nits targets"}, "E0001", "r2"), "E0001 reviewed by r2 (leak): it knows its"),
        (fact("review", {"finding": "", "text": "fine"}, "E0001", "r2"), "E0001 reviewed by r2: fine"),
        (fact("verdict", SINGLE, "E1"), "E1 neutral: -0.0010 against"),
    ],
)
def test_other_facts_in_a_line(one: Fact, words: str) -> None:
    assert words in (describe(one, State()) or "")


def test_what_people_need_not_hear_is_left_out() -> None:
    for one in (fact("run", {}), fact("promotion", {"to": "x"}), fact("of the future", {}), fact("start", {}, "R9999")):
        assert describe(one, State()) is None


KINDS = [
    "session",
    "trunk",
    "proposal",
    "attempt",
    "result",
    "nomination",
    "confirm",
    "verdict",
    "withdrawn",
    "amendment",
    "review",
    "agent",
    "intervention",
    "alarm",
]
KEYS = [
    "what",
    "text",
    "verdict",
    "effect",
    "low",
    "high",
    "reasoning",
    "commit",
    "number",
    "status",
    "metric",
    "why",
    "task",
]
PLAIN = st.none() | st.booleans() | st.floats() | st.text(max_size=20)
JUNK = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(st.text(max_size=5), PLAIN, max_size=2)


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.text(), st.dictionaries(st.sampled_from(KEYS), JUNK))
def test_no_fact_however_odd_breaks_or_escapes_its_line(kind: str, subject: str, body: dict[str, Any]) -> None:
    line = describe(fact(kind, body, subject), State())
    assert line is None or (line.isprintable() and len(line) <= 400)


@given(st.text())
def test_cleaned_text_is_one_printable_line(text: str) -> None:
    found = clean(text, 50)
    assert found.isprintable() and len(found) <= 50 and found == clean(found, 50)


def test_terminal_escapes_leave_no_trace() -> None:
    assert clean("a\x1b[31;1mb\x1b]0;title\x07c\x1bPx\x1b\\d\x9b2Je") == "abcd 2Je"
    assert clean("\u202egnp.exe\u2066 x\u200b") == "gnp.exe x"
    assert clean("word " * 100, 20) == "word word word word…"


def test_figures_are_short_and_never_nan() -> None:
    assert [figure(value) for value in (2.43106, 12345.678, float("nan"), None, True, "x")] == [
        "2.4311", "12346", "?", "?", "?", "?",
    ]  # fmt: skip
    assert figure(0.5, signed=True) == "+0.5000"
    assert [figure(value) for value in (0.0, 0.0016, 0.000144, 0.0009999, -0.0000074, 3e-9)] == [
        "0.0000", "0.0016", "0.00014", "0.00100", "-0.0000074", "3.0e-09",
    ], "a spread of less than a thousandth still has two digits"  # fmt: skip


def test_a_run_that_diverged_fits_into_a_line() -> None:
    """Its sigmas are as many as its loss is large: a table's row must hold them."""
    assert [deviations(value, signed=True) for value in (2.34, -18.0, 999.0, 5.44e290)] == ["+2.3", "-18.0", "+999.0", "+5.44e+290"]
    assert len(figure(5.247e253)) <= 10
