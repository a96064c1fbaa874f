"""The schema of all values that do not fit a schema, where keywords can say it.

Besides them there are three forms of ``not`` that grammars are built from: of one required
property, of listed strings, and of a pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from atoll.sampling.schema.keywords import ANNOTATIONS

_KINDS = ("null", "boolean", "number", "string", "array", "object")


class NotNegatable(Exception):
    """No keywords say the opposite."""


def is_kept_not(schema: Any) -> bool:
    """Whether grammars are built from ``{"not": schema}`` as it is."""
    if not isinstance(schema, dict) or len(schema) != 1:
        return False
    [(name, value)] = schema.items()
    if name == "required":
        return len(value) == 1
    return name == "pattern" or (name == "enum" and all(isinstance(v, str) for v in value))


def all_but(*kinds: str) -> dict[str, Any]:
    """The schema of all other types."""
    return {"type": [kind for kind in _KINDS if kind not in kinds]}


def negated(schema: Any) -> Any:
    """What fits if, and only if, ``schema`` does not. Raises NotNegatable."""
    if isinstance(schema, bool):
        return not schema
    options = []
    for name, value in schema.items():
        if name in ANNOTATIONS:
            continue
        if name not in _OPPOSITES:
            raise NotNegatable
        options.append(_OPPOSITES[name](value))
    return any_of(options)


def any_of(options: Iterable[Any]) -> Any:
    """One of the schemas; False if there is none."""
    found = [option for option in options if option is not False]
    if len(found) < 2:
        return found[0] if found else False
    return {"anyOf": found}


def _other_types(value: str | list[str]) -> Any:
    kinds = {value} if isinstance(value, str) else set(value)
    if "integer" in kinds and "number" not in kinds:
        raise NotNegatable  # no keyword is for numbers with a fraction
    return all_but(*kinds)


def _other_values(values: list[Any]) -> Any:
    """All values but these: by type, and by the gaps between numbers."""
    if any(isinstance(value, (list, dict)) for value in values):
        raise NotNegatable
    kinds = {_kind(value) for value in values}
    options: list[Any] = [all_but(*kinds)]
    by_kind = {kind: [value for value in values if _kind(value) == kind] for kind in kinds}
    if "boolean" in kinds:
        options.append({"enum": [v for v in (True, False) if v not in by_kind["boolean"]]})
    if "string" in kinds:
        options.append({"type": "string", "not": {"enum": by_kind["string"]}})
    if "number" in kinds:
        edges = sorted(set(by_kind["number"]))
        gaps = [
            {"exclusiveMinimum": low, "exclusiveMaximum": high}
            for low, high in zip(edges, edges[1:], strict=False)
        ]
        ends = [{"exclusiveMaximum": edges[0]}, {"exclusiveMinimum": edges[-1]}]
        options += [{"type": "number", **bounds} for bounds in (*ends, *gaps)]
    return any_of(option for option in options if option.get("enum") != [])


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    return "string" if isinstance(value, str) else "number"


def _missing(names: list[str]) -> Any:
    return any_of({"not": {"required": [name]}} for name in names)


def _other_properties(properties: dict[str, Any]) -> Any:
    others = {name: negated(schema) for name, schema in properties.items()}
    return any_of(
        {"type": "object", "required": [name], "properties": {name: other}}
        for name, other in others.items()
        if other is not False
    )


def _below(kind: str, keyword: str) -> Callable[[int], Any]:
    return lambda value: {"type": kind, keyword: int(value) - 1} if value > 0 else False


def _above(kind: str, keyword: str) -> Callable[[int], Any]:
    return lambda value: {"type": kind, keyword: int(value) + 1}


def _beyond(keyword: str) -> Callable[[float], Any]:
    return lambda value: {"type": "number", keyword: value}


_OPPOSITES: Mapping[str, Callable[[Any], Any]] = {
    "type": _other_types,
    "const": lambda value: _other_values([value]),
    "enum": _other_values,
    "required": _missing,
    "properties": _other_properties,
    "allOf": lambda schemas: any_of(map(negated, schemas)),
    "anyOf": lambda schemas: {"allOf": [negated(schema) for schema in schemas]},
    "not": lambda schema: schema,
    "minimum": _beyond("exclusiveMaximum"),
    "maximum": _beyond("exclusiveMinimum"),
    "exclusiveMinimum": _beyond("maximum"),
    "exclusiveMaximum": _beyond("minimum"),
    "minLength": _below("string", "maxLength"),
    "maxLength": _above("string", "minLength"),
    "minItems": _below("array", "maxItems"),
    "maxItems": _above("array", "minItems"),
    "minProperties": _below("object", "maxProperties"),
    "maxProperties": _above("object", "minProperties"),
    "pattern": lambda pattern: {"type": "string", "not": {"pattern": pattern}},
}
