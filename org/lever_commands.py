"""The commands of who decides: `assign`, `reprioritise`, `retire`, `budget`, `idea`, `areas`. Mounted by `orgctl.py`.

Each leaves a request that the controller judges (`org.levers`), but for the lists, which read facts, and an idea, which is a proposal.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from typing import Annotated, Any

import typer

from lab import areas as places
from lab import client, similar
from lab.answer import as_data
from lab.areas import PERSON
from lab.errors import UserError
from lab.ledger_commands import JsonFlag, opened
from lab.state import State
from lab.text import clean, figure
from org import hints, meeting
from org.role import HUMAN
from org.screen import say
from tasks.spec import Task

app = typer.Typer(add_completion=False)

AreaName = Annotated[str, typer.Argument(help="A family of ideas, one of the task's areas of knobs, or `family/word`.", metavar="AREA")]
Why = Annotated[str, typer.Option(help="The reason; it goes on record and to whom it concerns.")]


def ask(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask the controller of the session here, as whoever asks."""
    home, view = opened()
    view.ledger.close()
    return client.request(home, kind, client.me(home), body)


def tell(answer: dict[str, Any], as_json: bool, text: str) -> None:
    """Print what came of a request."""
    if not as_data(as_json, answer):
        say("no controller answered; the request waits until the next `orgctl up`" if "waiting" in answer else text)


