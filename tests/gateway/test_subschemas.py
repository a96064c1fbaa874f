"""Schemas as parts of another one, by jsonschema: what fitted before fits, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from atoll_client.gateway.chat_formats.constraints import json_schema
from atoll_client.gateway.chat_formats.subschemas import moved
from atoll_client.gateway.openai.chat import ChatBody
from atoll_client.gateway.openai.tools import read_choice

A: dict[str, Any] = {"enum": ["x", "y"]}
SCHEMAS: dict[str, dict[str, Any]] = {
    "a definition": {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": A}},
    "an anchor": {"properties": {"a": {"$ref": "#it"}}, "$defs": {"A": {"$anchor": "it", **A}}},
    "an id": {
        "$id": "http://x.org/s", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": A},
    },
    "by its id": {
        "$id": "http://x.org/s", "properties": {"a": {"$ref": "http://x.org/s#/$defs/A"}},
        "$defs": {"A": A},
    },
    "by its id, to an anchor": {
        "$id": "http://x.org/s#", "properties": {"a": {"$ref": "http://x.org/s#it"}},
        "$defs": {"A": {"$anchor": "it", **A}},
    },
    "recursive": {"properties": {"a": {"anyOf": [A, {"$ref": "#"}]}}, "required": ["a"]},
    "data with references": {"properties": {"a": {"const": {"$ref": "#/x", "$anchor": "q"}}}},
    "data in a list": {"properties": {"a": {"enum": [{"$ref": "#/x"}, "x"]}}},
    "a property by that name": {
        "properties": {"$ref": A, "$anchor": A, "enum": {"$ref": "#/$defs/A"}}, "$defs": {"A": A},
    },
    "a definition by that name": {
        "properties": {"a": {"$ref": "#/$defs/const"}},
        "$defs": {"const": {"$ref": "#/$defs/A"}, "A": A},
    },
}  # fmt: skip
VALUES: list[Any] = [
    {}, {"a": "x"}, {"a": "z"}, {"a": {"a": "y"}}, {"a": {"a": "z"}}, {"a": {"$ref": "#/x"}},
    {"a": {"$ref": "#/x", "$anchor": "q"}}, {"$ref": "x"}, {"$ref": "#/z"}, {"$anchor": "z"},
    {"enum": "x"}, {"enum": "z"},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_what_fits_stays_the_same(schema: dict[str, Any]) -> None:
    """Constants that look like references were changed; anchors and ids led nowhere."""
    parts = {str(i): moved(schema, f"#/$defs/{i}") for i in range(2)}
    whole = {"$defs": parts, "$ref": "#/$defs/1"}
    found = [Draft202012Validator(whole).is_valid(value) for value in VALUES]
    assert found == [Draft202012Validator(schema).is_valid(value) for value in VALUES]
    # A schema that all values fit, or none, would show nothing of what became of it.
    assert set(found) == {True, False}


def test_another_document_stays_one() -> None:
    assert moved({"$ref": "http://x.org/t#/a"}, "#/$defs/0") == {"$ref": "http://x.org/t#/a"}
    assert moved({"$id": "http://x.org/s", "$ref": "t"}, "#/$defs/0") == {"$ref": "t"}


@pytest.mark.parametrize("parameters", [{"description": "any"}, {"properties": {"a": A}}])
def test_arguments_are_an_object(parameters: dict[str, Any]) -> None:
    """A forced call could have a list as its arguments, and was then no call."""
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = ChatBody.model_validate({"messages": [], "tools": [tool]})
    for choice, bound in (("required", None), ("auto", json_schema({"const": 1}))):
        read = read_choice(body.tools or (), choice)
        assert read is not None
        constraint = read.constraint(bound)
        assert constraint is not None
        fits = Draft202012Validator(constraint[1]["json_schema"]["schema"])
        assert fits.is_valid({"name": "f", "arguments": {"a": "x"}})
        assert not any(fits.is_valid({"name": "f", "arguments": v}) for v in ([], "x", 1, None))
