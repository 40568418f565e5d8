"""The laboratory's commands: `exp` (propose, amend, run, wait, show, list, diff, review, confirm, promote, audit, carry,
withdraw), `ledger` (in `ledger_commands.py`), `report`; and `mcp`, which offers them to agents as tools (in `tools.py`).

The help texts teach the workflow: propose before running, one run only nominates, fresh seeds decide, only code writes verdicts.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Annotated, Any

import typer

from lab import audit as audits
from lab import carry as carries
from lab import claims, client, ledger_commands, promotion, similar, tools
from lab.account import spent
from lab.answer import as_data, pause
from lab.errors import UserError
from lab.files import read_json
from lab.home import Home
from lab.ledger import Ledger
from lab.ledger_commands import JsonFlag, opened
from lab.prepare import prepare
from lab.records import Experiment, Run, State, View
from lab.shown import brief, next_step, shown_run, story
from lab.text import clean, printable
from tasks.spec import Task

app = typer.Typer(add_completion=False)
exp = typer.Typer(
    help="Experiments. The way of an idea: `propose` it, edit the code in your worktree, `run` it (one run only nominates), "
    "`confirm` it on fresh seeds, `promote` what is improved. Every verb takes --json.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(exp, name="exp")
app.add_typer(ledger_commands.ledger_app, name="ledger")

VERDICT_SECONDS = 5.0
"""How long `exp run` and `exp wait` wait, after a run has ended, for what the laboratory makes of it (a bank may still be missing)."""
Identity = Annotated[str, typer.Argument(help="An experiment, such as E0001.", metavar="EXPERIMENT")]
Again = Annotated[
    str, typer.Option(help="Why this is tried again although something like it was tried before; becomes part of the record.")
]
FAMILY_HELP = f"The kind of idea: {', '.join(client.FAMILIES)}, or one of the task's areas; `a+b` for both."
DIRECTION_HELP = "improves, or no-change for a simplification (recorded; judged as an improvement so far)."


def _experiment(state: State, identity: str) -> Experiment:
    try:
        return state.experiments[identity]
    except KeyError:
        raise UserError(f"there is no experiment {identity!r}: `orgctl exp list` shows them") from None


def _tell(answer: dict[str, Any], as_json: bool, text: str) -> None:
    if as_data(as_json, answer):
        return
    if "waiting" in answer:
        print("no controller answered; the request waits until the next `orgctl up`")
    else:
        print(printable(text))


@exp.command()
def propose(
    hypothesis: Annotated[
        str, typer.Option(help="What you expect to happen, in a sentence that could turn out false.")
    ],
    mechanism: Annotated[str, typer.Option(help="Why it should happen.")],
    family: Annotated[str, typer.Option(help=FAMILY_HELP)] = "other",
    direction: Annotated[str, typer.Option(help=DIRECTION_HELP)] = "improves",
    min_effect: Annotated[
        float | None, typer.Option(help="Smallest effect of interest, in the metric's unit. Default: the task's.")
    ] = None,
    held_constant: Annotated[
        str, typer.Option(help="What you keep the same, so that the comparison means something.")
    ] = "",
    again: Again = "",
    as_json: JsonFlag = False,
) -> None:
    """Register an idea BEFORE anything of it runs. Then edit the code in your worktree and `orgctl exp run` it.

    Ideas like it that were proposed before are shown with what became of them, failures too; the same idea needs a reason
    (--again). Until its first run you may say it better: `orgctl exp amend`.
    """
    home, view = opened()
    task = Task.model_validate_json(home.task.read_text())
    text = {"hypothesis": hypothesis, "mechanism": mechanism}
    near = similar.proposals(view.state, text, {})[: similar.SHOWN]
    identity = client.propose(
        home,
        client.me(home),
        hypothesis,
        mechanism,
        family,
        direction,
        task.min_effect if min_effect is None else min_effect,
        held_constant,
        again=again,
        view=view,
    )
    lines = [f"like it: {line}" for line in similar.named(view.state, near)]
    lines.append(
        f"{identity} is registered on trunk {view.state.trunk[:8]}. Edit {', '.join(task.editable)}, then: orgctl exp run {identity}"
    )
    _tell({"experiment": identity, "similar": similar.shown(view.state, near)}, as_json, "\n".join(lines))


@exp.command()
def amend(
    identity: Identity,
    hypothesis: Annotated[str | None, typer.Option(help="What you expect to happen.")] = None,
    mechanism: Annotated[str | None, typer.Option(help="Why it should happen.")] = None,
    family: Annotated[str | None, typer.Option(help=FAMILY_HELP)] = None,
    direction: Annotated[str | None, typer.Option(help=DIRECTION_HELP)] = None,
    min_effect: Annotated[float | None, typer.Option(help="Smallest effect of interest, in the metric's unit.")] = None,
    held_constant: Annotated[str | None, typer.Option(help="What you keep the same.")] = None,
    again: Again = "",
    as_json: JsonFlag = False,
) -> None:
    """Say a proposal of yours better, before its first run; only what you name changes, and `exp show` keeps every version.

    After the first run a prediction stays as it was: a changed idea is a new proposal.
    """
    home, view = opened()
    given = {
        "hypothesis": hypothesis, "mechanism": mechanism, "family": family, "direction": direction,
        "min_effect": min_effect, "held_constant": held_constant,
    }  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    changed = client.amend(home, client.me(home), identity, changes, again, view)
    names = ", ".join(name.replace("_", " ") for name in changed)
    _tell(
        {"experiment": identity, "changed": changed},
        as_json,
        f"{identity} says anew: {names}. What it said before stays on record: orgctl exp show {identity}",
    )


@exp.command()
def run(identity: Identity, again: Again = "", as_json: JsonFlag = False) -> None:
    """Snapshot your worktree's editable files as this experiment and queue its first run, on a seed that the laboratory gives.

    The first run only nominates. On a terminal this follows the run (Ctrl-C stops watching, not the run); without one it returns at
    once: end your turn, the result arrives by mail. A change like one that was run before, on whatever trunk, needs a reason
    (--again), unless one was given when it was proposed.
    """
    home, _ = opened()
    answer = client.run(home, client.me(home), identity, again=again)
    told = [f"{one['experiment']} by {one['agent']} ({one['outcome']})" for one in answer.get("similar") or []]
    like = f" Changes like it: {', '.join(told)}." if told else ""
    if "waiting" in answer or as_json or not sys.stdout.isatty():
        notes = (f" Not part of it: {', '.join(answer['ignored'][:5])}." if answer.get("ignored") else "") + like
        _tell(
            answer,
            as_json,
            f"{answer.get('run')} is queued for {identity}.{notes} End your turn now; the result arrives by mail (orgctl mail inbox).",
        )
        return
    if like:
        print(printable(like.strip()))
    _follow(home, str(answer["run"]))


@exp.command()
def wait(
    identity: Identity,
    seconds: Annotated[float, typer.Option(help="Give up waiting after this time.")] = 3600,
    as_json: JsonFlag = False,
) -> None:
    """Wait until no run of this experiment is queued or running and the laboratory has said what it makes of it; then show it.

    With --json: {experiment, status, over, waited_seconds, verdict, effect, runs, next, ...}; `over` is false, and the exit code
    1, when the time was too short. Where a command must end soon, do not wait: the result arrives by mail.
    """
    _, view = opened()
    began = time.monotonic()
    while (under_way := _under_way(_experiment(view.state, identity))) and time.monotonic() - began < seconds:
        pause(min(0.5, seconds))
        view.refresh()
    item = _experiment(view.state, identity)
    waited = round(time.monotonic() - began, 1)
    if as_data(as_json, {**brief(item), "over": not under_way, "waited_seconds": waited, **_grounds(item)}):
        raise typer.Exit(1 if under_way else 0)
    if under_way:
        raise UserError(
            f"{identity} still has runs going on after {seconds:.0f} s: wait again, or look at `orgctl status`"
        )
    print(story(item))


def _under_way(item: Experiment) -> bool:
    """Is a run queued or running, or did the last one end just now, so that the laboratory has not looked at it yet?"""
    if any(not one.over for one in item.runs):
        return True
    ended = max((one.ended or 0.0 for one in item.runs), default=0.0)
    return not _judged(item) and time.time() - ended < VERDICT_SECONDS


def _grounds(item: Experiment) -> dict[str, Any]:
    """What `exp wait` tells programs beside the outcome."""
    verdict = (item.attempt.verdict if item.attempt else None) or {}
    keys = ("low", "high", "p", "n", "m", "sigma", "reasoning")
    return {**{key: verdict.get(key) for key in keys}, "runs": [shown_run(one) for one in item.runs], "next": next_step(item)}


def _judged(item: Experiment) -> bool:
    """Has the laboratory said what it makes of the runs so far?"""
    attempt = item.attempt
    if attempt is None or attempt.verdict or item.withdrawn is not None:
        return True
    return bool(attempt.nomination) and not attempt.confirm_ordered


def _follow(home: Home, identity: str) -> None:
    """A progress bar over the budget until the run is over."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    view = View(Ledger(home.ledger))
    view.refresh()
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
        ) as bar:
            shown = bar.add_task(f"{identity} queued", total=1.0)
            while not view.state.runs[identity].over:
                counts = read_json(home.runs / identity / "counts.json")
                budget = view.state.runs[identity].budget
                done = (spent(counts, budget["kind"]) or 0.0) / budget["amount"]
                bar.update(
                    shown, completed=min(1.0, done), description=f"{identity} {view.state.runs[identity].status}"
                )
                time.sleep(0.3)
                view.refresh()
    except KeyboardInterrupt:
        print(f"\nno longer watching; {identity} goes on. orgctl exp wait {view.state.runs[identity].experiment}")
        raise typer.Exit(0) from None
    ended = view.state.runs[identity]
    values = ", ".join(f"{split} {value:.4f}" for split, value in ended.metric.items())
    print(f"{identity} {ended.status} {values}{ended.reason}")
    deadline = time.monotonic() + VERDICT_SECONDS
    while not _said(view.state, ended) and time.monotonic() < deadline:
        time.sleep(0.2)
        view.refresh()
    print(story(view.state.experiments[ended.experiment]))


