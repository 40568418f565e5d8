"""The report: progress plot, one line a run as TSV, and a page of Markdown, all folded from the ledger's facts.

Called by `orgctl report` and at the end of a session. The choice that matters most: every figure comes from the ledger,
and what agents wrote (hypotheses, reasons, logs) is treated as data: escaped, cut, and never able to draw a table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lab import audit, carry, claims, frontier, plot, promotion, verdict
from lab.errors import UserError
from lab.figures import Level, decimals, idle_share, levels, slots_of, span, up_seconds
from lab.files import write_atomic
from lab.home import Home
from lab.markdown import between, md, number, table
from lab.records import PURPOSES, VERDICTS, Experiment, Run
from lab.results import HASHES, results
from lab.state import State
from lab.text import clean
from tasks.spec import Task

TAIL_LINES = 8
"""Lines of a failed run's log that are shown."""
FAILURES = 12
"""Failed runs that are shown with their logs, and flagged ones; the rest are counted."""


def write_report(home: Home, state: State, task: Task, out: Path | None = None) -> list[Path]:
    """Write progress.png, results.tsv and report.md into `out` (default: the home's report/) and return their paths.

    Raises UserError when they cannot be written.
    """
    folder = out or home.report
    split = state.split
    steps = levels(state, split)
    files: dict[str, str | bytes] = {
        "progress.png": plot.progress(state, task, split, steps),
        "results.tsv": results(state, task),
        "report.md": page(state, task),
    }
    try:
        for name, content in files.items():
            write_atomic(folder / name, content)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"cannot write the report to {folder}: {why}: free space or write it elsewhere") from error
    return [folder / name for name in files]


def outcome(experiment: Experiment) -> str:
    """How an experiment stands, in a word or two."""
    nomination = experiment.attempt.nomination if experiment.attempt else None
    if experiment.status == "nominated" and nomination and not nomination.get("nominated", True):
        return "not nominated"
    return experiment.status


def page(state: State, task: Task) -> str:
    """report.md as text."""
    split = state.split
    steps = levels(state, split)
    parts = [f"# {md(task.title)}", "", *_summary(state, task, split, steps), "", "![Progress](progress.png)", ""]
    if not state.runs:
        parts += ["No run was ever queued: there is nothing to report yet.", ""]
    parts += ["## What was run", "", *_setting(state, task), ""]
    if state.runs:
        parts += ["## Baseline and confirmed best", "", *_best(state, task, split, steps), ""]
    if state.alarms:
        parts += ["## Alarms", "", *(f"- {md(text)}" for text in state.alarms), ""]
    if state.experiments:
        parts += ["## Promoted, in order", "", *_promoted(state, task, split, steps), ""]
        parts += ["## Audits", "", *_audits(state, task), ""] if state.audits else []
        parts += ["## At the next scale", "", *_carried(state, task), ""] if state.carries else []
        parts += ["## Claims", "", *_claims(state, task, steps), ""]
        parts += ["## Every other idea", "", *_rejected(state, task, steps), ""]
    if state.runs:
        parts += ["## Flagged runs", "", *_flagged(state.runs.values()), ""]
        parts += ["## Failed runs", "", *_failures(state), ""]
        parts += ["## Cost", "", *_cost(state), ""]
    parts += ["Every run with all its columns is in [results.tsv](results.tsv)."]
    return "\n".join(parts) + "\n"


def _summary(state: State, task: Task, split: str, steps: Sequence[Level]) -> list[str]:
    promoted = len(state.promotions())
    over = sum(run.over for run in state.runs.values())
    said = [f"{over} runs finished, {len(state.experiments)} ideas proposed, {promoted} promoted."]
    if not steps:
        said.append("There is no finished baseline, so nothing can be compared.")
    elif state.same(state.trunk, steps[0].commit):
        taken = ", ".join(step.reverts for step in state.trunks if step.reverts)
        said.append(f"{md(taken)} was reverted: the baseline stands." if taken else "Nothing was promoted: the baseline stands.")
    elif len(steps) < 2 or steps[-1].commit != state.trunk:
        said.append("The newest trunk has no finished bank yet, so its gain is not confirmed by fresh runs.")
        if len(steps) > 1:
            said.append(f"Up to {md(steps[-1].commit[:8])}: {_gain(state, task, split, steps)}")
    else:
        said.append(_gain(state, task, split, steps))
    return [" ".join(said)]


