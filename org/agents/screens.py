"""Reading the input box off a screen of Claude Code or Codex, and the error after which either tries again. Pure.

The box is what keeps a wake line and its Enter out of an open dialog, which Enter would approve: whenever it is not certain that an
input box stands there and nothing else asks for keys, the answer is None.
"""

from __future__ import annotations

import re

from org.agents.base import Retry

RULE = re.compile(r"^[─━]{20,}")
PROMPT = re.compile(r"^❯(?:[\s\xa0]|$)")
CHOICE = re.compile(r"^\s*❯?\s*\d+\.\s|\b(?:Enter to (?:confirm|select)|Esc to (?:cancel|exit)|Do you want to)\b")
ESCAPE = re.compile(r"\x1b\[[0-9;:]*m")
FAINT = re.compile(r"\x1b\[(?:[013-9];)*2m.*?(?=\x1b\[(?:0?[;m]|22m)|$)")
"""The attribute alone: `38;5;2` and `38;2;R;G;2` are colours, and end in 2 too. A reset may name what holds from then on."""


def claude_box(screen: str) -> str | None:
    """The text in the input box: what stands between the last two rules, after the prompt sign. None when that is not certain, as with a
    dialog open. Where the capture has colours, faint text counts as nothing: it is a hint."""
    lines = [line.rstrip() for line in screen.split("\n")]
    while lines and not ESCAPE.sub("", lines[-1]).strip():
        lines.pop()
    plain = [ESCAPE.sub("", line) for line in lines]
    rules = [index for index, line in enumerate(plain) if RULE.match(line)]
    if len(rules) < 2 or len(plain) - rules[-1] > 6:
        return None
    top, bottom = rules[-2], rules[-1]
    inside = plain[top + 1 : bottom]
    if (
        not inside
        or not PROMPT.match(inside[0])
        or any(CHOICE.search(line) for line in [*inside, *plain[bottom + 1 :]])
    ):
        return None
    shown = [ESCAPE.sub("", FAINT.sub("", line)) for line in lines[top + 1 : bottom]]
    text = [re.sub(r"^❯[\s\xa0]?", "", shown[0]), *(line.removeprefix("  ") for line in shown[1:])]
    return "\n".join(line.replace("\xa0", " ").rstrip() for line in text).strip("\n ")


CODEX_PROMPT = re.compile(r"^›(?:\s|$)")
CODEX_HINTS = ("Ask Codex to do anything", "Ask a follow-up question")
"""What stands in an empty box, in grey."""
CODEX_STATUS = re.compile(r"^  \S.*( · |\? for shortcuts|esc to interrupt|context left)")


def codex_box(screen: str) -> str | None:
    """The text in the input box: from the last line that begins with the prompt sign to the status lines under it."""
    lines = [line.rstrip() for line in screen.split("\n")]
    while lines and not ESCAPE.sub("", lines[-1]).strip():
        lines.pop()
    plain = [ESCAPE.sub("", line) for line in lines]
    starts = [index for index, line in enumerate(plain) if CODEX_PROMPT.match(line)]
    if not starts:
        return None
    top = starts[-1]
    bottom = next((index for index in range(top + 1, len(plain)) if CODEX_STATUS.match(plain[index])), None)
    if bottom is None or len(plain) - bottom > 4 or any(CHOICE.search(line) for line in plain[top:]):
        return None
    shown = [ESCAPE.sub("", FAINT.sub("", line)) for line in lines[top:bottom]]
    text = [re.sub(r"^›\s?", "", shown[0]), *(line.removeprefix("  ") for line in shown[1:])]
    found = "\n".join(line.rstrip() for line in text).strip("\n ")
    return "" if found in CODEX_HINTS else found


SPINNER = re.compile(r"^[✻✽✶✢✳·*] ")
"""Begins the line that says what Claude Code is at; that of an earlier turn stands further up."""
SPAN = r"(?:\d{1,6} ?[dhms] ?)+"
CLAUDE_RETRY = re.compile(
    rf"^. (.+?) · retrying(?:…|\.\.\.| in ({SPAN})(?:\([^()]*\))?| once, [^·…]*) ?(?:· attempt (\d{{1,6}})/(\d{{1,6}}))?$"
)
"""All that Claude Code prints there: what an agent says in the middle of its work is seldom just this."""
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
CODEX_RETRY = re.compile(r"^(?:[•◦] )?(Reconnecting\.\.\.|[A-Z][A-Za-z ]{0,60}, reconnecting) (\d{1,6})/(\d{1,6}) \(\d+\w* ?[^)]*(?:\)|$)")
NEAR = 12
"""Lines above the box within which Codex says what it is at."""


def claude_retry(screen: str) -> Retry | None:
    """What stands where it says what it is at: `✻ 529 Overloaded · retrying in 1m 5s · attempt 6/10`."""
    lines = [line.rstrip() for line in screen.split("\n")]
    found = CLAUDE_RETRY.match(next((line for line in reversed(lines) if SPINNER.match(line)), ""))
    if found is None:
        return None
    error, span, attempt, most = found.groups()
    spans = re.findall(r"(\d+) ?([dhms])", span or "")
    wait = float(sum(int(number) * UNITS[unit] for number, unit in spans)) if spans else None
    return Retry(error, int(attempt or 1), int(most or 1), wait)


def codex_retry(screen: str) -> Retry | None:
    """What stands above the box: `Reconnecting... 3/5 (10s • esc to interrupt)`, and below it what happened."""
    lines = [line.rstrip() for line in screen.split("\n")]
    starts = [index for index, line in enumerate(lines) if CODEX_PROMPT.match(line)]
    above = lines[max(0, starts[-1] - NEAR) : starts[-1]] if starts else []
    for index in reversed(range(len(above))):
        if found := CODEX_RETRY.match(above[index]):
            details = []
            for line in above[index + 1 :]:
                if not line.startswith("  "):
                    break
                details.append(line.strip().removeprefix("└").strip())
            error = " ".join(details).partition(", url: ")[0] or found[1].rstrip(". ")
            return Retry(error, int(found[2]), int(found[3]))
    return None
