"""What becomes of each field of a request: the table behind checks, OpenAPI and docs/options.md.

A body's class is its table. A plain field is honoured; ``NoEffect`` marks one that changes nothing
here, ``Refused`` one that changes answers elsewhere and cannot here. What stands in no table is
unknown: ``unknown`` finds it, ``bodies.read`` decides.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# The type of a pydantic error that ``Refused`` raises.
REFUSED = "refused"


@dataclass(frozen=True)
class NoEffect:
    """The field is read, and changes no answer here; ``why`` ends "no effect: ..."."""

    why: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "description": f"No effect: {self.why}."}


@dataclass(frozen=True)
class Refused:
    """The field is refused by name, unless it asks for what happens anyway.

    unless: values that are accepted, since they change nothing.
    """

    why: str
    unless: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        allowed: dict[str, Any] = {"enum": list(self.unless)} if self.unless else {"not": {}}
        return {**allowed, "description": f"Not supported: {self.why}."}

    def _check(self, value: Any) -> Any:
        # True equals 1: a flag is no number.
        if any(value == one and type(value) is type(one) for one in self.unless):
            return value
        raise PydanticCustomError(REFUSED, "{why}", {"why": self.why})


@dataclass(frozen=True)
class Row:
    """One field of a table. name: with those that hold it (``messages[].role``).

    effect: honoured, none or refused. values: type and limits, or what is accepted.
    """

    name: str
    effect: str
    values: str
    note: str


@functools.cache
def table(kind: type[BaseModel], prefix: str = "") -> tuple[Row, ...]:
    """The fields of a body, each followed by those of the objects that it holds."""
    found: list[Row] = []
    schema = kind.model_json_schema()
    for name, field in kind.model_fields.items():
        shown = schema["properties"][field.alias or name]
        found.append(_row(prefix + (field.alias or name), field, shown))
        inner = _inner(field)
        if inner is not None and not prefix.startswith(f"{name}."):
            model, is_list = inner
            found += table(model, f"{prefix}{name}{'[]' if is_list else ''}.")
    return tuple(found)


def _row(name: str, field: FieldInfo, schema: Mapping[str, Any]) -> Row:
    for mark in field.metadata:
        if isinstance(mark, NoEffect):
            return Row(name, "none", described(schema), mark.why)
        if isinstance(mark, Refused):
            return Row(name, "refused", described(schema) if mark.unless else "", mark.why)
    return Row(name, "honoured", described(schema), field.description or "")


def described(schema: Mapping[str, Any]) -> str:
    """Types and limits of a JSON schema in words."""
    if "enum" in schema or "const" in schema:
        # Sorted: Python takes literals of another order for the same ones, and keeps either.
        return " or ".join(sorted(map(_literal, schema.get("enum", [schema.get("const")]))))
    if "anyOf" in schema:
        parts = [described(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(parts))
    kind = schema.get("type")
    if kind == "array":
        return f"list of {described(schema.get('items', {}))}"
    word = _WORDS.get(str(kind), "object" if "$ref" in schema else "anything")
    limits = [f"{sign} {schema[name]}" for name, sign in _LIMITS.items() if name in schema]
    return f"{word} {', '.join(limits)}" if limits else word


def _literal(value: Any) -> str:
    return json.dumps(value)


_WORDS = {
    "string": "text", "integer": "integer", "number": "number", "boolean": "true or false",
    "object": "object",
}  # fmt: skip
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def unknown(body: BaseModel, prefix: str = "") -> Iterator[str]:
    """Names of members that no table has, at any depth."""
    for name in body.model_extra or ():
        yield prefix + name
    for name in _holders(type(body)):
        value = getattr(body, name)
        if isinstance(value, BaseModel):
            yield from unknown(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from unknown(item, f"{prefix}{name}[{index}].")


@functools.cache
def _holders(kind: type[BaseModel]) -> tuple[str, ...]:
    """Fields that hold objects with tables of their own."""
    return tuple(name for name, field in kind.model_fields.items() if _inner(field) is not None)


def _inner(field: FieldInfo) -> tuple[type[BaseModel], bool] | None:
    """The model in a field's type, and whether the field holds a list of them."""
    return _model(field.annotation, False)


def _model(annotation: Any, is_list: bool) -> tuple[type[BaseModel], bool] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, is_list
    is_list = is_list or getattr(annotation, "__origin__", None) is list
    parts = (_model(one, is_list) for one in get_args(annotation))
    return next((found for found in parts if found is not None), None)
