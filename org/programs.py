"""Several programs of research in one repository: which slots and names are left for one more.

Called when a session is founded and when its controller starts. A program keeps its slots for life, also while it is down: two that ran
on the same GPU would slow each other and measure that.
"""

from __future__ import annotations

from dataclasses import replace

from lab.errors import UserError
from lab.home import Home
from lab.slots import Slot, discover, usable_cores
from org import design as designs
from tasks.spec import Task


def slots(home: Home, task: Task, wanted: int | None) -> tuple[int, list[Slot]]:
    """(number of the machine's slots before its own, its slots) for a new program; the first of a repository has them all before it.

    Raises UserError when nothing is left: a GPU serves one program, and so does a core unless more slots are asked for by number.
    """
    others = [designs.read(other) for other in home.others()]
    first = max((one.first + one.slots for one in others), default=0)
    if not first:
        return 0, discover(task.scale.device, wanted, task.scale.gpus)
    taken = f"the other programs here ({', '.join(other.program for other in home.others())}) hold {first}"
    if task.scale.device == "cpu":
        left = len(usable_cores()) - first
        if wanted is None and left < 1:
            share = "Begin them with fewer --slots, or ask for --slots N to share cores"
            raise UserError(f"no core is left: {taken} of {left + first}. {share}")
        return first, own(discover("cpu", first + (wanted or min(left, 4))), first)
    found = own(discover("cuda", None if wanted is None else first + wanted, task.scale.gpus), first)
    if not found:
        raise UserError(f"no GPU is left: {taken} slots. Begin them with fewer --slots, or in another repository on another machine")
    return first, found


def own(found: list[Slot], first: int) -> list[Slot]:
    """A program's part of the machine's slots, counted from 0."""
    return [replace(slot, index=slot.index - first) for slot in found[first:]]


def check_name(home: Home, name: str) -> None:
    """Raises UserError when another program here has this session name, and so this tmux socket."""
    for other in home.others():
        if designs.read(other).name == name:
            raise UserError(f"--name {name}: the program {other.program} of this repository is called so: choose another")
