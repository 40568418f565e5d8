"""The laboratory's commands: `exp` (propose, amend, run, wait, show, list, diff, review, confirm, control, promote, replicate, audit,
carry, withdraw; those about trunk in `trunk_commands.py`), `ledger` (in `ledger_commands.py`), `report`; and `mcp`, which offers them to
agents as tools (in `tools.py`).

The help texts teach the workflow: propose before running, one run only nominates, fresh seeds decide, only code writes verdicts.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Annotated, Any

import typer

from lab import claims, client, follow, gate, ledger_commands, promotion, similar, tools, trunk_commands, verify
from lab.answer import as_data, pause, tell
from lab.errors import UserError
from lab.home import Home
from lab.ledger_commands import Identity, JsonFlag, opened
from lab.listed import listed
from lab.records import STATES, Experiment
from lab.shown import brief, next_step, outcome, replications, shown_run, story
from lab.state import State
from lab.text import clean, printable
from tasks.spec import Task
from worktrees.repo import trunk_branch

app = typer.Typer(add_completion=False)
exp = typer.Typer(
    help="Experiments. The way of an idea: `propose` it, edit the code in your worktree, `run` it (one run only nominates), "
    "`confirm` it on fresh seeds, `promote` what is improved. Every verb takes --json.",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(exp, name="exp")
app.add_typer(ledger_commands.ledger_app, name="ledger")

Again = Annotated[
    str, typer.Option(help="Why this is tried again although something like it was tried before; becomes part of the record.")
]
FAMILY_HELP = f"The kind of idea: {', '.join(client.FAMILIES)}, or one of the task's areas; `a+b` for both, `a/word` for a part."
DIRECTION_HELP = "improves, or no-change for a simplification (recorded; judged as an improvement so far)."


def _experiment(state: State, identity: str) -> Experiment:
    try:
        return state.experiments[identity]
    except KeyError:
        raise UserError(f"there is no experiment {identity!r}: `orgctl exp list` shows them") from None


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
    then = f"Edit {', '.join(task.editable)}, then: orgctl exp run {identity}"
    if client.me(home) == client.PERSON:
        then = f"Have it tried: orgctl assign AGENT --idea {identity} --why ...; to try it yourself propose it in an agent's worktree"
    base = client.based_on(home, client.me(home), view.state.trunk)
    if base not in (None, view.state.trunk):
        to = trunk_branch(home.program)
        then = f"Your worktree is based on {base[:8]}, an older trunk: first `git reset --hard {to}` (keep changes aside). {then}"
    lines.append(f"{identity} is registered on trunk {view.state.trunk[:8]}. {then}")
    answer = {"experiment": identity, "similar": similar.shown(view.state, near), "trunk": view.state.trunk, "based_on": base}
    tell(answer, as_json, "\n".join(lines))


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
    tell(
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
    home, view = opened()
    answer = client.run(home, client.me(home), identity, again=again)
    told = [f"{one['experiment']} by {one['agent']} ({one['outcome']})" for one in answer.get("similar") or []]
    notes = [f"Not part of it: {', '.join(answer['ignored'][:5])}."] if answer.get("ignored") else []
    notes += [f"Changes like it: {', '.join(told)}."] if told else []
    parent = str(answer.get("parent") or view.state.trunk)
    if parent != view.state.trunk:
        notes.append(f"It is compared with {parent[:8]}, an older trunk, and carried to the present one if it is confirmed.")
    if "waiting" in answer or as_json or not sys.stdout.isatty():
        then = "End your turn now; the result arrives by mail (orgctl mail inbox)."
        tell(answer, as_json, " ".join([f"{answer.get('run')} is queued for {identity}.", *notes, then]))
        return
    for note in notes:
        print(printable(note))
    if item := follow.follow(home, view, str(answer["run"])):
        print(outcome(item, _fresh(home, view.state, item)))


@exp.command()
def wait(
    identity: Identity,
    seconds: Annotated[float, typer.Option(help="Give up waiting after this time.")] = 3600,
    as_json: JsonFlag = False,
) -> None:
    """Wait until no run of this experiment is queued or running and the laboratory has said what it makes of it; then say that.

    Exit code 0 when it is over, 1 when the time was too short (2, as everywhere, for a mistake such as an unknown experiment). With
    --json: {id, status, over, waited_seconds, verdict, effect, reasoning, runs, next, ...}; `over` is false when the time was too short.
    Where a command must end soon, do not wait: the result arrives by mail.
    """
    home, view = opened()
    began = time.monotonic()
    while (under_way := follow.under_way(_experiment(view.state, identity))) and time.monotonic() - began < seconds:
        pause(min(0.5, seconds))
        view.refresh()
    item = _experiment(view.state, identity)
    waited = round(time.monotonic() - began, 1)
    if not as_data(as_json, {**brief(item), "over": not under_way, "waited_seconds": waited, **_grounds(item)}):
        late = f"{identity} {under_way} after {seconds:g} s: wait again, or look at `orgctl status`"
        print(late if under_way else outcome(item, _fresh(home, view.state, item)))
    if under_way:
        raise typer.Exit(1)


def _grounds(item: Experiment) -> dict[str, Any]:
    """What `exp wait` tells programs beside the outcome."""
    verdict = (item.attempt.verdict if item.attempt else None) or {}
    keys = ("low", "high", "p", "n", "m", "sigma", "reasoning")
    return {**{key: verdict.get(key) for key in keys}, "runs": [shown_run(one) for one in item.runs], "next": next_step(item)}


@exp.command("list")
def list_(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    status: Annotated[
        str | None, typer.Option(help=f"Only those with this status: {', '.join(STATES)}.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """All experiments, newest last; negative results included. Look here before you propose."""
    if status is not None and status not in STATES:
        raise UserError(f"--status {clean(status, 40)}: choose one of {', '.join(STATES)}")
    _, view = opened()
    found = [
        item
        for item in view.state.experiments.values()
        if (agent in (None, item.agent)) and (status in (None, item.status))
    ]
    if as_data(as_json, [brief(item) for item in found]):
        return
    if not found:
        print("nothing was proposed yet: orgctl exp propose" if not view.state.experiments else "no such experiment: orgctl exp list")
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(listed(found))


@exp.command()
def show(identity: Identity, as_json: JsonFlag = False) -> None:
    """One experiment whole: proposal in every version, runs, verdict with its reasoning, reviews, the log's tail where a run failed."""
    home, view = opened()
    item = _experiment(view.state, identity)
    fresh = _fresh(home, view.state, item)
    if not as_data(as_json, {**dataclasses.asdict(item), "status": item.status, "next": next_step(item), "reported": fresh}):
        print(story(item, fresh))


