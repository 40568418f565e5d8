"""The door: mounts each room's commands, asks in whose name they speak, and turns a mistake of the user's into one line and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import comms.commands
import lab.commands
import org.commands
import org.lever_commands
import org.memory_commands
import org.standup_commands
from comms.message import MailError
from lab import failures, speaker
from lab.home import check_program

HARMLESS = ("doctor",)
"""Commands that speak in nobody's name."""


class Door(TyperGroup):
    """All commands. It knows whether one is only asked how it is used."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, args)
        ctx.meta["help"] = rest[-1:] == ["--help"] and not any(word.startswith("-") for word in rest[:-1])  # not an option's value
        return rest


app = typer.Typer(
    cls=Door,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def program(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Option("--program", help="Which program of research of this repository is meant. Default: $ORGCTL_PROGRAM, else main."),
    ] = None,
) -> None:
    """Program a research organisation of AI agents on one metric, and believe only what its laboratory has measured."""
    if name is not None:
        os.environ["ORGCTL_PROGRAM"] = check_program(name)
    if not ctx.meta["help"] and ctx.invoked_subcommand not in HARMLESS:
        speaker.check()


app.add_typer(org.commands.app)
app.add_typer(org.memory_commands.app)
app.add_typer(org.standup_commands.app)
app.add_typer(org.lever_commands.app)
app.add_typer(lab.commands.app)
app.add_typer(comms.commands.app)


def main() -> None:
    """Entry point of the `orgctl` script."""
    try:
        app()
    except MailError as error:
        _stop(" ".join(str(error).split()))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        if (line := failures.line(error)) is None:
            raise
        _stop(line)


def _stop(line: str) -> NoReturn:
    print(f"orgctl: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
