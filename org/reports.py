"""A report to a standup: what an agent says it did, learned, does next, and what stops it. Written by agents, so it is data.

It comes as a file `.org/standups/<n>/<agent>.md` (`orgctl standup report` writes one, an agent may) or as mail to `lab`. Whatever it
looks like it is read to some end: what is too long is cut, what is no text or is signed with another name is set aside with a
reason. Nothing here waits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lab.areas import assigned
from lab.errors import UserError
from lab.files import read_plain, write_atomic
from lab.home import Home
from lab.records import Experiment
from lab.state import State
from lab.text import clean, printable

SECTIONS = ("done", "learned", "next", "blocked")
LIMIT_BYTES = 1_000_000
"""A larger file is no report."""
NAMED = 6
"""Experiments of one kind that an optimiser's report names."""
HEAD = re.compile(
    r"^\s*(?:(?P<marked>#{1,6}\s*(?:\*\*|__)?|\*\*|__)(?P<a>done|learned|learnt|next|blocked)\b(?P<more>[^:\n]{0,60}?)|"
    r"(?P<b>done|learned|learnt|next|blocked))\s*(?:\*\*|__)?\s*(?P<colon>:|$)\s*(?:\*\*|__)?\s*(?P<rest>[^\n]{0,20000})$",
    re.IGNORECASE,
)
"""A heading: "## Done since then", "**Next:** try E0007 again", "Learned: ...", or the word alone."""
TITLES = {"done": "Done since the last standup", "learned": "Learned", "next": "Next", "blocked": "Blocked"}


@dataclass
class Report:
    """The text of each section; what stands under no heading counts as done. `note`: what was done to it."""

    done: str = ""
    learned: str = ""
    next: str = ""
    blocked: str = ""
    note: str = ""
    signed: list[str] = field(default_factory=list)
    """Names in its front matter (`from:`, `agent:`)."""

    @property
    def empty(self) -> bool:
        """Is there no word in it? A dash says nothing."""
        return not any(re.search(r"[^\W_]", getattr(self, name)) for name in SECTIONS)


def folder(home: Home, number: int) -> Path:
    """Where a standup's files lie."""
    return home.org / "standups" / str(number)


def parse(text: str, limit: int) -> Report:
    """A report out of Markdown, at most `limit` characters of it."""
    text = printable(text)
    report = Report()
    if text.startswith("---\n") and (end := text.find("\n---", 4)) > 0:
        report.signed = re.findall(r"^(?:from|agent):\s*(\S{1,64})\s*$", text[:end], re.MULTILINE)
        text = text[end + 4 :].lstrip("-")
    if len(text) > limit:
        report.note = f"cut after {limit:,} of {len(text):,} characters"
        text = text[:limit]
    found: dict[str, list[str]] = {name: [] for name in SECTIONS}
    section = "done"
    for line in text.splitlines():
        if head := HEAD.match(" ".join(line.split())):  # long blanks in a line would be tried in every split: seconds
            name = (head["a"] or head["b"]).lower()
            section, line = "learned" if name == "learnt" else name, head["rest"]
        if line.strip() and not re.fullmatch(r"\s*#{1,6}.*", line):
            found[section].append(line)
    for name in SECTIONS:
        setattr(report, name, "\n".join(found[name]))
    return report


def render(standup: str, agent: str, said: dict[str, str]) -> str:
    """A report as Markdown; sections that say nothing are left out."""
    parts = [f"---\nstandup: {standup}\nfrom: {agent}\n---"]
    parts += [f"## {TITLES[name]}\n\n{said[name].strip()}" for name in SECTIONS if said.get(name, "").strip()]
    return "\n\n".join(parts) + "\n"


def submit(home: Home, state: State, agent: str, text: str, limit: int) -> str:
    """Hand in a report to the standup that is open; returns its id. A second one takes the place of the first.

    Raises UserError when none is open, the agent was not asked, or the text is empty or longer than `limit` characters.
    """
    meeting = state.direction.standup
    if meeting is None or meeting.closed is not None:
        raise UserError("no standup is open: the next one asks by mail (`orgctl standup` calls one, `orgctl standup show` has the last)")
    if agent not in meeting.agents:
        raise UserError(f"{agent} was not asked for a report: {', '.join(meeting.agents)} were")
    if len(text) > limit:
        raise UserError(f"the report has {len(text):,} characters and {limit:,} are read: say what matters, with experiment ids")
    try:
        accept(text, agent, limit)
    except ValueError as error:
        said = "say, in your own name, what is done (with experiment ids), learned, next, and what blocks you"
        raise UserError(f"the report {error}: {said}") from error
    whole = text.encode("utf-8", "replace")  # half a surrogate pair, as of a byte on the command line that is no UTF-8, is none either
    write_atomic(folder(home, meeting.number) / f"{agent}.md", whole, home.org)
    return meeting.id


