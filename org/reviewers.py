"""Who reviews whom in an organisation, where a promotion waits for a review. Pure; a resolved design asks, the laboratory enforces it.

Under `skeptic` every skeptic reviews everybody, and the chief what a skeptic finds. Under `partner` those who try ideas are paired in
the design's order, each the other's reviewer; of an odd number the last three review in a ring.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from org import role


class Member(Protocol):
    """As much of an agent as matters here."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def slot(self) -> int | None: ...


def reviewers(promotion: str, agents: Iterable[Member]) -> dict[str, list[str]]:
    """Agent -> those whose finding its ideas need; empty where no promotion waits for a review."""
    members = list(agents)
    if promotion == "partner":
        names = [one.name for one in members if tries(one)]
        return {name: [partner] for group in _pairs(names) for name, partner in zip(group, group[1:] + group[:1], strict=True)}
    if promotion == "skeptic":
        skeptics = [one.name for one in members if one.role == role.SKEPTIC]
        chiefs = [one.name for one in members if one.role == role.CHIEF]
        return {one.name: chiefs if one.role == role.SKEPTIC else skeptics for one in members}
    return {}


def tries(member: Member) -> bool:
    """Has it a slot and ideas of its own?"""
    return member.slot is not None and member.role not in (role.CHIEF, role.SKEPTIC)


def lacking(promotion: str, agents: Iterable[Member]) -> str | None:
    """Whom this policy of promotion needs and these agents lack; None when nobody."""
    members = list(agents)
    roles = {one.role for one in members}
    if promotion == "chief" and role.CHIEF not in roles:
        return f"no agent is a {role.CHIEF}: add one, or write `auto`"
    if promotion == "skeptic" and role.SKEPTIC not in roles:
        return f"no agent is a {role.SKEPTIC}: add one, or write `auto`"
    if promotion == "partner" and (count := sum(map(tries, members))) < 2:
        there = f"only {count} agent has" if count else "no agent has"
        return f"{there} a slot and ideas of its own, and nobody reviews oneself: two slots are the least (`--slots 2`)"
    return None


def _pairs(names: list[str]) -> list[list[str]]:
    """Groups of two in order; of an odd number the last three together."""
    groups = [names[first : first + 2] for first in range(0, len(names), 2)]
    return [*groups[:-2], groups[-2] + groups[-1]] if len(groups) > 1 and len(groups[-1]) == 1 else groups
