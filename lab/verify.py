"""Does everything that the ledger says still follow from what is there? One line for each thing that does not fit.

Called by `orgctl ledger verify`, and (`unfounded`) before a controller begins. Nothing recorded is believed: the hash chain is
recomputed, results are read again from their runs' folders, snapshots are looked for in git, and every nomination, verdict and
promotion is derived anew from the facts before it, by the workflow itself. Under one user id a forger can still make all of it
agree; then it is no ledger of these runs any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab import gate
from lab.areas import PERSON
from lab.artefacts import change, result, same, short, snapshots
from lab.attempt import without_comparison
from lab.direction import KINDS
from lab.disowned import KIND, passed_over
from lab.experiment import decide
from lab.ledger import Fact, Ledger
from lab.records import LABORATORY, OURS, PURPOSES, Experiment
from lab.state import State
from lab.steps import Policy, Rebase, Write
from lab.text import clean
from tasks.spec import Task
from worktrees.repo import Repo

DECIDED = (*KINDS, "trunk", "confirm", "audit_order", "carry_order")
"""Kinds that a chief or a person orders; `control`, `replication_order` and `withdrawn` are for some others too."""
FIGURES = {
    "nomination": ("nominated", "value", "sigmas", "bank_mean", "bank_sigma", "run"),
    "verdict": ("verdict", "effect", "low", "high", "p", "n", "m", "sigma"),
    "checked": ("commit", "effect", "low", "high", "p", "n", "m", "holds"),
}
"""What must come out the same; wording is left to the version that wrote it."""
STRICT = (*FIGURES, "audit", "carry", "replication")
"""Kinds that the facts before them call for, or do not; the others are somebody's choice."""
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
OF_TRUNK = ("bank", "frontier")
"""Purposes of runs of a trunk commit, for no experiment."""
OF_PARENT = ("control", "parent")
"""Purposes of runs of the parent of what was submitted."""


def verify(ledger: Ledger, task: Task, runs: Path, repo: Repo, head: Mapping[str, Any] | None) -> list[str]:
    """What does not fit, in the order chain, facts, results, snapshots. `runs`: the folder of run folders; `head`: the copied
    head of the chain, {fact, hash}."""
    state = State()
    return [
        *ledger.verify(),
        *_rewritten(ledger, head or {}),
        *_replayed(ledger, task, state),
        *(line for run in state.runs.values() for line in result(run, task, runs / run.id)),
        *snapshots(state, task, repo),
    ]


def _rewritten(ledger: Ledger, head: Mapping[str, Any]) -> Iterator[str]:
    """Is the fact whose hash was copied outside `.org` still the one in the ledger?"""
    number, digest = head.get("fact"), head.get("hash")
    if not isinstance(number, int) or number < 1:
        return
    fact = next(ledger.each(after=number - 1), None)
    if fact is None:
        yield f"the ledger was cut: it ends at fact {ledger.head()[0]}, but fact {number} was copied to .git/orgctl/head.json"
    elif fact.id != number or fact.hash != digest:
        yield f"the ledger was rewritten: fact {number} is not the one whose hash was copied to .git/orgctl/head.json"


# Facts


def _replayed(ledger: Ledger, task: Task, state: State) -> Iterator[str]:
    """Fold fact after fact into `state`, and ask before each that claims something whether the facts so far call for it. What was
    disowned counts for nothing; that it was, must have a reason."""
    state.disowned = passed_over(ledger.each(KIND))
    for fact in ledger.each():
        try:
            if fact.id not in state.disowned:
                yield from (f"{_name(fact)}{line}" for line in _objections(state, task, fact))
            elif fact.kind in STRICT and not any(_objections(state, task, fact)):
                yield f"{_name(fact)} was disowned, although the facts before it call for it"
            state.apply(fact)
        except MALFORMED as error:
            if fact.id not in state.disowned:
                yield f"{_name(fact)} is malformed ({type(error).__name__}: {clean(error, 80)})"


