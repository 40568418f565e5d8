"""results.tsv: one line a run with everything the ledger recorded about it, for spreadsheets and scripts.

Called by `lab.report`. Columns are fixed and named once, here; what a run recorded beyond them goes into the last one
as JSON, so nothing is lost. Texts of agents cannot break a line or become a formula.
"""

from __future__ import annotations

import json
import time
from typing import Any

from lab.records import Run
from lab.state import State
from lab.text import clean
from tasks.spec import Task

SPLITS = ("search", "audit", "locked")
ACCOUNT = (
    "tokens", "steps", "flops", "flops_per_token", "params", "train_seconds", "score_seconds", "wall_seconds",
    "startup_seconds", "data_wait_seconds", "peak_memory_bytes", "peak_device_memory_bytes", "score_memory_bytes",
    "checkpoint_bytes", "source_bytes", "flops_unknown", "tokens_per_second", "threads", "host_load", "clock_mhz",
)
HASHES = ("corpus", "tokenizer", "protected", "torch", "python")
"""What must be equal for two runs to be compared: content hashes, and versions."""
COLUMNS = (
    "run", "experiment", "attempt", "agent", "purpose", "status", "reason", "flags", "unsealed", "seed", "splits", "metric", *SPLITS,
    *ACCOUNT, "task", "scale", "device", "slot", "budget_kind", "budget_amount", "dial", "commit", "parent", "family",
    "hypothesis", "params_set", "verdict", "queued", "started", "ended", "org_hash", *HASHES, "other",
)
"""Seconds, bytes, training FLOPs; times in UTC; `parent`: the trunk commit that the run's commit is compared with."""


def results(state: State, task: Task) -> str:
    """results.tsv: a header and one line for each run, in the order in which they were queued."""
    lines = ["\t".join(COLUMNS)]
    for run in state.runs.values():
        row = _row(run, state, task)
        lines.append("\t".join(_cell(row.get(column)) for column in COLUMNS))
    return "\n".join(lines) + "\n"


def _row(run: Run, state: State, task: Task) -> dict[str, Any]:
    experiment = state.experiments.get(run.experiment)
    attempt = next((a for a in experiment.attempts if a.number == run.attempt), None) if experiment else None
    trunk = next((step for step in state.trunks if step.commit == run.commit), None)
    row: dict[str, Any] = {
        "run": run.id, "experiment": run.experiment, "attempt": run.attempt or None, "agent": run.agent,
        "purpose": run.purpose, "status": run.status, "reason": run.reason, "seed": run.seed,
        "flags": "; ".join(run.flags) or None, "unsealed": run.unsealed,
        "splits": ",".join(run.splits), "metric": task.metric.name,
        **{split: run.metric.get(split) for split in SPLITS},
        **{name: run.account.get(name) for name in ACCOUNT}, "task": task.name, "scale": _scale(run, state, task),
        "device": run.account.get("device"), "slot": run.slot, "budget_kind": run.budget.get("kind"),
        "budget_amount": run.budget.get("amount"), "dial": run.dial, "commit": run.commit,
        "parent": attempt.parent if attempt else trunk.parent if trunk else None,
        "queued": _moment(run.queued), "started": _moment(run.started), "ended": _moment(run.ended),
        "org_hash": state.session.get("org_hash"),
    }
    for name in HASHES:
        row[name] = run.hashes.get(name) or (state.session.get("hashes") or {}).get(name)
    if experiment:
        row |= {
            "family": experiment.family, "hypothesis": experiment.hypothesis,
            "params_set": json.dumps(experiment.params, default=str) if experiment.params else None,
            "verdict": attempt.verdict.get("verdict") if attempt and attempt.verdict else None,
        }
    rest = {
        **{k: v for k, v in run.account.items() if k not in (*ACCOUNT, "device")},
        **{f"hash_{k}": v for k, v in run.hashes.items() if k not in HASHES},
        **{f"metric_{k}": v for k, v in run.metric.items() if k not in SPLITS},
    }
    row["other"] = json.dumps(rest, sort_keys=True, default=str) if rest else None
    return row


def _scale(run: Run, state: State, task: Task) -> str:
    """A session carries to one other scale only."""
    return next((order.scale for order in state.carries.values() if run.purpose == "carry"), task.scale.name)


def _cell(value: Any) -> str:
    """One cell: no tab or line break; a text that a spreadsheet would run as a formula starts with a quote."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return repr(value)
    text = clean(value, 4000)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
