"""JSON schemas by family of keywords, each with values of which some fit and some do not.

The families are those of JSON-Schema-Test-Suite and of the schemas that JSONSchemaBench collects.
Which values fit is for ``jsonschema`` to say. Objects name their properties in the schema's order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A schema, and values that fit or do not."""

    schema: Any
    values: Sequence[Any]


def obj(*required: str, **properties: Any) -> dict[str, Any]:
    """A schema of objects."""
    return {"type": "object", "properties": properties, "required": list(required)}


INT, TEXT, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}
SCALARS = [None, True, 0, 1, 7, -3, 2.5, "", "a", "ab", [], {}]
WORDS = ["", "a", "b", "ab", "ba", "aab", "abab", "abcabc", "a-1", "12", "Ab9", "a b", "é", 'a"b']
PAIRS = [{"a": 1}, {"a": "x"}, {"b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": "x"}, {}]
ARRAYS = [list(v) for n in range(4) for v in itertools.product([1, 2, "a"], repeat=n)]
TAGGED = [
    {"kind": kind, **rest}
    for kind in ("circle", "square", "other")
    for rest in ({}, {"radius": 1}, {"side": 2})
]
NAMES = [{}, {"x-a": None}, {"x-a": 1}, {"y": 1}, {"id": 1}, {"id": 1, "x-a": None}, {"x-id": None}]
DATES = ["2024-02-29", "2023-02-29", "2023-13-01", "1999-12-31", "23-1-1", ""]
NESTED = [{"value": 1}, {"value": 1, "next": None}, {"value": 1, "next": {"value": 2}}, {"next": 1}]

