"""JSON schemas of bodies, answers, forms and queries for OpenAPI, as requests are in fact read.

In a JSON body, a field that is null counts as absent, so that every optional field may be null.
Forms and queries hold texts, which have no null.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import is_typeddict

from atoll_client.gateway.core.schemas import Strict

_PLACE = "#/components/schemas/{model}"
_FORM_PLACE = f"{_PLACE}Form"
_REFUSED: JsonSchemaValue = {"not": {}}
# What stays next to a schema that becomes one of several.
_ABOUT = ("title", "description", "default")


class _Schemas(GenerateJsonSchema):
    """Without ``"default": null``, since null means absent."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        if found.get("default", 0) is None:
            del found["default"]
        return found

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        if issubclass(schema["cls"], Strict) and self.mode == "validation":
            required, fields = found.get("required", ()), found.get("properties", {})
            fields |= {name: _nullable(fields[name]) for name in fields if name not in required}
        return found


class _TextSchemas(_Schemas):
    """Of fields that are texts: without null, and without fields that are always refused."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = GenerateJsonSchema.model_schema(self, schema)
        fields = found.get("properties", {})
        found["properties"] = {
            name: field for name, field in fields.items() if _values(field) != _REFUSED
        }
        return found


def schema_of(kind: Any, schemas: dict[str, Any], mode: JsonSchemaMode) -> dict[str, Any]:
    """A type's schema; for a named type, a reference to the schema, which ``schemas`` gets."""
    found = TypeAdapter(kind).json_schema(ref_template=_PLACE, mode=mode, schema_generator=_Schemas)
    for name, inner in found.pop("$defs", {}).items():
        _add(schemas, name, inner)
    if not (is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))):
        return found
    return _add(schemas, kind.__name__, found)


def schema_of_texts(kind: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema of a body that comes as a form."""
    found = kind.model_json_schema(ref_template=_FORM_PLACE, schema_generator=_TextSchemas)
    for name, inner in found.pop("$defs", {}).items():
        _add(schemas, f"{name}Form", {**inner, "title": f"{name}Form"})
    name = f"{kind.__name__}Form"
    return _add(schemas, name, {**found, "title": name})


def text_fields(kind: type[BaseModel]) -> dict[str, Any]:
    """The schemas of a query's parameters."""
    found: dict[str, Any] = kind.model_json_schema(schema_generator=_TextSchemas)["properties"]
    return found


def _nullable(schema: JsonSchemaValue) -> JsonSchemaValue:
    """The schema, or null."""
    null, about = {"type": "null"}, {name: schema[name] for name in _ABOUT if name in schema}
    values = _values(schema)
    if not values or null in values.get("anyOf", ()):
        return schema
    if values == _REFUSED:
        return {**null, **about}
    members = values["anyOf"] if values.keys() == {"anyOf"} else [values]
    return {"anyOf": [*members, null], **about}


def _values(schema: JsonSchemaValue) -> JsonSchemaValue:
    """What a schema says of values."""
    return {name: value for name, value in schema.items() if name not in _ABOUT}


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> dict[str, Any]:
    assert schemas.setdefault(name, schema) == schema, f"two schemas are called {name}"
    return {"$ref": _PLACE.format(model=name)}
