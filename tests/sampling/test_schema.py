"""JSON schemas: every keyword is kept, alone and beside others, or refused by name."""

import json
from typing import Any

import jsonschema
import pytest
from jsonschema.validators import validator_for
from schemas import DRAFT7, INT, NULL, obj
from walks import Walker


@pytest.fixture(scope="module")
def walker() -> Walker:
    return Walker()


def check(walker: Walker, schema: Any, count: int = 8) -> list[Any]:
    """Random texts are JSON and fit; their values."""
    is_listed = isinstance(schema, dict) and isinstance(schema.get("items"), list)
    default = jsonschema.Draft7Validator if is_listed else jsonschema.Draft202012Validator
    kind: Any = validator_for(schema, default=default)
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    values = [json.loads(text) for text in walker.texts("json_schema", schema, count)]
    for value in values:
        validator.validate(value)
    return values


DRAFT2019 = "https://json-schema.org/draft/2019-09/schema"
NODE = obj(value=INT, next={"anyOf": [{"$ref": "#/$defs/node"}, NULL]})
KEPT: dict[str, Any] = {
    "allOf of objects": {"allOf": [obj(a=INT), obj(b={"type": "string", "maxLength": 4})]},
    "allOf that narrows": {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 5}]},
    "allOf, one closed": {
        "allOf": [{**obj(a=INT), "additionalProperties": False}, obj([], b=INT)],
    },
    "anyOf beside properties": {
        **obj(k={"type": "string"}),
        "anyOf": [obj(k={"const": "x"}, n=INT), {"properties": {"k": {"const": "y"}}}],
    },
    "oneOf beside properties": {
        **obj(k={"type": "string"}),
        "oneOf": [obj(k={"const": "x"}, n=INT), obj(k={"enum": ["y", "z"]})],
    },
    "oneOf of types": {"oneOf": [INT, {"type": "string", "maxLength": 2}, obj(a=NULL)]},
    "oneOf with a tag": {
        "$defs": {"a": obj(tag={"const": "a"}, x=INT), "b": obj(tag={"const": "b"})},
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "discriminator": {"propertyName": "tag"},
    },
    "required names no property": {**obj(["b"], a=NULL), "additionalProperties": INT},
    "required without properties": {"type": "object", "required": ["a", "b"]},
    "pattern without type": {"pattern": "^a+$"},
    "bounds without type": {"minimum": 3, "maxLength": 2, "maxItems": 1, "maxProperties": 1},
    "patternProperties": {
        "type": "object", "patternProperties": {"^a": INT, "^b": NULL}, "minProperties": 1,
    },
    "patternProperties beside properties": {
        **obj(c=INT), "patternProperties": {"^x-[a-z]{1,3}$": NULL},
        "additionalProperties": False,
    },
    "sibling of $ref": {"$defs": {"a": {"minimum": 3}}, "$ref": "#/$defs/a", "maximum": 5, **INT},
    "recursion": {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    "recursion to the root": obj([], child={"$ref": "#"}, n=INT),
    "$ref by anchor": {"$defs": {"x": {"$anchor": "here", **INT}}, "$ref": "#here"},
    "$ref by own id": {"$id": "https://a.b/c", "$defs": {"x": INT}, "$ref": "https://a.b/c#/$defs/x"},
    "$ref escaped": {"$defs": {"a/b~c%": INT}, "$ref": "#/$defs/a~1b~0c%25"},
    "draft 7": {
        "$schema": DRAFT7, "definitions": {"a": {"minimum": 2, **INT}}, "type": "array",
        "items": [{"$ref": "#/definitions/a"}, NULL], "additionalItems": False, "minItems": 1,
    },
    "draft 2019-09": {"$schema": DRAFT2019, "type": "array", "items": [INT], "minItems": 3},
    "listed items without $schema": {"type": "array", "items": [INT, NULL], "minItems": 2},
    "tuple": {
        "type": "array", "prefixItems": [NULL, INT], "items": {"type": "boolean"},
        "minItems": 1, "maxItems": 4,
    },
    "closed tuple": {"type": "array", "prefixItems": [NULL, INT], "items": False},
    "tuple that must go on": {"type": "array", "prefixItems": [NULL], "minItems": 3},
    "tuple cut short": {"type": "array", "prefixItems": [NULL, INT, INT], "maxItems": 2},
    "two tuples": {
        "allOf": [{"prefixItems": [{"minimum": 2}]}, {"items": {"maximum": 3, **INT}}],
        "type": "array", "minItems": 2, "maxItems": 3,
    },
    "unevaluatedItems": {"type": "array", "prefixItems": [INT], "unevaluatedItems": False},
    "empty arrays": {"type": "array", "items": False},
    "no items allowed": {"type": "array", "maxItems": 0, "uniqueItems": True},
    "unevaluatedProperties": {
        **obj(a=INT), "allOf": [obj([], b=NULL)], "unevaluatedProperties": False,
    },
    "minProperties": {
        **obj([], a=NULL, b=NULL, c=NULL), "minProperties": 2, "maxProperties": 2,
        "additionalProperties": False,
    },
    "one free property": {"type": "object", "minProperties": 1, "maxProperties": 2},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^x+$"}, "minProperties": 1},
    "names that are no arrays": {"type": "object", "propertyNames": {"uniqueItems": True}},
    "listed names": {
        "type": "object", "propertyNames": {"enum": ["x", "y"]}, "minProperties": 2,
        "additionalProperties": NULL,
    },
    "free names never repeat": {
        **obj([], a=NULL, ab=NULL), "additionalProperties": {"type": "string", "maxLength": 2},
    },
    "names that need escapes": obj(**{'a"\\é\n\u2028/': NULL}),
    "enum": {"enum": ['é"\n', 1.5, 1e30, {"a": [1]}, -3, None, True, "\u2028/"]},
    "enum and not": {"enum": [1, 2, 3], "not": {"const": 2}},
    "enum and if": {"enum": [1, "a", "b"], "if": {"type": "string"}, "then": {"const": "b"}},
    "enum and else": {"enum": [1, "a"], "if": {"type": "string"}, "else": {"minimum": 2}},
    "enum and contains": {"enum": [[1], [2], [1, 1]], "contains": {"const": 1}},
    "enum and uniqueItems": {"enum": [[1, 1], [1, 2], "x"], "uniqueItems": True},
    "const and dependentRequired": {"const": {"a": 1, "b": 2}, "dependentRequired": {"a": ["b"]}},
    "enum and dependentSchemas": {
        "enum": [{"a": 1}, {"a": 1, "b": 1}], "dependentSchemas": {"a": {"required": ["b"]}},
    },
    "enum and dependencies": {
        "$schema": DRAFT7, "enum": [{"a": 1}, {"a": 1, "b": 1}], "dependencies": {"a": ["b"]},
    },
    "enum inside, not outside": {
        "allOf": [{"enum": [1, 2]}, {"enum": [2, 3], "not": {"const": 3}}],
    },
    "not false": {"type": "integer", "not": False},
    "required anyway": {**obj(a=INT, b=NULL), "dependentRequired": {"a": ["b"], "c": []}},
    "required anyway, in draft 7": {
        "$schema": DRAFT7, **obj(a=INT, b=NULL), "dependencies": {"a": ["b"]},
    },
    "no more is asked": {**obj([], a=INT), "dependentSchemas": {"a": True}},
    "enum and type": {"type": "string", "enum": ["a", 1, None]},
    "enum and bounds": {"enum": [1, 5, "x", 9], "minimum": 3, "type": "integer"},
    "enum and const": {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}, {"const": 3}]},
    "const object": {"const": {"b": 1, "a": [None, {"c": "d"}]}},
    "type list": {"type": ["string", "null", "array"], "maxLength": 3, "maxItems": 0},
    "schema true": True,
    "schema of nothing": {},
    "property true": obj(a=True),
    "property false": {**obj([], a=False, b=INT)},
    "bounds that no answer reaches": {
        "type": ["string", "array", "object"], "maxLength": 2**40, "maxItems": 2**31,
        "maxProperties": 10**9,
    },
    "annotations": {"title": "t", "description": "d", "default": 3, "x-y": 1, **INT},
    "formats of numbers": obj(
        a={"type": "integer", "format": "int8"}, b={"type": "number", "format": "double"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str, walker: Walker) -> None:
    check(walker, KEPT[name])


NUMBERS = [
    {"minimum": -3.25, "maximum": 12.5}, {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"minimum": 0.1, "maximum": 0.1}, {"exclusiveMaximum": 0}, {"minimum": 1e-7, "maximum": 1e20},
    {"minimum": -0.05, "exclusiveMaximum": -0.049}, {"exclusiveMinimum": -1, "maximum": 0},
    {"minimum": 99.95, "maximum": 1000.01}, {"maximum": -1234.5}, {"exclusiveMinimum": 41.999},
    {"minimum": 7}, {"minimum": -10, "exclusiveMinimum": -10}, {},
]  # fmt: skip
INTEGERS = [
    {"exclusiveMinimum": 3.5, "maximum": 7}, {"minimum": -1234, "exclusiveMaximum": 5678},
    {"minimum": 10**20, "maximum": 10**20 + 7}, {"maximum": -99}, {"minimum": 100},
    {"minimum": 0, "maximum": 0}, {"minimum": -3, "maximum": 120}, {"exclusiveMaximum": 1},
    {"multipleOf": 7}, {"multipleOf": 5, "minimum": 3, "maximum": 33}, {"multipleOf": 60},
    {"multipleOf": 4, "minimum": 0}, {"multipleOf": 3, "maximum": 0},
    {"allOf": [{"multipleOf": 6}, {"multipleOf": 4}], "minimum": -50, "maximum": 50},
]  # fmt: skip


@pytest.mark.parametrize("bounds", NUMBERS, ids=map(str, NUMBERS))
def test_numbers(bounds: dict[str, Any], walker: Walker) -> None:
    check(walker, {"type": "number", **bounds}, 40)


@pytest.mark.parametrize("bounds", INTEGERS, ids=map(str, INTEGERS))
def test_integers(bounds: dict[str, Any], walker: Walker) -> None:
    values = check(walker, {"type": "integer", **bounds}, 40)
    assert all(type(value) is int for value in values)


PATTERNS = [
    '^"[a-z]{3}"$', "^a\\nb$", "^\n$", "^\\\\$", "^[^\"]{2}$", "^\\d{3}-\\w{1,3}\\s\\S\\D\\W.$",
    "^[^\\w]$", "^(foo|bar)?$", "^$", "", "^a|b$", "^[a-z]{2,3}$", "^\\x41\\u0042\\t\\/$", "^é+$",
    "^[\\]\\-\\\\]{3}$", "^(?:ab|c(?:d|e)){2}$", "^a+?b*?$", "(^x$|^y$)", "^[\\x00-\\x20]{3}$",
    "^[^\\d\\s]{3}$", "^.{1,5}$", "^[\\s\\S]{2}$", "^\U0001f600{1,2}$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str, walker: Walker) -> None:
    """``^"[a-z]{3}"$`` gave ``{"a": ""aab""}``: a text that was not JSON."""
    check(walker, {"type": "string", "pattern": pattern}, 12)


@pytest.mark.parametrize(
    "schema",
    [
        {"minLength": 3, "maxLength": 5}, {"maxLength": 0}, {"minLength": 1},
        {"pattern": "^[a-z]+$", "minLength": 3, "maxLength": 4},
        {"pattern": "^[a-z]{2,9}$", "allOf": [{"pattern": "^[c-f]*$"}], "maxLength": 4},
        {"pattern": "^ab?c$", "minLength": 2, "maxLength": 3},
        *({"format": name} for name in ("date", "time", "date-time", "duration", "email")),
        *({"format": name} for name in ("hostname", "ipv4", "ipv6", "uuid", "uri")),
        {"format": "date", "maxLength": 10},
    ],
    ids=str,
)  # fmt: skip
def test_strings(schema: dict[str, Any], walker: Walker) -> None:
    check(walker, {"type": "string", **schema}, 12)


def test_values_that_a_keyword_forbids_do_not_come(walker: Walker) -> None:
    for name, fitting in {
        "enum and not": [1, 3], "enum and if": [1, "b"], "enum and else": ["a"],
        "enum and contains": [[1], [1, 1]], "enum and uniqueItems": [[1, 2], "x"],
        "enum inside, not outside": [2], "enum and dependencies": [{"a": 1, "b": 1}],
    }.items():  # fmt: skip
        found = check(walker, KEPT[name], 24)
        assert [value for value in fitting if value not in found] == []


def test_the_order_of_properties_is_the_schemas(walker: Walker) -> None:
    schema = {"allOf": [obj(z=NULL, a=NULL), obj(m=NULL, b=NULL)], **obj(k=NULL)}
    assert [list(value) for value in check(walker, schema, 2)] == [["k", "z", "a", "m", "b"]] * 2


def test_properties_are_all_that_there_is_unless_asked(walker: Walker) -> None:
    assert check(walker, {"type": "object", "properties": {}}) == [{}] * 8
    values = check(walker, {**obj(a=NULL), "additionalProperties": True}, 12)
    assert any(len(value) > 1 for value in values)


def test_every_value_of_a_small_schema_can_come(walker: Walker) -> None:
    """Kept exactly: neither more than fits nor less."""
    schema = {**obj([], a={"enum": [1, 2]}, b=NULL), "minProperties": 1}
    values = {json.dumps(value) for value in check(walker, schema, 60)}
    assert values == {
        json.dumps(v)
        for v in ({"a": 1}, {"a": 2}, {"b": None}, {"a": 1, "b": None}, {"a": 2, "b": None})
    }
    found = check(walker, {"type": "integer", "minimum": -2, "exclusiveMaximum": 11}, 150)
    assert set(found) == set(range(-2, 11))