def _gain(state: State, task: Task, split: str, steps: Sequence[Level]) -> str:
    """The effect of everything promoted: last bank against first bank, Welch interval."""
    digits, unit = decimals(steps), md(task.metric.unit)
    first, last = state.bank(steps[0].commit).values(split), state.bank(steps[-1].commit).values(split)
    if len(first) < 2 or len(last) < 2:
        return f"Difference {number(steps[-1].mean - steps[0].mean, digits, True)} {unit}; no interval below two runs."
    test = verdict.welch(last, first, minimize=task.metric.direction == "minimize")
    sigmas = f", {abs(test.effect) / steps[0].sigma:.1f} sigma of the baseline" if steps[0].sigma else ""
    better = "better" if task.better(steps[-1].mean, steps[0].mean) else "not better"
    return (
        f"Confirmed best against the first baseline: **{number(test.effect, digits, True)} {unit}** ({better};"
        f" 95 % interval {between(test.low, test.high, digits, True)}, n = {len(last)} against {len(first)}{sigmas})."
    )


def _setting(state: State, task: Task) -> list[str]:
    session, runs = state.session, [run for run in state.runs.values() if run.over]

    def seen(values: Iterable[Any], fallback: Any = None) -> str:
        """What was recorded; more than one value is a warning, since such runs cannot be compared."""
        found = list(dict.fromkeys(str(value) for value in values if value)) or ([str(fallback)] if fallback else [])
        text = ", ".join(md(value, 80) for value in found[:4]) or "not recorded"
        return f"**mixed:** {text}" if len(found) > 1 else text

    given = session.get("hashes") if isinstance(session.get("hashes"), dict) else {}
    arrow = "lower" if task.metric.direction == "minimize" else "higher"
    device = seen((run.account.get("device") for run in runs), session.get("device"))
    budget = task.scale.budget
    rows = [
        ("task", f"{md(task.name)}, scale {md(task.scale.name)} ({md(task.scale.title)})"),
        ("metric", f"{md(task.metric.name)} in {md(task.metric.unit)}, {arrow} is better"),
        ("budget of a run", f"{budget}; threads: {task.scale.threads}"),
        ("held-out text", _sealed(runs)),
        ("device", f"{device}; slots: {md(session.get('slots', 'not recorded'))}"),
        ("org design", f"{md(session.get('design', 'not recorded'), 60)}, hash {md(session.get('org_hash', '–'), 80)}"),
        *(
            (name, seen((run.hashes.get(name) for run in runs), (given or {}).get(name, session.get(name))))
            for name in HASHES
        ),
        ("trunk", f"{md(state.trunk[:12]) or 'none'}, {len(state.promotions())} promoted"),
    ]
    if state.taken_over:
        rows.append(("taken over by a person", ", ".join(md(name, 40) for name in sorted(state.taken_over))))
    return table(("", ""), [(f"**{name}**", value) for name, value in rows])


def _sealed(runs: Sequence[Run]) -> str:
    """Whether training could read what it is scored on."""
    known = [run.unsealed for run in runs if run.unsealed is not None]
    why = Counter(reason for reason in known if reason)
    if not known:
        return "not recorded"
    said = "; ".join(f"**unsealed** in {count} of {len(known)} runs: {md(reason)}" for reason, count in why.most_common(2))
    return said or f"sealed in all {len(known)} runs that got as far as training: training cannot read it"


def _flagged(runs: Iterable[Run]) -> list[str]:
    """Runs that ended well and are odd beside their parent's bank."""
    found = [run for run in runs if run.flags]
    lines = [f"- **{run.id}** ({run.purpose} of {md(run.experiment)}): {md('; '.join(run.flags), 600)}" for run in found]
    more = [f"- and {len(found) - FAILURES} earlier ones"] if len(found) > FAILURES else []
    return [*lines[-FAILURES:], *more] or ["None."]