def unfounded(ledger: Ledger, task: Task, runs: Path, repo: Repo, after: int) -> dict[int, str]:
    """Number -> why, of the facts after that number which claim what is not so: a nomination or verdict of another word than the facts
    before it give, a promotion of what is not `improved`, a result that the run's folder does not hold, an attempt that changes other
    files than it may or another diff than it says, the disowning of what was right. Figures are left to `verify`: another version may
    round them differently."""
    found = dict.fromkeys(_disowned_wrongly(ledger, task, after), "disowns what the facts before it call for")
    state = State(disowned=passed_over(fact for fact in ledger.each(KIND) if fact.id not in found))
    for fact in ledger.each():
        try:
            late = fact.id > after and fact.id not in state.disowned
            grounds = itertools.chain(
                _objections(state, task, fact, figures=False), _other_result(state, task, runs, fact), _other_change(task, repo, fact)
            )
            if late and (why := next(grounds, "")):
                found[fact.id] = why.lstrip(": ")
                state.disowned.add(fact.id)
            state.apply(fact)
        except MALFORMED:
            if fact.id > after and fact.id not in state.disowned:
                found[fact.id] = "it is malformed"
                state.disowned.add(fact.id)
            state.last = fact.id
    return found


def _disowned_wrongly(ledger: Ledger, task: Task, after: int) -> set[int]:
    """Numbers of facts `disowned` after that number which name a nomination, verdict or table that the facts before it call for, or
    what was vetted already: a controller disowns at its next look, and not what is old."""
    late = {number: fact.id for fact in ledger.each(KIND, after=after) for number in passed_over([fact])}
    state, found = State(disowned=passed_over(fact for fact in ledger.each(KIND) if fact.id <= after)), set()
    for fact in ledger.each() if late else ():
        with contextlib.suppress(*MALFORMED):
            if fact.id in late and (fact.kind in STRICT or fact.id <= after) and not any(_objections(state, task, fact)):
                found.add(late[fact.id])
            elif fact.id in late:
                continue
            state.apply(fact)
    return found


def _other_result(state: State, task: Task, runs: Path, fact: Fact) -> Iterator[str]:
    """Where a fact is the result of a run: what of it its folder does not hold."""
    run = state.open.get(fact.subject)
    if fact.kind == "result" and run is not None:
        body = {key: fact.body[key] for key in ("status", "metric", "account", "hashes")}
        yield from result(dataclasses.replace(run, **body), task, runs / run.id)


def _other_change(task: Task, repo: Repo, fact: Fact) -> Iterator[str]:
    """Where a fact is an attempt: what git says of its commit that it does not."""
    if fact.kind == "attempt":
        commit, parent, diff = (str(fact.body[key]) for key in ("commit", "parent", "diff"))
        found = repo.changes([(parent, commit)]).get(commit)
        yield from ["its commit is not in the repository"] if found is None else change(commit, diff, task, found)


def _name(fact: Fact) -> str:
    return f"fact {fact.id} ({clean(fact.kind, 40)} {clean(fact.subject, 40)})"


def _objections(state: State, task: Task, fact: Fact, figures: bool = True) -> Iterator[str]:
    """What speaks against a fact, as ends of sentences about it; `state` is of the facts before it. Raises MALFORMED."""
    if why := _stranger(state, fact):
        yield f" was written by {clean(fact.actor, 40) or 'nobody'}{why}"
    found: Iterator[str] = iter(())
    if fact.kind in FIGURES:
        found = _claim(state, task, fact, figures)
    elif fact.kind == "unmerged":
        found = _unmerged(state, fact)
    elif fact.kind == "trunk":
        found = _promotion(state, fact)
    elif fact.kind in ("audit", "carry", "replication"):
        found = _table(state, task, fact, figures)
    elif fact.kind in ("start", "result") and fact.subject not in state.open:
        found = iter(["it had ended already" if fact.subject in state.runs else "there is no such run"])
    elif fact.kind == "run":
        found = _queued(state, fact)
    yield from (f": {line}" for line in found)


