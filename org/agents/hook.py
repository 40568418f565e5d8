"""What the hooks of claude and codex run: `python -I -m org.agents.hook BACKEND`, the hook's JSON on stdin, an answer on stdout.

It writes the agent's events, hands unread mail over when a prompt is submitted and when a turn ends, and answers "should I go on?".
It never fails the agent: whatever goes wrong ends in an event at most. Imports are late, since it runs at every prompt and stop.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lab.errors import UserError
from lab.home import Home
from lab.process import Identity
from org.agents.conversations import LAUNCHED, Conversations
from org.agents.event import read_events, write_event
from org.agents.limit import ends
from org.wake import said

if TYPE_CHECKING:
    from comms.message import Message
    from lab.ledger import Fact, Ledger

T = TypeVar("T")
ROOM = 9000
"""Characters that are handed over at once: claude cuts what a hook says at 10,000. What does not fit waits for the turn's end."""
ANSWERS = 2
"""How often in a row a question whether to go on is answered, before the agent is left alone."""
ASKS = re.compile(
    r"\b(?:(?:should|shall|may|can|could) (?:i|we)|(?:do|would) you (?:want|like|prefer)(?: me| us)? to|(?:is it|would it be) (?:ok|okay"
    r"|alright|all right|fine)(?: for you)? (?:if|to)|let me know (?:if|whether|when|how)|(?:ready|happy) to (?:go on|proceed|continue))\b"
    r"(?![^.?!]*\bperson\b)",
    re.IGNORECASE,
)
"""A request for leave. Judged on the end of the last message only."""
ANSWER = (
    "The process answers: yes, go on. Nobody reads along here and nobody will answer; within your role you decide. If there is nothing "
    "to do until a run of yours ends, end your turn without a question. Only what a person must decide goes to `orgctl mail send person`."
)
NOTICE = re.compile(r"\s*<task-notification>.*</task-notification>\s*", re.DOTALL)
"""A prompt of Claude Code itself, when a command in the background or a subagent has ended."""
CHILD = "ORGCTL_CHILD"
"""Set in the shell of an agent: a CLI that is started there is its child, and the hooks of that one inherit it."""
OF_ALL = ("PermissionRequest", "Notification")
"""Events that count whoever of the conversation has them: a dialog of a subagent holds up the agent."""
LIMITED = re.compile(
    r"rate.?limit|usage.?limit|overloaded|too many requests|\b429\b|\b529\b|limit (?:reached|exceeded)|quota",
    re.IGNORECASE,
)


def main() -> None:
    """Never raises, never fails: exit status 2 of a hook would block the agent."""
    try:
        given = json.load(sys.stdin)
        home, agent = Home.find(), os.environ["ORGCTL_AGENT"]
        answer(home, agent, sys.argv[1], given if isinstance(given, dict) else {})
    except Exception as error:
        note(error)


def note(error: Exception) -> None:
    """Write down what went wrong, where that can be done."""
    try:
        home, agent = os.environ["ORGCTL_HOME"], os.environ["ORGCTL_AGENT"]
        with open(Path(home) / ".org" / "agents" / agent / "hook.log", "a", encoding="utf-8") as handle:
            handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {type(error).__name__}: {error}\n"[:2000])
    except (OSError, KeyError):
        pass


def answer(home: Home, agent: str, backend: str, given: dict[str, Any]) -> None:
    """Act on one hook event of this agent's own conversation. Those of others count for nothing: of a child of its shell, and of a
    subagent, which has its parent's session and neither mail nor a person of its own."""
    event, session = str(given.get("hook_event_name", "")), str(given.get("session_id", ""))
    if (given.get("agent_id") and event not in OF_ALL) or not is_own(home, agent, backend, session):
        return
    itself = Identity.of(os.getpid())
    more = {"hook": event, "session": session, "begun": itself.began() if itself else None}
    if event == "SessionStart":
        session_started(home, agent, backend, given, more)
    elif event == "UserPromptSubmit":
        prompt_submitted(home, agent, str(given.get("prompt", "")), more)
    elif event == "Stop":
        stopped(home, agent, str(given.get("last_assistant_message") or ""), more)
    elif event == "StopFailure":
        text = " ".join(
            str(given.get(key) or "") for key in ("error", "error_details", "last_assistant_message")
        ).strip()
        state = "rate_limited" if LIMITED.search(text) else "idle"
        write_event(home, agent, state, f"model error: {text}"[:500], until=ends(text, time.time()), **more)
    elif event in ("PermissionRequest", "Notification"):
        kind = given.get("notification_type")
        if event == "PermissionRequest" or kind in ("permission_prompt", "elicitation_dialog"):
            write_event(home, agent, "needs_person", asked(given), **more)
    elif event == "SessionEnd" and given.get("reason") not in ("clear", "resume"):
        write_event(home, agent, "stopped", str(given.get("reason") or ""), **more)


