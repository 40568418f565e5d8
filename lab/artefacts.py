"""Is what lies beside the ledger what it says: results in runs' folders, snapshots and their changes in git? A line for each difference.

Called by `lab.verify`, for the whole ledger, and when a controller begins for what is new. Nothing recorded is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.errors import Stopped
from lab.files import read_json
from lab.measure import measure
from lab.records import NO_EVIDENCE, Run
from lab.runs import as_recorded
from lab.state import State
from lab.text import clean
from tasks.spec import Task
from worktrees.repo import GitError, Repo

TOLERANCE = 1e-9
"""Relative: another build of the mathematics may round the last digits differently."""
CUT = "\n[cut: the whole diff has "
"""How `worktrees` ends a diff that is too long to keep."""


# Results


def result(run: Run, task: Task, folder: Path) -> Iterator[str]:
    """A run's result against `result.json` and `score.json` in its folder. What is no evidence may lack both."""
    if not run.over or run.status in NO_EVIDENCE:
        return
    found = read_json(folder / "result.json")
    if found is None:
        yield f"{run.id}: " + ("result.json is gone or unreadable" if folder.is_dir() else "its run folder is gone")
        return
    if found.get("run") != run.id:
        yield f"{run.id}: result.json is of {clean(found.get('run'), 40)}"
        return
    there = json.loads(json.dumps(as_recorded(run, found), default=str))
    if there["status"] != run.status:
        yield f"{run.id}: result.json says {there['status']}, the ledger {run.status}"
    for what, recorded in (("metric", run.metric), ("account", run.account), ("hashes", run.hashes)):
        keys = sorted(key for key in {*there[what], *recorded} if not same(there[what].get(key), recorded.get(key)))
        if keys:
            told = ", ".join(f"{clean(key, 40)} {short(there[what].get(key))} for {short(recorded.get(key))}" for key in keys[:3])
            yield f"{run.id}: result.json and the ledger differ in {what}: {told}{', ...' if len(keys) > 3 else ''}"
    if run.status == "ok":
        yield from _score(run, task, folder)


def _score(run: Run, task: Task, folder: Path) -> Iterator[str]:
    """The metric again from the scorer's own word, where that was kept."""
    score, target = read_json(folder / "score.json"), task.scale.target
    if score is None or (target and (target.split not in run.splits or run.purpose == "carry")):  # not shown to it, or another target
        return
    try:
        metric = measure(task, run.splits, score, run.account)
    except Stopped as stop:
        yield f"{run.id}: score.json gives no metric ({clean(stop.reason, 120)}), the ledger {run.metric}"
        return
    if not same(metric, {split: run.metric.get(split) for split in metric}):
        yield f"{run.id}: score.json gives {metric}, the ledger {run.metric}"


# Snapshots


def snapshots(state: State, task: Task, repo: Repo) -> Iterator[str]:
    """Every attempt under its ref in refs/org/exp, with no other change than the one on record, in editable files alone; and every
    commit of an attempt or of trunk in the repository."""
    try:
        refs = repo.refs(repo.kept("exp"))
        commits = {step.commit: f"trunk {step.commit[:10]}" for step in state.trunks}
        for experiment in state.experiments.values():
            for attempt in experiment.attempts:
                ref = repo.kept(f"exp/{experiment.id}/{attempt.number}")
                commits[attempt.commit] = f"{experiment.id}: commit {attempt.commit[:10]}"
                if ref not in refs:
                    yield f"{experiment.id}: its snapshot {ref} is gone"
                elif refs[ref] != attempt.commit:
                    yield f"{experiment.id}: {ref} is at {refs[ref][:10]}, the ledger says {attempt.commit[:10]}"
        attempts = [(experiment.id, attempt) for experiment in state.experiments.values() for attempt in experiment.attempts]
        there = repo.changes([(attempt.parent, attempt.commit) for _, attempt in attempts])
        for name, attempt in attempts:
            yield from (f"{name}: {line}" for line in change(attempt.commit, attempt.diff, task, there.get(attempt.commit)))
        for commit, other in state.serves.items():
            if repo.changed_paths(commit, other):
                yield f"trunk {commit[:10]} is compared by the bank of {other[:10]}, whose files are others"
        missing = repo.missing(list(commits))
        yield from (f"{clean(commits[commit], 80)} is not in the repository" for commit in missing)
    except GitError as error:
        yield f"snapshots cannot be looked at: {error}"


def change(commit: str, diff: str, task: Task, found: tuple[list[str], str] | None) -> Iterator[str]:
    """What an attempt changes (paths and diff, as git has them) against what the ledger says of it and what an experiment may change."""
    if found is None:
        return  # it is named as gone
    paths, text = found
    if others := sorted(set(paths) - set(task.editable)):
        yield f"commit {commit[:10]} changes {clean(', '.join(others), 200)}, which no experiment may change"
    elif _lines(diff) != _lines(text) and CUT not in diff:
        yield f"the diff on record is not that of commit {commit[:10]}"


def _lines(diff: str) -> list[str]:
    """A diff without what depends on the repository's size: git shortens the ids of files by that."""
    return [line for line in diff.split("\n") if line and not line.startswith("index ")]


# Comparing


def same(a: Any, b: Any) -> bool:
    """Equal as JSON, floats up to TOLERANCE."""
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return numbers and ((math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=TOLERANCE))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else clean(value, 60)
