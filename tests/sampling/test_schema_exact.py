"""JSON schemas kept exactly: a grammar takes a value's text if, and only if, the value fits."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import jsonschema
import pytest
from walks import Walker


@pytest.fixture(scope="module")
def walker() -> Walker:
    return Walker()


def accepted(walker: Walker, schema: Any, values: Iterable[Any]) -> list[Any]:
    """The values whose texts the grammar takes: just those that fit the schema."""
    grammar = walker.compiler.compile("json_schema", json.dumps(schema))
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
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
