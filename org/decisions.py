"""What waits for a decision, in the order in which a chief should take it, with the command that decides. Pure.

The first list of a standup's digest (`org.digest`). A list names the best few and counts the rest: what waits since long and is small
must not hide what is new and large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab import areas, gate
from lab.markdown import md
from lab.records import Experiment
from lab.shown import next_step
from lab.state import State
from lab.text import deviations, figure, interval
from org import hints
from org.events import subject_of
from org.hints import Area
from org.printed import span
from tasks.spec import Task

SHOWN = 10
"""Lines of a list, sentences of a section of a report: the rest is counted."""
NOMINEES = 5
"""Nominated ideas that are named."""


@dataclass(frozen=True)
class Rules:
    """What of the design the digest needs."""

    chief: str | None
    promotion: str
    confirmation: str
    unassigned: str
    agents: tuple[str, ...]
    researchers: tuple[str, ...]
    """Those of them whom a chief assigns."""
    slots: int
    reviewers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Agent -> who reviews what it finds."""


def decisions(state: State, task: Task, rules: Rules, place: Sequence[Area], now: float) -> list[str]:
    """A line for each: what may go to trunk, what is to be confirmed, ideas of people, areas to leave or to feed, who is free."""
    lines = [*_promotions(state, task, rules), *_confirmations(state, rules)]
    for one in areas.ideas(state)[:SHOWN]:
        lines.append(
            f'- answer {one.id}, the idea of a person ({span(now - one.proposed)} old): "{md(one.hypothesis, 160)}".'
            f' `orgctl assign AGENT --idea {one.id} --why "..."` or `orgctl idea {one.id} --answer "..."`'
        )
    lines += [line for spot in place if (line := _place(state, spot))]
    free = [name for name in rules.researchers if areas.assigned(state, name, now) is None]
    if rules.chief and free:
        does = {"own-ideas": "own ideas", "queue": "only what waits", "replicate": "replications"}[rules.unassigned]
        lines.append(f"- assign {', '.join(free)} (until then: {does}): `orgctl assign AGENT --area AREA --why \"...\"`")
    return lines or ["Nothing waits for a decision."]


def _promotions(state: State, task: Task, rules: Rules) -> list[str]:
    apart = [one for one in state.experiments.values() if one.status == "unmerged" and one.attempt and one.attempt.unmerged]
    lines = [
        f"- {named(one)} is improved on an older trunk and {md(one.attempt.unmerged['why'], 120)}: {md(next_step(one) or '', 400)}"
        for one in apart[:SHOWN] if one.attempt and one.attempt.unmerged
    ]  # fmt: skip
    if rules.promotion == "auto":
        return lines
    ready = _best([one for one in state.experiments.values() if one.status == "improved"], task)
    for one in ready[:SHOWN]:
        why = gate.waits(rules.promotion, rules.reviewers, one)
        if why or rules.promotion == "chief":  # else the laboratory promotes it at once
            due = why or f"`orgctl exp promote {one.id}`"
            lines.append(f"- {'review' if why else 'promote'} {named(one)}: improved {effect_text(one)}. {due[:1].upper()}{due[1:]}")
    lines += [f"- and {len(ready) - SHOWN} more improved"] if len(ready) > SHOWN else []
    removals = [one for one in state.experiments.values() if one.status == "neutral" and one.removes]
    return lines + [f"- take out {one.removes}, which no longer helps: `orgctl exp promote {one.id}`" for one in removals]


def _confirmations(state: State, rules: Rules) -> list[str]:
    if rules.confirmation == "auto":
        return []
    waiting = sorted((one for one in state.experiments.values() if one.status == "nominated"), key=_sigmas, reverse=True)
    lines = [
        f"- confirm or withdraw {named(one)}: {deviations(_sigmas(one))} sigma better on one run. `orgctl exp confirm {one.id}`"
        for one in waiting[:NOMINEES]
    ]
    if rest := waiting[NOMINEES:]:
        most = deviations(_sigmas(rest[0]))
        lines.append(f"- and {len(rest)} more nominated, by {most} sigma at most: `orgctl exp list --status nominated`")
    return lines


def _place(state: State, spot: Area) -> str:
    """An area that may be a dead end, or one that has spent its budget; "" for any other."""
    if spot.dry:
        tried = [one for one in state.experiments.values() if areas.within(spot.area, one.places) and one.tried and not one.removes]
        evidence = " ".join(f"--evidence {one.id}" for one in tried[-3:])
        lately = f", none of the last {spot.streak}" if spot.hits else ""
        return (
            f"- {spot.area}: {hints.rate_text(spot)}{lately}, for {spot.gpu_hours:.2g} GPU-hours. A dead end?"
            f' `orgctl retire {spot.area} {evidence} --why "..."`'
        )
    if spot.budget is not None and not spot.retired and spot.gpu_hours >= spot.budget:
        return f"- {spot.area} has spent its {spot.budget:g} GPU-hours: `orgctl budget {spot.area} HOURS` gives more"
    return ""


def named(one: Experiment) -> str:
    return f"**{one.id}** ({md(one.agent, 30)}, {md(subject_of(one, 60), 80)})"


def _sigmas(one: Experiment) -> float:
    found = (one.attempts[-1].nomination or {}).get("sigmas") if one.attempts else None
    return float(found) if isinstance(found, int | float) else 0.0


def effect_text(one: Experiment) -> str:
    """-0.0121 [-0.015, -0.009], as its latest verdict says."""
    judged = (one.attempts[-1].verdict if one.attempts else None) or {}
    effect, low, high = (judged.get(key) for key in ("effect", "low", "high"))
    if not isinstance(effect, int | float):
        return "not compared"
    compared = isinstance(low, int | float) and isinstance(high, int | float)
    return f"{figure(effect, signed=True)} {interval(low, high) if compared else 'on one run'}"


def _best(found: list[Experiment], task: Task) -> list[Experiment]:
    """The largest effect first."""

    def size(one: Experiment) -> float:
        value = (one.attempts[-1].verdict or {}).get("effect")
        return float(value) if isinstance(value, int | float) else 0.0

    return sorted(found, key=size, reverse=task.metric.direction != "minimize")
