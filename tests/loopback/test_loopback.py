"""The model server speaks to the vendors' own client libraries, so that what is tested against it is tested against their formats."""

from __future__ import annotations

import threading

import anthropic
import openai
import pytest

from tests.loopback import Call, Conversation, Failure, Reply, Server, Steps, run

TOOL = {"name": "Bash", "description": "", "input_schema": {"type": "object"}}


def test_messages_streams_text_and_calls_that_the_vendors_client_understands() -> None:
    with Server(
        {"r1": Steps(Reply("I look.", (Call("shell", {"command": "ls"}),), pieces=3, cached=7, written=5))}
    ) as server:
        client = anthropic.Anthropic(base_url=server.url("r1"), api_key="dummy", max_retries=0)
        with client.messages.stream(
            model="scripted", max_tokens=99, messages=[{"role": "user", "content": "go"}], tools=[TOOL]
        ) as stream:
            assert "".join(stream.text_stream) == "I look."
            message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert message.content[1].name == "Bash" and message.content[1].input["command"] == "ls"
    assert (message.usage.cache_read_input_tokens, message.usage.cache_creation_input_tokens) == (7, 5)
    assert [talk.last for talk in server.asked("r1")] == ["go"]


def test_responses_streams_text_and_calls_that_the_vendors_client_understands() -> None:
    tools = [{"type": "function", "name": "exec_command", "parameters": {}, "strict": False}]
    with Server({"r1": Steps(run("ls", "I look."), "Done.")}) as server:
        client = openai.OpenAI(base_url=server.url("r1") + "/v1", api_key="dummy", max_retries=0)
        with client.responses.stream(model="scripted", input="go", tools=tools) as stream:
            kinds = [event.type for event in stream]
            response = stream.get_final_response()
        items = [item.model_dump() for item in response.output]
        given = [{"role": "user", "content": "go"}, *items]
        given.append({"type": "function_call_output", "call_id": items[1]["call_id"], "output": "a b"})
        again = client.responses.create(model="scripted", input=given, tools=tools)
    assert "response.output_text.delta" in kinds and kinds[-1] == "response.completed"
    assert response.output_text == "I look." and items[1]["arguments"] == '{"cmd": "ls"}'
    assert again.output_text == "Done." and server.talks[-1].last == "a b"


def test_chat_completions_streams_text_calls_and_usage_that_the_vendors_client_understands() -> None:
    tools = [{"type": "function", "function": {"name": "shell", "parameters": {}}}]
    with Server({"r1": Steps(Reply("I look.", (Call("shell", {"command": "ls"}),), input=10, output=4))}) as server:
        client = openai.OpenAI(base_url=server.url() + "/v1", api_key=server.key("r1"), max_retries=0)
        chunks = list(
            client.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "go"}], tools=tools, stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    assert [call.function.arguments for delta in deltas for call in delta.tool_calls or []] == ['{"command": "ls"}']
    assert chunks[-1].usage.total_tokens == 14


def test_a_failure_comes_as_often_as_the_script_says_and_then_the_next_step() -> None:
    failure = Failure(429, "rate_limit_error", headers={"retry-after": "7"}, times=2)
    with Server(Steps(failure, "Back again.")) as server:
        client = anthropic.Anthropic(base_url=server.url(), api_key="dummy", max_retries=0)
        ask = {"model": "scripted", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]}
        for _ in range(2):
            with pytest.raises(anthropic.RateLimitError) as caught:
                client.messages.create(**ask)
            assert caught.value.response.headers["retry-after"] == "7"
        assert client.messages.create(**ask).content[0].text == "Back again."


def test_a_failure_in_the_middle_of_a_stream_reaches_the_client() -> None:
    with Server(Steps(Failure(529, "overloaded_error", midway=True))) as server:
        client = anthropic.Anthropic(base_url=server.url(), api_key="dummy", max_retries=0)
        with (
            pytest.raises(anthropic.APIStatusError, match="overloaded"),
            client.messages.stream(
                model="scripted", max_tokens=9, messages=[{"role": "user", "content": "go"}]
            ) as stream,
        ):
            stream.get_final_message()


def test_a_held_answer_goes_on_only_when_the_script_lets_it() -> None:
    hold, seen, done = threading.Event(), threading.Event(), threading.Event()

    def script(talk: Conversation) -> Reply:
        seen.set()
        return Reply("late", hold=hold)

    def ask() -> None:
        client = anthropic.Anthropic(base_url=server.url(), api_key="dummy", max_retries=0)
        with client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "go"}]) as stream:
            assert stream.get_final_text() == "late"
        done.set()

    with Server(script) as server:
        threading.Thread(target=ask, daemon=True).start()
        assert seen.wait(10) and not done.wait(0.3)
        hold.set()
        assert done.wait(10)
