"""JSON schemas kept exactly: a grammar takes a value's text if, and only if, the value fits."""

import contextlib
import itertools
import json
from collections.abc import Iterable
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema.validators import validator_for
from schemas import DRAFT7, INT, NULL, obj
from walks import Walker

from atoll.errors import ValidationError


@pytest.fixture(scope="module")
def walker() -> Walker:
    return Walker()


def accepted(walker: Walker, schema: Any, values: Iterable[Any]) -> list[Any]:
    """The values whose texts the grammar takes: just those that fit the schema."""
    grammar = walker.compiler.compile("json_schema", json.dumps(schema))
    kind: Any = validator_for(schema, default=jsonschema.Draft202012Validator)
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
    taken = []
    for value in values:
        matcher = grammar.matcher()._matcher
        text = json.dumps(value, ensure_ascii=False)
        is_taken = matcher.accept_string(text) and matcher.is_completed()
        assert is_taken == validator.is_valid(value), (schema, value, is_taken)
        taken += [value] if is_taken else []
    return taken


WORDS = ["".join(word) for n in range(6) for word in itertools.product('ab"', repeat=n)]
DATES = ["2024-02-29", "2023-02-29", "1999-12-31", "2024-2-1", "2024-02-29T", ""]
STRINGS: list[dict[str, Any]] = [
    {"pattern": "^(ab)*$", "maxLength": 4}, {"pattern": "^a+b?", "minLength": 2, "maxLength": 4},
    {"pattern": "b", "maxLength": 3}, {"pattern": "^(ab|a|b{2})+$", "minLength": 3},
    {"pattern": "^(a|ba?)b*$", "maxLength": 3}, {"pattern": "^a[ab]?b?$", "minLength": 2},
    {"pattern": "^a*$|^[ab]*b$", "minLength": 1, "maxLength": 4},
    {"pattern": "^ab$", "minLength": 2}, {"allOf": [{"pattern": "a"}, {"pattern": '"'}]},
    {"allOf": [{"pattern": "a"}, {"pattern": "b$"}]},
    {"allOf": [{"pattern": "^a*b"}, {"pattern": "^.b"}, {"pattern": "b$"}], "maxLength": 4},
    {"pattern": '^[ab]*"[ab]*$', "minLength": 2}, {"pattern": "^2", "format": "date"},
    {"pattern": "9$", "format": "date", "minLength": 3},
]  # fmt: skip


@pytest.mark.parametrize("schema", STRINGS, ids=str)
def test_strings(schema: dict[str, Any], walker: Walker) -> None:
    assert accepted(walker, {"type": "string", **schema}, [*WORDS, *DATES])


def test_patterns_that_no_string_fits(walker: Walker) -> None:
    strings = {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "^b"}]}
    schema = {"anyOf": [strings, {"type": "null"}]}
    assert accepted(walker, schema, [*WORDS, None]) == [None]
    none = {"type": "string", "pattern": "^a{2,3}$", "minLength": 4}
    assert accepted(walker, {"anyOf": [none, {"type": "null"}]}, [*WORDS, None]) == [None]


def test_lengths_of_a_pattern_take_no_states(walker: Walker) -> None:
    schema = {"type": "string", "pattern": "^[a-z][a-z0-9-]*$", "minLength": 3, "maxLength": 1000}
    words = ["ab", "abc", "a" * 1000, "a" * 1001, "-bc"]
    assert accepted(walker, schema, words) == [words[1], words[2]]


LISTED: list[dict[str, Any]] = [
    {"items": {"enum": ["a", 1, 1.0]}}, {"items": {"type": ["boolean", "null"]}, "minItems": 2},
    {"items": {"anyOf": [{"const": "a"}, {"type": "boolean"}]}, "maxItems": 2},
    {"prefixItems": [{"const": 1}, {"enum": ["a", 1]}], "items": False},
    {"prefixItems": [{"enum": ["a", 1]}], "items": {"enum": [1, "a", None]}, "minItems": 1},
    {"allOf": [{"items": {"enum": [1, "a", None]}}, {"items": {"enum": [None, 1]}}]},
]  # fmt: skip


@pytest.mark.parametrize("schema", LISTED, ids=str)
def test_items_that_differ(schema: dict[str, Any], walker: Walker) -> None:
    values = ["a", 1, None, True]
    arrays = [list(items) for n in range(4) for items in itertools.product(values, repeat=n)]
    assert accepted(walker, {"type": "array", "uniqueItems": True, **schema}, arrays)


