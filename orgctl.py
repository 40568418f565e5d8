"""The door: mounts each room's commands and turns a mistake of the user's into one line and exit code 2."""

from __future__ import annotations

import sqlite3
import sys

import typer
from pydantic import ValidationError

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
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        print(f"orgctl: a file of this organisation is damaged ({error.title}: {field}: {first['msg']})", file=sys.stderr)
        sys.exit(2)
    except sqlite3.Error as error:
        print(f"orgctl: the ledger cannot be used: {error}: free disk space or stop what holds it, then try again", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"orgctl: {where}{error.strerror or error}: check the path, its permissions and the free disk space", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
