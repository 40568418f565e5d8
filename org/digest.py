"""A standup's digest: Markdown made by code, what has to be decided first. Every figure comes from the ledger, every claim is checked.

Called by `org.standup` when a standup closes. The order is that of a chief's attention: where trunk stands, what waits for a decision,
what was said that the ledger does not bear out, what came in, where to look next, then the reports and the machine. What agents
wrote is escaped, cut, and stands in quotation marks or under their name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab import areas, claims, queue, verdict
from lab.direction import Assignment, Standup
from lab.figures import idle_share, levels
from lab.home import Home
from lab.markdown import md
from lab.records import VERDICTS, Experiment, Run
from lab.state import State
from lab.text import figure, interval
from org import cost, hints, plans
from org.decisions import SHOWN, Rules, decisions, effect_text, named
from org.factcheck import Checked, Witness, check
from org.hints import Area
from org.printed import span
from org.recorded import Known
from org.reports import SECTIONS, Report
from tasks.spec import Task


@dataclass
class Said:
    """An agent's report with what the ledger says of it."""

    agent: str
    report: Report
    checked: dict[str, list[Checked]] = field(default_factory=dict)

    @property
    def flagged(self) -> list[Checked]:
        return [one for found in self.checked.values() for one in found if one.flags]

    @property
    def claims(self) -> int:
        return sum(one.claim for found in self.checked.values() for one in found)


def examine(agent: str, report: Report, known: Known, agents: Sequence[str], chief: str | None) -> Said:
    """A report, sentence by sentence against the ledger."""
    witness = Witness(agent, tuple(agents), agent == chief)
    return Said(agent, report, {name: check(getattr(report, name), known, witness, name) for name in SECTIONS})


def digest(
    home: Home, state: State, task: Task, rules: Rules, said: Sequence[Said], missing: Sequence[str], aside: dict[str, str], now: float
) -> str:
    """The whole page, for the newest standup of the state."""
    meeting = state.direction.standup
    if meeting is None:
        raise ValueError("there was no standup")
    since, when = _since(state, meeting)
    place = hints.table(state, task.metric.direction == "minimize", now, task.areas())
    planned = [(one.agent, sentence.text) for one in said for sentence in one.checked.get("next", [])]
    parts: list[tuple[str, list[str]]] = [
        ("", _head(state, task, since, when, said, missing, aside)),
        ("To decide", decisions(state, task, rules, place, now)),
        ("Said, but not borne out by the ledger", _flags(said)),
        ("About to be tried again", plans.pointed_out(state, planned)),
        ("What came in", _news(state, task, since)),
        ("Areas, the most promising first", _areas(state, place)),
        ("Reports", _reports(state, said, now)),
        ("Laboratory", _machine(home, state, rules, since, when, now)),
    ]
    title = f"# Standup {meeting.number}: {time.strftime('%d %b %Y, %H:%M', time.localtime(now))} ({md(meeting.why)})"
    lines = [title]
    for name, found in parts:
        if found:
            lines += ["", *([f"## {name}", ""] if name else []), *found]
    return "\n".join(lines) + "\n"


def _since(state: State, meeting: Standup) -> tuple[float, str]:
    """From when on things are new, and in words."""
    before = [one for one in state.direction.standups.values() if one.number < meeting.number]
    if before:
        return before[-1].closed or before[-1].opened, "since the last standup"
    return (state.trunks[0].time if state.trunks else meeting.opened), "since the start"


# Where trunk stands


def _head(
    state: State, task: Task, since: float, when: str, said: Sequence[Said], missing: Sequence[str], aside: dict[str, str]
) -> list[str]:
    lines = [_standing(state, task)]
    promoted = [step.experiment for step in state.trunks if step.experiment in state.experiments and step.time >= since]
    reverted = [step.reverts for step in state.trunks if step.reverts and step.time >= since]
    count = len(_judged(state, since))
    parts = [f"{count} idea{'s' if count != 1 else ''} judged"]
    parts += [f"promoted: {_some(promoted)}"] if promoted else ["nothing promoted"]
    parts += [f"taken back: {md(_some(reverted))}"] if reverted else []
    lines.append(f"{when.capitalize()}: {'; '.join(parts)}.")
    flagged = sum(len(one.flagged) for one in said)
    who = f"Reports of {', '.join(one.agent for one in said)}" if said else "No reports"
    gone = f"; **missing: {', '.join(missing)}**" if missing else ""
    odd = "".join(f"; set aside: {md(name, 60)} {md(why, 120)}" for name, why in aside.items())
    outcome = f"**{flagged}**" if flagged else "none"
    checked = f" Sentences with a claim: {sum(one.claims for one in said)}; not borne out: {outcome}." if said else ""
    lines.append(f"{who}{gone}{odd}.{checked}")
    return [f"{line}  " for line in lines[:-1]] + [lines[-1]]


