"""Facts that somebody else wrote in the laboratory's name: the controller finds and disowns them, and every reader passes them over.

Under one user id anybody can open the database. But while a controller serves, only it writes most kinds of facts, and it knows which
ones it wrote; what came while none served is derived anew when the next one begins (`lab.verify`). Neither is deleted: a fact
`disowned` names them and says why, and whoever folds the ledger leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from lab.ledger import Fact, Ledger
from lab.records import LABORATORY, OURS

KIND = "disowned"  # of lab.records.OURS
FROM_COMMANDS = ("proposal", "amendment", "review", "alarm")
"""Kinds that commands of agents and people write themselves, in their own name; the others ask the controller (`lab.requests`)."""


def forged(fact: Fact) -> bool:
    """Is it of a kind that only the laboratory writes, and openly somebody else's? The fold passes it over with an alarm."""
    return fact.kind in OURS and fact.actor != LABORATORY


def passed_over(facts: Iterable[Fact]) -> set[int]:
    """Numbers of the facts that those of kind `disowned` among these leave out; a later one may leave out an earlier one. Facts that
    are none, or not the laboratory's, count for nothing."""
    gone: set[int] = set()
    for fact in reversed([one for one in facts if one.kind == KIND and one.actor == LABORATORY]):
        named = fact.body.get("facts")
        if fact.id not in gone and isinstance(named, list):
            gone |= {number for number in named if isinstance(number, int) and number < fact.id}
    return gone


def counted(ledger: Ledger, kind: str, subject: str | None = None) -> Iterator[Fact]:
    """The facts of a kind that count, in order, optionally about one subject: for whoever reads them without the fold."""
    gone = passed_over(ledger.each(KIND))
    return (fact for fact in ledger.each(kind, subject) if fact.id not in gone and not forged(fact))


def imposters(new: Iterable[Fact], own: set[int]) -> dict[int, str]:
    """Number -> why, of the facts among the new ones that only the one controller can have written and did not. `own`: the numbers of
    those that it wrote."""
    return {fact.id: why for fact in new if fact.id not in own and (why := _why(fact))}


def _why(fact: Fact) -> str:
    if forged(fact) or (fact.kind in FROM_COMMANDS and not (fact.kind == "proposal" and fact.actor == LABORATORY)):
        return ""
    if fact.actor == LABORATORY:
        return "it bears the laboratory's name and is not from it"
    return "such facts come through the controller, and this one did not"


def body(found: Mapping[int, str], facts: Iterable[Fact]) -> dict[str, object]:
    """Body of the fact that disowns them."""
    return {
        "facts": sorted(found),
        "why": [f"fact {fact.id} ({fact.kind} {fact.subject}): {found[fact.id]}" for fact in facts if fact.id in found],
    }


def alarm(line: object) -> str:
    """What readers are told of one line of a `disowned` fact's `why`."""
    return f"{line}; it is passed over. Verdicts, results and trunk come from runs alone (`orgctl exp run`)"
