"""An experiment as people and programs read it: the whole story, its outcome, a line of a list, what may be done next. Pure.

Called by the commands and by `org.news`. What agents wrote is data: the story is made printable as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab import replication
from lab.records import TEXTS, Attempt, Experiment, Run
from lab.text import clean, deviations, figure, printable


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


def replications(item: Experiment, unit: str) -> list[str]:
    """A line on each replication of it."""
    return [
        replication.said(one.result, unit) if one.result else f"being replicated on {one.seeds} fresh seeds, ordered by {one.by}"
        for one in item.replications
    ]


def next_step(item: Experiment) -> str | None:
    """What is useful to do now; None where nothing follows from it."""
    name = item.id
    again = 'orgctl exp propose ... --again "WHY"'
    steps = {
        "proposed": f"edit, then: orgctl exp run {name}",
        **dict.fromkeys(("queued", "running"), f"nothing yet: the result arrives by mail (or: orgctl exp wait {name})"),
        "nominated": f"fresh seeds decide, the chief (or a person) may: orgctl exp confirm {name}; meanwhile another idea",
        "confirming": f"fresh seeds are being run; meanwhile another idea: the verdict arrives by mail (or: orgctl exp wait {name})",
        "neutral" if item.removes else "improved": f"who promotes by this design (or a person) may: orgctl exp promote {name}",
        "promoted": "propose the next idea on the present trunk",
        "crashed": f"read the log's end (orgctl exp show {name}); what is put right is a new proposal: {again}",
        "invalid": f"mend what the reason names; without it the idea is a new proposal: {again}",
        "bought": "another idea, or this one so that it costs no more than trunk: a new proposal",
    }
    if item.removes and item.withdrawn is not None:
        return "orgctl exp audit --show: a later audit of the same trunk counts"
    if item.attempt and item.attempt.apart:
        return _by_hand(item, item.attempt)
    if item.status == "bought" and not item.runs_for("control"):
        return f"{steps['bought']}; in doubt of trunk's frontier the chief (or a person) may: orgctl exp control {name}"
    if item.status == "inconclusive" and not item.tried:
        return f"edit it anew on the present trunk, which is a new proposal: {again}"
    if item.status in ("neutral", "worse", "inconclusive") and not item.removes:
        return f"another idea; the same once more needs a reason: {again}"
    return steps.get(item.status)


def _by_hand(item: Experiment, attempt: Attempt) -> str:
    """What its agent does about a change that was improved and does not apply to the present trunk."""
    found = attempt.unmerged or {}
    if not found.get("files"):
        return "another idea: trunk holds this change already"
    return (
        f"{item.agent} puts the change on the present trunk by hand (git reset --hard {found['branch']};"
        f" git cherry-pick -n {attempt.commit[:10]}; mend {', '.join(found['files'])}), then: orgctl exp run {item.id},"
        " which nominates and confirms it there"
    )


def unmerged(attempt: Attempt) -> str:
    """Why this attempt is not on trunk and what its figures are worth, as a clause."""
    found = attempt.unmerged or {}
    trunk, why = str(found.get("trunk"))[:8], found.get("why")
    return f"cannot be carried to trunk {trunk}: {why}. What was measured holds on {attempt.parent[:8]} alone"


def outcome(item: Experiment, reported: Sequence[str] = ()) -> str:
    """What is now believed of an experiment, and what is useful next: short, for who waited for it. `reported` as for `story`."""
    attempt = item.attempt
    lines = [f"{item.id} by {item.agent}: {item.status}  ({clean(item.hypothesis)})"]
    if attempt and attempt.verdict:
        lines += [f"  {line}" for line in attempt.verdict.get("reasoning", [])]
    elif attempt and attempt.nomination:
        lines.append(f"  {nominated(attempt.nomination)}")
    if attempt and attempt.apart:
        lines.append(f"  {unmerged(attempt)}")
    lines += [f"  {line}" for line in reported]
    if hint := next_step(item):
        lines.append(f"  next: {hint}")
    lines.append(f"  every run, and the proposal whole: orgctl exp show {item.id}")
    return printable("\n".join(lines))


def nominated(body: dict[str, Any]) -> str:
    """What a nomination says, in a line; a fact of somebody else's may lack any of it."""
    sigmas = body.get("sigmas")
    better = deviations(sigmas) if isinstance(sigmas, int | float) else "?"
    return (
        f"one run on split search, {figure(body.get('value'))}: {better} sigma better than the bank ({figure(body.get('bank_mean'))}, "
        f"sigma {figure(body.get('bank_sigma'))}); it only nominates, and its value is thrown away"
    )


def story(item: Experiment, reported: Sequence[str] = ()) -> str:
    """Everything about an experiment, for people. `reported`: lines on replications, its promotion and its effect by fresh runs."""
    lines = [
        f"{item.id} by {item.agent}: {item.status}",
        f"  hypothesis: {item.hypothesis}",
        f"  mechanism:  {item.mechanism}",
        f"  family: {item.family}   direction: {item.direction}   held constant: {item.held_constant or '-'}   "
        f"smallest effect of interest: {item.min_effect:g}",
        *_again(item.again, "proposed"),
        *_versions(item),
    ]
    lines += [f"  refused: {why}" for why in item.refusals]
    for attempt in item.attempts:
        where = f"{attempt.commit[:10]} on {attempt.parent[:10]}{', put there by hand' if attempt.resubmitted else ''}"
        lines.append(f"  attempt {attempt.number}: {where}, changes {', '.join(attempt.changed)}")
        lines += _again(attempt.again, "run")
        for done in (run for run in item.runs if run.attempt == attempt.number):
            unsealed = [f"unsealed: {done.unsealed}"] if done.unsealed else []
            lines += [f"    {_line(done)}", *(f"      flagged: {line}" for line in done.flags)]
            lines += [f"      {line}" for line in unsealed]
        lines += [f"    {nominated(attempt.nomination)}"] if attempt.nomination and not attempt.verdict else []
        lines += [f"    {line}" for line in (attempt.verdict or {}).get("reasoning", [])]
        lines += [f"    {unmerged(attempt)}"] if attempt.unmerged else []
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
    values = ", ".join(f"{split} {figure(value)}" for split, value in run.metric.items())
    dial = "" if run.dial is None else f" dial {run.dial:g}"
    return f"{run.id} {run.purpose:8}{dial} seed {run.seed} {run.status:8} {values}{run.reason}"
