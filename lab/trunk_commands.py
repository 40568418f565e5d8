"""What is ordered about trunk: `exp promote`, `exp audit`, `exp carry`. Mounted by `lab.commands`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from lab import asking, client
from lab import audit as audits
from lab import carry as carries
from lab.answer import as_data, tell
from lab.errors import UserError
from lab.ledger_commands import Identity, JsonFlag, opened
from lab.prepare import prepare
from lab.text import printable
from tasks.spec import Task


def promote(identity: Identity, as_json: JsonFlag = False) -> None:
    """Bring an experiment with the verdict `improved` to trunk; when trunk has moved it is confirmed there first.

    A chief or a person may.
    """
    home, _ = opened()
    answer = client.promote(home, client.me(home), identity)
    tell(
        answer,
        as_json,
        str(answer.get("note") or f"{identity} is promoted: trunk is now {str(answer.get('commit'))[:10]}"),
    )


def audit(
    show: Annotated[bool, typer.Option("--show", help="Order nothing: print the audits so far.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds for each idea. Default: as many as a bank has.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Leave each promoted idea out of trunk in turn: does it still help, and do the effects add up?

    A trunk is audited again on more seeds only: runs so far count, and what the new audit says supersedes the old one.
    Taking out what no longer helps is proposed as an experiment of the laboratory's own, and done only when it is promoted.
    """
    home, view = opened()
    if not show:
        answer = client.audit(home, client.me(home), seeds)
        stuck = [idea["experiment"] for idea in answer.get("ideas", []) if not idea["commit"]]
        said = f"; {', '.join(stuck)} cannot be taken out alone" if stuck else ""
        tell(answer, as_json, f"{answer.get('audit')} leaves each idea out on {answer.get('seeds')} fresh seeds{said}")
        return
    if as_data(as_json, [dataclasses.asdict(one) for one in view.state.audits.values()]):
        return
    unit = Task.model_validate_json(home.task.read_text()).metric.unit
    for one in view.state.audits.values():
        first, *rest = audits.lines(view.state, one, unit)
        print(printable("\n".join([first, *(f"  {line}" for line in rest)])))
    if not view.state.audits:
        print("no audit was ordered yet: orgctl exp audit")


def carry(
    experiments: Annotated[list[str] | None, typer.Argument(help="Promoted ideas. Default: all.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Order nothing: print what was carried so far.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds for each. Default: as many as a bank has.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run promoted ideas, and the first trunk, at the next scale of the task: how much of the effect arrives there?"""
    home, view = opened()
    task = Task.model_validate_json(home.task.read_text())
    if show and as_data(as_json, [dataclasses.asdict(one) for one in view.state.carries.values()]):
        return
    if show:
        for one in view.state.carries.values():
            print(printable("\n  ".join(carries.said(view.state, one, task.metric.unit))))
        if not view.state.carries:
            print("nothing was carried yet: orgctl exp carry")
        return
    following = Task.model_validate_json(home.next_task.read_text()) if home.next_task.is_file() else None
    if following is None or (why := carries.refusal(task, following)):
        raise UserError(why if following else carries.refusal(task, None) or "")
    me = client.me(home)  # asked before the data are prepared, which may take hours; the controller asks again
    asking.may_decide(me, view.state.session.get("chiefs") or (), carries.WHAT)
    asking.seeds(seeds, 0, carries.SEEDS)
    carries.wanted(view.state, experiments)
    if not (home.next_data / "manifest.json").is_file():
        print(f"preparing the data of scale {following.scale.name}, once", file=sys.stderr)
    prepare(following, home.protected, home.next_data, home.org / "prepare-next.log", view.state.session["protected"])
    answer = client.carry(home, me, experiments or [], seeds)
    named = ", ".join(answer.get("ideas", []))
    tell(answer, as_json, f"{answer.get('carry')} runs {named} at scale {following.scale.name} on {answer.get('seeds')} fresh seeds")