def _stranger(state: State, fact: Fact) -> str:
    """Why who wrote this fact may not have, as the end of a sentence; "" where they may."""
    if fact.actor == LABORATORY:
        return ""  # what is written in its name is derived anew
    if fact.kind in OURS:
        return ": only the laboratory writes those"
    if fact.kind == "proposal":
        return "" if fact.actor == fact.body["agent"] else f" in the name of {clean(fact.body['agent'], 40)}"
    experiment, deciding = state.experiments.get(fact.subject), {PERSON, *(state.session.get("chiefs") or ())}
    author = experiment.agent if experiment else ""
    allowed = {
        **dict.fromkeys(DECIDED, deciding), "attempt": {author}, "amendment": {author, PERSON}, "withdrawn": {*deciding, author},
        **{kind: {*deciding, *policy(state).reviewers.get(author, ())} for kind in ("control", "replication_order")},
    }.get(fact.kind)  # fmt: skip
    return ", who does not decide here" if allowed is not None and fact.actor not in allowed else ""


def policy(state: State) -> Policy:
    """The rules that the organisation was up with, as its last session fact says; the default ones before any did."""
    known = {one.name for one in dataclasses.fields(Policy)}
    said = state.session.get("policy")
    rules: dict[str, Any] = said if isinstance(said, dict) else {}
    found: dict[str, Any] = {key: tuple(rule) if isinstance(rule, list) else rule for key, rule in rules.items() if key in known}
    return Policy(**found)


def _table(state: State, task: Task, fact: Fact, figures: bool) -> Iterator[str]:
    """What an audit, a replication or the next scale gave, against what the workflow makes of the facts before it."""
    steps = decide(state, task, policy(state))
    written = (step for step in steps if isinstance(step, Write) and (step.kind, step.subject) == (fact.kind, fact.subject))
    found = next((step.body for step in written), None)
    if found is None:
        yield f"the facts before it call for no {fact.kind}"
    elif figures and not same(found, fact.body):
        differs = [clean(key, 40) for key in found if not same(found[key], fact.body.get(key))]
        yield f"its {', '.join(differs)} are not what the facts before it give"


def _claim(state: State, task: Task, fact: Fact, figures: bool) -> Iterator[str]:
    """A nomination or verdict, against what the workflow makes of the facts before it."""
    experiment = state.experiments.get(fact.subject)
    if experiment is None or experiment.attempt is None:
        yield "nothing of that experiment was run"
        return
    found = expected(state, task, experiment, fact)
    said, keys = fact.body, FIGURES[fact.kind]
    if found is None:
        yield f"says {_word(fact.kind, said)}, but the facts before it call for no {fact.kind}"
        return
    keys = (*keys, *(key for key in found if key in said and key not in (*keys, "reasoning", "text")))
    differs = [key for key in keys if not same(said.get(key), found.get(key))]
    if differs and (figures or _word(fact.kind, said) != _word(fact.kind, found)):
        told = ", ".join(f"{key} {short(said.get(key))} for {short(found.get(key))}" for key in differs)
        yield f"says {_word(fact.kind, said)}, but the facts before it give {_word(fact.kind, found)} ({told})"


def expected(state: State, task: Task, experiment: Experiment, fact: Fact) -> dict[str, Any] | None:
    """The body of the nomination or verdict that the workflow would write now; None when it would write none."""
    alone = dataclasses.replace(state, experiments={experiment.id: experiment})
    steps = decide(alone, task, policy(state))
    for step in steps:
        if isinstance(step, Write) and (step.kind, step.subject) == (fact.kind, fact.subject):
            return step.body
    attempt = experiment.attempts[-1]
    before = experiment.attempts[-2] if len(experiment.attempts) > 1 else None
    carried = before is not None and not attempt.resubmitted and state.same(before.parent, attempt.parent)
    if fact.kind == "verdict" and carried and before and before.verdict and not attempt.verdict:
        return {**before.verdict, "attempt": attempt.number}  # the same change on the same files
    moved = experiment.verdict == "improved" and attempt.parent != state.trunk and attempt.unmerged is None
    if fact.kind == "verdict" and moved and fact.body["verdict"] == "inconclusive":
        # What a conflict with trunk made of it before there was `unmerged`: the figures stayed.
        body, figures = without_comparison(attempt, "inconclusive", []), dict(attempt.verdict or {})
        return {key: figures.get(key) if key not in ("attempt", "verdict", "reasoning") else value for key, value in body.items()}
    # A change that was not judged yet and cannot be carried to the present trunk ends there, by git's word.
    if fact.kind == "verdict" and not experiment.accepted and any(isinstance(step, Rebase) for step in steps):
        return without_comparison(attempt, "inconclusive", [])
    return None


