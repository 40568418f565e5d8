"""In whose name a command may speak: that of the seat it runs in, or a person's. Called by the door for each command, and by the
controller for each request.

A rule and no lock: under one user id a process may make itself look like another's. But a name that is nobody's here is refused, and so
is an agent's command that names another agent or a person: the processes above it tell whose seat it runs in, since each has in its
environment what its seat gave it. In a seat that a person has taken over a person speaks as they like.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection
from pathlib import Path

import psutil

from lab import client
from lab.disowned import counted
from lab.errors import UserError
from lab.home import MAIN, Home
from lab.ledger import Ledger
from lab.names import NAME, RESERVED
from lab.process import Identity
from lab.takeover import taker
from lab.text import clean

FREE = "human"
"""The role of a seat in which a person sits anyway."""


def check() -> None:
    """Raises UserError when this command may not speak in the name that it bears. Outside of an organisation every name is right. In the
    seat of another program of the repository it may read, and gets a name that can do nothing else (`client.check_guest`)."""
    try:
        home = Home.find()
        ledger = Ledger(home.ledger)
    except UserError:
        return  # the command says what is wrong, if it needs one
    try:
        name = client.reader(home)
        seat = other_seat(home, name, os.getpid())
        if is_guest(home, seat):
            os.environ["ORGCTL_AGENT"] = seat
            os.environ.pop("ORGCTL_ROLE", None)
            return
        check_name(name, agents(ledger), "" if os.environ.get("ORGCTL_AGENT") else name)
        seat = "" if "@" in seat else seat
        if seat and not taker(ledger, seat):
            remedy = f"a person takes it over first (`orgctl takeover {seat}`)"
            raise UserError(f"this runs in {seat}'s seat and may not speak as {name}: {remedy}")
    except sqlite3.DatabaseError:
        return  # a damaged ledger knows nobody: the command says so, and `orgctl down` works
    finally:
        ledger.close()


def check_name(name: str, known: Collection[str], folder: str = "") -> None:
    """Raises UserError for a name that is neither `person` nor an agent's; with no agents known, for one that no agent could bear.
    `folder`: the one among the worktrees that it comes from, if it does."""
    if name == client.PERSON or (name in known if known else NAME.fullmatch(name) and name not in RESERVED):
        return
    if folder:
        names = f"one of {', '.join(known)}, or" if known else "an agent or"
        raise UserError(f".org/worktrees/{clean(folder, 40)} is no agent's: work elsewhere, or set ORGCTL_AGENT to {names} {client.PERSON}")
    here = f"name one of {', '.join(known)}, or" if known else "or name"
    raise UserError(f"ORGCTL_AGENT={clean(name, 40)!r} is nobody of this organisation: unset it, {here} {client.PERSON}")


def agents(ledger: Ledger) -> list[str]:
    """The agents of this session, by its own facts; [] before it was first up."""
    told = [fact.body["agents"] for fact in counted(ledger, "session", "") if "agents" in fact.body]
    return [str(name) for name in told[-1]] if told and isinstance(told[-1], list) else []


def other_seat(home: Home, name: str, pid: int, before: float | None = None) -> str:
    """The agent in whose seat a process runs, if that is another than `name`; "" where none is found. A seat of another program of this
    repository is that of `agent@program`.

    `before`: seconds since the epoch at which the process must have been there, since numbers are used again.
    """
    identity = Identity.of(pid)
    if identity is None or (before is not None and identity.began() > before + 1):
        return ""
    try:
        process = psutil.Process(pid)
        line = [process, *process.parents()]
    except psutil.Error:
        return ""
    return next((seat for one in line if (seat := _seat(home, one)) not in ("", name)), "")


def _seat(home: Home, process: psutil.Process) -> str:
    """The agent as which a process was started here; "" for none, for a person's seat, and where one may not look."""
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return ""
    where, agent = environment.get("ORGCTL_HOME", ""), str(environment.get("ORGCTL_AGENT", ""))
    if not where or not agent or environment.get("ORGCTL_ROLE") == FREE or Path(where).resolve() != home.root.resolve():
        return ""
    program = environment.get("ORGCTL_PROGRAM") or MAIN
    return agent if program == home.program else f"{agent}@{program}"


def is_guest(home: Home, seat: str) -> bool:
    """Is this (`other_seat`) a seat of another program, which no person has taken over there?"""
    agent, at, program = seat.partition("@")
    other = next((one for one in home.others() if one.program == program), None)
    if not at or other is None or not other.ledger.is_file():
        return bool(at)
    ledger = Ledger(other.ledger)
    try:
        return not taker(ledger, agent)
    finally:
        ledger.close()
