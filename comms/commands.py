"""Mail on the command line: send, inbox, read, and posting to a channel. Finds `.org/comms` by ORGCTL_HOME or by walking up.

What one agent writes reaches another clearly marked as from whom; the texts are data and never commands.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from comms.mailbox import Mail
from comms.message import MailError, Message, clean

app = typer.Typer(add_completion=False)
mail = typer.Typer(
    help="Messages between agents and people: Markdown files in inboxes.", no_args_is_help=True, add_completion=False
)
app.add_typer(mail, name="mail")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
AsAgent = Annotated[
    str | None, typer.Option("--agent", help="Whose inbox. Default: yours ($ORGCTL_AGENT, else `person`).")
]


def _root() -> Path:
    """The research repository: $ORGCTL_HOME, else the nearest one at or above the working directory."""
    here = Path(os.environ.get("ORGCTL_HOME") or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / ".org" / "comms").is_dir():
            return folder
    raise MailError(f"no organisation found in {here} or above it: run `orgctl up` in an empty directory first")


def _mail() -> Mail:
    return Mail(_root() / ".org" / "comms")


def _me(agent: str | None = None) -> str:
    """As said, else $ORGCTL_AGENT, else the agent in whose worktree the working directory lies, else a person."""
    if named := agent or os.environ.get("ORGCTL_AGENT"):
        return named
    here, seats = Path.cwd().resolve(), _root() / ".org" / "worktrees"
    return here.relative_to(seats).parts[0] if seats in here.parents else "person"


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


def _show(message: Message) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(message.time))
    print(f"from {message.sender} to {message.to}, {when}, {message.kind} {message.about}\n\n{clean(message.body)}")


@mail.command()
def send(
    to: Annotated[str, typer.Argument(help="An agent's name, or `person`.")],
    text: Annotated[str, typer.Argument(help="The message (Markdown).")],
    kind: Annotated[str, typer.Option(help="note, question, answer, assignment, ...")] = "note",
    about: Annotated[str, typer.Option(help="What it is about, such as E0004.")] = "",
) -> None:
    """Send a message to one agent."""
    box = _mail()
    known = sorted(folder.name for folder in (box.root / "inbox").glob("*") if folder.is_dir())
    if to not in known:
        raise MailError(f"nobody here is called {to[:40]!r}: write to one of {', '.join(known)}")
    print(box.send(_me(), to, text, kind=kind, about=about).id)


@mail.command()
def inbox(agent: AsAgent = None, as_json: JsonFlag = False) -> None:
    """New messages, oldest first. They stay new until read."""
    found = _mail().inbox(_me(agent))
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
    """Read messages and mark them as read."""
    box = _mail()
    found = [box.read(_me(agent), identity)] if identity else box.take(_me(agent))
    if as_json:
        print(json.dumps([_dict(message) for message in found], indent=1))
        return
    for number, message in enumerate(found):
        if number:
            print("\n" + "-" * 60)
        _show(message)
    if not found:
        print("no new messages")


@app.command()
def post(
    channel: Annotated[str, typer.Argument(help="Name of the channel, such as all.")],
    text: Annotated[str, typer.Argument(help="The message (Markdown).")],
) -> None:
    """Post a message on a channel, where everybody can read it: `orgctl channel NAME`."""
    print(_mail().post(_me(), channel, text).id)


@app.command()
def channel(name: Annotated[str, typer.Argument(help="Name of the channel.")], as_json: JsonFlag = False) -> None:
    """Read a channel, oldest first."""
    found = _mail().channel(name)
    if as_json:
        print(json.dumps([_dict(message) for message in found], indent=1))
        return
    for message in found:
        _show(message)