def _unmerged(state: State, fact: Fact) -> Iterator[str]:
    """Only what was improved elsewhere is kept from trunk by git alone."""
    experiment = state.experiments.get(fact.subject)
    attempt = experiment.attempt if experiment else None
    if experiment is None or attempt is None or not experiment.accepted:
        yield "says that it does not apply to trunk, but it was never found improved"
    elif (fact.body["attempt"], fact.body["trunk"]) != (attempt.number, state.trunk) or attempt.parent == state.trunk:
        yield "is not about the latest attempt and the trunk of that day"


def _promotion(state: State, fact: Fact) -> Iterator[str]:
    """A step of trunk: the first has no experiment, every other one an `improved` experiment (or a removal that an audit
    suggests) on the trunk before, or it takes that back."""
    name, reverts = fact.body["experiment"], fact.body.get("reverts")
    if reverts and not name:
        newest, taken = state.trunks[-1] if state.trunks else None, state.experiments.get(reverts)
        if newest is None or taken is None or (newest.experiment, newest.commit) != (reverts, fact.body["parent"]):
            yield f"takes back {clean(reverts, 40)}, with which trunk does not end"
        elif taken.check is None or taken.check["holds"]:
            yield f"takes back {taken.id}, whose bank was not found wanting"
        elif fact.body.get("bank") != newest.parent:
            yield f"takes back {taken.id}, but to the bank of another commit than its parent's"
        return
    if not name:
        if state.trunks:
            yield "moves trunk without an experiment"
        return
    experiment, rules = state.experiments.get(name), policy(state)
    attempt = experiment.attempt if experiment else None
    if experiment is None or attempt is None:
        yield f"promotes {clean(name, 40)}, of which nothing was run"
    elif experiment.verdict != ("neutral" if experiment.removes else "improved") or experiment.withdrawn is not None:
        yield f"promotes {experiment.id}, which is {experiment.status} and not improved"
    elif (attempt.commit, attempt.parent) != (fact.body["commit"], state.trunk):
        yield f"promotes {experiment.id}, but not its commit on the trunk before"
    elif fact.actor != PERSON and (why := gate.waits(rules.promotion, rules.reviewers, experiment)):
        yield f"promotes {experiment.id}, although {clean(why, 120)}"


def _queued(state: State, fact: Fact) -> Iterator[str]:
    """A run for a bank or a frontier is of a trunk commit; others are of their experiment's attempt, controls and fresh parents of
    its parent."""
    body, name, commit = fact.body, fact.body["experiment"], clean(fact.body["commit"], 10)
    if fact.subject in state.runs:
        yield "there is a run of that name already"
    if body["purpose"] in OF_TRUNK:
        if body["commit"] not in {step.commit for step in state.trunks}:
            yield f"a baseline run of {commit}, which never was trunk"
    elif body["purpose"] == "audit":
        if not any(body["commit"] == idea["commit"] for one in state.audits.values() for idea in one.ideas):
            yield f"runs {commit}, which no audit asked for"
    elif body["purpose"] == "carry":
        if body["commit"] not in {step.commit for step in state.trunks}:
            yield f"carries {commit}, which never was trunk"
    elif body["purpose"] in PURPOSES:
        attempts = state.experiments[name].attempts if name in state.experiments else []
        attempt = next((one for one in attempts if one.number == body["attempt"]), None)
        if attempt is None or body["commit"] != (attempt.parent if body["purpose"] in OF_PARENT else attempt.commit):
            yield f"runs {commit}, which is not what {clean(name, 40)} was submitted as"


def _word(kind: str, body: Mapping[str, Any]) -> str:
    if kind == "verdict":
        return clean(body.get("verdict"), 20)
    if kind == "checked":
        return "that it stands" if body.get("holds") else "that it does not stand"
    return "nominated" if body.get("nominated") else "not nominated"
