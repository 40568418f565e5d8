"""The laboratory over the Model Context Protocol: the SDK's own client, the real `orgctl mcp` as a process, a real laboratory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
import typer
import typer.main
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult

import orgctl
from lab import tools
from lab.answer import Listener, as_data
from lab.client import FIELD_LIMIT
from lab.ledger import Ledger
from lab.orders import Orders
from lab.requests import answer, waiting
from tests.conftest import ORGCTL
from tests.lab.conftest import IDEA, Desk

pytestmark = pytest.mark.slow  # processes of their own, a second or two each

PROPOSAL = {"hypothesis": IDEA[0], "mechanism": IDEA[1]}
WORD = {str: "string", float: "number", int: "integer", bool: "boolean"}


@asynccontextmanager
async def client(seat: Path) -> AsyncIterator[Client]:
    """A client of a server that was started in `seat`. Nothing in its environment says who asks."""
    command = StdioServerParameters(command=ORGCTL[0], args=[*ORGCTL[1:], "mcp"], cwd=seat)
    async with Client(command) as one:
        yield one


def asked(desk: Desk, talk: Callable[[Client], Awaitable[Any]], agent: str = "r1") -> Any:
    """What comes of a talk with the server in an agent's worktree."""

    async def whole() -> Any:
        with anyio.fail_after(120):
            async with client(desk.home.worktrees / agent) as one:
                return await talk(one)

    return anyio.run(whole)


def told(result: CallToolResult) -> str:
    """The text of a result."""
    (block,) = result.content
    assert block.type == "text"
    return block.text


def refused(result: CallToolResult) -> str:
    """The one line of a tool's error."""
    assert result.is_error and result.structured_content is None
    line = told(result)
    assert line and "\n" not in line and "Traceback" not in line and line.isprintable()
    return line


def test_the_tools_are_the_commands_with_their_own_words_and_defaults(desk: Desk) -> None:
    async def talk(one: Client) -> Any:
        return (await one.list_tools()).tools, one.instructions

    found, instructions = asked(desk, talk)
    root: Any = typer.main.get_command(orgctl.app)
    expected = {f"exp_{verb}": command for verb, command in root.commands["exp"].commands.items()}
    expected |= {"ledger_verify": root.commands["ledger"].commands["verify"]}
    expected |= {name: root.commands[name] for name in ("report", "status", "areas")}
    expected |= {f"standup_{verb}": root.commands["standup"].commands[verb] for verb in ("report", "show")}
    assert {one.name for one in found} == set(expected) and len(expected) > 12
    assert root.commands["exp"].help in instructions
    for one in found:
        command = expected[one.name]
        assert one.description == command.help
        takes = {
            ((part.metavar or part.name).lower() if part.opts[0] == part.name else part.opts[0][2:].replace("-", "_")): part
            for part in command.params
            if part.name != "as_json"
        }
        assert set(one.input_schema["properties"]) == set(takes)
        assert all(re.fullmatch("[a-z_]{1,64}", name) for name in takes), "models' interfaces refuse all tools for any other name"
        assert set(one.input_schema.get("required", [])) == {name for name, part in takes.items() if part.required}
        for name, part in takes.items():
            said = one.input_schema["properties"][name]
            assert said["description"] == part.help
            assert part.required or said["default"] == part.default
    seconds = next(one for one in found if one.name == "exp_wait").input_schema["properties"]["seconds"]
    assert seconds == {"type": "number", "default": 3600, "description": "Give up waiting after this time."}


def test_an_idea_that_is_proposed_through_the_tool_is_in_the_ledger(desk: Desk) -> None:
    async def talk(one: Client) -> Any:
        made = await one.call_tool("exp_propose", {**PROPOSAL, "min_effect": 0.01, "held_constant": "--json"})
        return made, await one.call_tool("exp_list", {}), await one.call_tool("exp_show", {"experiment": "E0001"})

    made, listed, shown = asked(desk, talk)
    (fact,) = Ledger(desk.home.ledger).facts(kind="proposal")
    assert (fact.subject, fact.actor) == ("E0001", "r1")
    assert fact.body | PROPOSAL | {"min_effect": 0.01, "held_constant": "--json"} == fact.body
    assert not made.is_error and made.structured_content == {
        "experiment": "E0001", "similar": [], "trunk": desk.state.trunk, "based_on": desk.state.trunk,
    }  # fmt: skip
    assert told(made).startswith("E0001 is registered on trunk ") and told(made).endswith("orgctl exp run E0001")
    assert listed.structured_content == {"result": json.loads(desk("list", "--json"))}
    assert told(listed) == desk("list").rstrip() and told(shown) == desk("show", "E0001").rstrip()
    assert shown.structured_content == json.loads(desk("show", "E0001", "--json"))