def read(path: Path) -> str | None:
    """The text of a report's file; None when there is none. Raises ValueError with the reason why it is no text."""
    data = read_plain(path, LIMIT_BYTES)
    return None if data is None else as_text(data)


def as_text(data: bytes) -> str:
    """A report's bytes as text. Raises ValueError for a binary."""
    if b"\0" in data:
        raise ValueError("is no text")
    return data.decode("utf-8", "replace")


def accept(text: str, agent: str, limit: int) -> Report:
    """A text as an agent's report. Raises ValueError with the reason why it is none."""
    report = parse(text, limit)
    if other := next((name for name in report.signed if name != agent), None):
        raise ValueError(f"is signed by {other}")
    if report.empty:
        raise ValueError("says nothing")
    return report


def handed_in(home: Home, number: int, agent: str, limit: int) -> Report | None:
    """What lies there of an agent; None when nothing does. Raises ValueError with the reason why it is no report."""
    text = read(folder(home, number) / f"{agent}.md")
    return None if text is None else accept(text, agent, limit)


# What an optimiser reports


def own(state: State, agent: str, since: float, now: float, unit: str, plan: str) -> dict[str, str]:
    """The report of an agent that has nothing to say but what the ledger says: its verdicts and reviews since then, and what it has under
    way. `plan`: what it does unless it is assigned."""
    mine = [one for one in state.experiments.values() if one.agent == agent]
    judged = [one for one in mine if one.verdict and any((run.ended or 0.0) >= since for run in one.runs)]
    waiting = [one.id for one in mine if one.status == "nominated"]
    going = [one for one in mine if one.status in ("proposed", "queued", "running")]
    done = [_line(one, unit) for one in judged]
    read = [
        f"{one.id} ({found.finding or 'a remark'})"
        for one in state.experiments.values() for found in one.reviews if found.actor == agent and found.time >= since
    ]  # fmt: skip
    done += [f"- reviewed {', '.join(read[-NAMED:])}{' and others' if len(read) > NAMED else ''}."] if read else []
    done += [f"- waiting for fresh seeds: {_newest(waiting)}."] if waiting else []
    turned: dict[str, list[Experiment]] = {}
    for one in judged:
        for name in one.params:
            turned.setdefault(name, []).append(one)
    best = sorted(turned, key=lambda name: -len(turned[name]))[:3]
    learned = [f"- {clean(name, 40)}: {_came_of(turned[name])}." for name in best]
    task = assigned(state, agent, now)
    plans = [f"- {one.id}: {clean(one.hypothesis, 160)}" for one in going]
    plans += [f"- goes on in {', '.join(task.areas)}." if task and task.areas else f"- {plan}"]
    return {"done": "\n".join(done) or "- nothing finished.", "learned": "\n".join(learned), "next": "\n".join(plans)}


def _came_of(found: list[Experiment]) -> str:
    """worse E0004, E0007 and 3 before them; promoted E0009"""
    came: dict[str, list[str]] = {}
    for one in found:
        came.setdefault(one.status, []).append(one.id)
    return "; ".join(f"{state} {_newest(came[state])}" for state in sorted(came, key=lambda state: -len(came[state])))


def _newest(names: list[str]) -> str:
    return ", ".join(names[-NAMED:]) + (f" and {len(names) - NAMED} before them" if len(names) > NAMED else "")


def _line(one: Experiment, unit: str) -> str:
    judged = one.attempts[-1].verdict or {}
    effect = judged.get("effect")
    size = f", {effect:+.4g} {unit} on n = {judged.get('n')}" if isinstance(effect, int | float) else ""
    where = ", promoted and taken back" if one.reverted else " and promoted" if one.promoted else ""
    return f"- {one.id}: {one.verdict}{where}{size}."
