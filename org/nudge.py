"""The process's word to an agent that has nothing under way: mail that sends it on with its round. Pure; the controller mails it.

An agent waits for its runs undisturbed. One that is idle with no run, no mail and nothing that waits for its decision hears this
after a while, and then less and less often: an idle slot is research that did not happen, but a word costs tokens too.
"""

from __future__ import annotations

from lab.shown import next_step, unmerged
from lab.state import State
from org.role import CHIEF

FIRST = 60.0
"""Seconds idle before the first word."""
LONGEST = 1800.0
"""Never longer than this between two words."""
MOST = 8
"""Words in a row that changed nothing, after which there are no more: whoever has nothing to say for three hours is left alone until
mail comes."""
NEVER = ("human",)
"""Roles that are left alone."""


def wait(words: int) -> float:
    """Seconds idle before the next word, after so many that changed nothing."""
    return float(min(LONGEST, FIRST * 2 ** min(words, 10)))


def text(state: State, agent: str, role: str) -> str:
    """What to say."""
    waiting = decisions(state, role)
    if waiting:
        return "You are idle, and this waits for your decision:\n\n" + "\n".join(waiting) + "\n\nGo on with your round."
    mine = [one.id for one in state.experiments.values() if one.agent == agent and one.status == "proposed"]
    if mine:
        return (
            f"You are idle, and {', '.join(mine[:5])} is proposed but not run. Run it (`orgctl exp run {mine[0]}`) or withdraw it, then "
            "go on with your round."
        )
    for one in state.experiments.values():
        last = one.attempt
        if one.agent == agent and one.status == "unmerged" and last and last.unmerged and last.unmerged["files"]:
            return f"You are idle, and {one.id}, which was improved, {unmerged(last)}.\n\nNext: {next_step(one)}."
    return "You are idle and nothing of yours is under way. Go on with your round; nobody will tell you again what to do next."


def decisions(state: State, role: str) -> list[str]:
    """What a chief has to decide, a line each."""
    if role != CHIEF:
        return []
    found = [
        f"- {one.id} by {one.agent} is nominated: `orgctl exp confirm {one.id}` or `orgctl exp withdraw {one.id} --why ...`"
        for one in state.experiments.values()
        if one.status == "nominated"
    ]
    found += [
        f"- {one.id} by {one.agent} is improved: `orgctl exp promote {one.id}`"
        for one in state.experiments.values()
        if one.status == "improved"
    ]
    return found[:10]
