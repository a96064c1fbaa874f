"""Tools by the openai package against a real server: forced, chosen, streamed, beside formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from gateways import GENERATOR, WEATHER, Served

CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "set_clock",
        "parameters": {
            "type": "object",
            "properties": {"hour": {"enum": [1, 2, 3]}, "on": {"type": "boolean"}},
            "required": ["hour", "on"],
            "additionalProperties": False,
        },
    },
}
ASKED: Any = {
    "messages": [{"role": "user", "content": "How is the weather in Münster?"}],
    "model": GENERATOR, "temperature": 0, "max_tokens": 60, "tools": [WEATHER, CLOCK],
}  # fmt: skip
LISTED = {"type": "function", "function": {"name": "set_clock"}}


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def _streamed(client: openai.OpenAI, **asked: Any) -> dict[str, Any]:
    """Everything that a stream says, put together as a client does."""
    options = {"stream": True, "stream_options": {"include_usage": True}, **asked}
    found: dict[str, Any] = {"content": "", "calls": [], "pieces": 0, "logprobs": []}
    for chunk in client.chat.completions.create(**options):
        found["usage"] = chunk.usage
        for choice in chunk.choices:
            found["content"] += choice.delta.content or ""
            found["reason"] = choice.finish_reason
            found["logprobs"] += (choice.logprobs and choice.logprobs.content) or []
            for call in choice.delta.tool_calls or []:
                found["pieces"] += 1
                if call.id:
                    assert call.index == len(found["calls"]) and call.function.arguments == ""
                    found["calls"].append([call.function.name, ""])
                else:
                    assert call.function.name is None and call.function.arguments
                    found["calls"][call.index][1] += call.function.arguments
    return found


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"get_weather", "set_clock"}),
        (LISTED, {"set_clock"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [LISTED]}},
         {"set_clock"}),
    ],
)  # fmt: skip
def test_a_forced_call_streamed_is_the_whole_one(
    client: openai.OpenAI, choice: Any, names: set[str]
) -> None:
    """Arguments came in one lump at the end, without any log-probabilities."""
    asked = {**ASKED, "tool_choice": choice, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    message, logprobs = whole.choices[0].message, whole.choices[0].logprobs
    (call,) = message.tool_calls or []
    assert call.type == "function" and call.function.name in names and message.content is None
    tool = WEATHER if call.function.name == "get_weather" else CLOCK
    jsonschema.validate(json.loads(call.function.arguments), tool["function"]["parameters"])
    assert whole.choices[0].finish_reason == "tool_calls" and whole.usage and logprobs
    assert logprobs.content and all(len(one.top_logprobs) == 2 for one in logprobs.content)
    found = _streamed(client, **asked)
    assert found["calls"] == [[call.function.name, call.function.arguments]]
    assert found["pieces"] > 3 and found["content"] == "" and found["reason"] == "tool_calls"
    assert found["usage"].total_tokens == whole.usage.total_tokens
    assert found["logprobs"] == logprobs.content
    # All but the token that ends an answer are told.
    assert len(logprobs.content) >= whole.usage.completion_tokens - 1


def test_a_call_that_is_cut_off_ends_by_length(client: openai.OpenAI) -> None:
    asked = {**ASKED, "tool_choice": LISTED, "max_tokens": 14}
    whole = client.chat.completions.create(**asked).choices[0]
    found = _streamed(client, **asked)
    calls = [[c.function.name, c.function.arguments] for c in whole.message.tool_calls or []]
    assert calls == found["calls"] and whole.finish_reason == found["reason"] == "length"


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
@pytest.mark.parametrize(
    "form", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {
        "name": "a", "schema": {"$defs": {"n": {"type": "boolean"}}, "type": "object",
                                "properties": {"rain": {"$ref": "#/$defs/n"}}, "required": ["rain"],
                                "additionalProperties": False}}}],
)  # fmt: skip
def test_tools_and_a_format(client: openai.OpenAI, choice: str, form: Any) -> None:
    """They were refused together: now it is a call, or a text that fits."""
    asked = {**ASKED, "tool_choice": choice, "response_format": form, "max_tokens": 80}
    if form["type"] == "json_object":
        asked["stop"] = ["}"]
    answer = client.chat.completions.create(**asked).choices[0]
    calls, content = answer.message.tool_calls or [], answer.message.content
    assert bool(calls) != bool(content) and (choice != "none" or content)
    assert choice != "required" or len(calls) == 1
    if content and form["type"] == "json_schema":
        jsonschema.validate(json.loads(content), form["json_schema"]["schema"])
    assert not content or content.startswith("{")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "no_such_tool"}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.custom"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].custom"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"extra_body": {"guided_regex": "a"}}, "tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(
    client: openai.OpenAI, changes: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{**ASKED, **changes, "stream": stream})
        assert caught.value.param == param and param.rsplit(".")[-1] in caught.value.message


def test_a_model_may_be_asked_for_one_call_only(client: openai.OpenAI) -> None:
    asked = {**ASKED, "parallel_tool_calls": False, "tool_choice": "required"}
    answer = client.chat.completions.create(**asked).choices[0]
    assert len(answer.message.tool_calls or []) == 1 and answer.finish_reason == "tool_calls"