def session_started(home: Home, agent: str, backend: str, given: dict[str, Any], more: dict[str, Any]) -> None:
    """It is up. Codex goes on with the instructions that its conversation began with: changed ones are handed over here."""
    if given.get("source") != "compact":
        write_event(home, agent, "idle", "ready", **more)
    mine, session = Conversations.of(home.agents / agent, backend), more["session"]
    before, now = mine.prompts.get(session), mine.prompts.get(LAUNCHED)
    if backend != "codex" or before == now or now is None:
        return
    if before is not None:
        text = (home.agents / agent / "prompt.md").read_text(encoding="utf-8")
        changed = f"Your instructions have changed. From now on these hold, and the earlier ones no more:\n\n{text}"
        say({"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": changed}})
    mine.prompts[session] = now
    mine.write()


def asked(given: dict[str, Any]) -> str:
    """What a dialog is about: the tool and the command or file."""
    tool, details = given.get("tool_name"), given.get("tool_input")
    if not tool:
        return str(given.get("message") or "asks for permission")[:300]
    details = details if isinstance(details, dict) else {}
    what = details.get("command") or details.get("file_path") or details.get("url") or ""
    return f"asks for permission: {tool} {what}".strip()[:300]


# whose event


def is_own(home: Home, agent: str, backend: str, session: str) -> bool:
    """Is this the agent's own conversation? Whatever the CLI in the pane is at is, also a new one (the first of a CLI that makes ids
    itself, or after `/clear`), and its id is kept. What a child is at is not, be it the agent's own that it goes on with."""
    if not session or os.environ.get(CHILD):
        return False
    mine = Conversations.of(home.agents / agent, backend)
    if mine.current != session:
        mine.add(session)
        mine.current = session
        mine.write()
    return True


# mail


def prompt_submitted(home: Home, agent: str, prompt: str, more: dict[str, Any]) -> None:
    """A turn begins; unread mail goes along."""
    person = not said(prompt) and not NOTICE.fullmatch(prompt)
    write_event(home, agent, "working", "", person=person, **more)
    if taken_over(home, agent):
        return
    text, messages = unread(home, agent)
    if text:
        say({"hookSpecificOutput": {"hookEventName": "UserPromptSubmit", "additionalContext": text}})
        seen(home, agent, messages)


def stopped(home: Home, agent: str, last: str, more: dict[str, Any]) -> None:
    """A turn ends: unread mail starts another one, and so does a question that the process can answer. Whose budget is spent begins
    one for the letter that says so, and no other."""
    if not taken_over(home, agent):
        told = budget_letter(home, agent)
        last_word = told is None or (home.comms / "inbox" / agent / "new" / f"{told}.md").exists()
        text, messages = unread(home, agent) if last_word else ("", [])
        if text and not handed(home, agent, messages[0].id):
            write_event(home, agent, "working", "mail came in", mail=messages[0].id, **more)
            say({"decision": "block", "reason": text})
            seen(home, agent, messages)
            return
        if told is None and asks_leave(last) and not has_run(home, agent) and answers(home, agent) < ANSWERS:
            write_event(home, agent, "working", "was told to go on", answered=True, **more)
            say({"decision": "block", "reason": ANSWER})
            return
    write_event(home, agent, "idle", last.strip().split("\n")[-1][:300], **more)


