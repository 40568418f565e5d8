"""Who may order what of the laboratory, and on how many seeds: a refusal says who may, and comes before any long work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lab import commands
from lab.errors import UserError
from lab.steps import Policy
from tests.lab.conftest import Bench
from tests.lab.test_audit import commanded
from tests.lab.test_carry import scaled
from tests.lab.test_promotion import Site

PERSON = "in this design only a person does that here"
LABORATORY = "the laboratory itself, by this design's policy, does that here"


@pytest.fixture
def site(bench: Callable[..., Bench]) -> Site:
    """A laboratory without a chief, with one idea on trunk and one that was just found `improved`."""
    one = Site(bench())
    one.lab.step()
    one.end(2.45, "bank")
    one.promote(one.idea("MOMENTUM = ", "MOMENTUM = 1.0 * "), 2.40)
    one.accept(one.idea("INIT = ", "INIT = 2.0 * "))
    one.lab.ledger.append("session", {"chiefs": []})
    one.lab.refresh()
    one.lab.chiefs = set()
    return one


@pytest.mark.slow
def test_where_nobody_decides_a_refusal_names_the_laboratory_only_for_what_it_does_by_itself(site: Site) -> None:
    def refused(kind: str, policy: Policy) -> str:
        site.lab.policy = policy
        with pytest.raises(UserError, match="r1 may not ") as caught:
            site.ask(kind, "E0002", "r1")
        return str(caught.value).partition(": ")[2]

    plain = site.lab.policy
    for kind in ("confirm", "control", "promote", "replicate", "audit", "carry"):
        assert refused(kind, plain) == PERSON, kind
    itself = replace(plain, confirmation="auto", promotion="auto", audit_every=3)
    for kind in ("confirm", "promote", "audit"):
        assert refused(kind, itself) == LABORATORY, kind
    for kind in ("control", "replicate", "carry"):
        assert refused(kind, itself) == PERSON, kind
    reviewed = replace(plain, promotion="skeptic", reviewers={"r1": ["r3", "r2"]})
    assert refused("replicate", reviewed) == "r2 or r3 does that here"


@pytest.mark.parametrize("seeds", [0, 1, -4, 2.5, True, "8"])
@pytest.mark.slow
def test_a_number_of_seeds_that_makes_no_sense_is_refused_and_none_means_the_default(site: Site, seeds: object) -> None:
    for kind, most in (("replicate", 16), ("audit", 64), ("carry", 64)):
        site.bench.home.next_task.write_text(scaled(site.lab.task).model_dump_json())
        with pytest.raises(UserError, match=f"--seeds: give a whole number from 2 to {most}"):
            site.ask(kind, "E0002", "person", seeds=seeds)
    assert site.ask("audit", actor="person", seeds=None)["seeds"] == 4


@pytest.mark.slow
def test_who_may_not_carry_and_what_cannot_be_is_told_before_the_data_are_prepared(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    home = commanded(site, monkeypatch)
    home.next_task.write_text(scaled(site.lab.task).model_dump_json())

    def refused(*words: str) -> str:
        done = CliRunner().invoke(commands.app, ["exp", "carry", *words])
        assert isinstance(done.exception, UserError) and not home.next_data.exists()
        return str(done.exception)

    assert "--seeds: give a whole number" in refused("--seeds", "0")
    assert "'E0002' is no promoted idea" in refused("E0001", "E0002")
    monkeypatch.setenv("ORGCTL_AGENT", "r1")
    assert refused() == f"r1 may not carry ideas to the next scale: {PERSON}"
    assert list(home.requests.glob("*.json")) == []
