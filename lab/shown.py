"""An experiment as people and programs read it: the whole story, a line of a list, what may be done next. Pure.

Called by the commands. What agents wrote is data: the story is made printable as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.records import TEXTS, Experiment, Run
from lab.text import clean, printable


def brief(item: Experiment) -> dict[str, Any]:
    """{id, agent, status, family, hypothesis, verdict, effect, promoted, reviews}: effect in the metric's unit, or None."""
    verdict = item.attempts[-1].verdict if item.attempts else None
    return {
        "id": item.id,
        "agent": item.agent,
        "status": item.status,
        "family": item.family,
        "hypothesis": item.hypothesis,
        "verdict": verdict["verdict"] if verdict else None,
        "effect": verdict.get("effect") if verdict else None,
        "promoted": item.promoted,
        "reviews": [one.finding for one in item.reviews],
    }


def shown_run(run: Run) -> dict[str, Any]:
    """{id, purpose, seed, status, metric, reason, flags} of a run."""
    return {key: getattr(run, key) for key in ("id", "purpose", "seed", "status", "metric", "reason", "flags")}


def next_step(item: Experiment) -> str | None:
    """What may be done with it now; None when nobody has to do anything."""
    return {
        "proposed": f"edit, then: orgctl exp run {item.id}",
        "nominated": f"the chief (or a person) may: orgctl exp confirm {item.id}",
        "neutral" if item.removes else "improved": f"the chief (or a person) may: orgctl exp promote {item.id}",
    }.get(item.status)


def story(item: Experiment, reported: Sequence[str] = ()) -> str:
    """Everything about an experiment, for people. `reported`: lines on its promotion and its effect by fresh runs."""
    lines = [
        f"{item.id} by {item.agent}: {item.status}",
        f"  hypothesis: {item.hypothesis}",
        f"  mechanism:  {item.mechanism}",
        f"  family: {item.family}   direction: {item.direction}   held constant: {item.held_constant or '-'}   "
        f"smallest effect of interest: {item.min_effect:g}",
        *_again(item.again, "proposed"),
        *_versions(item),
    ]
    for attempt in item.attempts:
        where = f"{attempt.commit[:10]} on {attempt.parent[:10]}"
        lines.append(f"  attempt {attempt.number}: {where}, changes {', '.join(attempt.changed)}")
        lines += _again(attempt.again, "run")
        for done in (run for run in item.runs if run.attempt == attempt.number):
            unsealed = [f"unsealed: {done.unsealed}"] if done.unsealed else []
            lines += [f"    {_line(done)}", *(f"      flagged: {line}" for line in done.flags)]
            lines += [f"      {line}" for line in unsealed]
        lines += [f"    {line}" for line in (attempt.verdict or {}).get("reasoning", [])]
    lines += [f"  {line}" for line in reported]
    for review in item.reviews:
        found = f" ({clean(review.finding, 20)})" if review.finding else ""
        lines.append(f"  review by {clean(review.actor, 40)}{found}: {review.text}")
    failed = [one for one in item.runs if one.status in ("crashed", "invalid", "timeout", "lost")]
    if failed:
        lines.append(f"  log of {failed[-1].id} ends:\n{failed[-1].log_tail}")
    if item.withdrawn is not None:
        lines.append(f"  withdrawn: {item.withdrawn}")
    if hint := next_step(item):
        lines.append(f"  next: {hint}")
    return printable("\n".join(lines))


def _again(again: dict[str, Any] | None, what: str) -> list[str]:
    """The stated reason why something was done that had been done before."""
    if not isinstance(again, dict):
        return []
    near = again.get("near")
    return [f"  {what} again after {', '.join(map(str, near if isinstance(near, list) else []))}: {again.get('why')}"]


def _versions(item: Experiment) -> list[str]:
    """What the proposal said before it was amended: of each earlier version the texts that the next one changed."""
    lines = []
    for number, (one, following) in enumerate(zip(item.versions, item.versions[1:], strict=False), start=1):
        before = [f"{key.replace('_', ' ')}: {one.text[key]}" for key in TEXTS if one.text[key] != following.text[key]]
        lines.append(f"  version {number} by {clean(one.actor, 40)}, amended before the first run, said {'; '.join(before)}")
    return lines


def _line(run: Run) -> str:
    values = ", ".join(f"{split} {value:.4f}" for split, value in run.metric.items())
    return f"{run.id} {run.purpose:8} seed {run.seed} {run.status:8} {values}{run.reason}"
