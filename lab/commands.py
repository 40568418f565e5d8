"""The laboratory's commands: `exp` (propose, run, wait, show, list, diff, confirm, promote, withdraw), `ledger`, `report`.

The help texts teach the workflow: propose before running, one run only nominates, fresh seeds decide, only code writes verdicts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Annotated, Any

import typer

from lab import claims, client
from lab.account import spent
from lab.backup import folder as backup_folder
from lab.errors import UserError
from lab.files import read_json
from lab.home import Home
from lab.ledger import Ledger
from lab.records import Experiment, Run, State, View
from lab.text import clean, printable
from tasks.spec import Task

app = typer.Typer(add_completion=False)
exp = typer.Typer(
    help="Experiments: the way of an idea is to `propose` it, edit and `run` it (one run only nominates), `confirm` on fresh seeds, "
    "`promote` what is improved.",
    no_args_is_help=True,
    add_completion=False,
)
ledger_app = typer.Typer(
    help="The append-only record of everything that was tried and measured.", no_args_is_help=True, add_completion=False
)
app.add_typer(exp, name="exp")
app.add_typer(ledger_app, name="ledger")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
VERDICT_SECONDS = 5.0
"""How long `exp run` waits, after its run has ended, for what the laboratory makes of it (a bank may still be missing)."""
Identity = Annotated[str, typer.Argument(help="An experiment, such as E0001.", metavar="EXPERIMENT")]


def _open() -> tuple[Home, View]:
    home = Home.find()
    view = View(Ledger(home.ledger))
    view.refresh()
    return home, view


def _experiment(state: State, identity: str) -> Experiment:
    try:
        return state.experiments[identity]
    except KeyError:
        raise UserError(f"there is no experiment {identity!r}: `orgctl exp list` shows them") from None


def _print(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def _tell(answer: dict[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        _print(answer)
    elif "waiting" in answer:
        print("no controller answered; the request waits until the next `orgctl up`")
    else:
        print(text)


@exp.command()
def propose(
    hypothesis: Annotated[
        str, typer.Option(help="What you expect to happen, in a sentence that could turn out false.")
    ],
    mechanism: Annotated[str, typer.Option(help="Why it should happen.")],
    family: Annotated[str, typer.Option(help="architecture, optimiser, schedule, data, systems, ...")] = "other",
    direction: Annotated[
        str,
        typer.Option(help="improves, or no-change for a simplification (recorded; judged as an improvement so far)."),
    ] = "improves",
    min_effect: Annotated[
        float | None, typer.Option(help="Smallest effect of interest, in the metric's unit. Default: the task's.")
    ] = None,
    held_constant: Annotated[
        str, typer.Option(help="What you keep the same, so that the comparison means something.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Register an idea BEFORE anything of it runs. Then edit the code in your worktree and `orgctl exp run` it."""
    home, view = _open()
    task = Task.model_validate_json(home.task.read_text())
    identity = client.propose(
        home,
        client.me(home),
        hypothesis,
        mechanism,
        family,
        direction,
        task.min_effect if min_effect is None else min_effect,
        held_constant,
    )
    _tell(
        {"experiment": identity},
        as_json,
        f"{identity} is registered on trunk {view.state.trunk[:8]}. Edit {', '.join(task.editable)}, then: orgctl exp run {identity}",
    )


@exp.command()
def run(identity: Identity, as_json: JsonFlag = False) -> None:
    """Snapshot your worktree's editable files as this experiment and queue its first run, on a seed that the laboratory gives.

    The first run only nominates. On a terminal this follows the run (Ctrl-C stops watching, not the run); without one it returns at
    once: end your turn, the result arrives by mail.
    """
    home, _ = _open()
    answer = client.run(home, client.me(home), identity)
    if "waiting" in answer or as_json or not sys.stdout.isatty():
        ignored = f" Not part of it: {', '.join(answer['ignored'][:5])}." if answer.get("ignored") else ""
        _tell(
            answer,
            as_json,
            f"{answer.get('run')} is queued for {identity}.{ignored} End your turn now; the result arrives by mail (orgctl mail inbox).",
        )
        return
    _follow(home, str(answer["run"]))


