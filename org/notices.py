"""Letters about where the organisation is sent: standups, assignments, dead ends, budgets, ideas of people. Pure; `org.news` asks.

Each names the commands that answer it, and marks whose words it quotes.
"""

from __future__ import annotations

import time

from lab import verify
from lab.areas import PERSON, assigned
from lab.home import MAIN
from lab.ledger import Fact
from lab.state import State
from lab.text import clean

Letter = tuple[str, str, str, str]
"""(agent, kind, about, text)"""
UNASSIGNED = {
    "own-ideas": "You have no assignment: go on with ideas of your own.",
    "queue": "You have no assignment: by this design's policy you start no ideas of your own; take one of `orgctl idea`,"
    " which is yours once you `orgctl exp run` it, or ask the chief.",
    "replicate": "You have no assignment: by this design's policy you replicate what was measured before, with its reason on record:"
    " `orgctl exp propose ... --again \"replication of E0001\"`.",
}  # fmt: skip
ASK = (
    "Standup {number} ({why}). Report by {until}, in at most a page; your runs go on meanwhile:\n\n"
    '    orgctl standup report --done "E0007: ..." --learned "..." --next "..." --blocked "..."\n\n'
    "or write the file `{folder}/standups/{number}/{agent}.md` with the headings Done, Learned, Next and Blocked, or reply to `lab`.\n\n"
    "- Done since the last standup: each with its experiment id. Every claim is checked against the ledger, and what it does not bear out\n"
    "  is shown beside your sentence: an improvement without that verdict, another number, somebody else's experiment as yours.\n"
    "- Learned: what the results say about why, failures included.\n"
    "- Next: one line a plan; what is like something tried before is pointed out to you.\n"
    "- Blocked: what stops you, and who could help.\n"
)


def letters(fact: Fact, state: State, agents: list[str]) -> list[Letter]:
    """Who has to hear of such a fact."""
    body, chiefs = fact.body, [name for name in _chiefs(state) if name in agents]
    if fact.kind == "standup" and body["what"] == "opened":
        until = time.strftime("%H:%M:%S", time.localtime(body["deadline"]))
        asked = [name for name in body["agents"] if name in agents]
        program = str(state.session.get("program") or MAIN)
        folder = ".org" if program == MAIN else f".org/programs/{program}"
        given = {"number": body["number"], "why": body["why"], "until": until, "folder": folder}
        return [(name, "standup", fact.subject, ASK.format(agent=name, **given)) for name in asked]
    if fact.kind == "standup":
        return [(name, "digest", fact.subject, _digest(name, name in chiefs, fact, state)) for name in agents]
    if fact.kind == "assignment":
        found = [(body["agent"], "assignment", fact.subject, _assignment(fact))] if body["agent"] in agents else []
        asker = state.experiments[body["idea"]].versions[0].actor if body["idea"] in state.experiments else ""
        said = f"Your idea {body['idea']} was assigned to {body['agent']}."
        return [*found, *([(PERSON, "answer", body["idea"], said)] if asker == PERSON else [])]
    if fact.kind == "dismissal" and fact.subject in agents:
        return [(fact.subject, "assignment", "", f"{fact.actor} ends your assignment: {body['why']}")]
    if fact.kind == "retired":
        text = (
            f"{fact.actor} retires the area {fact.subject} as a dead end, shown by {', '.join(body['evidence'])}:\n\n"
            f"> {clean(body['why'], 600)}\n\nA proposal there needs a reason (--again) or an assignment."
        )
        return [(name, "retired", fact.subject, text) for name in agents]
    if fact.kind == "reopened":
        return [(name, "reopened", fact.subject, f"{fact.actor} takes the area {fact.subject} up again: {body['why']}") for name in agents]
    if fact.kind == "budget":
        most = "no limit any more" if body["gpu_hours"] is None else f"{body['gpu_hours']:g} GPU-hours in all"
        return [(name, "budget", fact.subject, f"{fact.actor} gives the area {fact.subject} {most}.") for name in agents]
    if fact.kind == "answer":
        return [(PERSON, "answer", fact.subject, f"{fact.actor} answers your idea {fact.subject}:\n\n{body['text']}")]
    if fact.kind == "proposal" and body["agent"] == PERSON:
        text = (
            f"A person's idea, {fact.subject} ({body['family']}), waits for you:\n\n> {clean(body['hypothesis'], 1000)}\n\n"
            f"Give it to somebody (`orgctl assign AGENT --idea {fact.subject} --why \"...\"`) or answer it (`orgctl idea {fact.subject}"
            ' --answer "..."`).'
        )
        return [(name, "idea", fact.subject, text) for name in chiefs]
    return []


def _chiefs(state: State) -> list[str]:
    named = state.session.get("chiefs")
    return [str(name) for name in named] if isinstance(named, list) else []


def _digest(name: str, decides: bool, fact: Fact, state: State) -> str:
    """The digest, under what it asks of its reader."""
    rules = verify.policy(state)
    if decides:
        first = (
            "Decide now, the first list first; then give everybody a part: `orgctl assign AGENT --area AREA --why \"...\"`. Runs go on"
            " meanwhile. More on where gains may be left: `orgctl areas`."
        )
    else:
        policy = str(state.session.get("unassigned", "own-ideas"))
        doubts = rules.promotion == "skeptic" and any(name in those for those in rules.reviewers.values())
        free = bool(_chiefs(state)) and not doubts and assigned(state, name, fact.time) is None
        first = UNASSIGNED.get(policy, "") if free else "Go on with your part."
    return f"{first}\n\n{fact.body['text']}"


def _assignment(fact: Fact) -> str:
    body = fact.body
    lines = [f"{fact.actor} assigns you ({fact.subject}):", ""]
    lines += [f"areas: [{', '.join(body['areas'])}]"] if body["areas"] else []
    lines += [f"hypothesis: {clean(body['hypothesis'], 1000)}"] if body["hypothesis"] else []
    if idea := body["idea"]:
        lines.append(f"idea: {idea}, a person's, is yours from now on: `orgctl exp show {idea}`, edit, `orgctl exp run {idea}`")
    lines += [f"slot time: {body['gpu_hours']:g} GPU-hours"] if body["gpu_hours"] else []
    lines += [f"until: {time.strftime('%d %b %H:%M', time.localtime(body['deadline']))}"] if body["deadline"] else []
    return "\n".join([*lines, "", f"Why: {clean(body['why'], 1000)}"])