SCALARS = [None, True, False, 0, 1, 2, 7, -3, 1.5, "", "a", "ab", "ba", "٣", "1", [], [1], {}]
NEGATED: list[Any] = [
    {"const": 7}, {"enum": [1, 7]}, {"enum": ["a", True, None, 1, 2]}, {"enum": ["a", "ab", ""]},
    {"type": ["string", "array"]}, {"type": "number"}, {"pattern": "^a"},
    {"pattern": "\\d"}, {"pattern": "^.b?$"}, {"minimum": 2}, {"exclusiveMaximum": 1},
    {"maxLength": 1}, {"minLength": 0}, {"minItems": 1}, {"maxProperties": 0},
    {"anyOf": [{"type": "string"}, {"const": 1}]}, {"not": INT}, {"required": ["a"]},
    {"allOf": [{"type": "string"}, {"minLength": 1}]}, {"type": "string", "pattern": "a$"},
    {"required": []}, {"properties": {"a": {"const": 1}}}, True, False,
]  # fmt: skip


@pytest.mark.parametrize("schema", NEGATED, ids=str)
def test_not(schema: Any, walker: Walker) -> None:
    accepted(walker, {"anyOf": [{"const": "never"}, {"not": schema}]}, SCALARS)
    beside = {"type": ["string", "integer"], "maxLength": 2, "not": schema}
    accepted(walker, {"anyOf": [{"const": "never"}, beside]}, SCALARS)


A_AND_B = obj([], a={"enum": [1, "x"]}, b=INT)
PAIRS = [
    {name: value for name, value in (("a", a), ("b", b)) if value is not None}
    for a in (None, 1, "x")
    for b in (None, 2, 7)
]
IF_ONE = {"properties": {"a": {"const": 1}}, "required": ["a"]}
CONDITIONS: list[dict[str, Any]] = [
    {"dependentRequired": {"a": ["b"]}}, {"dependentRequired": {"a": ["b"], "b": ["a"]}},
    {"dependentSchemas": {"a": {"required": ["b"], "properties": {"b": {"minimum": 3}}}}},
    {"dependentSchemas": {"a": {"properties": {"a": {"const": 1}}}, "b": True}},
    {"$schema": DRAFT7, "dependencies": {"a": ["b"], "b": {"properties": {"b": {"minimum": 3}}}}},
    {"if": IF_ONE, "then": {"required": ["b"]}}, {"if": IF_ONE, "else": {"required": ["b"]}},
    {"if": IF_ONE, "then": {"required": ["b"]}, "else": {"properties": {"b": {"minimum": 5}}}},
    {"if": {"required": ["a", "b"]}, "then": IF_ONE}, {"if": True, "then": {"required": ["a"]}},
    {"not": {"required": ["a", "b"]}}, {"not": {"required": ["a"]}}, {"not": IF_ONE},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"oneOf": [{"required": ["a", "b"]}, {"required": ["b"], "title": "b"}]},
    {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "minProperties": 1},
    {"oneOf": [{"required": [a], "not": {"required": [b]}} for a, b in ("ab", "ba")]},
    {"allOf": [{"if": IF_ONE, "then": {"required": ["b"]}}, {"not": {"required": ["a", "b"]}}]},
    {"required": ["a"], "oneOf": [{"properties": {"a": {"const": v}}} for v in (1, "x")]},
]  # fmt: skip


@pytest.mark.parametrize("schema", CONDITIONS, ids=str)
def test_conditions(schema: dict[str, Any], walker: Walker) -> None:
    assert accepted(walker, {**A_AND_B, **schema}, PAIRS)