@exp.command()
def wait(
    identity: Identity,
    seconds: Annotated[float, typer.Option(help="Give up waiting after this time.")] = 3600,
    as_json: JsonFlag = False,
) -> None:
    """Wait until no run of this experiment is queued or running, then show it."""
    home, view = _open()
    deadline = time.monotonic() + seconds
    while any(not item.over for item in _experiment(view.state, identity).runs):
        if time.monotonic() > deadline:
            raise UserError(
                f"{identity} still has runs going on after {seconds:.0f} s: wait again, or look at `orgctl status`"
            )
        time.sleep(0.5)
        view.refresh()
    _show(home, _experiment(view.state, identity), as_json)


def _judged(state: State, run: Run) -> bool:
    """Has the laboratory said what it makes of this run?"""
    attempt = state.experiments[run.experiment].attempt
    return attempt is not None and bool(attempt.nomination or attempt.verdict)


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
    while not _judged(view.state, ended) and time.monotonic() < deadline:
        time.sleep(0.2)
        view.refresh()
    _show(home, view.state.experiments[ended.experiment], False)


@exp.command("list")
def list_(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only those with this status, such as nominated or improved.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """All experiments, newest last; negative results included."""
    _, view = _open()
    found = [
        item
        for item in view.state.experiments.values()
        if (agent in (None, item.agent)) and (status in (None, item.status))
    ]
    if as_json:
        _print([_brief(item) for item in found])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("experiment", "agent", "status", "effect", box=None)
    table.add_column("hypothesis", no_wrap=True, overflow="ellipsis")
    for item in found:
        effect = _brief(item)["effect"]
        table.add_row(
            item.id, item.agent, item.status, "" if effect is None else f"{effect:+.4f}", Text(clean(item.hypothesis))
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _brief(item: Experiment) -> dict[str, Any]:
    verdict = item.attempt.verdict if item.attempt else None
    return {
        "id": item.id,
        "agent": item.agent,
        "status": item.status,
        "family": item.family,
        "hypothesis": item.hypothesis,
        "effect": verdict.get("effect") if verdict else None,
        "promoted": item.promoted,
    }


@exp.command()
def show(identity: Identity, as_json: JsonFlag = False) -> None:
    """One experiment whole: proposal, runs, verdict with its reasoning, and the log's tail where a run failed."""
    home, view = _open()
    _show(home, _experiment(view.state, identity), as_json)


def _show(home: Home, item: Experiment, as_json: bool) -> None:
    fresh = claims.said(_open()[1].state, item.id, Task.model_validate_json(home.task.read_text()))
    if as_json:
        _print({**dataclasses.asdict(item), "status": item.status, "reported": fresh})
        return
    lines = [
        f"{item.id} by {item.agent}: {item.status}",
        f"  hypothesis: {item.hypothesis}",
        f"  mechanism:  {item.mechanism}",
        f"  family: {item.family}   held constant: {item.held_constant or '-'}   smallest effect of interest: {item.min_effect:g}",
    ]
    for attempt in item.attempts:
        where = f"{attempt.commit[:10]} on {attempt.parent[:10]}"
        lines.append(f"  attempt {attempt.number}: {where}, changes {', '.join(attempt.changed)}")
        for done in (run for run in item.runs if run.attempt == attempt.number):
            unsealed = [f"unsealed: {done.unsealed}"] if done.unsealed else []
            lines += [f"    {_line(done)}", *(f"      flagged: {line}" for line in done.flags)]
            lines += [f"      {line}" for line in unsealed]
        lines += [f"    {line}" for line in (attempt.verdict or {}).get("reasoning", [])]
    lines += [f"  {line}" for line in fresh]
    failed = [one for one in item.runs if one.status in ("crashed", "invalid", "timeout", "lost")]
    if failed:
        lines.append(f"  log of {failed[-1].id} ends:\n{failed[-1].log_tail}")
    if item.withdrawn is not None:
        lines.append(f"  withdrawn: {item.withdrawn}")
    hint = {
        "proposed": f"edit, then: orgctl exp run {item.id}",
        "nominated": "the chief (or a person) may: orgctl exp confirm " + item.id,
        "improved": "the chief (or a person) may: orgctl exp promote " + item.id,
    }.get(item.status)
    if hint:
        lines.append(f"  next: {hint}")
    print(printable("\n".join(lines)))


def _line(run: Run) -> str:
    values = ", ".join(f"{split} {value:.4f}" for split, value in run.metric.items())
    return f"{run.id} {run.purpose:8} seed {run.seed} {run.status:8} {values}{run.reason}"


@exp.command()
def diff(identity: Identity) -> None:
    """The change of an experiment's latest attempt against its parent."""
    _, view = _open()
    attempt = _experiment(view.state, identity).attempt
    if attempt is None:
        raise UserError(f"{identity} was not run yet, so no change is recorded")
    print(printable(attempt.diff))


@exp.command()
def confirm(identity: Identity, as_json: JsonFlag = False) -> None:
    """Order confirmation of a nominated experiment: fresh seeds against the baseline bank, in stages."""
    home, _ = _open()
    _tell(client.confirm(home, client.me(home), identity), as_json, f"{identity} is being confirmed on fresh seeds")


@exp.command()
def promote(identity: Identity, as_json: JsonFlag = False) -> None:
    """Bring an experiment with the verdict `improved` to trunk; when trunk has moved it is confirmed there first."""
    home, _ = _open()
    answer = client.promote(home, client.me(home), identity)
    _tell(
        answer,
        as_json,
        str(answer.get("note") or f"{identity} is promoted: trunk is now {str(answer.get('commit'))[:10]}"),
    )


@exp.command()
def withdraw(
    identity: Identity,
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    as_json: JsonFlag = False,
) -> None:
    """Give an experiment up before its verdict. What was measured stays."""
    home, _ = _open()
    _tell(client.withdraw(home, client.me(home), identity, why), as_json, f"{identity} is withdrawn")


@ledger_app.command()
def verify(as_json: JsonFlag = False) -> None:
    """Recompute the hash chain, compare its head with the copy outside `.org`, and results with their files.

    Exit code 1 when something does not fit.
    """
    home, view = _open()
    problems = view.ledger.verify()
    copied = read_json(backup_folder(home) / "head.json")
    if copied and not any(
        fact.id == copied.get("fact") and fact.hash == copied.get("hash")
        for fact in view.ledger.facts(after=int(copied.get("fact", 1)) - 1)[:1]
    ):
        problems.append(
            f"the ledger was rewritten: fact {copied.get('fact')} is not the one whose hash was copied to .git/orgctl/head.json"
        )
    for done in view.state.runs.values():
        found = read_json(home.runs / done.id / "result.json")
        if done.over and found is not None and done.status == "ok" and found.get("metric") != done.metric:
            problems.append(f"{done.id}: result.json says {found.get('metric')}, the ledger {done.metric}")
    if as_json:
        _print({"facts": view.state.last, "problems": problems})
    else:
        for line in problems or [f"{view.state.last} facts, chain whole, results as recorded"]:
            print(line)
    if problems:
        raise typer.Exit(1)


@ledger_app.command()
def export() -> None:
    """Every fact as one JSON line on standard output."""
    _, view = _open()
    for fact in view.ledger.facts():
        print(json.dumps(dataclasses.asdict(fact), default=str))


@app.command()
def report(as_json: JsonFlag = False) -> None:
    """Write report/progress.png, results.tsv and report.md from the ledger, and say where they are."""
    from lab.report import write_report

    home, view = _open()
    files = write_report(home, view.state, Task.model_validate_json(home.task.read_text()))
    if as_json:
        _print({"files": [str(path) for path in files]})
    else:
        for path in files:
            print(path)
