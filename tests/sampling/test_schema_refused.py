"""JSON schemas that cannot be kept: refused by the keyword, with its place."""

import itertools
import json
from typing import Any

import pytest
from schemas import DRAFT7, INT, NULL, obj

from atoll.errors import ValidationError
from atoll.sampling.schema import json_grammar

REFUSED: dict[str, tuple[Any, str]] = {
    name: ({"type": "object", "properties": {"a": schema}}, f"#/properties/a/{name}")
    for name, schema in {
        "not": {"not": {"const": [1]}}, "if": {"if": INT, "then": {"minimum": 1}},
        "then": {"then": {"minimum": 1}}, "contains": {"contains": {"const": 1}},
        "minContains": {"minContains": 1}, "uniqueItems": {"type": "array", "uniqueItems": True},
        "else": {"else": {"minimum": 1}, "enum": [1, 2]},
        "dependencies": {"dependencies": {"a": ["b"]}}, "$dynamicRef": {"$dynamicRef": "#x"},
        "$recursiveRef": {"$recursiveRef": "#"}, "nullable": {"nullable": True, **INT},
        "contentEncoding": {"type": "string", "contentEncoding": "base64"},
        "minlength": {"type": "string", "minlength": 3},
        "$id": {"$id": "https://example.com/inner"},
        "oneOf": {"oneOf": [INT, {"type": "number"}]},
        "multipleOf": {"type": "number", "multipleOf": 0.1},
        "format": {"type": "string", "format": "idn-email"},
        "pattern": {"type": "string", "pattern": "^(?=a)b"},
        "$ref": {"$ref": "https://example.com/a.json"},
        "patternProperties": {
            "type": "object", "propertyNames": {"maxLength": 3}, "patternProperties": {"^a": NULL},
        },
        "propertyNames": {
            "type": "object", "propertyNames": {"anyOf": [{"const": "a"}, {"pattern": "^b"}]},
        },
    }.items()
}  # fmt: skip
# Where a keyword can stand. Beside enum and const it is refused or kept.
PLACES: dict[str, Any] = {
    "root": lambda found: found,
    "used definition": lambda found: {"$defs": {"x": found}, "$ref": "#/$defs/x"},
    "anyOf": lambda found: {"anyOf": [{"type": "null"}, found]},
    "oneOf": lambda found: {"oneOf": [{"type": "null"}, {"type": "array", **found}]},
    "allOf": lambda found: {"allOf": [{"type": "array"}, found]},
    "property called as a keyword": lambda found: obj(**{"not": found, "enum": INT}),
    "optional property": lambda found: obj([], a=found),
    "items": lambda found: {"type": "array", "items": found},
    "prefixItems": lambda found: {"type": "array", "prefixItems": [INT, found]},
    "additionalProperties": lambda found: {"type": "object", "additionalProperties": found},
    "patternProperties": lambda found: {"type": "object", "patternProperties": {"^a": found}},
    "propertyNames": lambda found: {"type": "object", "propertyNames": found},
    "beside $ref": lambda found: {"$defs": {"x": {"type": "array"}}, "$ref": "#/$defs/x", **found},
    "nested": lambda found: obj(a={"items": {"anyOf": [{"properties": {"b": found}}]}}),
}  # fmt: skip
HARD: dict[str, Any] = {
    "uniqueItems": {"uniqueItems": True}, "not": {"not": {"items": INT}}, "if": {"if": INT},
    "then": {"then": INT}, "else": {"else": INT}, "contains": {"contains": INT},
    "minContains": {"minContains": 1},
    "dependencies": {"dependencies": {"a": ["b"]}}, "maxContains": {"maxContains": 1},
}  # fmt: skip


# Names are no arrays.
COUNTING = [
    pair for pair in itertools.product(HARD, PLACES) if pair != ("uniqueItems", "propertyNames")
]


@pytest.mark.parametrize(("keyword", "place"), COUNTING)
def test_keywords_are_refused_wherever_they_count(keyword: str, place: str) -> None:
    with pytest.raises(ValidationError) as raised:
        json_grammar(json.dumps(PLACES[place](HARD[keyword])))
    assert f"/{keyword}: {keyword} is not supported" in str(raised.value)