NODE = obj("value", value=INT, next={"anyOf": [{"$ref": "#/$defs/node"}, NULL]})
CASES: Mapping[str, Sequence[Case]] = {
    "type, enum, const": [
        Case({"type": ["integer", "null"]}, SCALARS), Case({"enum": ["a", 1, None]}, SCALARS),
        Case({"const": {"a": [1]}}, [{"a": [1]}, {"a": 1}, {}]),
        Case({"enum": ["a", 1, 7], "type": "integer"}, SCALARS),
    ],
    "$ref, recursion": [
        Case({"$defs": {"node": NODE}, "$ref": "#/$defs/node"}, NESTED),
        Case({"$defs": {"n": INT}, "$ref": "#/$defs/n", "minimum": 3}, SCALARS),
        Case({"$defs": {"n": {"$anchor": "n", **INT}}, "$ref": "#n"}, SCALARS),
    ],
    "allOf": [
        Case({"allOf": [INT, {"minimum": 1}, {"maximum": 3}]}, SCALARS),
        Case({"allOf": [obj("a", a=INT), obj("b", b=INT)]}, PAIRS),
    ],
    "anyOf": [
        Case({"anyOf": [INT, TEXT]}, SCALARS),
        Case({**obj(a=INT, b=INT), "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, PAIRS),
        Case({"anyOf": [{"minimum": 2}, {"maxLength": 1}], "type": ["integer", "string"]}, SCALARS),
    ],
    "oneOf": [
        Case({"oneOf": [INT, TEXT]}, SCALARS),
        Case({"oneOf": [obj("kind", kind={"const": "circle"}, radius=INT),
                        obj("kind", kind={"const": "square"}, side=INT)]}, TAGGED),
        Case({**obj(a=INT, b=INT), "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, PAIRS),
        Case({"oneOf": [INT, {"type": "number", "minimum": 2}]}, SCALARS),
    ],
    "bounds of numbers": [
        Case({"type": "integer", "minimum": -3, "exclusiveMaximum": 7}, SCALARS),
        Case({"type": "number", "minimum": 0.5, "maximum": 2.5}, [0.5, 0.49, 2.5, 2.51, 1, 3]),
    ],
    "multipleOf": [
        Case({"type": "integer", "multipleOf": 7}, [0, 7, -14, 49, 50, 700, 701]),
        Case({"type": "number", "multipleOf": 0.01}, [0.01, 1.25, 1.255, 3]),
    ],
    "lengths": [Case({"type": "string", "minLength": 2, "maxLength": 3}, WORDS)],
    "pattern": [
        Case({"type": "string", "pattern": "^[a-z]+-?[0-9]*$"}, WORDS),
        Case({"type": "string", "pattern": "b"}, WORDS), Case({"pattern": "^a"}, SCALARS),
        Case({"type": "string", "pattern": "^(?!ab).*$"}, WORDS),
    ],
    "pattern and lengths": [
        Case({"type": "string", "pattern": "^[a-z][a-z0-9-]*$", "maxLength": 3}, WORDS),
        Case({"type": "string", "pattern": "^(ab)+$", "minLength": 3}, WORDS),
        Case({"type": "string", "pattern": "\\S", "maxLength": 255}, [*WORDS, " "]),
    ],
    "several patterns": [
        Case({"type": "string", "allOf": [{"pattern": "a"}, {"pattern": "b$"}]}, WORDS),
        Case({"type": "string", "format": "date", "pattern": "^2"}, DATES),
    ],
    "format": [
        Case({"type": "string", "format": "date"}, DATES),
        Case({"type": "string", "format": "ipv4"}, ["127.0.0.1", "256.0.0.1", "1.2.3", ""]),
        Case({"type": "string", "format": "uuid"}, ["00000000-0000-0000-0000-00000000000a", "a"]),
    ],
    "properties": [
        Case(obj("a", a=INT, b=INT), PAIRS),
        Case({**obj(a=INT), "additionalProperties": False}, PAIRS),
        Case({"type": "object", "additionalProperties": INT}, PAIRS),
        Case({"type": "object", "required": ["a"], "additionalProperties": INT}, PAIRS),
    ],
    "numbers of properties": [
        Case({**obj(a=INT, b=INT), "minProperties": 1, "maxProperties": 1}, PAIRS),
    ],
    "propertyNames": [
        Case({"type": "object", "propertyNames": {"pattern": "^a$"}}, PAIRS),
        Case({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [*PAIRS, {"c": 1}]),
    ],
    "patternProperties": [
        Case({"type": "object", "patternProperties": {"^x-": NULL},
              "additionalProperties": False}, NAMES),
        Case({**obj(id=INT), "patternProperties": {"^x-": NULL},
              "additionalProperties": False}, NAMES),
        Case({"type": "object", "patternProperties": {"^x-": NULL},
              "additionalProperties": INT}, NAMES),
        Case({**obj(id=INT), "patternProperties": {"^i": {"minimum": 1}},
              "additionalProperties": False}, NAMES),
    ],
    "unevaluatedProperties": [
        Case({**obj(a=INT), "allOf": [obj(b=INT)], "unevaluatedProperties": False},
             [*PAIRS, {"a": 1, "c": 1}]),
    ],
    "items": [
        Case({"type": "array", "items": INT, "minItems": 1, "maxItems": 2}, ARRAYS),
        Case({"type": "array", "prefixItems": [INT, TEXT], "items": False}, ARRAYS),
    ],
    "uniqueItems": [
        Case({"type": "array", "items": {"enum": [1, 2, "a"]}, "uniqueItems": True}, ARRAYS),
        Case({"type": "array", "items": INT, "uniqueItems": True}, ARRAYS),
    ],
    "contains": [
        Case({"type": "array", "contains": {"const": 1}}, ARRAYS),
        Case({"type": "array", "contains": INT, "maxContains": 1}, ARRAYS),
    ],
    "dependencies": [
        Case({**obj(a=INT, b=INT), "dependentRequired": {"a": ["b"]}}, PAIRS),
        Case({**obj(a=INT, b=INT), "dependentSchemas": {"a": {"required": ["b"]}}}, PAIRS),
    ],
    "if, then, else": [
        Case({**obj("kind", kind=TEXT, radius=INT, side=INT),
              "if": {"properties": {"kind": {"const": "circle"}}},
              "then": {"required": ["radius"]}, "else": {"required": ["side"]}}, TAGGED),
    ],
    "not": [
        Case({"type": "integer", "not": {"const": 7}}, SCALARS),
        Case({"type": "string", "not": {"enum": ["a", "ab"]}}, SCALARS),
        Case({"not": {"type": "string"}}, SCALARS),
        Case({**obj(a=INT, b=INT), "not": {"required": ["a", "b"]}}, PAIRS),
        Case({"type": "string", "not": {"pattern": "^a"}}, WORDS),
    ],
}  # fmt: skip