def _some(names: Sequence[str]) -> str:
    """The newest names, and how many before them."""
    return ", ".join([*([f"{len(names) - SHOWN} earlier"] if len(names) > SHOWN else []), *names[-SHOWN:]])


def _standing(state: State, task: Task) -> str:
    split = state.split
    steps = levels(state, split)
    measured = [step for step in steps if state.same(step.commit, state.trunk)]
    if not steps:
        return f"Trunk {state.trunk[:8] or '(none)'} has no finished baseline run yet."
    now, first = measured[-1] if measured else steps[-1], steps[0]
    band = f" [{figure(now.low)}, {figure(now.high)}]" if not math.isnan(now.low) else ""
    line = f"**{md(task.metric.name)} {figure(now.mean)}**{band} on {split} (trunk {now.commit[:8]}, n {now.n})"
    if not measured:
        return f"{line} before the last promotion: trunk {state.trunk[:8]} has no finished baseline run yet."
    if state.same(first.commit, now.commit):
        return f"{line}: the first baseline stands."
    values, baseline = state.bank(now.commit).values(split), state.bank(first.commit).values(split)
    if len(values) < 2 or len(baseline) < 2:
        return f"{line}, {figure(now.mean - first.mean, signed=True)} against the first baseline."
    test = verdict.welch(values, baseline, minimize=task.metric.direction == "minimize")
    return (
        f"{line}, **{figure(test.effect, signed=True)}** {interval(test.low, test.high)} against the"
        f" first baseline, with {_some([one.id for one in state.promotions()])}."
    )


# What was said


def _flags(said: Sequence[Said]) -> list[str]:
    lines: list[str] = []
    for one in said:
        lines += [
            f'- {one.agent}: "{md(sentence.text, 240)}" **{md("; ".join(flag.text for flag in sentence.flags), 300)}**'
            for sentence in one.flagged[:SHOWN]
        ]
        more = len(one.flagged) - SHOWN
        lines += [f"- {one.agent}: and {more} more, marked in the report below"] if more > 0 else []
    return lines


def _reports(state: State, said: Sequence[Said], now: float) -> list[str]:
    lines: list[str] = []
    for one in said:
        task = areas.assigned(state, one.agent, now)
        lines += [*([""] if lines else []), f"### {one.agent}{f': {md(_assignment(task, now))}' if task else ''}", ""]
        lines += [f"*{md(one.report.note)}*", ""] if one.report.note else []
        for name in SECTIONS:
            found = one.checked.get(name, [])
            if found:
                lines += [f"**{name.capitalize()}**", "", *_sentences(found), ""]
        lines.pop()
    return lines


def _sentences(found: Sequence[Checked]) -> list[str]:
    """The first ones and whatever is flagged."""
    kept = [one for number, one in enumerate(found) if number < SHOWN or one.flags][: 4 * SHOWN]
    lines = [f"- {md(one.text, 400)}" + "".join(f" **[{md(flag.text, 200)}]**" for flag in one.flags) for one in kept]
    return [*lines, *([f"- and {len(found) - len(kept)} more sentences"] if len(found) > len(kept) else [])]


def _assignment(task: Assignment, now: float) -> str:
    until = f", {span(task.deadline - now)} left" if task.deadline else ""
    hours = f", {task.gpu_hours:g} GPU-hours" if task.gpu_hours else ""
    return ", ".join([*task.areas, *([task.idea] if task.idea else [])]) + f"{hours}{until}"


# What happened


def _judged(state: State, since: float) -> list[Experiment]:
    """Ideas whose last run ended, and with a verdict, since then."""
    return [
        one for one in state.experiments.values()
        if one.verdict and not one.removes and max((run.ended or 0.0 for run in one.runs), default=one.proposed) >= since
    ]  # fmt: skip


