"""The fields of requests, from which checks, OpenAPI and docs/fields.md follow.

The class of a body declares them. Plain fields are honoured. ``no_effect`` declares one that
changes no response here, ``refused`` one that would and is not supported. All others are
unknown: ``unknown`` finds them, and ``schemas.read`` refuses or reports them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# The type of the pydantic errors of refused fields.
REFUSED = "refused"


def no_effect(why: str) -> Any:
    """Declares a field that is accepted and changes no response; ``why`` is shown to users."""
    return _marked(_NoEffect(why))


def refused(why: str, *unless: Any, alias: str | None = None) -> Any:
    """Declares a field that is refused by name.

    unless: values that are accepted, since they ask for what happens anyway.
    """
    return _marked(_Refused(why, unless), alias)


def _marked(mark: _NoEffect | _Refused, alias: str | None = None) -> Any:
    found: Any = Field(None, alias=alias)
    found.metadata.append(mark)
    return found


@dataclass(frozen=True)
class _NoEffect:
    why: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "description": f"No effect: {self.why}."}


@dataclass(frozen=True)
class _Refused:
    why: str
    unless: tuple[Any, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**_only(self.unless), "description": f"Not supported: {self.why}."}

    def _check(self, value: Any) -> Any:
        # True equals 1, but is not accepted in its place.
        if any(value == one and type(value) is type(one) for one in self.unless):
            return value
        raise PydanticCustomError(REFUSED, "{why}", {"why": self.why})


def _only(values: Sequence[Any]) -> dict[str, Any]:
    """The JSON schema of these values alone, without what few generators of clients read.

    That is an enum of anything but texts and integers.
    """
    if not values:
        return {"not": {}}
    # JSON Schema's 1 is also 1.0.
    plain = [int(one) if type(one) is float and one.is_integer() else one for one in values]
    if {type(value) for value in plain} in ({str}, {int}):
        return {"enum": list(dict.fromkeys(plain))}
    found = [_same(value) for value in plain]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _same(value: Any) -> dict[str, Any]:
    """The JSON schema of one value."""
    if isinstance(value, list):
        size = len(value)
        items = _only(value) if value else {}
        return {"type": "array", "items": items, "minItems": size, "maxItems": size}
    if isinstance(value, dict):
        return {
            "type": "object", "properties": {name: _same(one) for name, one in value.items()},
            "required": list(value), "additionalProperties": False,
        }  # fmt: skip
    return {"type": "boolean", "const": value} if isinstance(value, bool) else {"const": value}


@dataclass(frozen=True)
class Row:
    """One field. name: its path (``messages[].role``).

    effect: honoured, none or refused. values: type and limits, or the accepted values.
    """

    name: str
    effect: str
    values: str
    note: str


@functools.cache
def table(kind: type[BaseModel], prefix: str = "") -> tuple[Row, ...]:
    """The fields of a body, each followed by the fields of the objects in it."""
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
        if isinstance(mark, _NoEffect):
            return Row(name, "none", described(schema), mark.why)
        if isinstance(mark, _Refused):
            values = described({"enum": mark.unless}) if mark.unless else ""
            return Row(name, "refused", values, mark.why)
    return Row(name, "honoured", described(schema), field.description or "")


def described(schema: Mapping[str, Any]) -> str:
    """Types and limits of a JSON schema in words."""
    if "enum" in schema or "const" in schema:
        # Sorted: typing caches literals regardless of their order.
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
    """Paths of fields that no class declares, at any depth."""
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
    """Fields that hold models, or lists of them."""
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
