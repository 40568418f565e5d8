"""The laboratory's commands as tools of an MCP server, for agents whose client speaks the Model Context Protocol.

Called by `orgctl mcp`. Everything that a tool says of itself (name, arguments, defaults, words) is read from the command, and
a call runs the command itself within this process, in a thread of its own: a verb that is added there is a tool here, and no
word can drift. Only `serve` knows the SDK, which is an optional part.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from lab import failures
from lab.answer import LISTENER, Listener
from lab.client import FIELD_LIMIT
from lab.errors import UserError
from lab.text import clean, printable

GROUP = "exp"
"""Every command of this group is a tool."""
OTHERS = (("ledger", "verify"), ("report",), ("status",), ("areas",), ("standup", "report"), ("standup", "show"))
"""And these, where the program that is served has them. None of them writes where its caller says (`ledger export` does)."""
ANSWER_LIMIT = 100_000
"""Characters of an answer's text, and of its data as JSON: about what a client shows to its model at once (25,000 tokens)."""
T = TypeVar("T")


@dataclass(frozen=True)
class Tool:
    """A command as a tool. `path`: the words that name it behind `orgctl`; `arguments` checks what comes from outside."""

    path: tuple[str, ...]
    command: Any
    arguments: type[BaseModel]

    @property
    def name(self) -> str:
        return "_".join(self.path)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        found = self.arguments.model_json_schema()
        for one in (found, *found.get("properties", {}).values()):
            one.pop("title", None)  # only the name in capitals
        return found


@dataclass(frozen=True)
class Answer:
    """What a call came to: the text that the command printed, or the line that says what is wrong; `data` is None or an object."""

    text: str
    data: dict[str, Any] | None = None
    failed: bool = False


def offered(root: Any) -> dict[str, Tool]:
    """The tools of a program, by name. `root`: its click command, as `typer.main.get_command` gives it."""
    found: dict[str, Tool] = {}
    for path in [*((GROUP, verb) for verb in root.commands[GROUP].commands), *OTHERS]:
        command = root
        for word in path:
            command = getattr(command, "commands", {}).get(word)
        if command is not None:
            tool = Tool(path, command, _arguments(command))
            found[tool.name] = tool
    return found


def _named(parameter: Any) -> str:
    """Its name on the command line: of an option the long one, of an argument the word that stands for it."""
    if parameter.opts[0].startswith("-"):
        return str(max(parameter.opts, key=len)).lstrip("-").replace("-", "_")
    return str(parameter.metavar or parameter.name).lower()


def _parameters(command: Any) -> list[Any]:
    return [one for one in command.params if "--json" not in one.opts]


def _arguments(command: Any) -> type[BaseModel]:
    """A model of a command's arguments and options, with their types, defaults and help texts."""
    hints = get_type_hints(inspect.unwrap(command.callback))
    fields: dict[str, Any] = {
        _named(one): (hints[one.name], Field(... if one.required else one.default, description=one.help))
        for one in _parameters(command)
    }
    return create_model(str(command.name), __config__=ConfigDict(extra="forbid", str_max_length=FIELD_LIMIT), **fields)


def words(tool: Tool, given: BaseModel) -> list[str]:
    """The command line of a call, without the program's name. A value can be no option, whatever it begins with."""
    options: list[str] = []
    places: list[str] = []
    for parameter in _parameters(tool.command):
        value = getattr(given, _named(parameter))
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is None:
                continue
            text = str(one.value if isinstance(one, Enum) else one)
            if not parameter.opts[0].startswith("-"):
                places.append(text)
            elif isinstance(one, bool):
                options += parameter.opts[:1] if one else parameter.secondary_opts[:1]
            else:
                options.append(f"{max(parameter.opts, key=len)}={text}")
    return [*options, "--", *places]