def handed(home: Home, agent: str, id: str) -> bool:
    """Did a turn's end hand this message over before? Then it cannot be marked as read, and would begin turns without end."""
    return any(event.get("mail") == id for event in read_events(home, agent, 20))


def unread(home: Home, agent: str) -> tuple[str, list[Message]]:
    """(the mail that fits as one text, its messages). Nothing is moved yet. A message too long for the room comes as its beginning."""
    from comms.mailbox import Mail

    mail = Mail(home.comms)
    waiting = mail.inbox(agent) if mail.waiting(agent) else []  # takes in what a person wrote by hand
    if not waiting:
        return "", []
    text, taken = fitting(waiting)
    rest = len(waiting) - len(taken)
    more = f"\n{rest} more will be handed over at the end of this turn." if rest > 0 else ""
    return f"Mail for {agent}:\n{text}{more}", taken


def fitting(messages: list[Message]) -> tuple[str, list[Message]]:
    """(the first of these messages that fit into ROOM, at least one, as one block of data; those messages)."""
    from comms.quoted import block

    limit = ROOM
    text = block(messages[:1], limit)
    while len(text) > ROOM:
        limit = min(limit // 2, int(limit * ROOM / len(text)) - 100)
        text = block(messages[:1], max(0, limit))
    count = 1
    while count < len(messages) and len(longer := block(messages[: count + 1])) <= ROOM:
        text, count = longer, count + 1
    return text, messages[:count]


def seen(home: Home, agent: str, messages: list[Message]) -> None:
    """Mark as read what was handed over. Somebody may have read it meanwhile."""
    from comms.mailbox import Mail, MailError

    mail = Mail(home.comms)
    for message in messages:
        try:
            mail.read(agent, message.id)
        except MailError as error:
            note(error)


def say(value: dict[str, Any]) -> None:
    """Hand over: only what has left this process may be marked as read."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


# what the process answers


def asks_leave(text: str) -> bool:
    """Does the message end in a question for leave to go on?"""
    end = " ".join(text.strip().split())[-400:]
    sentences = re.split(r"(?<=[.!?])\s+", end)[-2:]
    return any(ASKS.search(one) and (one.endswith("?") or one.lower().startswith("let me know")) for one in sentences)


def answers(home: Home, agent: str) -> int:
    """How often in a row it was told to go on, without a prompt or mail between."""
    count = 0
    for event in reversed(read_events(home, agent, 20)):
        if event.get("hook") != "Stop" or not event.get("answered"):
            break
        count += 1
    return count


def taken_over(home: Home, agent: str) -> bool:
    """Has a person this pane? A ledger that cannot be read says no."""
    from lab.takeover import taker

    return bool(asked_of(home, lambda ledger: taker(ledger, agent)))


def budget_letter(home: Home, agent: str) -> str | None:
    """The id of the message that its budget is spent; None while it is not."""
    told = [fact.body for fact in facts(home, "agent", agent) if fact.body.get("what") in ("budget_told", "budget_raised")]
    return str(told[-1].get("letter") or "") if told and told[-1]["what"] == "budget_told" else None


def has_run(home: Home, agent: str) -> bool:
    """Is a run of this agent waiting or under way?"""
    runs = {fact.subject for fact in facts(home, "run") if fact.body.get("agent") == agent}
    return bool(runs and runs - {fact.subject for fact in facts(home, "result")})


def facts(home: Home, kind: str, subject: str | None = None) -> list[Fact]:
    """The facts of a kind that count; [] when the ledger cannot be asked."""
    from lab.disowned import counted

    return asked_of(home, lambda ledger: list(counted(ledger, kind, subject))) or []


def asked_of(home: Home, question: Callable[[Ledger], T]) -> T | None:
    """What the ledger answers, opened for reading only; None when it cannot be asked."""
    import sqlite3

    from lab.ledger import Ledger

    try:
        ledger = Ledger(home.ledger, read_only=True)
        try:
            return question(ledger)
        finally:
            ledger.close()
    except (UserError, sqlite3.Error) as error:
        note(error)
        return None


if __name__ == "__main__":
    main()