REFUSED |= {
    "unevaluated, seen from inside": (
        {"allOf": [{"unevaluatedProperties": False}, obj(z=INT)]}, "#/allOf/0/unevaluatedProperties"
    ),
    "overlapping patterns": (
        {"type": "object", "patternProperties": {"a": INT, "b": INT, "c": INT, "d": INT, "e": INT}},
        "#/patternProperties: patternProperties with more than 4 patterns",
    ),
    "patterns of long names": (
        {"type": "object", "patternProperties": {"^a{150}": NULL, "b$": INT}},
        "#/patternProperties: patternProperties needs an automaton of more than 128 states",
    ),
    "pattern inside not": (
        {"type": "string", "not": {"pattern": "(?=a)b"}}, "#/not/pattern: '(?=a)b' has a lookahead",
    ),
    "pattern of then": (
        {"if": {"type": "string"}, "then": {"pattern": "(?=a)b"}}, "#/then/pattern: '(?=a)b' has",
    ),
    "not a whole number": ({"type": "number", "not": {"type": "integer"}}, "#/not: not is not"),
    "not beside unevaluated": (
        {**obj(a=INT), "not": NULL, "unevaluatedProperties": False}, "#/not: not is not",
    ),
    "many free names": ({"type": "object", "minProperties": 2}, "minProperties 2"),
    "multiples far away": ({"type": "integer", "multipleOf": 7, "minimum": 10}, "#/multipleOf"),
    "large divisor": ({"type": "integer", "multipleOf": 1001}, "#/multipleOf"),
    "pattern and length": (
        {"type": "string", "pattern": "\\S", "maxLength": 255},
        "#/pattern: pattern '\\\\S' needs an automaton of more than 128 states with maxLength 255",
    ),
    "pattern and format": (
        {"type": "string", "pattern": "/a{150}$", "format": "uri"},
        "pattern '/a{150}$' and format 'uri' needs an automaton",
    ),
    "many different items": (
        {"type": "array", "items": {"enum": [*range(11)]}, "uniqueItems": True},
        "#/uniqueItems: uniqueItems is not supported for so many values",
    ),
    "different items, not all listed": (
        {"type": "array", "prefixItems": [INT], "items": {"const": 1}, "uniqueItems": True},
        "#/uniqueItems: uniqueItems is not supported for items",
    ),
    "two lengths": (
        {"type": "string", "pattern": "a.*b", "minLength": 999}, "states with minLength 999",
    ),
    "nothing fits": ({"type": "integer", "enum": ["a"]}, "no finite value fits"),
    "schema false": (False, "no finite value fits"),
    "required and forbidden": (
        {"allOf": [{**obj(a=INT), "additionalProperties": False}, obj(b=INT)]}, "no finite value",
    ),
    "no end": ({**obj(n={"$ref": "#"})}, "no finite value fits"),
    "circle": ({"$ref": "#"}, "refers to itself"),
    "circle of two": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}},
         "$ref": "#/$defs/a"}, "refers to itself",
    ),
    "dangling": ({"$ref": "#/$defs/none"}, "leads nowhere"),
    "wrong type": ({"type": "nonsense"}, "'nonsense' is not valid"),
    "wrong value": (obj(a={"type": "string", "minLength": "3"}), "#/properties/a/minLength"),
    "wrong bound": ({"maxItems": -1}, "-1 is less than the minimum"),
    "wrong type of a definition": (
        {"$defs": {"a": {"type": 5}}, "$ref": "#/$defs/a"}, "#/$defs/a/type",
    ),
    "wrong bound of a definition": (
        {"$defs": {"a": obj(b={"minimum": "3"})}, "$ref": "#/$defs/a"},
        "b/minimum: '3' is not of type",
    ),
    "no definitions": ({"$defs": 5, **INT}, "#/$defs: 5 is not of type 'object'"),
    "old draft": (
        {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}, "draft-04",
    ),
    "old draft inside": (
        obj(a={"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}),
        "#/properties/a/$schema",
    ),
    "unknown draft": ({"$schema": "https://example.com/mine", **INT}, "example.com/mine"),
    "prefixItems in draft 7": (
        {"$schema": DRAFT7, "type": "array", "prefixItems": [INT]}, "#/prefixItems",
    ),
    "too many choices": (
        {"allOf": [{"anyOf": [{"minimum": i} for i in range(30)]} for _ in range(3)]},
        "combinations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    schema, message = REFUSED[name]
    with pytest.raises(ValidationError) as raised:
        json_grammar(json.dumps(schema))
    assert str(raised.value).startswith("the json_schema is not valid: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a)\\1", "a back-reference"), ("^a++$", "possessive"), ("(?<!a)b", "lookbehind"),
        ("(?!a)b", "lookahead"), ("\\p{L}", "\\p"), ("(?i)a", "flags"), ("a(?i:b)", "flags"),
        ("a\\b", "\\b inside"), ("a^b", "^ inside"), ("\\Ab", "\\A"), ("(?>a)", "atomic"),
        ("[]a]", "[]"), ("[^]", "[^]"), ("a{,3}", "{,n}"), ("(unclosed", "cannot be read"),
        ("[z-a]", "cannot be read"), ("[[:alpha:]]", "[[:"), ("\\cA", "\\c"), ("(a)(?(1)b)", ""),
    ],
)  # fmt: skip
def test_refused_patterns(pattern: str, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        json_grammar(json.dumps({"type": "string", "pattern": pattern}))
    assert "#/pattern" in str(raised.value) and message in str(raised.value)


def test_keys_given_twice_are_refused() -> None:
    with pytest.raises(ValidationError, match="the key 'minimum' is given twice"):
        json_grammar('{"minimum": 1, "minimum": 2}')


@pytest.mark.parametrize(
    "source", ['{"const": NaN}', '{"maximum": 1e999}', '["\\ud800"]', "{", "[1]"]
)
def test_what_is_no_json_is_refused(source: str) -> None:
    with pytest.raises(ValidationError, match="the json_schema"):
        json_grammar(source)
