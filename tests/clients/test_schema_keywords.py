"""Keywords of JSON schemas that answers would not follow: refused on every route that takes one."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from gateways import GENERATOR

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
KEYWORDS: dict[str, Any] = {
    "uniqueItems": {"type": "array", "uniqueItems": True}, "not": {"not": {"items": {}}},
    "if": {"if": {"items": {"type": "null"}}, "then": {"const": None}},
    "contains": {"contains": {}}, "maxContains": {"maxContains": 1},
    "dependencies": {"dependencies": {"a": {"required": ["b"]}}},
}  # fmt: skip


def _inside(found: Any, place: str) -> dict[str, Any]:
    """An object with a keyword in a place where it counts."""
    properties: dict[str, Any] = {"contains": found, "enum": {"type": "null"}}
    if place == "$defs":
        properties["contains"] = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/not"}]}
    whole = {"type": "object", "properties": properties, "required": [*properties]}
    whole["additionalProperties"] = False
    return {**whole, "$defs": {"not": found}} if place == "$defs" else whole


def _asked(way: str, schema: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A route and a body with the schema."""
    chat, triton = "/v1/chat/completions", f"/v2/models/{GENERATOR}/generate"
    if way == "response_format":
        holder = {"name": "a", "strict": True, "schema": schema}
        return chat, {**CHAT, "response_format": {"type": "json_schema", "json_schema": holder}}
    if way == "tools":
        function = {"name": "f", "strict": True, "parameters": schema}
        tools = [{"type": "function", "function": function}]
        return chat, {**CHAT, "tools": tools, "tool_choice": "required"}
    if way == "structured_outputs":
        return chat, {**CHAT, "structured_outputs": {"json": schema}, "stream": True}
    if way == "grammar":
        parameters = {"grammar": {"type": "json", "value": schema}, "max_new_tokens": 1}
        return "/generate", {"inputs": "Hi", "parameters": parameters}
    options = {"guided_json": schema, "max_tokens": 1}
    return triton, {"text_input": "Hi", "sampling_parameters": json.dumps(options)}


@pytest.mark.parametrize("place", ["a property", "$defs"])
@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.parametrize(
    "way",
    ["response_format", "tools", "structured_outputs", "grammar", "guided_json"],
)  # fmt: skip
def test_refused_by_name(http: httpx.Client, way: str, keyword: str, place: str) -> None:
    path, body = _asked(way, _inside(KEYWORDS[keyword], place))
    answer = http.post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert f"{keyword} is not supported" in answer.text
    if way == "tools":
        assert "`tools[0].function.parameters` #/" in answer.text


@pytest.mark.parametrize("way", ["response_format", "tools", "grammar", "guided_json"])
def test_kept_beside_values(http: httpx.Client, way: str) -> None:
    """Each value is tried, so nothing is lost."""
    schema = _inside({"enum": [[1, 1]], "not": {"const": 1}, "contains": {"const": 1}}, "")
    path, body = _asked(way, schema)
    assert http.post(path, json=body).status_code == 200
