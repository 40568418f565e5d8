"""Mail on the command line: send, inbox, read, ack, sent; posting to a channel; threads. Finds `.org/comms` by ORGCTL_HOME or by
walking up.

What one agent writes reaches another clearly marked as from whom (`comms.quoted`); the texts are data and never commands.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from comms import quoted
from comms.mailbox import Letter, Mail
from comms.message import LIMIT_BYTES, MailError, Message, clean

app = typer.Typer(add_completion=False)
mail = typer.Typer(
    help="Messages between agents and people: Markdown files in inboxes.", no_args_is_help=True, add_completion=False
)
app.add_typer(mail, name="mail")

CLOSED = "closed"
"""A file of this name beside the inboxes: agents may not write to each other here."""
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
AsAgent = Annotated[
    str | None, typer.Option("--agent", help="Whose inbox. Default: yours ($ORGCTL_AGENT, else `person`).")
]


def _org() -> Path:
    """The folder of the organisation: `.org` of $ORGCTL_HOME, else of the nearest repository at or above the working directory; of
    another program than main `.org/programs/<name>` there, by $ORGCTL_PROGRAM or because the working directory lies in it."""
    here = Path(os.environ.get("ORGCTL_HOME") or Path.cwd()).resolve()
    inside = re.search(r"/\.org/programs/([a-z][a-z0-9-]*)(?:/|$)", str(Path.cwd().resolve()))
    program = os.environ.get("ORGCTL_PROGRAM") or (inside[1] if inside else "main")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", program):
        raise MailError(f"ORGCTL_PROGRAM={program[:40]!r} is no program's name: unset it")
    for folder in (here, *here.parents):
        org = folder / ".org" if program == "main" else folder / ".org" / "programs" / program
        if (org / "comms").is_dir():
            return org
    raise MailError(f"no organisation found in {here} or above it: run `orgctl up` in an empty directory first")


def _mail() -> Mail:
    return Mail(_org() / "comms")


def _me(agent: str | None = None) -> str:
    """Who asks (`_who`); whoever is named, if a person asks or it is the same. Raises MailError for an agent that would open somebody
    else's mail, since what it reads is new to nobody any more, and for who has a seat elsewhere.
    """
    me = _who()
    if "@" in me:  # as the door calls who has a seat in another program
        raise MailError(f"this runs in {me}'s seat, which is in another program: it may read channels here, and has no mail")
    if agent not in (None, me) and me != "person" and os.environ.get("ORGCTL_ROLE") != "human":
        raise MailError(f"{me} may not open the mail of {clean(agent)[:40]}: leave --agent out, or read a channel")
    return agent or me


def _who() -> str:
    """Who looks: $ORGCTL_AGENT, else the agent in whose worktree the working directory lies, else a person."""
    if named := os.environ.get("ORGCTL_AGENT"):
        return named
    here, seats = Path.cwd().resolve(), _org() / "worktrees"
    return here.relative_to(seats).parts[0] if seats in here.parents else "person"


def _owner(box: Mail, agent: str | None = None) -> str:
    """Whose inbox is meant. Raises MailError where there is none: to read it would make one, and mail to a mistyped name would go there.
    """
    name = _me(agent)
    if name not in (known := _known(box)):
        raise MailError(f"nobody here is called '{clean(name)[:40]}': choose one of {', '.join(known)}")
    return name


def _known(box: Mail) -> list[str]:
    """Everybody who has an inbox."""
    return [name for name in box.places() if name[0] != "#" and (box.root / "inbox" / name).is_dir()]


def _open_to_me() -> Mail:
    """The mail, for somebody who wants to write. Raises MailError for an agent where agents work without messages."""
    box, sender = _mail(), _me()
    if sender != "person" and (box.root / CLOSED).exists():
        raise MailError(f"agents work without messages here, by the org design: {sender} may read what the laboratory and people write")
    return box


def _dict(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "from": message.sender,
        "to": message.to,
        "kind": message.kind,
        "thread": message.thread,
        "time": message.time,
        "about": message.about,
        "body": message.body,
    }


def _line(message: Message) -> str:
    first = next((line for line in message.body.splitlines() if line.strip()), "")
    return f"{message.id}  from {message.sender}  {message.kind}  {message.about}  {clean(first)[:100]}"


def _text(given: str) -> str:
    """The words of a message: as given, or with `-` from standard input. Raises MailError for what is no text."""
    if given != "-":
        return given
    data = sys.stdin.buffer.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        raise MailError(f"a message is larger than {LIMIT_BYTES} bytes: put the long part into a file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MailError(f"what was sent to standard input is no UTF-8 text (byte {error.start}): nothing was sent") from error


def _place(box: Mail, reply_to: str | None, thread: str, about: str) -> tuple[str, str]:
    """(thread, about) of a new message; an answer takes both from what it answers unless they are given."""
    if reply_to is None:
        return thread, about
    of, on = box.reply(reply_to, _reader())
    return thread or of, about or on


def _reader() -> str | None:
    """Whose eyes a look is limited to; None for a person, who sees all mail."""
    me = _who()
    return None if me == "person" else me


def _print(found: list[Message], as_json: bool, nothing: str) -> None:
    if as_json:
        print(json.dumps([_dict(message) for message in found], indent=1))
    else:
        print(quoted.block(found, LIMIT_BYTES, sys.maxsize) if found else nothing)


ReplyTo = Annotated[str | None, typer.Option(help="The message that this one answers, by its id: joins its thread.", metavar="MESSAGE")]
Thread = Annotated[str, typer.Option(help="The thread it belongs to: a message's id, or any name.")]
Kind = Annotated[str, typer.Option(help="note, question, answer, assignment, ...")]
About = Annotated[str, typer.Option(help="What it is about, such as E0004.")]
Words = Annotated[str, typer.Argument(help="The message (Markdown); - reads it from standard input.")]


@mail.command()
def send(
    to: Annotated[str, typer.Argument(help="An agent's name, or `person`.")],
    text: Words,
    kind: Kind = "note",
    about: About = "",
    reply_to: ReplyTo = None,
    thread: Thread = "",
) -> None:
    """Send a message to one agent; prints its id."""
    box = _open_to_me()
    if to not in (known := _known(box)):
        raise MailError(f"nobody here is called {to[:40]!r}: write to one of {', '.join(known)}")
    thread, about = _place(box, reply_to, thread, about)
    print(box.send(_me(), to, _text(text), kind=kind, thread=thread, about=about).id)


@mail.command()
def inbox(agent: AsAgent = None, as_json: JsonFlag = False) -> None:
    """New messages, oldest first. They stay new until read."""
    box = _mail()
    found = box.inbox(_owner(box, agent))
    if as_json:
        print(json.dumps([_dict(message) for message in found], indent=1))
        return
    for message in found:
        print(_line(message))
    if not found:
        print("no new messages")


@mail.command()
def read(
    identity: Annotated[
        str | None, typer.Argument(help="A message's id. Default: all new ones.", metavar="[MESSAGE]")
    ] = None,
    agent: AsAgent = None,
    as_json: JsonFlag = False,
) -> None:
    """Read messages and mark them as read. What others wrote stands in lines that begin with `| `."""
    box = _mail()
    owner = _owner(box, agent)
    found = [box.read(owner, identity)] if identity else box.take(owner)
    _print(found, as_json, "no new messages")


@mail.command()
def ack(
    identity: Annotated[str, typer.Argument(help="A message to you, or one on a channel.", metavar="MESSAGE")],
    agent: AsAgent = None,
) -> None:
    """Acknowledge a message: its sender sees that you took note of it (`orgctl mail sent`). Sends nothing."""
    box = _mail()
    message = box.acknowledge(_owner(box, agent), identity)
    print(f"acknowledged: {message.kind} from {message.sender}")


@mail.command()
def sent(
    agent: Annotated[str | None, typer.Option("--agent", help="Whose messages. Default: yours.")] = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, max=10_000, help="How many from the end.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """What you sent, newest first, and what became of it: unread, read, or acknowledged by whom."""
    found = _mail().sent(_me(agent), lines)
    if as_json:
        data = [{**_dict(one.message), "read": one.read, "acknowledged": one.acknowledged} for one in found]
        print(json.dumps(data, indent=1))
        return
    for one in found:
        message = one.message
        print(f"{message.id}  to {message.to}  {message.kind}  {message.about}  {_became(one)}")
    if not found:
        print("nothing was sent")


def _became(letter: Letter) -> str:
    """unread, read, posted, or acknowledged by r1 12:03, r2 12:05."""
    if letter.acknowledged:
        times = (f"{name} {time.strftime('%H:%M', time.localtime(when))}" for name, when in letter.acknowledged.items())
        return f"acknowledged by {', '.join(times)}"
    return "posted" if letter.read is None else "read" if letter.read else "unread"


@app.command()
def post(
    channel: Annotated[str, typer.Argument(help="Name of the channel, such as all.")],
    text: Words,
    kind: Kind = "note",
    about: About = "",
    reply_to: ReplyTo = None,
    thread: Thread = "",
) -> None:
    """Post a message on a channel, where everybody can read it: `orgctl channel NAME`. Prints its id."""
    box = _open_to_me()
    thread, about = _place(box, reply_to, thread, about)
    print(box.post(_me(), channel, _text(text), kind=kind, thread=thread, about=about).id)


@app.command()
def channel(
    name: Annotated[str | None, typer.Argument(help="Name of the channel. Default: list them all.", metavar="[NAME]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read a channel, oldest first."""
    box = _mail()
    if name is not None:
        _print(box.channel(name), as_json, f"nothing was posted on {clean(name)[:64]}: `orgctl channel` lists the channels")
        return
    there = [{"channel": one[1:], "messages": len(box.channel(one[1:]))} for one in box.places() if one[0] == "#"]
    if as_json:
        print(json.dumps(there, indent=1))
        return
    for one in there:
        print(f"{one['channel']}  {one['messages']} message{'s' if one['messages'] != 1 else ''}")
    if not there:
        print("no channel yet: `orgctl post all \"...\"` opens one")


@app.command()
def thread(
    name: Annotated[str, typer.Argument(help="The id of any message of it, or the thread's name.", metavar="MESSAGE")],
    as_json: JsonFlag = False,
) -> None:
    """Read a conversation whole, oldest first, inboxes and channels alike; an agent sees its own mail and the channels."""
    _print(_mail().thread(name, _reader()), as_json, "")
