"""Anthropic's messages by the anthropic package, whose types are the reference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import pytest
from echo import told
from gateways import GENERATOR, WEATHER, Served
from pydantic import BaseModel

OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
ROME = '{"city": "Rome"}'
CALL = f'{{"name": "get_weather", "arguments": {ROME}}}'
CALLED = f"<tool_call>\n{CALL}\n</tool_call>"
TOOL: Any = {
    "name": "get_weather", "description": "The weather in a city",
    "input_schema": WEATHER["function"]["parameters"],
}  # fmt: skip
FORCED = {"type": "tool", "name": "get_weather"}
OFF: Any = {"thinking": {"type": "disabled"}}
# The package has no parameter for it any more.
GREEDY: Any = {"extra_body": {"temperature": 0}}


class City(BaseModel):
    city: str


SCHEMA = {"format": {"type": "json_schema", "schema": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    "additionalProperties": False,
}}}  # fmt: skip


class Case(NamedTuple):
    """What a model writes, and the blocks that it becomes. behind: what the template adds."""

    model: str
    answer: str
    behind: str
    blocks: list[tuple[str, Any]]
    reason: str = "end_turn"
    more: dict[str, Any] = {}  # noqa: RUF012


CASES = [
    Case("hermes", f"Hm.\n</think>\n\nI look.\n{CALLED}", OPEN,
         [("thinking", "Hm."), ("text", "I look."), ("tool_use", {"city": "Rome"})], "tool_use"),
    Case("hermes", "Hm.</think>Yes", OPEN, [("thinking", ""), ("text", "Yes")],
         more={"thinking": {"type": "adaptive", "display": "omitted"}}),
    Case("hermes", "Yes. <b>", CLOSED, [("text", "Yes. <b>")], more=OFF),
    Case("hermes", f"Hm.</think>{CALL}", OPEN,
         [("thinking", "Hm."), ("tool_use", {"city": "Rome"})], "tool_use",
         {"tool_choice": {"type": "any"}, "thinking": {"type": "enabled", "budget_tokens": 1024}}),
    Case("hermes", CALL, CLOSED, [("tool_use", {"city": "Rome"})], "tool_use",
         {"tool_choice": FORCED, **OFF}),
    Case("hermes", f"{CALLED}{CALLED}", CLOSED, [("tool_use", {"city": "Rome"})], "tool_use",
         {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}, **OFF}),
    Case("hermes", CALLED, CLOSED, [("text", CALLED)],
         more={"tool_choice": {"type": "none"}, **OFF}),
    Case("hermes", ROME, CLOSED, [("text", ROME)],
         more={"tool_choice": {"type": "none"}, "output_config": SCHEMA, **OFF}),
    Case("hermes", CALLED, CLOSED, [("tool_use", {})], "max_tokens", {"max_tokens": 60, **OFF}),
    Case("xml", "One. Two. Three.", "", [("text", "One. ")], "stop_sequence",
         {"stop_sequences": ["Two", "Three"]}),
    Case("xml", "One. Two.", "", [("text", "One")], "max_tokens", {"max_tokens": 3}),
    Case("xml", "", "", []),
]  # fmt: skip


@pytest.fixture(scope="module")
def client(echoes: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=echoes.url, api_key="unused", max_retries=0) as client:
        yield client


def _asked(checkpoints: dict[str, Path], case: Case) -> dict[str, Any]:
    content = told(checkpoints[case.model], case.answer, case.behind)
    return {
        "model": case.model, "max_tokens": 200, "tools": [TOOL],
        "messages": [{"role": "user", "content": content}], **GREEDY, **case.more,
    }  # fmt: skip


def _blocks(message: Any) -> list[tuple[str, Any]]:
    names = {"text": "text", "thinking": "thinking", "tool_use": "input"}
    return [(one.type, getattr(one, names[one.type])) for one in message.content]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.answer[:20]}")
def test_whole_and_streamed(
    client: anthropic.Anthropic, checkpoints: dict[str, Path], case: Case
) -> None:
    asked = _asked(checkpoints, case)
    message = client.messages.create(**asked)
    assert (_blocks(message), message.stop_reason) == (case.blocks, case.reason)
    assert message.id.startswith("msg_") and message.model == case.model
    assert message.stop_sequence == ("Two" if case.reason == "stop_sequence" else None)
    usage = message.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == 256
    assert all(one.signature for one in message.content if one.type == "thinking")
    with client.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    assert (_blocks(streamed), streamed.stop_reason) == (case.blocks, case.reason)
    assert streamed.stop_sequence == message.stop_sequence
    assert streamed.usage.output_tokens == usage.output_tokens


def test_a_conversation_with_a_tool(
    client: anthropic.Anthropic, checkpoints: dict[str, Path]
) -> None:
    """An answer goes back as it came, with the tool's result, as the package's users do."""
    asked = _asked(checkpoints, CASES[0])
    message = client.messages.create(**asked)
    (call,) = [block for block in message.content if block.type == "tool_use"]
    result = told(checkpoints["hermes"], "Hm.</think>Sunny", OPEN)
    asked["messages"] += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": call.id,
             "content": [{"type": "text", "text": result}]},
        ]},
    ]  # fmt: skip
    assert _blocks(client.messages.create(**asked)) == [("thinking", "Hm."), ("text", "Sunny")]
    asked["messages"][-1]["content"][0]["tool_use_id"] = "x"
    with pytest.raises(anthropic.BadRequestError, match="messages.2..content.0..tool_use_id"):
        client.messages.create(**asked)


def test_the_last_message_is_continued(
    client: anthropic.Anthropic, checkpoints: dict[str, Path]
) -> None:
    asked = _asked(checkpoints, CASES[9])
    asked["messages"][0]["role"] = "assistant"
    asked["messages"].insert(0, {"role": "user", "content": "Count!"})
    assert _blocks(client.messages.create(**asked)) == [("text", "One. ")]


def test_tokens_are_counted(client: anthropic.Anthropic, checkpoints: dict[str, Path]) -> None:
    asked = _asked(checkpoints, CASES[2])
    del asked["extra_body"], asked["max_tokens"]
    count = client.messages.count_tokens(**asked, system="Answer!")
    assert count.input_tokens == 256


def test_parsed_answers(client: anthropic.Anthropic, checkpoints: dict[str, Path]) -> None:
    asked = _asked(checkpoints, Case("hermes", ROME, CLOSED, []))
    del asked["tools"]
    parsed = client.messages.parse(**asked, **OFF, output_format=City)
    assert parsed.parsed_output == City(city="Rome")


def test_asynchronous(echoes: Served, checkpoints: dict[str, Path]) -> None:
    asked = _asked(checkpoints, CASES[0])

    async def main() -> None:
        async with anthropic.AsyncAnthropic(base_url=echoes.url, auth_token="unused") as client:
            message = await client.messages.create(**asked)
            assert _blocks(message) == CASES[0].blocks
            async with client.messages.stream(**asked) as stream:
                assert "".join([text async for text in stream.text_stream]) == "I look."
                assert _blocks(await stream.get_final_message()) == CASES[0].blocks

    asyncio.run(main())


def test_what_claude_code_sends(client: anthropic.Anthropic, checkpoints: dict[str, Path]) -> None:
    """Betas in header and query, blocks with breakpoints of the cache, reasoning, and metadata."""
    cached = {"cache_control": {"type": "ephemeral"}}
    content = told(checkpoints["hermes"], CASES[0].answer, OPEN)
    asked: Any = {
        "model": "hermes", "max_tokens": 200, **GREEDY,
        "system": [{"type": "text", "text": text, **cached} for text in ("You help.", "Briefly.")],
        "messages": [{"role": "user", "content": [{"type": "text", "text": content, **cached}]}],
        "tools": [{**TOOL, **cached, "eager_input_streaming": True}],
        "metadata": {"user_id": "someone"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "betas": ["claude-code-20250219", "interleaved-thinking-2025-05-14"],
    }  # fmt: skip
    with client.beta.messages.stream(**asked) as stream:
        assert _blocks(stream.get_final_message()) == CASES[0].blocks
    counted = {k: v for k, v in asked.items() if k not in ("max_tokens", "extra_body", "metadata")}
    assert client.beta.messages.count_tokens(**counted).input_tokens == 256


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type. is not supported"),
    ({"output_config": {"effort": "low"}}, "output_config.effort"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0..type"),
    ({"tools": [TOOL, TOOL]}, "get_weather. more than once"),
    ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name. names 'x'"),
    ({"tool_choice": {"type": "any"}, "tools": []}, "tool_choice"),
    ({"messages": []}, "messages. cannot be empty"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {
        "type": "url", "url": "x"}}]}]}, r"messages.0..content.0..source"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"content.0..text.: Field r"),
    ({"messages": [{"role": "user", "content": [
        {"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]}, "belongs to the assistant"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "thinking": "b"}]}]},
     "content.0..thinking. is set, but .*content.0..type. is 'text'"),
    ({"container": "x"}, "container"), ({"extra_body": {"foo": 1}}, "foo. is unknown"),
    ({"max_tokens": 9000}, r"exceed context limit: 256 \+ 9000 > 512"),
    ({"messages": [{"role": "user", "content": "a" * 600}]}, r"prompt is too long: 600 tokens > "),
    ({"stop_sequences": list("abcde")}, "stop_sequences. has 5 texts"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused_is_named(
    client: anthropic.Anthropic, checkpoints: dict[str, Path], fields: Any, message: str
) -> None:
    asked = {**_asked(checkpoints, CASES[10]), **fields}
    with pytest.raises(anthropic.BadRequestError, match=message) as caught:
        client.messages.create(**asked)
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert body["request_id"] == caught.value.request_id


def test_models(client: anthropic.Anthropic) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["harmony", "hermes", "xml"]
    assert client.models.retrieve("xml").max_tokens == 512
    with pytest.raises(anthropic.NotFoundError, match="'x' is not served"):
        client.models.retrieve("x")


def test_an_unknown_model(client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "a"}]
    with pytest.raises(anthropic.NotFoundError, match="not_found_error.*'claude-x' is not served"):
        client.messages.create(model="claude-x", max_tokens=1, messages=messages)


def test_a_real_model(served: Served) -> None:
    """Its prompt is found in the cache when it comes again."""
    asked: Any = {
        "model": GENERATOR, "max_tokens": 5, **GREEDY, "system": "Answer briefly. " * 20,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }  # fmt: skip
    with anthropic.Anthropic(base_url=served.url, api_key="unused", max_retries=0) as client:
        first, second = (client.messages.create(**asked) for _ in range(2))
        with client.messages.stream(**asked) as stream:
            third = stream.get_final_message()
    assert _blocks(first) == _blocks(second) == _blocks(third)
    assert second.usage.cache_read_input_tokens and third.usage.cache_read_input_tokens
    totals = {
        one.usage.input_tokens + (one.usage.cache_read_input_tokens or 0)
        for one in (first, second, third)
    }
    assert len(totals) == 1 and json.loads(first.to_json())["type"] == "message"
