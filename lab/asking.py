"""Who may order what of the laboratory, and on how many seeds: asked by the controller, and by commands before they do long work. Pure.

Raises UserError in a line that says who may, or which numbers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lab.areas import PERSON
from lab.errors import UserError


def may_decide(actor: str, chiefs: Collection[str], what: str, itself: bool = False, reviewers: Collection[str] = ()) -> None:
    """For chiefs, `reviewers` and people. `itself`: does the laboratory do by this design's policy what nobody here may order?"""
    if actor in {*chiefs, *reviewers, PERSON}:
        return
    nobody = "the laboratory itself, by this design's policy," if itself else "in this design only a person"
    raise UserError(f"{actor} may not {what}: {' or '.join(sorted({*chiefs, *reviewers})) or nobody} does that here")


def seeds(given: Any, default: int, most: int) -> int:
    """How many fresh seeds an order is for; None means the default."""
    if given is None:
        return default
    if type(given) is not int or not 2 <= given <= most:
        raise UserError(f"--seeds: give a whole number from 2 to {most}")
    return given
