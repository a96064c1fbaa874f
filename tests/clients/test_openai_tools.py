"""Tools of chats by the openai package: forced calls, and parameters that refer to definitions."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
from gateways import GENERATOR, WEATHER

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": GENERATOR, "temperature": 0, "max_tokens": 8}


def test_a_forced_tool_is_called(client: openai.OpenAI) -> None:
    asked: Any = {
        "messages": [{"role": "user", "content": "How is the weather in Paris?"}],
        "model": GENERATOR, "temperature": 0, "max_tokens": 40, "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }  # fmt: skip
    answer = client.chat.completions.create(**asked)
    (call,) = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    deltas = [
        delta
        for chunk in client.chat.completions.create(**asked, stream=True)
        for delta in chunk.choices[0].delta.tool_calls or []
    ]
    assert deltas[0].function.name == "get_weather"
    assert "".join(d.function.arguments or "" for d in deltas) == call.function.arguments
    # The call and its result go back into the conversation.
    asked["messages"] += [
        answer.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    asked |= {"tool_choice": "none", "max_tokens": 3}
    assert client.chat.completions.create(**asked).choices[0].message.content


def test_tools_whose_parameters_refer_to_definitions(client: openai.OpenAI) -> None:
    """What pydantic writes for nested models: ``$defs`` was looked for in the schema of the call,
    and the request was refused. Here two tools define the same name differently."""
    tools: Any = [_nested_tool("move", "integer"), _nested_tool("mark", "boolean")]
    for name in ("move", "mark"):
        choice: Any = {"type": "function", "function": {"name": name}}
        for chosen in (choice, "required"):
            answer = client.chat.completions.create(
                messages=CAPITAL, tools=tools, tool_choice=chosen, **{**GREEDY, "max_tokens": 80}
            )
            (call,) = answer.choices[0].message.tool_calls or []
            assert chosen == "required" or call.function.name == name
            (tool,) = [t for t in tools if t["function"]["name"] == call.function.name]
            arguments = json.loads(call.function.arguments)
            jsonschema.validate(arguments, tool["function"]["parameters"])


def _nested_tool(name: str, kind: str) -> dict[str, Any]:
    point = {
        "type": "object", "properties": {"x": {"type": kind}, "next": {"type": "null"}},
        "required": ["x"], "additionalProperties": False,
    }  # fmt: skip
    parameters = {
        "$defs": {"Point": point}, "type": "object",
        "properties": {"to": {"$ref": "#/$defs/Point"}}, "required": ["to"],
        "additionalProperties": False,
    }  # fmt: skip
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
