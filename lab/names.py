"""What an agent may be called. Apart from the rest, so that who asks need load nothing."""

from __future__ import annotations

import re

NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
"""An agent's name becomes a branch, a folder, a mailbox and a tmux option."""
RESERVED = ("all", "board", "lab", "org", "person", "trunk")
"""No agent's name: everyone, the board's window, actors that are no agents, the trunk branch."""