@app.command()
def assign(
    agent: Annotated[str, typer.Argument(help="Name of an agent, such as r1.")],
    area: Annotated[list[str] | None, typer.Option(help="An area to work in; may be given several times.")] = None,
    hypothesis: Annotated[str, typer.Option(help="What to find out.")] = "",
    idea: Annotated[str, typer.Option(help="A person's idea, such as E0007, which becomes the agent's own.")] = "",
    gpu_hours: Annotated[float | None, typer.Option(help="Hours of slot time after which the assignment is over.")] = None,
    for_: Annotated[str | None, typer.Option("--for", help="Time after which it is over: 90s, 10m, 2h.")] = None,
    why: Annotated[str, typer.Option(help="The reason, in a sentence or three; it goes on record and to the agent.")] = "",
    end: Annotated[bool, typer.Option("--end", help="End the agent's assignment instead.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say what an agent works on from now on; the newest assignment counts. A chief or a person may."""
    if end:
        if area or hypothesis or idea or gpu_hours is not None or for_:
            raise UserError("--end ends the whole assignment: leave out all but --why; another assignment takes its place by itself")
        answer = ask("dismiss", {"agent": agent, "why": why})
        tell(answer, as_json, f"{agent} has no assignment any more")
        return
    try:
        span = meeting.seconds(for_) if for_ else None
    except ValueError as error:
        raise UserError(f"--for {for_}: {error}") from error
    what = {"areas": area or [], "hypothesis": hypothesis, "idea": idea}
    answer = ask("assign", {"agent": agent, **what, "gpu_hours": gpu_hours, "seconds": span, "why": why})
    note = f" Mind: {answer['note']}" if answer.get("note") else ""
    named = ", ".join([*dict.fromkeys(area or []), *filter(None, [idea, hypothesis])])
    tell(answer, as_json, f"{answer.get('assignment')}: {agent} works on {named}.{note}")


@app.command()
def reprioritise(
    experiment: Annotated[str, typer.Argument(help="An experiment, such as E0001.")],
    last: Annotated[bool, typer.Option("--last", help="To the end instead of the front.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Move an experiment's waiting runs to the front of those of the same purpose. A chief or a person may."""
    answer = ask("reprioritise", {"experiment": experiment, "last": last})
    tell(answer, as_json, f"{experiment} goes {'last' if last else 'first'}: {', '.join(answer.get('runs', []))}")


@app.command()
def retire(
    area: AreaName,
    evidence: Annotated[list[str] | None, typer.Option(help="An experiment that shows it; may be given several times.")] = None,
    why: Why = "",
    reopen: Annotated[bool, typer.Option("--reopen", help="Take the area up again instead.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Declare an area a dead end, with the experiments that show it: a proposal there needs a reason or an assignment then.

    A chief or a person may.
    """
    if reopen:
        tell(ask("reopen", {"area": area, "why": why}), as_json, f"{area} is open again")
        return
    answer = ask("retire", {"area": area, "evidence": evidence or [], "why": why})
    gave = f" Mind: {', '.join(answer['gave'])} improved there." if answer.get("gave") else ""
    tell(answer, as_json, f"{area} is retired; whoever proposes there is shown {', '.join(answer.get('evidence', []))}.{gave}")


@app.command()
def budget(
    area: AreaName,
    gpu_hours: Annotated[str, typer.Argument(help="Hours of slot time for all runs of its ideas, or `none`.")],
    as_json: JsonFlag = False,
) -> None:
    """Limit what an area may take: beyond it no nomination of the area is run; what is queued goes on. A chief or a person may."""
    try:
        hours = None if gpu_hours.lower() == "none" else float(gpu_hours)
    except ValueError as error:
        raise UserError(f"GPU-HOURS {gpu_hours[:40]}: give a number of hours, or `none`") from error
    answer = ask("budget", {"area": area, "gpu_hours": hours})
    most = "no limit" if hours is None else f"{hours:g} GPU-hours"
    tell(answer, as_json, f"{area} has {most}, and has spent {answer.get('spent', 0.0):.3g}")


@app.command()
def idea(
    text: Annotated[str | None, typer.Argument(help="Your idea in a sentence; or the id of one that waits. Default: list those.")] = None,
    mechanism: Annotated[str, typer.Option(help="Why it should work.")] = similar.UNSAID,
    family: Annotated[str, typer.Option(help="The area that it belongs to.")] = "other",
    answer: Annotated[str | None, typer.Option(help="Answer the idea; for a chief or a person. It is then closed.")] = None,
    again: Annotated[str, typer.Option(help="Why it is to be tried although something like it was.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Give the organisation an idea of yours: it is registered as a proposal, and the chief must assign or answer it."""
    home, view = opened()
    if answer is not None:
        if text is None:
            raise UserError("--answer: name the idea, such as E0007")
        tell(ask("answer", {"experiment": text, "answer": answer}), as_json, f"{text} is answered and closed")
        return
    if text is None:
        waiting = places.ideas(view.state)
        rows = [{"id": one.id, "family": one.family, "idea": one.hypothesis, "time": one.proposed} for one in waiting]
        if not as_data(as_json, rows):
            for one in waiting:
                say(f"{one.id}  {clean(one.family, 30)}  {clean(one.hypothesis, 120)}", hang=7)
            if not waiting:
                print("no idea of a person waits")
        return
    if re.fullmatch(r"[Ee]\d+", text.strip()):
        _shown(view.state, text.strip().upper(), as_json)
        return
    if os.environ.get("ORGCTL_AGENT") and os.environ.get("ORGCTL_ROLE") != HUMAN:
        raise UserError("`orgctl idea` is for people: an agent registers its own with `orgctl exp propose`")
    near = similar.proposals(view.state, {"hypothesis": text, "mechanism": mechanism}, {})[: similar.SHOWN]
    task = Task.model_validate_json(home.task.read_text())
    name = client.propose(home, PERSON, text, mechanism, family, min_effect=task.min_effect, again=again, view=view)
    lines = [f"like it: {line}" for line in similar.named(view.state, near)]
    chiefs = view.state.session.get("chiefs") or []
    who = f"{', '.join(map(str, chiefs))} assigns or answers it" if chiefs else "nobody decides here but people: `orgctl assign`"
    if not as_data(as_json, {"experiment": name, "similar": similar.shown(view.state, near)}):
        say("\n".join([*lines, f"{name} is registered; {who}"]))


def _shown(state: State, name: str, as_json: bool) -> None:
    """An idea that waits, named without an answer. Raises UserError for what is none."""
    one = next((one for one in places.ideas(state) if one.id == name), None)
    if one is None:
        known = f"`orgctl exp show {name}` says what it is" if name in state.experiments else "`orgctl exp list` shows what is there"
        raise UserError(f"{name} is no idea of a person that waits for an answer: {known}; an idea of yours is a sentence")
    if not as_data(as_json, {"id": one.id, "family": one.family, "idea": one.hypothesis, "time": one.proposed}):
        say(f"{one.id} waits ({clean(one.family, 60)}): {clean(one.hypothesis, 1000)}")
        say(f'give it to somebody: orgctl assign AGENT --idea {name} --why "..."    answer it: orgctl idea {name} --answer "..."')


@app.command()
def areas(as_json: JsonFlag = False) -> None:
    """Where the next try is worth most: each area's tries, hits with interval, best effect, cost; the most promising first."""
    home, view = opened()
    task = Task.model_validate_json(home.task.read_text())
    found = hints.table(view.state, task.metric.direction == "minimize", time.time(), task.areas())
    rows = [{key: _finite(value) for key, value in dataclasses.asdict(one).items()} for one in found]
    if as_data(as_json, rows):
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table("area", "hits (95 %)", "best effect", "GPU-hours", "under way", "assigned to", box=None)
    for one in found:
        best = f"{figure(one.effect, signed=True)} {one.best}" if one.effect is not None else ""
        hours = f"{one.gpu_hours:.3g}" + (f" of {one.budget:g}" if one.budget is not None else "")
        shown.add_row(clean(one.area, 60), hints.rate_text(one), best, hours, str(one.under_way or ""), ", ".join(one.agents))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a file has no edge to wrap at
    console.print(shown)
    for one in found:
        if one.retired:
            say(one.retired, hang=2)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value