def _news(state: State, task: Task, since: float) -> list[str]:
    """Promotions with their effect by fresh runs, then every idea that was judged, the good ones first."""
    lines = []
    for step in [step for step in state.trunks if step.experiment and step.time >= since][-SHOWN:]:
        if (one := state.experiments.get(step.experiment)) is not None:
            fresh = claims.reported(state, one, task.metric.direction == "minimize", state.wanted)
            size = f"verdict {effect_text(one)}, not measured by fresh runs yet"
            if fresh:
                size = f"{figure(fresh.effect, signed=True)} {interval(fresh.low, fresh.high)} by fresh runs, n {fresh.n} against {fresh.m}"
            taken = "; **taken back: its own bank was no better**" if one.reverted else ""
            lines.append(f"- promoted {named(one)}: {size}{taken}")
    order = {name: rank for rank, name in enumerate(VERDICTS)}
    rows = sorted((one for one in _judged(state, since) if not one.promoted), key=lambda one: order.get(one.verdict or "", 99))
    lines += [f"- {named(one)}: {one.verdict}{' ' if one.tried else ', '}{effect_text(one)}{_reason(one)}" for one in rows[:SHOWN]]
    if len(rows) > SHOWN:
        rest = [one.verdict for one in rows[SHOWN:]]
        lines.append(f"- and {', '.join(f'{rest.count(word)} {word}' for word in VERDICTS if word in rest)}: `orgctl exp list`")
    lines += [f"- dead end: {md(areas.told(one), 300)}" for one in state.direction.retired.values() if one.time >= since]
    return lines or ["Nothing was judged."]


def _reason(one: Experiment) -> str:
    """Why it ended without a comparison, or otherwise than its interval says."""
    judged = one.attempts[-1].verdict or {}
    low, high = judged.get("low"), judged.get("high")
    clear = isinstance(low, int | float) and isinstance(high, int | float) and (low > 0 or high < 0)
    if isinstance(judged.get("effect"), int | float) and not (clear and one.verdict == "inconclusive"):
        return ""
    reasoning = judged.get("reasoning") or [""]
    return f": {md(reasoning[0], 140)}"


def _areas(state: State, place: Sequence[Area]) -> list[str]:
    if not any(one.tries or one.under_way for one in place):
        return []
    lines = ["| area | hits (95 %) | best effect | GPU-hours | under way | who |", "|---|---|---|---|---|---|"]
    for one in place:
        best = f"{figure(one.effect, signed=True)} ({one.best})" if one.effect is not None else "–"
        hours = f"{one.gpu_hours:.2g}" + (f" of {one.budget:g}" if one.budget is not None else "")
        who = "retired" if one.retired else ", ".join(one.agents) or "nobody"
        lines.append(f"| {md(one.area)} | {hints.rate_text(one)} | {best} | {hours} | {one.under_way or '–'} | {md(who)} |")
    return lines


# The machine


def _machine(home: Home, state: State, rules: Rules, since: float, when: str, now: float) -> list[str]:
    """Noise, idle slots, what it cost."""
    lines = [f"- **alarm** {md(text, 300)}" for text in state.alarms[-3:]]
    bank = state.bank().values(state.split)
    if len(bank) > 1:
        sigma, low, high = verdict.sigma_interval(bank)
        drifts = any(text.startswith(f"the baseline {state.trunk[:8]} drifts") for text in state.alarms)
        drift = "drifts: see the alarm" if drifts else "no drift"
        lines.append(f"- sigma of one run {figure(sigma)} [{figure(low)}, {figure(high)}] by {len(bank)} baseline runs; {drift}")
    if now > since and rules.slots:
        share = idle_share(state, rules.slots, since, now)
        lines.append(f"- slots idle {100 * share:.0f} % of the time {when}; {len(queue.waiting(state))} in the queue")
    lines.append(f"- {when} {_cost(state, lambda run: (run.ended or now) >= since, now)}")
    lines += [f"- in all {_cost(state, lambda run: True, now)}"] if when != "since the start" else []
    known = [f"{name} {text}" for name in rules.agents if (text := _agent_cost(home, name))]
    lines.append(f"- agents: {'; '.join(known)}" if known else "- agents: tokens and dollars not recorded")
    return lines


def _cost(state: State, which: Callable[[Run], bool], now: float) -> str:
    runs = [run for run in state.runs.values() if run.started is not None and which(run)]
    occupied = sum(areas.slot_seconds(run, now) for run in runs)
    flops = sum(run.flops or 0.0 for run in runs)
    baseline = sum(areas.slot_seconds(run, now) for run in runs if run.purpose in ("bank", "frontier", "parent"))
    share = f", {100 * baseline / occupied:.0f} % of them for baselines" if occupied else ""
    return f"{len(runs)} runs, {occupied:,.0f} GPU-seconds (slot time){share}, {flops:.3g} FLOPs"


def _agent_cost(home: Home, agent: str) -> str:
    """What its backend wrote down of an agent's tokens and dollars; what it does not know stays unknown."""
    found = cost.read(home, agent)
    if found is None:
        return ""
    dollars = f"{cost.least(found):,.2f} dollars"
    part = f">= {dollars}" if cost.least(found) else "price unknown"
    return f"{found['tokens']:,} tokens, " + (part if found["dollars"] is None else dollars)
