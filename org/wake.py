"""Waking idle agents that have mail: one short line typed into the pane, on which the agent's own hooks hand the mail over.

`decide` is pure: what is seen of one agent and what was done so far give the next move; the controller carries it out, twice a
second. Typing is the last resort and the dangerous one: Enter in an open permission dialog approves it. So nothing is typed unless
the agent is idle, its input box is seen and empty, nobody types and nobody has taken the pane over; and Enter is only pressed
on a box that holds our line and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

LINE = "orgctl: new mail, read it and go on"
"""What is typed."""
FIRST = "orgctl: begin your round: read what you were told, look at the standing (`orgctl status`) and at your mail, then go to work."
"""The prompt of a CLI's first start; a resumed conversation gets none."""
SETTLE = 0.4
"""Seconds between the paste and Enter: one CLI takes an Enter within 120 ms of a burst for a newline."""
HEARD = 2.5
"""Seconds after which a paste that is nowhere to be seen, or an Enter that was not heard, is made once more."""
LOST = 6.0
"""Seconds after Enter at which the line counts as undelivered."""
TYPING = 10.0
"""Seconds since a key of a person who looks at the pane, within which nothing is typed."""
RETRY = (30.0, 120.0, 600.0)
"""Seconds until the next try after the first, second and each further failure in a row."""
CALM = ("idle", "waiting")
"""States in which a line may be typed."""
BUSY = "it is "
"""Begins the reason of a state that is none of them."""

Move = Literal["", "paste", "enter", "undelivered"]


@dataclass(frozen=True)
class Sight:
    """What is seen of one agent now. Times in seconds since the epoch."""

    state: str
    """Its status (`org.status.AgentStatus.state`)."""
    unread: int
    """Messages in its inbox."""
    box: str | None
    """Text in its input box; None where no box can be seen (`Backend.box`)."""
    heard: float | None
    """When it last took in a prompt, by its own records."""
    typed: float | None = None
    """Seconds since a person who looks at the pane pressed a key; None when nobody looks."""
    in_mode: bool = False
    """Its pane is in copy mode: keys would not reach it."""
    first: str = ""
    """Name of the oldest unread message."""


@dataclass(frozen=True)
class Try:
    """An attempt under way, or the memory of failed ones."""

    pasted: float | None = None
    entered: float | None = None
    again: bool = False
    """The line was pasted a second time: the first was lost."""
    rescued: bool = False
    """Enter was pressed a second time."""
    failures: int = 0
    until: float = 0.0
    """No new attempt before this time."""
    why: str = ""
    """What holds it up, for people; "" when nothing does."""
    over: str = ""
    """The oldest unread message when the line was last pasted: still the oldest after a heard Enter, it was not handed over."""
    heard: float | None = None
    """When the agent was seen to hear the last line."""


IDLE = Try()


def hold(sight: Sight) -> str:
    """Why nothing may be typed now; "" when it may."""
    if sight.state not in CALM:
        return BUSY + sight.state.replace("_", " ")
    if sight.typed is not None and sight.typed < TYPING:
        return "a person is typing there"
    if sight.in_mode:
        return "its pane is in copy mode"
    if sight.box is None:
        return "its input box cannot be seen"
    return ""


def held_up(trying: Try, state: str) -> str:
    """What people are told of mail that waits; "" when nothing holds it up, or nothing but what the agent's state says anyway."""
    return trying.why if trying.failures or (state in CALM and not trying.why.startswith(BUSY)) else ""


def ours(box: str | None) -> bool:
    """Does the box hold our line and nothing else? Boxes wrap lines: blanks do not count."""
    return box is not None and _bare(box) == _bare(LINE)


def said(prompt: str) -> bool:
    """Is this whole prompt one of the process? To what stands in its box again after Esc a person may have added words."""
    return _bare(prompt) in (_bare(LINE), _bare(FIRST))


def _bare(text: str) -> str:
    return "".join(text.split())


def decide(sight: Sight, now_trying: Try, now: float) -> tuple[Move, Try]:
    """The next move for one agent, and what to remember of it."""
    if now_trying.entered is not None:
        return _after_enter(sight, now_trying, now)
    if now_trying.pasted is not None:
        return _after_paste(sight, now_trying, now)
    if now_trying.heard is not None and sight.unread:
        if sight.first != now_trying.over:
            return "", IDLE
        if sight.state not in CALM or now - now_trying.heard < LOST:
            return "", now_trying
        # each turn costs money: not again at once, and later each time
        return _failed(now_trying, "it was woken and its mail could not be handed over", now)
    if sight.unread == 0:
        return "", IDLE if not now_trying.failures else replace(IDLE, until=now_trying.until)
    if now < now_trying.until:
        return "", now_trying
    why = hold(sight)
    if not why and ours(sight.box):  # left by a controller that was killed in between
        return "", replace(now_trying, pasted=now - SETTLE, why="")
    if not why and sight.box:
        why = "there is text in its input box"
    if why:
        return "", replace(now_trying, why=why)
    return "paste", replace(now_trying, pasted=now, why="", over=sight.first)


def _after_paste(sight: Sight, trying: Try, now: float) -> tuple[Move, Try]:
    """The line was pasted: press Enter once it stands in the box, alone."""
    assert trying.pasted is not None
    age = now - trying.pasted
    if age < SETTLE:
        return "", trying
    why = hold(sight)
    if not why and ours(sight.box):
        return "enter", replace(trying, entered=now, rescued=False)
    if not why and not sight.box and sight.unread and not trying.again and age >= HEARD:  # typed too early after the agent's start
        return "paste", replace(trying, pasted=now, again=True)
    if age < LOST:
        return "", replace(trying, why=why)
    return _failed(trying, why or ("the line was lost" if not sight.box else "other text came into the box"), now)


def _after_enter(sight: Sight, trying: Try, now: float) -> tuple[Move, Try]:
    """Enter was pressed: done when the agent heard it; once more when the line still stands there."""
    assert trying.entered is not None and trying.pasted is not None
    heard = sight.heard is not None and sight.heard >= trying.pasted - SETTLE
    if heard or sight.state not in CALM:
        return "", Try(failures=trying.failures, over=trying.over, heard=now) if trying.over else IDLE
    age = now - trying.entered
    if not trying.rescued and age >= HEARD and not hold(sight) and ours(sight.box):
        return "enter", replace(trying, entered=now, rescued=True)
    if age < LOST:
        return "", trying
    return _failed(trying, "Enter was pressed and the agent did not take it", now)


def _failed(trying: Try, why: str, now: float) -> tuple[Move, Try]:
    wait = RETRY[min(trying.failures, len(RETRY) - 1)]
    return "undelivered", Try(failures=trying.failures + 1, until=now + wait, why=why)