def test_a_mistake_is_a_tools_error_with_the_commands_line_and_the_server_lives_on(desk: Desk) -> None:
    async def talk(one: Client) -> list[CallToolResult]:
        return [
            await one.call_tool("exp_show", {"experiment": "E0007"}),
            await one.call_tool("exp_propose", {**PROPOSAL, "family": "alchemy"}),
            await one.call_tool("exp_propose", {"hypothesis": "h"}),
            await one.call_tool("exp_wait", {"experiment": "E0001", "seconds": "soon"}),
            await one.call_tool("exp_propose", {**PROPOSAL, "loud": True}),
            await one.call_tool("exp_conclude", {}),
            await one.call_tool("exp_propose", PROPOSAL),
        ]

    *errors, made = asked(desk, talk)
    unknown, family, missing, number, extra, tool = map(refused, errors)
    assert unknown == desk.refused("show", "E0007")
    assert family == desk.refused("propose", "--hypothesis", "h", "--mechanism", "m", "--family", "alchemy")
    assert missing.startswith("mechanism: Field required; orgctl exp propose takes: hypothesis, mechanism, family")
    assert number.startswith("seconds: Input should be a valid number")
    assert extra.startswith("loud: Extra inputs are not permitted")
    assert tool.startswith("there is no tool 'exp_conclude': choose one of exp_propose, ")
    assert not made.is_error and list(desk.state.experiments) == ["E0001"]


def test_a_hostile_argument_is_bounded_and_harmless(desk: Desk) -> None:
    nasty = "\x1b]0;owned\x07$(touch owned); `touch owned` \x00 --json\n--again=x\u202e"

    async def talk(one: Client) -> list[CallToolResult]:
        return [
            await one.call_tool("exp_propose", {**PROPOSAL, "hypothesis": "x" * 5_000_000}),
            await one.call_tool("exp_show", {"experiment": nasty}),
            await one.call_tool("exp_show", {"experiment": "--help"}),
            await one.call_tool("exp_show", {nasty: nasty * 1000}),
            await one.call_tool(nasty * 1000, {}),
            await one.call_tool("exp_propose", {"hypothesis": nasty, "mechanism": "x" * FIELD_LIMIT}),
            await one.call_tool("exp_show", {"experiment": "E0001"}),
        ]

    long, name, option, key, tool, made, shown = asked(desk, talk)
    assert refused(long).startswith(f"hypothesis: String should have at most {FIELD_LIMIT} characters")
    assert refused(name).startswith("there is no experiment ") and refused(option).startswith("there is no experiment '--help'")
    assert len(refused(key)) < 300 and len(refused(tool)) < 500
    assert not made.is_error and desk.state.experiments["E0001"].hypothesis == nasty
    assert "\x1b" not in told(shown) and "\u202e" not in told(shown) and "touch owned" in told(shown)
    assert not list(desk.home.root.rglob("owned"))


def test_run_returns_at_once_and_says_that_the_result_comes_by_mail(desk: Desk, model: str) -> None:
    desk.propose()
    (desk.home.worktrees / "r1" / "toy" / "model.py").write_text(model.replace("LR = 0.02", "LR = 0.1"))

    async def talk(one: Client) -> dict[str, CallToolResult]:
        results = {}

        async def run() -> None:
            results["run"] = await one.call_tool("exp_run", {"experiment": "E0001"})

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            while not (requests := waiting(desk.home)):  # the controller's part, by the real laboratory
                await anyio.sleep(0.05)
            assert requests[0].actor == "r1"
            answer(desk.home, requests[0], True, **Orders(desk.lab).take(requests[0]))
        results["wait"] = await one.call_tool("exp_wait", {"experiment": "E0001", "seconds": 0.2})
        results["diff"] = await one.call_tool("exp_diff", {"experiment": "E0001"})
        return results

    done = asked(desk, talk)
    assert "is queued for E0001." in told(done["run"]) and "End your turn now; the result arrives by mail" in told(done["run"])
    assert done["run"].structured_content["run"] in desk.state.runs
    assert done["wait"].is_error and told(done["wait"]).startswith("E0001 still has runs going on after 0.2 s: wait again")
    assert done["wait"].structured_content["over"] is False
    assert "+LR = 0.1" in told(done["diff"]) and done["diff"].structured_content["diff"].rstrip() == told(done["diff"])


def test_a_verification_that_finds_something_is_an_error_with_all_of_it(desk: Desk) -> None:
    desk.propose()
    Ledger(desk.home.ledger).append("alarm", {"text": "forged"}, "bank", "r1")

    async def talk(one: Client) -> CallToolResult:
        return await one.call_tool("ledger_verify", {})

    found = asked(desk, talk)
    assert found.is_error and found.structured_content["facts"] == Ledger(desk.home.ledger).head()[0]
    assert told(found).splitlines() == found.structured_content["problems"]
    assert "was written by r1: only the laboratory writes those" in told(found)