def test_a_condition_leaves_other_types_alone(walker: Walker) -> None:
    schema = {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": {"required": ["c"]}}}
    fits = [1, "a", [], {}, {"x": 1}, {"a": 1, "b": 1, "c": 1}]
    assert accepted(walker, schema, [*fits, {"a": 1}, {"a": 1, "b": 1}]) == fits


def test_a_condition_is_found_by_reference(walker: Walker) -> None:
    schema = {
        "$defs": {"a%/~": {"if": {"const": 1}, "then": {"type": "null"}, "else": INT}},
        "items": {"$ref": "#/$defs/a%25~1~0"},
    }
    taken = accepted(walker, {"type": "array", **schema}, [[1], [2], [2, 1], [2, 3]])
    assert taken == [[2], [2, 3]]


NAMES = ["id", "x-a", "x-id", "y"]
NAMED = [{}] + [
    {name: value for name, value in pair if name}
    for one, other in itertools.combinations_with_replacement(["", *NAMES], 2)
    for pair in itertools.product([(one, None), (one, 1)], [(other, None), (other, 1)])
]
PATTERNED: list[dict[str, Any]] = [
    {"patternProperties": {"^x-": NULL}, "additionalProperties": INT},
    {**obj([], id=INT), "patternProperties": {"^i": {"minimum": 1}}, "additionalProperties": False},
    {"patternProperties": {"^x": NULL, "d$": {"type": ["null", "integer"]}}},
    {"patternProperties": {"x": INT, "i": INT, "a$": {"minimum": 1}}, "additionalProperties": NULL},
    {"required": ["y"], "patternProperties": {"^x-": NULL}, "additionalProperties": INT},
    {"patternProperties": {"x": INT, "i": False}, "additionalProperties": NULL},
    {"not": {"required": ["x-id"]}, "patternProperties": {"^x-": NULL}},
    {"not": {"required": ["y"]}, "additionalProperties": INT, "propertyNames": {"maxLength": 3}},
    {**obj([], id=INT), "propertyNames": {"maxLength": 3}, "additionalProperties": INT},
    {"allOf": [{"patternProperties": {"^x": NULL}, "additionalProperties": INT},
               {"patternProperties": {"d$": NULL}, "additionalProperties": True}]},
]  # fmt: skip


@pytest.mark.parametrize("schema", PATTERNED, ids=str)
def test_names_of_properties(schema: dict[str, Any], walker: Walker) -> None:
    declared = [*schema.get("properties", ()), *schema.get("required", ())]
    ordered = [value for value in NAMED if not set(declared) & set(list(value)[1:])]
    if "additionalProperties" not in schema:  # others are not asked for
        schema = {**schema, "additionalProperties": "allOf" in schema}
    assert accepted(walker, {"type": "object", **schema}, ordered)


A_OR_B = st.sampled_from(["a", "b"])
REQUIRED = st.lists(A_OR_B, max_size=2, unique=True)
VALUES: list[Any] = [{"const": 1}, {"const": "x"}, {"minimum": 5}, INT, {"type": "string"}, True]
ABOUT_PAIRS = st.one_of(
    st.fixed_dictionaries({"required": REQUIRED}),
    st.fixed_dictionaries({"properties": st.dictionaries(A_OR_B, st.sampled_from(VALUES))}),
    st.sampled_from([{"minProperties": 1}, {"maxProperties": 1}, {"type": "string"}, True]),
)


def _conditions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=2, max_size=2)
    found: list[dict[str, st.SearchStrategy[Any]]] = [
        {"not": inner}, {"if": inner, "then": inner}, {"if": inner, "then": inner, "else": inner},
        {"allOf": several}, {"anyOf": several}, {"oneOf": several},
        {"dependentRequired": st.dictionaries(A_OR_B, REQUIRED)},
        {"dependentSchemas": st.dictionaries(A_OR_B, inner, max_size=2)},
    ]  # fmt: skip
    return st.one_of(*map(st.fixed_dictionaries, found))


PATTERNS = st.sampled_from(
    ["a", "^a", "b$", "^a*b", "^(ab)*$", "^[ab]{1,3}$", "^.b", "^a|b$", "(a|bb)b", "^$", "[^a]$"]
)
SAID = st.fixed_dictionaries({"pattern": PATTERNS})
ABOUT_WORDS = st.one_of(
    SAID, st.fixed_dictionaries({"not": SAID}), st.fixed_dictionaries({"minLength": st.just(2)}),
    st.fixed_dictionaries({"maxLength": st.integers(0, 5)}), st.just({"not": {"enum": ["ab", ""]}}),
)  # fmt: skip
RANDOM = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@RANDOM
@given(schema=st.recursive(ABOUT_PAIRS, _conditions, max_leaves=5))
def test_any_conditions(walker: Walker, schema: Any) -> None:
    with contextlib.suppress(ValidationError):  # refused by name
        accepted(walker, {"anyOf": [NULL, {"allOf": [A_AND_B, schema]}]}, PAIRS)


@RANDOM
@given(parts=st.lists(ABOUT_WORDS, min_size=1, max_size=4))
def test_any_patterns(walker: Walker, parts: list[Any]) -> None:
    words = [word for word in WORDS if '"' not in word]
    accepted(walker, {"anyOf": [NULL, {"type": "string", "allOf": parts}]}, words)