def _best(state: State, task: Task, split: str, steps: Sequence[Level]) -> list[str]:
    if not steps:
        failed = sum(run.purpose == "bank" and run.over and run.status != "ok" for run in state.runs.values())
        return [f"No baseline run has finished well ({failed} failed)."]
    digits = decimals(steps)
    rows = []
    moved = len(steps) > 1 and not state.same(steps[0].commit, steps[-1].commit)
    for name, step in (("first baseline", steps[0]), ("confirmed best", steps[-1]))[: 2 if moved else 1]:
        for which in dict.fromkeys((split, "search", "audit", "locked")):
            for level in levels(state, which):
                if level.commit == step.commit:
                    rows.append((
                        f"{name} ({md(step.commit[:8])})", which, number(level.mean, digits + 1),
                        between(level.low, level.high, digits + 1), number(level.sigma, digits + 1),
                        between(*_sigma_interval(state, level.commit, which), digits + 1), str(level.n),
                    ))
    head = ("", "split", "mean", "95 % interval (Student t)", "sigma", "95 % interval (chi-squared)", "n")
    lines = table(head, rows)
    if moved:
        lines += ["", _gain(state, task, split, steps), "", _freshness(state, steps)]
    return lines


def _sigma_interval(state: State, commit: str, split: str) -> tuple[float, float]:
    values = state.bank(commit).values(split)
    return verdict.sigma_interval(values)[1:] if len(values) > 1 else (math.nan, math.nan)


def _freshness(state: State, steps: Sequence[Level]) -> str:
    """Which of the compared runs also took part in a decision."""
    newest = [run for run in state.bank(steps[-1].commit).runs if run.status == "ok"]
    since = next(step.time for step in steps if state.same(step.commit, steps[-1].commit))
    if all(run.queued >= since for run in newest):
        return (
            "The confirmed best is measured by fresh runs: queued after its promotion, on new seeds. The first"
            " baseline's runs took part in the first verdict, so an unlucky first bank would flatter the difference."
        )
    return "Some runs of the newest bank are older than its promotion: the difference may be inflated."


def _promoted(state: State, task: Task, split: str, steps: Sequence[Level]) -> list[str]:
    if not state.promotions():
        return ["Nothing was promoted."]
    digits, lines = decimals(steps), []
    banks = {step.commit: step for step in steps}
    for place, experiment in enumerate(state.promotions(), start=1):
        lines.append(f"{place}. **{experiment.id}** by {md(experiment.agent, 40)}: {md(experiment.hypothesis)}")
        if experiment.params:
            lines.append(f"   - set {md(plot.what(experiment, 120), 130)}")
        judged = next((a.verdict for a in reversed(experiment.attempts) if a.verdict), None)
        lines += [f"   - {md(line, 600)}" for line in _reasoning(judged)]
        lines += [f"   - {md(line, 600)}" for line in promotion.said(experiment, task.metric.unit)]
        lines += [f"   - **{md(line, 600)}**" for line in claims.said(state, experiment.id, task)]
        bank = banks.get(experiment.promoted or "")
        if bank:
            lines.append(
                f"   - new bank on {split}: {number(bank.mean, digits + 1)}"
                f" (95 % interval {between(bank.low, bank.high, digits + 1)}, n = {bank.n})"
            )
    return [
        *lines, "",
        "The effect in a verdict comes from the runs that accepted the idea, which flatter it; the reported effect does not: it comes"
        " from runs after that.",
    ]  # fmt: skip


