"""Random schemas: whatever is not refused by name gives JSON that fits."""

import json
from functools import lru_cache
from typing import Any

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from walks import Walker

from atoll.errors import ValidationError

NAMES = st.sampled_from(["a", "b", "ab", "x-1", "", 'q"\\', "é"])
SMALL = st.integers(0, 3)
SCALARS = st.sampled_from([None, True, False, 0, 1, -2, 1.5, "", "a", "ab", "é\n", [1], {"a": 1}])
BOUND = st.sampled_from([-20, -1.5, -1, 0, 0.25, 1, 7, 12.125, 100])
PATTERNS = st.sampled_from(
    ["^a+$", "^[a-c]{2}$", '^"?b$', "a", "^(a|é)?$", "^\\d{1,3}$", "^[^a]$", "b$", "^\\S{2}$"]
)
# What is refused, so that it is met in all places.
UNKEPT = st.sampled_from(
    [{"not": {"items": {}}}, {"contains": {}}, {"uniqueItems": True}, {"if": {}}, {"foo": 1}]
)


def _some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, inner, max_size=3)
    objects = _some(
        type=st.just("object"), properties=named, required=st.lists(NAMES, max_size=2, unique=True),
        additionalProperties=inner, patternProperties=st.dictionaries(PATTERNS, inner, max_size=2),
        propertyNames=inner, minProperties=SMALL, maxProperties=SMALL, unevaluatedProperties=inner,
    )  # fmt: skip
    arrays = _some(
        type=st.just("array"), prefixItems=lists, items=inner, minItems=SMALL, maxItems=SMALL,
        unevaluatedItems=inner,
    )  # fmt: skip
    combined = _some(
        allOf=lists, anyOf=lists, oneOf=lists, **{"$ref": st.sampled_from(["#", "#/$defs/d"])}
    )
    conditions = _some(
        **{"not": inner, "if": inner, "then": inner, "else": inner},
        dependentRequired=st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True)),
        dependentSchemas=st.dictionaries(NAMES, inner, max_size=2),
    )
    parts = st.lists(objects | arrays | combined | conditions | LEAVES, min_size=1, max_size=3)
    return parts.map(lambda found: {k: v for part in found for k, v in part.items()})


KINDS = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
LEAVES = st.one_of(
    _some(type=KINDS), _some(type=st.lists(KINDS, min_size=1, max_size=3, unique=True)),
    _some(type=st.sampled_from(["integer", "number"]), minimum=BOUND, maximum=BOUND),
    _some(type=st.sampled_from(["integer", "number"]), exclusiveMinimum=BOUND,
          exclusiveMaximum=BOUND, multipleOf=st.sampled_from([1, 2, 3, 7, 0.5])),
    _some(type=st.just("string"), minLength=SMALL, maxLength=SMALL),
    _some(type=st.just("string"), pattern=PATTERNS, maxLength=SMALL),
    _some(format=st.sampled_from(["date", "uuid", "ipv4", "foo"]), type=st.just("string")),
    _some(enum=st.lists(SCALARS, min_size=1, max_size=4)), _some(const=SCALARS), UNKEPT,
)  # fmt: skip
SCHEMAS = st.recursive(st.booleans() | LEAVES, _schemas, max_leaves=8)


@lru_cache(maxsize=1)
def _walker() -> Walker:
    return Walker()


def judged(schema: Any) -> str:
    """ "refused", or "kept" if every text that came to its end fits; endless ones are cut off."""
    source, walker = json.dumps(schema), _walker()
    try:
        grammar = walker.compiler.compile("json_schema", source)
    except ValidationError as error:
        assert str(error).startswith("the json_schema is not valid: "), error
        return "refused"
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for seed in range(4):
        text = walker.write(grammar, seed)
        if text is not None:
            validator.validate(json.loads(text))
    return "kept"


@settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)  # fmt: skip
@given(SCHEMAS, SCHEMAS)
def test_kept_or_refused(schema: Any, definition: Any) -> None:
    if isinstance(schema, dict):
        schema = {**schema, "$defs": {"d": definition}}
    judged(schema)
