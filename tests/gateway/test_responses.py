"""Responses without a model: items to messages, a custom tool's input, the store, refusals."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fake_triton import FakeTriton, Refusal, chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import CODE, refuse_stream, run

from atoll_client.errors import ValidationError
from atoll_client.gateway.responses.custom_input import CustomInput
from atoll_client.gateway.responses.items import Item, check_items
from atoll_client.gateway.responses.messages import encoded, messages_of

MODELS = {"words": {"task": "generate", "max_total_tokens": 64, "reasoning_parser": "qwen3"}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}
TOLD = {"role": "tool", "tool_call_id": "c", "content": "1"}
THOUGHT = {"type": "reasoning", "id": "r", "summary": []}
USER, MODEL = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}

MESSAGES: list[tuple[list[Any], list[Any]]] = [
    ([USER, MODEL], [USER, MODEL]),
    ([MODEL, MODEL], [MODEL, MODEL]),
    ([{"role": "user", "content": [{"type": "input_text", "text": "a"},
                                   {"type": "input_text", "text": "b"}]}],
     [{"role": "user", "content": "ab"}]),
    ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
     [{"role": "assistant", "content": "no"}]),
    ([CALL, CALL, RESULT], [{"role": "assistant", "tool_calls": [CALLED, CALLED]}, TOLD]),
    ([MODEL, CALL, MODEL, RESULT, MODEL],
     [{"role": "assistant", "content": "bb", "tool_calls": [CALLED]}, TOLD, MODEL]),
    ([{**THOUGHT, "content": [{"type": "reasoning_text", "text": "Hm"}]}, MODEL],
     [{**MODEL, "reasoning_content": "Hm"}]),
    ([{**THOUGHT, "summary": [{"type": "summary_text", "text": "Hm"}]}, CALL, RESULT],
     [{"role": "assistant", "reasoning_content": "Hm", "tool_calls": [CALLED]}, TOLD]),
    ([{**THOUGHT, "encrypted_content": encoded("ü\ud800")}, MODEL],
     [{**MODEL, "reasoning_content": "ü\ud800"}]),
    ([{**THOUGHT, "content": []}, MODEL], [MODEL]),
    ([MODEL, THOUGHT, CALL], [MODEL, {"role": "assistant", "tool_calls": [CALLED]}]),
    ([{"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "ü\n"},
      {"type": "custom_tool_call_output", "call_id": "c",
       "output": [{"type": "input_text", "text": "1"}]}],
     [{"role": "assistant", "tool_calls": [{**CALLED, "function": {
         "name": "f", "arguments": '{"input": "ü\\n"}'}}]}, TOLD]),
    ([{**CALL, "namespace": "g"}, {**RESULT, "name": "f", "namespace": "g"}],
     [{"role": "assistant", "tool_calls": [{**CALLED, "function": {
         "name": "g__f", "arguments": "{}"}}]}, {**TOLD, "name": "g__f"}]),
]  # fmt: skip


@pytest.mark.parametrize(("items", "messages"), MESSAGES)
def test_items_as_messages(items: list[Any], messages: list[Any]) -> None:
    """What the model wrote in one turn is one message, as chat templates want it."""
    read = [Item.model_validate(item) for item in items]
    check_items(read)
    assert messages_of(None, read) == messages
    assert messages_of("i", read) == [{"role": "system", "content": "i"}, *messages]


@given(st.text(max_size=12), st.lists(st.integers(0, 80), max_size=6), st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_a_custom_tools_input_however_it_is_split(
    text: str, places: list[int], is_ascii: bool
) -> None:
    raw = json.dumps({"input": text}, ensure_ascii=is_ascii)
    for source, wanted in ((raw, text), (f'{{"x": {raw}}}', f'{{"x": {raw}}}'), (raw[:-2], text)):
        reader, borders = CustomInput(), sorted({0, *places, len(source)})
        pieces = [source[a:b] for a, b in zip(borders, borders[1:], strict=False)]
        found = "".join(map(reader.feed, pieces)) + reader.finish()
        assert found == wanted


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "mcp", "server_label": "a"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "x", "name": "f"}]}, "tools[0].type", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [{"type": "function", "name": "f", "format": {"type": "text"}}]},
     "tools[0].format", "unknown_parameter"),
    ({"tools": [{"type": "custom", "name": "f", "format": {
        "type": "grammar", "syntax": "lark", "definition": "a"}}]},
     "tools[0].format.syntax", "unsupported_parameter"),
    ({"tools": [{"type": "custom", "name": "f", "format": {
        "type": "grammar", "syntax": "regex"}}]}, "tools[0].format.definition", "invalid_value"),
    ({"tools": [{"type": "custom", "name": "f", "format": {"type": "text", "definition": "a"}}]},
     "tools[0].format.definition", "unknown_parameter"),
    ({"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "f"}]}, "tools",
     "invalid_value"),
    ({"tools": [{"type": "namespace", "name": "g"}]}, "tools[0].tools", "invalid_value"),
    ({"tools": [{"type": "namespace", "name": "g", "parameters": {}, "tools": [
        {"type": "function", "name": "f"}]}]}, "tools[0].parameters", "unknown_parameter"),
    ({"tools": [{"type": "namespace", "name": "g", "tools": [
        {"type": "function", "name": "f", "format": {"type": "text"}}]}]},
     "tools[0].tools[0].format", "unknown_parameter"),
    ({"tools": [{"type": "function", "name": "f", "tools": [{"type": "function", "name": "f"}]}]},
     "tools[0].tools", "unknown_parameter"),
    ({"tools": [{"type": "namespace", "name": "g", "tools": [{"type": "web_search"}]}]},
     "tools[0].tools[0].type", "unsupported_parameter"),
    ({"tools": [{"type": "function", "name": "g__f"}, {"type": "namespace", "name": "g", "tools": [
        {"type": "function", "name": "f"}]}]}, "tools", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {
        "type": "function", "name": "g"}}, "tool_choice.name", "invalid_value"),
    ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {
        "type": "custom", "name": "f"}}, "tool_choice.type", "invalid_value"),
    ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {
        "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}},
     "tool_choice.tools", "invalid_value"),
    ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {
        "type": "function", "name": "f", "mode": "auto"}}, "tool_choice.mode", "unknown_parameter"),
    ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {
        "type": "allowed_tools", "name": "f", "tools": [{"type": "function", "name": "f"}]}},
     "tool_choice.name", "unknown_parameter"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice.type", "unsupported_parameter"),
    ({"tool_choice": "always"}, "tool_choice", "invalid_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]},
     "input[0].content[0].type", "unsupported_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "a"}]}]},
     "input[0].content[0].type", "unsupported_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "output_text"}]}]},
     "input[0].content[0].text", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "refusal", "refusal": "a"}]}]},
     "input[0].content[0].type", "invalid_value"),
    ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"type": "computer_call", "id": "a"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{**CALL, "content": "a"}]}, "input[0].content", "unknown_parameter"),
    ({"input": [{**CALL, "x": 1}]}, "input[0].x", "unknown_parameter"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments",
     "missing_required_parameter"),
    ({"input": [RESULT]}, "input", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].id", "invalid_value"),
    ({"input": [{**THOUGHT, "encrypted_content": "gAAAA"}]}, "input", "invalid_value"),
    ({"input": []}, "input", "invalid_value"), ({"input": None}, "input", "invalid_value"),
    ({"include": ["file_search_call.results"]}, "include[0]", "unsupported_parameter"),
    ({"top_logprobs": 1}, "top_logprobs", "invalid_value"),
    ({"background": True}, "background", "unsupported_parameter"),
    ({"prompt": {"id": "a"}}, "prompt", "unsupported_parameter"),
    ({"conversation": "a"}, "conversation", "unsupported_parameter"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema",
     "missing_required_parameter"),
    ({"text": {"format": {"type": "json_object", "schema": {}}}}, "text.format.schema",
     "invalid_value"),
    ({"max_tokens": 5}, "max_tokens", "unsupported_parameter"),
    ({"previous_response_id": "a"}, "previous_response_id", "previous_response_not_found"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {"a": "v" * 513}}, "metadata.a", "invalid_value"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "invalid_value"),
    ({"store": True}, "store", "invalid_value"), ({"y": 1}, "y", "unknown_parameter"),
]  # fmt: skip


def test_what_is_refused_is_named() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for fields, param, code in REFUSED:
            answer = await http.post("/v1/responses", json={"input": "a", **fields})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
        for query in ("limit=0", "limit=a", "order=up", "x=1"):
            answer = await http.get(f"/v1/responses/a/input_items?{query}")
            assert answer.json()["error"]["param"] == query.partition("=")[0]
        assert (await http.get("/v1/responses/a?stream=true")).json()["error"]["param"] == "stream"
        assert triton.calls == []

    run(scenario, MODELS, max_stored_responses=0)


def test_the_oldest_turns_of_a_long_conversation_are_left_out() -> None:
    """On request, and until it fits: the model says by how much it does not."""
    asked: list[Any] = []

    async def words(message: Any) -> Any:
        inputs = dict(
            zip((one.name for one in message.inputs), message.raw_input_contents, strict=True)
        )
        messages = json.loads(inputs["messages"][4:])
        asked.append([one["content"] for one in messages])
        if len(messages) > 4:
            problem = f"messages has {40 * len(messages)} tokens and max_tokens is 5; at most 64"
            raise Refusal(CODE.INVALID_ARGUMENT, problem)
        yield chunk("one", "stop")

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.generate = words
        turns = [{"role": role, "content": f"{role[0]}{i}"}
                 for i in range(4) for role in ("user", "assistant")]  # fmt: skip
        body = {
            "instructions": "i", "input": [*turns, {"role": "user", "content": "u4"}],
            "max_output_tokens": 5,
        }  # fmt: skip
        refused = await http.post("/v1/responses", json=body)
        assert refused.json()["error"]["code"] == "context_length_exceeded" and len(asked) == 1
        for stream in (False, True):
            asked.clear()
            more = {"truncation": "auto", "stream": stream}
            assert (await http.post("/v1/responses", json={**body, **more})).status_code == 200
            assert asked[-1] == ["i", "u4"] and len(asked) == 2
        # A single turn cannot be shortened.
        only = [{"role": "user", "content": "u"}, *[{"role": "assistant", "content": "a"}] * 4]
        refused = await http.post("/v1/responses", json={**body, **more, "input": only})
        assert refused.json()["error"]["param"] == "input"

    run(scenario, MODELS)


PROBLEMS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"reasoning": {"effort": "low"}}, "chat_template_kwargs.reasoning_effort: no variable",
     "reasoning.effort"),
    ({}, "messages[0].role is 'x'", "input[0].role"),
    ({}, "max_tokens is 5, but it is not", "max_output_tokens"),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
     "the json_schema is not valid: x", "text.format"),
    ({"tools": [{"type": "function", "name": "f"}], "tool_choice": "required"},
     "the json_schema is not valid: x", "tools"),
    ({"seed": 1}, "seed is 1, and is not", "seed"), ({}, "something else", None),
]  # fmt: skip


def test_errors_of_the_model_name_the_fields_of_responses() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for fields, told, param in PROBLEMS:
            triton.generate = refuse_stream(CODE.INVALID_ARGUMENT, told)
            for stream in (False, True):
                body = {"input": "a", **fields, "stream": stream}
                answer = await http.post("/v1/responses", json=body)
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (400, param), error
                assert (
                    param is None
                    or param.partition("[")[0] in error["message"]
                    or ("not valid" in error["message"])
                )

    run(scenario, MODELS)


def test_reasoning_of_another_origin_is_refused() -> None:
    with pytest.raises(ValidationError, match="not of this gateway: 'gAAAA'"):
        messages_of(None, [Item.model_validate({**THOUGHT, "encrypted_content": "gAAAA"})])