def _claims(state: State, task: Task, steps: Sequence[Level]) -> list[str]:
    """Every idea that was compared on fresh seeds, the smallest p first, and which of them hold together."""
    found = sorted(claims.claims(state), key=lambda claim: claim[1])
    if not found:
        return ["No idea was compared on fresh seeds yet."]
    digits, minimize = decimals(steps), task.metric.direction == "minimize"
    rows = []
    for experiment, p, survives in found:
        judged = next(a.verdict for a in reversed(experiment.attempts) if a.verdict and a.verdict.get("p") is not None)
        fresh = claims.reported(state, experiment, minimize, state.wanted)
        after = f"{number(fresh.effect, digits, True)} ({between(fresh.low, fresh.high, digits, True)})" if fresh else "not measured yet"
        rows.append((
            experiment.id, md(experiment.agent, 40), md(plot.what(experiment, 50), 60), md(outcome(experiment)),
            number(judged.get("effect"), digits, True), f"{p:.2g}", "yes" if survives else "no",
            number(judged.get("cost_ratio"), 4), frontier.brief(judged) or "–",
            after if experiment.stands or fresh else "–",
        ))
    kept = sum(survives for _, _, survives in found)
    unit = md(task.metric.unit)
    head = ("", "agent", "what", "outcome", f"effect when judged ({unit})", "p", f"survives at q = {claims.RATE:g}",
            "cost", "CEG (95 % interval)", "reported effect (95 % interval)")
    said = (
        f"{kept} of {len(found)} claims survive Benjamini and Hochberg at q = {claims.RATE:g}: of the claims called surviving that share"
        " may be false. p is one-sided, of the latest verdict. Cost is that of the parent's bank times so much, of what decides (FLOPs or"
        " seconds); CEG is the cost at which trunk gets as far over the idea's own, where trunk's frontier was measured and reaches it."
    )
    return [said, "", *table(head, rows)]


def _reasoning(judged: dict[str, Any] | None) -> list[str]:
    lines = (judged or {}).get("reasoning") or []
    return [lines] if isinstance(lines, str) else [str(line) for line in lines]


def _rejected(state: State, task: Task, steps: Sequence[Level]) -> list[str]:
    digits = decimals(steps)
    order = {name: rank for rank, name in enumerate(VERDICTS)}
    rest = sorted((e for e in state.experiments.values() if not e.stands), key=lambda e: order.get(outcome(e), 99))
    if not rest:
        return ["Every idea was promoted."]
    rows = []
    for experiment in rest:
        judged = (experiment.attempt.verdict if experiment.attempt else None) or {}
        interval = between(judged.get("low"), judged.get("high"), digits, True) if judged.get("low") is not None else "–"
        p, n = judged.get("p"), judged.get("n")
        grounds = [*_reasoning(judged), experiment.withdrawn or ""]
        gone = promotion.why_reverted(experiment) if experiment.reverted else ""
        gone = gone or (f"taken out by {_remover(state, experiment)}" if experiment.removed else "")
        rows.append((
            experiment.id, md(experiment.agent, 40), md(plot.what(experiment, 70), 80), md(outcome(experiment)),
            number(judged.get("effect"), digits, True), interval, "–" if not n else str(n),
            f"{p:.2g}" if isinstance(p, float) else "–",
            md(gone or (grounds[0] if judged.get("p") is None else ""), 120),
        ))
    counts = Counter(outcome(e) for e in rest)
    said = ", ".join(f"{count} {md(name)}" for name, count in counts.most_common())
    head = ("", "agent", "what", "outcome", f"effect ({md(task.metric.unit)})", "95 % interval", "n", "p", "why")
    return [f"{said[:1].upper()}{said[1:]}.", "", *table(head, rows)]


def _remover(state: State, experiment: Experiment) -> str:
    return next((one.id for one in state.experiments.values() if one.promoted and one.promoted == experiment.removed), "nobody")


