"""Compaction: when the conversation nears the model's window the model itself sums up its older part; the newest turns stay as they are.

Called by `loop`. What is summed up goes to the model as text, without tools: some APIs refuse calls in a conversation when no tools
are offered, and long results can be clipped. A cut never parts a call from its result.
"""

from __future__ import annotations

from collections.abc import Sequence

from org.agents.chat.models import Request
from org.agents.chat.tools import Output
from org.agents.chat.transcript import (
    CHARACTERS,
    Assistant,
    Call,
    Compacted,
    Results,
    Said,
    Turn,
    User,
    conversation,
    size,
)

FULL = 0.8
"""Part of the window at which older turns are summed up."""
STAY = 0.2
"""Part of the window that the newest turns, which stay, may fill."""
CLIP = 1500
"""Characters of a tool's result that the summary is made from."""
ASKED = """\
Below is the older part of your own conversation, which will be removed. Write the summary that you will go on with in its place: your
task and role in brief, what was asked of you and by whom, what you did and found (experiments by id, files, numbers), what
failed and why, decisions, what is under way, and the next step. Be exact about ids, paths and numbers; leave out what no
longer matters. The newest turns are kept beside your summary. Answer with the summary only.
"""

Entries = Sequence[User | Assistant | Results | Compacted]


def filled(entries: Entries, system: str) -> int:
    """Tokens that the next request would have: what the server counted last, and an estimate of what came after."""
    after = 0
    for entry in reversed(entries):
        if isinstance(entry, Compacted):
            break
        if isinstance(entry, Assistant) and entry.usage:
            return entry.usage.prompt + entry.usage.output + after
        after += size(entry)
    return len(system) // CHARACTERS + sum(map(size, conversation(entries)))


def cut(entries: Entries, window: int) -> int | None:
    """Number of the first entry that stays; None when nothing before it could be summed up."""
    before = max((entry.first for entry in entries if isinstance(entry, Compacted)), default=0)
    first, kept = None, 0
    for number in range(len(entries) - 1, before, -1):
        entry = entries[number]
        kept += 0 if isinstance(entry, Compacted) else size(entry)
        if isinstance(entry, User | Assistant):
            if first is not None and kept > STAY * window:
                break
            first = number
    return first


def request(entries: Entries, first: int, system: str, window: int, max_tokens: int, who: str) -> Request:
    """The question for a summary of everything before `first`."""
    output = Output(int(0.5 * window * CHARACTERS))
    output.add("\n\n".join(map(told, conversation(entries[:first]))))
    return Request(system, [User(text=f"{ASKED}\n{output.text}")], (), max_tokens, who)


def told(turn: Turn) -> str:
    """A turn as text."""
    if isinstance(turn, User):
        return f"[{turn.origin}] {turn.text}"
    if isinstance(turn, Results):
        return "\n".join(f"[result{', failed' if one.failed else ''}] {_clipped(one.text)}" for one in turn.results)
    parts = [f"[you] {block.text}" for block in turn.blocks if isinstance(block, Said) and block.text.strip()]
    parts += [
        f"[you call {block.name}] {_clipped(str(block.arguments))}" for block in turn.blocks if isinstance(block, Call)
    ]
    return "\n".join(parts)


def _clipped(text: str) -> str:
    output = Output(CLIP)
    output.add(text)
    return output.text
