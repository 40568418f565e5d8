"""What agents cost, and budgets that stop politely, then firmly."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from lab.files import write_json
from lab.home import Home
from lab.ledger import Ledger
from org import cost
from org.agents import prices
from org.agents.base import Cost, Seat
from org.agents.prices import Usage
from org.cost import GRACE, Budget, limit, total
from org.printed import render
from org.status import snapshot


def test_costs_are_kept_and_an_unknown_price_stays_unknown(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert cost.read(home, "r1") is None
    cost.write(home, "r1", Cost("m", 100, 50, 10, 40, None))
    cost.write(home, "r2", Cost("m", 1000, 0, 0, 0, 0.25))
    found = {name: cost.read(home, name) for name in ("r1", "r2", "r3")}
    assert found["r1"] and found["r1"]["tokens"] == 200 and found["r1"]["dollars"] is None
    both = total(found)
    assert both is not None and (both.tokens, both.dollars, both.unknown) == (1200, 0.25, ["r1"])
    assert str(both) == "1,200 tokens, >= $0.25, with the unknown price of r1"
    assert total({"r3": None}) is None


def test_what_an_agent_wrote_into_the_file_is_not_believed_blindly(tmp_path: Path) -> None:
    path = Home(tmp_path).agents / "r1" / "cost.json"
    path.parent.mkdir(parents=True)
    for text in ("[]", "{", '{"tokens": "many"}', '{"dollars": 3}', '{"tokens": -5}', '{"tokens": true}',
                 f'{{"tokens": {10**400}}}'):  # fmt: skip
        path.write_text(text)
        assert cost.read(Home(tmp_path), "r1") is None
    for dollars in ("-5", "true", '"free"', "NaN", "1" + "0" * 400):
        path.write_text(f'{{"tokens": 5, "dollars": {dollars}}}')
        assert (cost.read(Home(tmp_path), "r1") or {})["dollars"] is None


def test_an_agent_with_another_backend_keeps_what_it_has_used(tmp_path: Path) -> None:
    seat = Seat(Home(tmp_path), "r1", "researcher", "shell", None)
    write_json(seat.folder / "chat" / "cost.json", asdict(Cost("m", 100, 50, 10, 40, 0.5)))
    assert cost.of(seat) == Cost("m", 100, 50, 10, 40, 0.5)
    for tokens in (-1000, "many", 10**400, None):
        write_json(seat.folder / "chat" / "cost.json", {**asdict(Cost("m", 100, 50, 10, 40, 0.5)), "input_tokens": tokens})
        with pytest.raises(ValueError):
            cost.of(seat)


def test_a_budget_counts_the_larger_part_of_dollars_and_tokens() -> None:
    used = [{"tokens": 500, "dollars": 1.0}, {"tokens": 500, "dollars": None}, None]
    assert Budget(dollars=4.0).spent(used) == 0.25
    assert Budget(dollars=4.0, tokens=1000).spent(used) == 1.0
    assert Budget().spent(used) == 0.0
    assert Budget.of({"budget_dollars": 2, "budget_tokens": "lots"}) == Budget(2.0, None)
    assert str(Budget(2.0, 1000)) == "$2 or 1,000 tokens"


def test_what_has_a_price_is_held_to_a_budget_though_the_rest_has_none(tmp_path: Path) -> None:
    home, known = Home(tmp_path), Usage("claude-opus-5", input=100_000_000, output=10_000_000)
    used = prices.total([known, Usage("scripted", input=1)])
    assert used is not None and used.dollars is None and used.least == pytest.approx(750)
    both = prices.added(used, prices.total([known]))
    assert both is not None and both.dollars is None and both.least == pytest.approx(1500)
    cost.write(home, "r1", used)
    found = cost.read(home, "r1")
    assert found is not None and Budget(dollars=500.0).spent([found]) == pytest.approx(1.5)
    assert cost.said(found) == "110,000,001 tokens, >= $750.00"
    assert str(total({"r1": found})) == "110,000,001 tokens, >= $750.00, with the unknown price of r1"
    assert Budget(dollars=500.0).spent([cost.kept(Cost("m", 1, 0, 0, 0, None))]) == 0.0


def test_sums_that_are_none_are_not_taken_from_an_agents_records(tmp_path: Path) -> None:
    seat = Seat(Home(tmp_path), "r1", "researcher", "chat", None)
    for wrong in ({"dollars": -1000.0}, {"dollars": float("nan")}, {"dollars": "none"}, {"dollars": None, "part": -1000.0}):
        write_json(seat.folder / "chat" / "cost.json", {**asdict(Cost("m", 100, 50, 10, 40, 0.5)), **wrong})
        with pytest.raises(ValueError, match="no sum of dollars"):
            cost.of(seat)


def test_a_spent_budget_is_told_first_and_ended_later_or_when_it_is_well_overdrawn() -> None:
    assert limit(0.99, None, 0.0) == ""
    assert limit(1.0, None, 0.0) == "tell"
    assert limit(1.05, 10.0, 11.0) == ""
    assert limit(1.05, 10.0, 11.0 + GRACE) == "end"
    assert limit(1.2, 10.0, 11.0) == "end"


def test_the_status_shows_what_each_agent_and_all_of_them_cost(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    Ledger(home.ledger, create=True).close()
    for name in ("r1", "r2"):
        (home.agents / name).mkdir()
    out = io.StringIO()
    render(snapshot(home, None), Console(file=out, width=160))
    assert "cost" not in out.getvalue()
    cost.write(home, "r1", Cost("m", 12_000, 0, 0, 300, 0.25))
    render(snapshot(home, None), Console(file=out, width=160))
    assert "12,300 tokens, $0.25" in out.getvalue() and "cost      12,300 tokens, $0.25" in out.getvalue()
