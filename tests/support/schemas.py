"""Parts of JSON schemas that tests put together."""

from __future__ import annotations

from typing import Any


def obj(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    """By default all are required."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names}


INT, NULL = {"type": "integer"}, {"type": "null"}
DRAFT7 = "http://json-schema.org/draft-07/schema#"


def closed(schema: Any) -> Any:
    """The same schema, where objects have no fields but those that it names."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(one) for name, one in schema.items()}
    if isinstance(found.get("properties"), dict) and "type" in found:
        found.setdefault("additionalProperties", False)
    return found


def response_of(description: Any, operation: Any, status: int | str) -> Any:
    """What OpenAPI's description says of an operation's answers with this status."""
    found = operation["responses"][str(status)]
    name = found.get("$ref", "").removeprefix("#/components/responses/")
    return description["components"]["responses"][name] if name else found