def _said(state: State, run: Run) -> bool:
    """Has the laboratory said anything of the experiment of this run?"""
    attempt = state.experiments[run.experiment].attempt
    return attempt is not None and bool(attempt.nomination or attempt.verdict)


@exp.command("list")
def list_(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only those with this status, such as nominated or improved.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """All experiments, newest last; negative results included. Look here before you propose."""
    _, view = opened()
    found = [
        item
        for item in view.state.experiments.values()
        if (agent in (None, item.agent)) and (status in (None, item.status))
    ]
    if as_data(as_json, [brief(item) for item in found]):
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("experiment", "agent", "status", "effect", box=None)
    table.add_column("hypothesis", no_wrap=True, overflow="ellipsis")
    for item in found:
        effect = brief(item)["effect"]
        table.add_row(
            item.id, clean(item.agent, 30), item.status, "" if effect is None else f"{effect:+.4f}", Text(clean(item.hypothesis))
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@exp.command()
def show(identity: Identity, as_json: JsonFlag = False) -> None:
    """One experiment whole: proposal in every version, runs, verdict with its reasoning, reviews, the log's tail where a run failed."""
    home, view = opened()
    item = _experiment(view.state, identity)
    task = Task.model_validate_json(home.task.read_text())
    fresh = [*promotion.said(item, task.metric.unit), *claims.said(view.state, item.id, task)]
    if not as_data(as_json, {**dataclasses.asdict(item), "status": item.status, "next": next_step(item), "reported": fresh}):
        print(story(item, fresh))


@exp.command()
def diff(identity: Identity, as_json: JsonFlag = False) -> None:
    """The change of an experiment's latest attempt against its parent: does it do what the hypothesis says?"""
    _, view = opened()
    attempt = _experiment(view.state, identity).attempt
    if attempt is None:
        raise UserError(f"{identity} was not run yet, so no change is recorded")
    keys = ("number", "parent", "commit", "changed", "ignored", "again", "diff")
    if not as_data(as_json, {"experiment": identity, **{key: getattr(attempt, key) for key in keys}}):
        print(printable(attempt.diff))


@exp.command()
def review(
    identity: Identity,
    text: Annotated[str, typer.Option(help="What you found, for those who come after.")],
    finding: Annotated[str, typer.Option(help="ok, doubt, or leak (something was known that should not be).")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Put your opinion of any experiment on record, your own or another's: it is shown with it, and changes no verdict.

    Read `orgctl exp show` and `orgctl exp diff` first.
    """
    home, view = opened()
    client.review(home, client.me(home), identity, text, finding, view)
    _tell({"experiment": identity, "finding": finding}, as_json, f"your review is on record: orgctl exp show {identity}")


@exp.command()
def confirm(identity: Identity, as_json: JsonFlag = False) -> None:
    """Order confirmation of a nominated experiment: fresh seeds against the baseline bank, in stages. A chief or a person may."""
    home, _ = opened()
    _tell(client.confirm(home, client.me(home), identity), as_json, f"{identity} is being confirmed on fresh seeds")


@exp.command()
def promote(identity: Identity, as_json: JsonFlag = False) -> None:
    """Bring an experiment with the verdict `improved` to trunk; when trunk has moved it is confirmed there first."""
    home, _ = opened()
    answer = client.promote(home, client.me(home), identity)
    _tell(
        answer,
        as_json,
        str(answer.get("note") or f"{identity} is promoted: trunk is now {str(answer.get('commit'))[:10]}"),
    )


@exp.command()
def audit(
    show: Annotated[bool, typer.Option("--show", help="Order nothing: print the audits so far.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds for each idea. Default: as many as a bank has.", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Leave each promoted idea out of trunk in turn: does it still help, and do the effects add up?

    Taking out what no longer helps is proposed as an experiment of the laboratory's own, and done only when it is promoted.
    """
    home, view = opened()
    if not show:
        answer = client.audit(home, client.me(home), seeds)
        stuck = [idea["experiment"] for idea in answer.get("ideas", []) if not idea["commit"]]
        said = f"; {', '.join(stuck)} cannot be taken out alone" if stuck else ""
        _tell(answer, as_json, f"{answer.get('audit')} leaves each idea out on {answer.get('seeds')} fresh seeds{said}")
        return
    if as_data(as_json, [dataclasses.asdict(one) for one in view.state.audits.values()]):
        return
    unit = Task.model_validate_json(home.task.read_text()).metric.unit
    for one in view.state.audits.values():
        first, *rest = audits.lines(view.state, one, unit)
        print(printable("\n".join([first, *(f"  {line}" for line in rest)])))
    if not view.state.audits:
        print("no audit was ordered yet: orgctl exp audit")


@exp.command()
def carry(
    experiments: Annotated[list[str] | None, typer.Argument(help="Promoted ideas. Default: all.", metavar="[EXPERIMENT]...")] = None,
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
    if not view.state.promotions():
        raise UserError("trunk holds no promoted idea: there is nothing to carry")
    if not (home.next_data / "manifest.json").is_file():
        print(f"preparing the data of scale {following.scale.name}, once", file=sys.stderr)
    prepare(following, home.protected, home.next_data, home.org / "prepare-next.log", view.state.session["protected"])
    answer = client.carry(home, client.me(home), experiments or [], seeds)
    named = ", ".join(answer.get("ideas", []))
    _tell(answer, as_json, f"{answer.get('carry')} runs {named} at scale {following.scale.name} on {answer.get('seeds')} fresh seeds")


@exp.command()
def withdraw(
    identity: Identity,
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    as_json: JsonFlag = False,
) -> None:
    """Give an experiment up before its verdict. What was measured stays."""
    home, _ = opened()
    _tell(client.withdraw(home, client.me(home), identity, why), as_json, f"{identity} is withdrawn")


@app.command()
def report(as_json: JsonFlag = False) -> None:
    """Write report/progress.png, results.tsv and report.md from the ledger, and say where they are."""
    from lab.report import write_report

    home, view = opened()
    files = write_report(home, view.state, Task.model_validate_json(home.task.read_text()))
    if not as_data(as_json, {"files": [str(path) for path in files]}):
        for path in files:
            print(path)


@app.command()
def mcp(context: typer.Context) -> None:
    """Serve the laboratory's verbs to an agent as tools: an MCP server on standard input and output.

    The agent's MCP client starts it in the agent's worktree: command `orgctl`, argument `mcp`. Each tool is the command of the same
    name (exp_propose is `orgctl exp propose`), with its arguments and its words. It ends when the client hangs up.
    """
    tools.serve(context.find_root().command)