def call(tool: Tool, arguments: dict[str, Any] | None, listener: Listener) -> Answer:
    """Run a tool's command. Whatever goes wrong is an answer: a user's mistake as the command's own line, a bug as one that says so."""
    line = f"orgctl {' '.join(tool.path)}"
    try:
        given = tool.arguments.model_validate(arguments or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = clean(".".join(map(str, first["loc"])), 60)
        return Answer(f"{where}: {first['msg']}; {line} takes: {', '.join(tool.arguments.model_fields)}", failed=True)
    LISTENER.set(listener)
    with _captured() as printed:
        try:
            code = tool.command.main(args=words(tool, given), prog_name=line, standalone_mode=False)
        except (Exception, SystemExit) as error:
            told = error.format_message() if hasattr(error, "format_message") else failures.line(error)
            if told is None:
                traceback.print_exc(file=sys.stderr)
                told = f"{line} failed, which is a fault of orgctl's and not yours: {type(error).__name__}: {error}"
            return Answer(clean(told, FIELD_LIMIT), failed=True)
    return Answer(_cut(printable(printed.getvalue()).rstrip(), line), _object(listener.data), failed=bool(code))


def _cut(text: str, line: str) -> str:
    """The text, or its beginning and its end where it is too long: lists have the newest last."""
    if len(text) <= ANSWER_LIMIT:
        return text
    half = ANSWER_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters are left out here; `{line}` prints them …\n{text[-half:]}"


def _object(data: Any) -> dict[str, Any] | None:
    """What `--json` would print, as a JSON object (a list comes as {"result": ...}); None where there is none or it is too long."""
    if data is None:
        return None
    text = json.dumps(data, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()  # half a surrogate pair is no UTF-8
    if len(text) > ANSWER_LIMIT:
        return None
    value = json.loads(text)
    return value if isinstance(value, dict) else {"result": value}


# Standard output belongs to the protocol


OUTPUT: ContextVar[io.StringIO | None] = ContextVar("OUTPUT", default=None)


class _Divided(io.TextIOBase):
    """Standard output, and no terminal: what a call prints goes to that call, everything else to standard error."""

    def write(self, text: str) -> int:
        return (OUTPUT.get() or sys.stderr).write(text)


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What this thread prints meanwhile, once `sys.stdout` is divided."""
    printed = io.StringIO()
    token = OUTPUT.set(printed)
    try:
        yield printed
    finally:
        OUTPUT.reset(token)


async def _apart(work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own, which holds nobody up when the program ends."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def serve(root: Any) -> None:
    """Serve the tools of `root` on standard input and output until the client hangs up. Raises UserError without the SDK."""
    try:
        import anyio
        from mcp import types
        from mcp.server import Server, ServerRequestContext
        from mcp.server.stdio import stdio_server
    except ImportError as error:
        raise UserError("`orgctl mcp` needs the MCP SDK, which is not installed here: pip install mcp") from error
    tools = offered(root)

    async def listed(_: ServerRequestContext[Any], __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[types.Tool(name=name, description=one.command.help, input_schema=one.schema) for name, one in tools.items()]
        )

    async def called(_: ServerRequestContext[Any], asked: types.CallToolRequestParams) -> types.CallToolResult:
        tool, listener = tools.get(asked.name), Listener()
        if tool is None:
            answer = Answer(f"there is no tool {clean(asked.name, 60)!r}: choose one of {', '.join(tools)}", failed=True)
        else:
            try:
                answer = await _apart(lambda: call(tool, asked.arguments, listener))
            finally:
                listener.gone.set()
        return types.CallToolResult(
            content=[types.TextContent(text=answer.text)], structured_content=answer.data, is_error=answer.failed
        )

    server = Server(
        "orgctl",
        instructions=f"{root.commands[GROUP].help} Here each verb is a tool ({GROUP}_propose and so on), and what --json prints "
        "comes with every answer as structured content.",
        on_list_tools=listed,
        on_call_tool=called,
    )

    async def connected() -> None:
        async with stdio_server() as (read, write):
            # The protocol has taken the descriptor: prints must not reach it, nor a client that is gone while a call ends.
            sys.stdout = _Divided()
            await server.run(read, write, server.create_initialization_options())

    if sys.stdin.isatty():
        print("a program speaks here, not a person: an MCP client starts `orgctl mcp`. Ctrl-D ends it.", file=sys.stderr)
    try:
        anyio.run(connected)
    except* BrokenPipeError:
        pass  # the client was gone before its answer
