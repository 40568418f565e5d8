"""The door: mounts each room's commands and turns a mistake of the user's into one line and exit code 2."""

from __future__ import annotations

import sys

import typer

import comms.commands
import lab.commands
import org.commands
from comms.message import MailError
from lab.errors import UserError
from tasks.spec import TaskError
from worktrees.repo import GitError

app = typer.Typer(
    help="Program a research organisation of AI agents on one metric, and believe only what its laboratory has measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(org.commands.app)
app.add_typer(lab.commands.app)
app.add_typer(comms.commands.app)


def main() -> None:
    """Entry point of the `orgctl` script."""
    try:
        app()
    except (UserError, TaskError, GitError, MailError) as error:
        print(f"orgctl: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
