"""Tokens times list prices: what a request cost, and what nobody can know."""

from __future__ import annotations

import pytest

from org.agents.prices import Usage, at_home, dollars, price_of, table, total


def test_every_price_in_the_table_is_plausible() -> None:
    for name, price in table().items():
        assert 0 < price.cached < price.input < price.output, name
        assert price.written is None or price.input < price.written < price.output, name
        assert price.written_1h is None or (price.written is not None and price.written < price.written_1h), name


def test_a_request_costs_each_kind_of_token_at_its_own_price() -> None:
    usage = Usage("claude-opus-5", input=1000, cached=100_000, written=2000, written_1h=3000, output=4000)
    expected = (1000 * 5 + 100_000 * 0.5 + 2000 * 6.25 + 3000 * 10 + 4000 * 25) / 1e6
    assert dollars(usage) == pytest.approx(expected)


def test_a_cache_that_costs_nothing_to_write_is_input() -> None:
    assert dollars(Usage("gpt-5.2", input=10, written=10)) == pytest.approx(20 * 1.75 / 1e6)


def test_all_of_a_long_request_costs_more_and_the_limit_itself_does_not() -> None:
    short, long = Usage("gpt-6-sol", input=272_000, output=1000), Usage("gpt-6-sol", input=272_001, output=1000)
    assert dollars(short) == pytest.approx((272_000 * 2 + 1000 * 10) / 1e6)
    assert dollars(long) == pytest.approx((272_001 * 4 + 1000 * 15) / 1e6)


@pytest.mark.parametrize("name", ["claude-haiku-4-5-20251001", "claude-haiku-4-5[1m]", "claude-haiku-4-5-20251001[1m]"])
def test_a_dated_version_has_the_price_of_its_model(name: str) -> None:
    assert price_of(name) == price_of("claude-haiku-4-5") is not None


@pytest.mark.parametrize("name", ["", "llama-3", "claude-haiku", "claude-haiku-4-5-mine", "us.anthropic.claude-opus-5"])
def test_an_unknown_model_has_no_price_and_none_is_guessed(name: str) -> None:
    assert price_of(name) is None
    assert dollars(Usage(name, input=1)) is None


def test_one_request_of_unknown_price_makes_the_sum_unknown_and_tokens_still_count() -> None:
    known, unknown = Usage("gpt-5.2", input=10, output=5), Usage("scripted", input=100, cached=1)
    cost = total([known, unknown])
    assert cost is not None and cost.dollars is None
    assert (cost.model, cost.tokens, cost.input_tokens) == ("scripted", 116, 110)
    assert cost.least == dollars(known)


def test_a_request_that_used_nothing_does_not_make_the_sum_unknown() -> None:
    cost = total([Usage("gpt-5.2", input=1_000_000), Usage("<synthetic>")])
    assert cost is not None and cost.dollars == pytest.approx(1.75)


def test_no_request_costs_nothing_that_could_be_named() -> None:
    assert total([]) is None


def test_list_prices_do_not_hold_for_a_server_on_this_machine() -> None:
    cost = total([Usage("gpt-5.2", input=10)], priced=False)
    assert cost is not None and cost.dollars is None
    assert at_home("http://127.0.0.1:8000/v1") and at_home("http://[::1]:1") and at_home("http://localhost:11434")
    assert not at_home("https://api.anthropic.com") and not at_home(None) and not at_home("")