def _audits(state: State, task: Task) -> list[str]:
    """Trunk without each of its ideas, the newest audit first."""
    said = [
        "The effect of leaving an idea out of the trunk that was audited, everything promoted after it left in. `barnacle`: the"
        " 95 % interval says that it no longer helps by more than the smallest effect of interest.", "",
    ]  # fmt: skip
    for one in reversed(state.audits.values()):
        first, *rest = audit.lines(state, one, task.metric.unit)
        said += [f"**{md(first)}**", ""]
        if one.result is None:
            said += [*(f"- {md(line)}" for line in rest), ""]
            continue
        digits = decimals(levels(state, state.split))
        rows = []
        for row in one.result["rows"]:
            taken = audit.removal_of(state, one, row)
            rows.append((
                md(row["experiment"]), number(row["effect"], digits, True), between(row["low"], row["high"], digits, True),
                f"{row['n']} against {row['m']}" if row["n"] else "–", md(row["verdict"] or "cannot be taken out alone"),
                md(row["why"] or (f"{taken.id} would take it out ({taken.status})" if taken else "")),
            ))  # fmt: skip
        head = ("left out", f"effect of that ({md(task.metric.unit)})", "95 % interval", "n", "verdict", "")
        said += [*table(head, rows), "", *(f"- {md(line)}" for line in audit.sums(one, task.metric.unit)), ""]
    return said[:-1]


def _carried(state: State, task: Task) -> list[str]:
    """What promoted ideas give at the next scale."""
    said = [
        "Trunk as each idea left it against the first trunk. The transfer ratio is that effect in units of the same here, each"
        " relative to its baseline's mean.", "",
    ]  # fmt: skip
    for order in state.carries.values():
        first, *rest = carry.said(state, order, task.metric.unit)
        said += [f"- {md(first)}", *(f"  - {md(line, 600)}" for line in rest)]
    return said


def _failures(state: State) -> list[str]:
    failed = [run for run in state.runs.values() if run.failed]
    if not failed:
        return ["None."]
    counts = Counter(run.status for run in failed)
    lines = [", ".join(f"{count} {status}" for status, count in counts.most_common()) + ".", ""]
    for run in failed[-FAILURES:]:
        lines.append(
            f"- **{run.id}** ({run.status}; {run.purpose}{f' of {md(run.experiment)}' if run.experiment else ''},"
            f" {md(run.agent, 40)}, seed {run.seed}): {md(run.reason) or 'no reason recorded'}"
        )
        tail = [clean(line, 160) for line in run.log_tail.splitlines()]
        tail = [line for line in tail if line][-TAIL_LINES:]
        if tail:
            lines += ["", *(f"      {line}" for line in tail), ""]  # an indented block cannot be closed from inside
    if len(failed) > FAILURES:
        lines.append(f"- and {len(failed) - FAILURES} earlier ones, in results.tsv")
    return lines


def _cost(state: State) -> list[str]:
    def spent(run: Run) -> float:
        return run.ended - run.started if run.started is not None and run.ended is not None else 0.0

    finished = [run for run in state.runs.values() if run.over]
    total = sum(spent(run) for run in finished)
    rows = []
    for purpose in [*PURPOSES, *sorted({run.purpose for run in finished} - set(PURPOSES))]:
        mine = [run for run in finished if run.purpose == purpose]
        if mine:
            rows.append(_cost_row(md(purpose), mine, sum(spent(run) for run in mine), total))
    rows.append(_cost_row("**all**", finished, total, total))
    lines = table(("purpose", "runs", "failed", "slot time", "share", "training FLOPs", "tokens"), rows)
    moments, slots = span(state), slots_of(state)
    if moments and slots and moments[1] > moments[0]:
        share = idle_share(state, slots, *moments)
        lines += ["", f"Session: up for {_duration(up_seconds(state, *moments))} on {slots} slot{'' if slots == 1 else 's'};"
                  f" slots were idle {share:.1%} of that time."]
    if state.experiments:
        lines += ["", f"{len(finished) / len(state.experiments):.1f} finished runs for each idea, banks included."]
    return lines


def _cost_row(name: str, runs: Sequence[Run], seconds: float, total: float) -> tuple[str, ...]:
    failed = sum(run.failed for run in runs)
    flops = sum(run.flops or 0.0 for run in runs)
    tokens = sum(int(run.account.get("tokens") or 0) for run in runs)
    share = f"{seconds / total:.0%}" if total else "–"
    return name, str(len(runs)), str(failed), _duration(seconds), share, f"{flops:.3g}" if flops else "–", f"{tokens:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
