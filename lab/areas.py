"""Areas of work: what an idea belongs to, what an area has cost, and why nothing new is taken in one. Pure functions of the ledger.

An area is a proposal's family: `optimiser`, one of the task's own areas of knobs, or `family/word` (`optimiser/momentum`) for a
part of one, which lies within the whole. An idea of family `a+b` belongs to both. What an agent calls its idea is its own choice, so
once there is a change the idea belongs to the areas of the declared knobs that this sets anew, too (`turned`). Called by proposals and
the queue (is the area retired, is its budget spent?), by the standup and by agents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lab.direction import Assignment, Retired
from lab.errors import UserError
from lab.records import Experiment, Run
from lab.state import State
from lab.text import clean
from tasks.spec import Knob

AREA = re.compile(r"[a-z][a-z0-9_-]{0,31}(?:/[a-z0-9][a-z0-9_-]{0,31})?")
SETS = re.compile(r"\s*(\w+)\s*(?::[^=]*)?(?:[-+*/%@&|^]|//|\*\*|<<|>>)?=(?!=)")
"""A line of source that sets a name."""
PERSON = "person"
HOUR = 3600.0


def parts(family: str) -> list[str]:
    """The areas that a family names: `a+b/c` is of `a` and of `b/c`."""
    return [part for part in family.split("+") if part]


def spelled(area: str) -> str:
    """Both spellings as one: `optimizer` is `optimiser`."""
    return area.replace("iz", "is")


def within(area: str, family: str) -> bool:
    """Does an idea of that family belong to the area?"""
    area = spelled(area)
    return any(part == area or part.startswith(f"{area}/") for part in parts(spelled(family)))


def turned(knobs: Iterable[Knob], before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """The areas of the knobs that a change sets otherwise than before, in the order of the task; the files by path. Comments count
    nothing, nor does a line that only moved. A knob that is set by another name is not seen: this finds the wrong label, not all craft."""
    old, new = ({path: _set(content) for path, content in side.items()} for side in (before, after))
    changed = [knob for knob in knobs if old.get(knob.file, {}).get(knob.name) != new.get(knob.file, {}).get(knob.name)]
    return list(dict.fromkeys(knob.area for knob in changed))


def _set(content: bytes) -> dict[str, list[str]]:
    """Name -> the lines of a source that set it, sorted and without comments."""
    found: dict[str, list[str]] = {}
    for line in content.decode("utf-8", "replace").splitlines():
        if sets := SETS.match(line):
            found.setdefault(sets[1], []).append(re.sub(r"\s#.*", "", line).strip())
    return {name: sorted(lines) for name, lines in found.items()}


def known(state: State, more: Iterable[str] = ()) -> list[str]:
    """Areas that ideas, assignments, budgets or retirements name, and `more` (the task's), in alphabetical order. Of two spellings of
    one area only the task's is there, else that of whoever decides."""
    direction = state.direction
    named = [part for one in state.experiments.values() if not one.removes for part in parts(one.places)]
    assigned_to = [area for one in direction.assignments.values() for area in one.areas]
    found: dict[str, str] = {}
    for area in [*more, *direction.budgets, *direction.retired, *assigned_to, *named]:
        found.setdefault(spelled(area), area)
    return sorted(found.values())


def slot_seconds(run: Run, now: float) -> float:
    """Seconds for which a run has occupied its slot; 0 for one that never started."""
    if run.started is None:
        return 0.0
    return max(0.0, (run.ended if run.ended is not None else now) - run.started)


def spent(state: State, area: str, now: float) -> float:
    """Hours of slot time that all runs of the area's ideas have taken, controls and confirmations too."""
    ideas = (one for one in state.experiments.values() if within(area, one.places) and not one.removes)
    return sum(slot_seconds(run, now) for one in ideas for run in one.runs) / HOUR


def over_budget(state: State, family: str, now: float) -> str:
    """Why no nomination of this family is taken: a line with both figures; "" when one is."""
    for area, hours in state.direction.budgets.items():
        if within(area, family) and (used := spent(state, area, now)) >= hours:
            return (
                f"area {area} has spent {used:.3g} of its {hours:.3g} GPU-hours: take up another area, or ask who decides here for"
                f" more (`orgctl budget {area} HOURS`)"
            )
    return ""


def dead_end(state: State, family: str) -> Retired | None:
    """The retired area that this family belongs to, if any."""
    return next((one for area, one in state.direction.retired.items() if within(area, family)), None)


def told(one: Retired) -> str:
    """A dead end in a line: by whom, what shows it, why."""
    return f"area {one.area} was retired by {clean(one.by, 30)} after {', '.join(one.evidence)}: {clean(one.why, 200)}"


def may_enter(state: State, agent: str, one: Retired, now: float) -> bool:
    """May this agent propose in a dead end without a reason? A person, and whoever was assigned to it since it was retired."""
    mine = assigned(state, agent, now)
    return agent == PERSON or (mine is not None and mine.time > one.time and any(within(one.area, area) for area in mine.areas))


def entered(state: State, agent: str, family: str, places: list[str], again: str, now: float) -> dict[str, Any] | None:
    """The stated reason for a change that reaches into a retired area beside its family, as it goes into the fact; None where none is
    needed. `places`: the areas that it turns out to belong to. Raises UserError for one without a reason, or over its budget."""
    for area in (one for one in places if not within(one, family)):
        if why := over_budget(state, area, now):
            raise UserError(f"the change sets a knob of {area}: {why}")
        gone = dead_end(state, area)
        if gone is not None and not may_enter(state, agent, gone, now):
            if not again.strip():
                raise UserError(f"the change sets a knob of {area}: {told(gone)}. Leave it alone, or give a reason: --again \"why\"")
            return {"why": again, "near": list(gone.evidence)}
    return None


def closed(state: State, agent: str, family: str, now: float) -> bool:
    """Is a nomination of this family by this agent refused, unless a reason is stated?"""
    gone = dead_end(state, family)
    return bool(over_budget(state, family, now)) or (gone is not None and not may_enter(state, agent, gone, now))


def worked(state: State, assignment: Assignment, now: float) -> float:
    """Hours of slot time of the agent's own nominating runs since it was assigned."""
    runs = (run for one in state.experiments.values() if one.agent == assignment.agent for run in one.runs)
    return sum(slot_seconds(run, now) for run in runs if run.purpose == "nominate" and run.queued >= assignment.time) / HOUR


def assigned(state: State, agent: str, now: float) -> Assignment | None:
    """What the agent is to do now; None when it was told nothing, or the time or the slot-hours for it are over, or it was given nothing
    but a person's idea and that has its verdict, does not apply to trunk or is withdrawn."""
    one = state.direction.assignments.get(state.direction.current.get(agent, ""))
    if one is None or (one.deadline is not None and now >= one.deadline):
        return None
    idea = None if one.areas or one.hypothesis else state.experiments.get(one.idea)
    if idea is not None and (idea.verdict is not None or idea.withdrawn is not None or (idea.attempt and idea.attempt.apart)):
        return None
    return None if one.gpu_hours is not None and worked(state, one, now) >= one.gpu_hours else one


def ideas(state: State) -> list[Experiment]:
    """Ideas of people that nobody has taken up or answered yet, the oldest first."""
    return [
        one for one in state.experiments.values()
        if one.agent == PERSON and one.status == "proposed" and one.id not in state.direction.answers
    ]  # fmt: skip
