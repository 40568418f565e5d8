"""Acknowledgements: an empty file `acks/<message>/<agent>` whose time says when. Called by `comms.mailbox`.

Quiet on purpose: an acknowledgement is looked up by the sender and never mailed, so that no two agents can thank each other for ever.
"""

from __future__ import annotations

import os
from pathlib import Path

from comms.files import folders, sync
from comms.message import NAME, MailError, check_id, check_name


def acknowledge(root: Path, identity: str, agent: str) -> None:
    """Say that `agent` has taken note of a message. Doing it twice is doing it once. Raises MailError when it cannot be written."""
    place = root / "acks" / check_id(identity)
    folders(root / "acks")
    folders(place)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(place / check_name(agent, "an agent"), flags, 0o600))
        sync(place)
    except FileExistsError:
        return
    except OSError as error:
        raise MailError(f"{place / agent} cannot be written: {error.strerror}") from error


def acknowledged(root: Path, identity: str) -> dict[str, float]:
    """Who has acknowledged a message -> when, in seconds since the epoch; in order of time."""
    found: dict[str, float] = {}
    try:
        with os.scandir(root / "acks" / check_id(identity)) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found[entry.name] = entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return {}
    return dict(sorted(found.items(), key=lambda one: one[1]))
