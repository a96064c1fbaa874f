"""Parts of JSON schemas that tests put together."""

from __future__ import annotations

from typing import Any


def obj(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    """By default all are required."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names}


INT, NULL = {"type": "integer"}, {"type": "null"}
DRAFT7 = "http://json-schema.org/draft-07/schema#"