def started(desk: Desk, *messages: dict[str, Any]) -> subprocess.Popen[str]:
    """A server that a client without the SDK has greeted and sent these messages."""
    server = subprocess.Popen(
        [*ORGCTL, "mcp"], cwd=desk.home.worktrees / "r1", text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdin
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a client", "version": "1"}}
    first = [{"id": 1, "method": "initialize", "params": hello}, {"method": "notifications/initialized"}]
    for message in (*first, *messages):
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    server.stdin.flush()
    return server


def test_the_server_ends_with_its_client_even_while_it_waits_and_says_nothing_but_the_protocol(desk: Desk, model: str) -> None:
    desk.propose()
    desk.run("r1", "E0001", model.replace("LR = 0.02", "LR = 0.1"))
    server = started(
        desk,
        {"id": 2, "method": "tools/call", "params": {"name": "exp_wait", "arguments": {"experiment": "E0001"}}},
        {"id": 3, "method": "tools/call", "params": {"name": "report", "arguments": {}}},
    )
    assert server.stdout
    with server:
        answers = [json.loads(server.stdout.readline()) for _ in range(2)]
        assert [one["id"] for one in answers] == [1, 3]
        files = [str(desk.home.report / name) for name in ("progress.png", "results.tsv", "report.md")]
        assert answers[1]["result"]["structuredContent"] == {"files": files}
        assert answers[1]["result"]["content"][0]["text"].splitlines() == files
        rest, said = server.communicate(timeout=60)  # hangs up
        for line in rest.splitlines():
            assert json.loads(line)["jsonrpc"] == "2.0"
        assert server.returncode == 0 and said == ""


def test_a_client_that_dies_before_its_answer_ends_the_server_without_a_traceback(desk: Desk) -> None:
    server = started(desk, {"id": 2, "method": "tools/call", "params": {"name": "exp_list", "arguments": {}}})
    assert server.stdin and server.stdout and server.stderr
    with server:
        server.stdout.close()
        server.stdin.close()
        assert server.wait(timeout=60) == 0 and server.stderr.read() == ""


def test_without_the_sdk_the_command_ends_in_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['mcp'] = None; import orgctl; orgctl.main()"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, "mcp"], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "orgctl: `orgctl mcp` needs the MCP SDK, which is not installed here: pip install mcp\n"


# A verb that does not exist yet


class Colour(Enum):
    red = "red"
    blue = "blue"


def later() -> Any:
    """A program with a verb of every kind of argument."""
    exp, root = typer.Typer(), typer.Typer()
    root.add_typer(exp, name="exp")

    @exp.command()
    def paint(
        what: Annotated[list[str], typer.Argument(help="Things.")],
        colour: Annotated[Colour, typer.Option(help="Which.")] = Colour.red,
        coats: Annotated[int, typer.Option(min=1)] = 2,
        dry: Annotated[bool, typer.Option("--dry/--wet")] = True,
        tag: Annotated[list[str] | None, typer.Option()] = None,
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        """Paint things."""
        if what == ["bug"]:
            raise KeyError("a bug")
        if not as_data(as_json, {"what": what, "colour": colour.value, "coats": coats, "dry": dry, "tag": tag}):
            typer.echo(f"{colour.value} {' '.join(what)}")
            typer.echo("\x1b[31m" + "x" * sum(map(len, tag or [])))

    @exp.command()
    def other() -> None:
        """Another."""

    return typer.main.get_command(root)


def test_a_verb_that_is_added_later_is_a_tool_with_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    found = tools.offered(later())
    assert list(found) == ["exp_paint", "exp_other"]
    assert found["exp_paint"].command.help == "Paint things."
    said = found["exp_paint"].schema["properties"]
    assert said["what"] == {"type": "array", "items": {"type": "string", "maxLength": FIELD_LIMIT}, "description": "Things."}
    assert (said["coats"]["default"], said["dry"]["type"], said["colour"]["default"]) == (2, "boolean", "red")
    monkeypatch.setattr(sys, "stdout", tools._Divided())
    asked = {"what": ["-a", "--json"], "colour": "blue", "dry": False, "tag": ["--dry", "x"]}
    done = tools.call(found["exp_paint"], asked, Listener())
    assert done == tools.Answer("blue -a --json\nxxxxxx", asked | {"coats": 2})
    wrong = tools.call(found["exp_paint"], {"what": ["a"], "coats": 0}, Listener())
    assert wrong.failed and "'--coats': Input should be greater than or equal to 1" in wrong.text
    assert "colour: Input should be 'red' or 'blue'" in tools.call(found["exp_paint"], {"what": [], "colour": "x"}, Listener()).text


def test_a_bug_is_an_answer_too_and_its_traceback_goes_to_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", tools._Divided())
    done = tools.call(tools.offered(later())["exp_paint"], {"what": ["bug"]}, Listener())
    assert done.failed and done.text == "orgctl exp paint failed, which is a fault of orgctl's and not yours: KeyError: 'a bug'"
    assert "Traceback" in capsys.readouterr().err


def test_a_long_answer_keeps_its_beginning_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "ANSWER_LIMIT", 100)
    monkeypatch.setattr(sys, "stdout", tools._Divided())
    done = tools.call(tools.offered(later())["exp_paint"], {"what": ["first"], "tag": ["y" * 500]}, Listener())
    assert done.text.startswith("red first\n") and done.text.endswith("xxx") and done.data is None
    assert "characters are left out here; `orgctl exp paint` prints them" in done.text and len(done.text) < 250