def _fresh(home: Home, state: State, item: Experiment) -> list[str]:
    """Lines on what came after a verdict: what a promotion waits for, replications, the promoted commit's own bank, the reported effect."""
    task, rules = Task.model_validate_json(home.task.read_text()), verify.policy(state)
    wait = gate.waits(rules.promotion, rules.reviewers, item) if item.status == "improved" else None
    fresh = [*([f"not on trunk yet: {wait}"] if wait else []), *replications(item, task.metric.unit)]
    return [*fresh, *promotion.said(item, task.metric.unit), *claims.said(state, item.id, task)]


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
    tell({"experiment": identity, "finding": finding}, as_json, f"your review is on record: orgctl exp show {identity}")


@exp.command()
def confirm(identity: Identity, as_json: JsonFlag = False) -> None:
    """Order confirmation of a nominated experiment: fresh seeds against the baseline bank, in stages. A chief or a person may."""
    home, _ = opened()
    tell(client.confirm(home, client.me(home), identity), as_json, f"{identity} is being confirmed on fresh seeds")


@exp.command()
def control(identity: Identity, as_json: JsonFlag = False) -> None:
    """Order the control at equal cost of an idea that costs more than its parent: that one, given as much, on fresh seeds.

    The laboratory orders it by itself once such an idea beats its parent's bank. By hand you have it sooner, or at all where trunk's
    frontier called the idea `bought`: it is judged anew then, by its control. Its reviewers, a chief or a person may.
    """
    home, _ = opened()
    answer = client.control(home, client.me(home), identity)
    many, factor = len(answer.get("runs", [])), answer.get("factor", 1)
    tell(answer, as_json, f"{identity} gets its control: {many} runs of its parent on {factor:.6g}x the budget are queued")


exp.command()(trunk_commands.promote)


@exp.command()
def replicate(
    identity: Identity,
    seeds: Annotated[int | None, typer.Option(help="Fresh seeds to run it on, 2 to 16. Default: 4.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Order a replication of what is `improved`: the same change on fresh seeds once more, with baseline runs between.

    For its reviewers (a skeptic, a partner), a chief or a person. The outcome is shown with the experiment and changes no verdict;
    then say what you think of it: `orgctl exp review`.
    """
    home, _ = opened()
    answer = client.replicate(home, client.me(home), identity, seeds)
    tell(answer, as_json, f"{identity} is replicated on {answer.get('seeds')} fresh seeds. End your turn; the outcome arrives by mail.")


exp.command()(trunk_commands.audit)
exp.command()(trunk_commands.carry)


@exp.command()
def withdraw(
    identity: Identity,
    why: Annotated[str, typer.Option(help="The reason, for those who come after.")],
    as_json: JsonFlag = False,
) -> None:
    """Give an experiment up before its verdict. What was measured stays."""
    home, _ = opened()
    tell(client.withdraw(home, client.me(home), identity, why), as_json, f"{identity} is withdrawn")


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
