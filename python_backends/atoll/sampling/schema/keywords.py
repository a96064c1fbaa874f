"""The keywords of JSON schemas by what becomes of them; all others are refused."""

from __future__ import annotations

# Keywords that do not restrict values.
ANNOTATIONS = frozenset(
    {
        "$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "$vocabulary",
        "title", "description", "default", "example", "examples", "deprecated", "readOnly",
        "writeOnly", "discriminator", "externalDocs", "xml",
    }
)  # fmt: skip
# Those that grammars are built from.
KEPT = frozenset(
    {
        "$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const", "minimum", "maximum",
        "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
        "format", "prefixItems", "items", "additionalItems", "unevaluatedItems", "minItems",
        "maxItems", "uniqueItems", "properties", "required", "additionalProperties",
        "patternProperties", "propertyNames", "unevaluatedProperties", "minProperties",
        "maxProperties",
    }
)  # fmt: skip
# Rewritten by ``conditions.py`` where they can be. Next to ``enum`` or ``const``, enforced by
# leaving out those of their values that do not fit.
CONDITIONS = frozenset(
    {
        "not", "if", "then", "else", "contains", "dependentRequired", "dependentSchemas",
        "dependencies",
    }
)  # fmt: skip
# Where the values of keywords are schemas: one, a list, by name.
ONE = frozenset(
    {
        "additionalItems", "additionalProperties", "contains", "else", "if", "items", "not",
        "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
BY_NAME = frozenset(
    {
        "$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties",
        "properties",
    }
)  # fmt: skip
