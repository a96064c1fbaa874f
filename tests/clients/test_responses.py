"""OpenAI's Responses API by the openai package: events, tools, formats, conversations."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from gateways import GENERATOR, WEATHER, Served, start_gateway
from pydantic import BaseModel

QUESTION = "What is the capital of France?"
GREEDY: Any = {"model": GENERATOR, "temperature": 0, "max_output_tokens": 8}
FUNCTION: Any = {"type": "function", **WEATHER["function"], "strict": True}
TIME = "(0[0-9]|1[0-2]):[0-5][0-9]"
LOGPROBS: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


class Fact(BaseModel):
    """What an answer is parsed as."""

    yes: bool


def test_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(input=QUESTION, **GREEDY, **LOGPROBS)
    assert "Paris" in whole.output_text and whole.object == "response"
    assert whole.error is None and whole.usage is not None and whole.usage.output_tokens <= 8
    with client.responses.stream(input=QUESTION, **GREEDY, **LOGPROBS) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    count = kinds.count("response.output_text.delta")
    is_cut = whole.status == "incomplete"
    assert count > 3 and kinds == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", *["response.output_text.delta"] * count,
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.incomplete" if is_cut else "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(kinds)))
    last: Any = events[-1]
    assert last.response.output_text == whole.output_text and last.response.status == whole.status
    deltas: Any = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(delta.delta for delta in deltas) == whole.output_text
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert "".join(entry.token for entry in entries) == whole.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    assert len(last.response.output[0].content[0].logprobs) == len(entries)


def test_an_answer_that_is_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    for stream in (False, True):
        found: Any = client.responses.create(
            input=QUESTION, **{**GREEDY, "max_output_tokens": 2}, stream=stream
        )
        response = list(found)[-1].response if stream else found
        assert response.status == response.output[0].status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.usage.output_tokens == 2 and response.completed_at is None


def test_a_conversation_is_stored(client: openai.OpenAI) -> None:
    """By its responses, items, and what the cache of prefixes knows of it."""
    first = client.responses.create(input=QUESTION, instructions="Answer briefly.", **GREEDY)
    second = client.responses.create(
        input=[{"role": "user", "content": "And of Italy?"}], previous_response_id=first.id,
        instructions="Answer briefly.", **GREEDY,
    )  # fmt: skip
    assert second.previous_response_id == first.id and second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > 0
    counted = client.responses.input_tokens.count(
        input="And of Italy?", previous_response_id=first.id, instructions="Answer briefly.",
        model=GENERATOR,
    )  # fmt: skip
    assert counted.input_tokens == second.usage.input_tokens
    # The same as the whole conversation sent again.
    again = client.responses.create(
        input=[{"role": "user", "content": QUESTION}, *map(_given, first.output),
               {"role": "user", "content": "And of Italy?"}],
        instructions="Answer briefly.", store=False, **GREEDY,
    )  # fmt: skip
    assert again.output_text == second.output_text
    assert again.usage is not None and again.usage.input_tokens == second.usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(again.id)
    assert client.responses.retrieve(second.id) == second
    pages = client.responses.input_items.list(second.id, order="asc", limit=2)
    items: list[Any] = list(pages)
    assert [item.role for item in items] == ["user", "assistant", "user"] and len(pages.data) == 2
    assert items[2].content[0].text == "And of Italy?"
    assert [item.id for item in client.responses.input_items.list(second.id)] == [
        item.id for item in reversed(items)
    ]
    referred: Any = {"type": "item_reference", "id": items[2].id}
    assert client.responses.create(input=[referred], **GREEDY).output_text
    for call in (client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.BadRequestError, match="`foo` is unknown"):
            call(second.id, extra_query={"foo": "1"})
    with pytest.raises(openai.BadRequestError, match="not compacted"):
        client.responses.compact(model=GENERATOR, input="a")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(second.id)
    # Those that follow keep what they need.
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    third = client.responses.create(input="Why?", previous_response_id=second.id, **GREEDY)
    assert len(list(client.responses.input_items.list(third.id))) == 5
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="a", previous_response_id=first.id, **GREEDY)
    assert caught.value.param == "previous_response_id"
    assert caught.value.code == "previous_response_not_found"


def _given(item: Any) -> Any:
    return item.to_dict()


def test_a_function_is_called_and_answered(client: openai.OpenAI) -> None:
    asked: Any = {**GREEDY, "max_output_tokens": 40, "tools": [FUNCTION]}
    named: Any = {"type": "function", "name": "get_weather"}
    answer = client.responses.create(
        input="How is the weather in Paris?", **asked,
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [named]},
    )  # fmt: skip
    (call,) = answer.output
    assert call.type == "function_call" and call.name == "get_weather"
    assert isinstance(json.loads(call.arguments)["city"], str)
    with client.responses.stream(
        input="How is the weather in Paris?", tool_choice=named, **asked
    ) as stream:
        events: list[Any] = list(stream)
    kinds = [event.type for event in events if "delta" not in event.type]
    assert kinds[2:-1] == [
        "response.output_item.added", "response.function_call_arguments.done",
        "response.output_item.done",
    ]  # fmt: skip
    assert events[-1].response.output[0].parsed_arguments == json.loads(call.arguments)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    final = client.responses.create(
        input=[result], previous_response_id=answer.id, **{**GREEDY, "max_output_tokens": 3}
    )
    assert final.output_text
    wrong: Any = {**result, "call_id": "call_none"}
    with pytest.raises(openai.BadRequestError, match="call_none"):
        client.responses.create(input=[wrong], previous_response_id=answer.id, **GREEDY)


def test_a_custom_tool_is_called_with_text(client: openai.OpenAI) -> None:
    form = {"type": "grammar", "syntax": "regex", "definition": TIME}
    tool: Any = {"type": "custom", "name": "clock", "format": form}
    asked: Any = {
        "input": "What time is it?", "tools": [tool], **GREEDY, "max_output_tokens": 40,
        "tool_choice": {"type": "custom", "name": "clock"},
    }  # fmt: skip
    (call,) = client.responses.create(**asked).output
    assert call.type == "custom_tool_call"
    assert re.fullmatch(TIME, call.input)
    events: list[Any] = list(client.responses.create(**asked, stream=True))
    deltas = [e.delta for e in events if e.type == "response.custom_tool_call_input.delta"]
    (done,) = [e.input for e in events if e.type == "response.custom_tool_call_input.done"]
    assert "".join(deltas) == done == call.input
    items: Any = [
        {"role": "user", "content": "What time is it?"}, call.to_dict(),
        {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "right"},
    ]  # fmt: skip
    assert client.responses.create(input=items, **GREEDY).output_text
    # A grammar that is none was taken, unless the tool had to be called.
    form["definition"] = "(a"
    with pytest.raises(openai.BadRequestError, match="regex is not valid") as caught:
        client.responses.create(**{**asked, "tool_choice": "auto"})
    assert caught.value.param == "tools[0].format.definition"


def test_a_function_of_a_namespace(client: openai.OpenAI) -> None:
    """As Codex groups its own; namespaces were refused. A call has both names, and comes back."""
    group: Any = {"type": "namespace", "name": "sky", "description": "Of the sky.",
                  "tools": [FUNCTION]}  # fmt: skip
    asked: Any = {
        **GREEDY, "max_output_tokens": 40, "tools": [FUNCTION, group],
        "tool_choice": {"type": "function", "name": "sky__get_weather"},
    }  # fmt: skip
    whole = client.responses.create(input="How is the weather in Paris?", **asked)
    (call,) = whole.output
    assert call.type == "function_call" and whole.tools[1].type == "namespace"
    assert (call.name, call.namespace) == ("get_weather", "sky")
    codex: Any = {
        "store": False, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "a",
        "parallel_tool_calls": True, "extra_body": {"client_metadata": {"turn": "1"}},
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Is it warm in Paris?"}]},
        ],
    }  # fmt: skip
    *_, end = client.responses.create(**asked, **codex, stream=True)
    assert end.type == "response.completed"
    assert end.response.output[0].namespace == "sky"
    items: Any = [
        {"role": "user", "content": "How is the weather in Paris?"}, call.to_dict(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
    ]  # fmt: skip
    final = client.responses.create(
        input=items, **{**asked, "tool_choice": "none", "max_output_tokens": 3}
    )
    stored: list[Any] = list(client.responses.input_items.list(final.id, order="asc"))
    assert final.output_text and (stored[1].name, stored[1].namespace) == ("get_weather", "sky")


def test_formats(client: openai.OpenAI) -> None:
    found = client.responses.parse(
        input="Is Paris a city?", text_format=Fact, **{**GREEDY, "max_output_tokens": 30}
    )
    assert isinstance(found.output_parsed, Fact)
    form: Any = {"format": {"type": "json_object"}}
    more: Any = {"extra_body": {"stop": ":"}}
    text = client.responses.create(input="Hi", text=form, **more, **GREEDY).output_text
    assert text.startswith("{") and ":" not in text


def test_asynchronous(served: Served) -> None:
    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused") as client:
            whole = await client.responses.create(input=QUESTION, **GREEDY)
            streamed = ""
            async for event in await client.responses.create(input=QUESTION, stream=True, **GREEDY):
                if event.type == "response.output_text.delta":
                    streamed += event.delta
            return whole.output_text, streamed

    whole, streamed = asyncio.run(ask())
    assert whole == streamed != ""


@pytest.fixture(scope="module")
def keyed(served: Served) -> Iterator[str]:
    """The address of a gateway with two keys, which stores two responses."""
    gateway = start_gateway(served.server.grpc_url, api_key="one,two", max_stored_responses="2")
    try:
        gateway.wait_ready()
        yield gateway.options.url
    finally:
        gateway.stop()


def test_what_is_stored_is_its_owners(keyed: str) -> None:
    short: Any = {**GREEDY, "max_output_tokens": 1}
    with (
        openai.OpenAI(base_url=f"{keyed}/v1", api_key="one") as one,
        openai.OpenAI(base_url=f"{keyed}/v1", api_key="two") as two,
    ):
        own = one.responses.create(input="Hi", **short)
        item = one.responses.input_items.list(own.id).data[0].id
        for call in (
            lambda: two.responses.retrieve(own.id), lambda: two.responses.delete(own.id),
            lambda: two.responses.cancel(own.id), lambda: two.responses.input_items.list(own.id),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                call()
        foreign: Any = {"type": "item_reference", "id": item}
        for more in ({"previous_response_id": own.id}, {"input": [foreign]}):
            with pytest.raises(openai.BadRequestError, match="not found"):
                two.responses.create(**{"input": "Hi", **short, **more})
        assert one.responses.retrieve(own.id).id == own.id
        # The oldest makes room.
        for _ in range(2):
            two.responses.create(input="Hi", **short)
        with pytest.raises(openai.NotFoundError):
            one.responses.retrieve(own.id)


def test_a_stream_that_is_refused_has_its_status(http: httpx.Client) -> None:
    body = {"input": "Hi", "stream": True, "max_output_tokens": 10**6, "model": GENERATOR}
    answer = http.post("/v1/responses", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded"), error
