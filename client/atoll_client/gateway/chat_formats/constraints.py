"""The constraint of an answer, as all dialects pass it on to the model."""

from __future__ import annotations

import json
from typing import Any

from atoll_client.errors import ValidationError

# A model's option and its value.
Constraint = tuple[str, Any]


def json_schema(schema: dict[str, Any]) -> Constraint:
    """The constraint to JSON that follows a schema."""
    holder = {"name": "answer", "schema": schema}
    return "response_format", {"type": "json_schema", "json_schema": holder}


def schema_of(bound: Constraint) -> Any:
    """The JSON schema of a constraint.

    Raises:
        ValidationError: it is a regular expression, a grammar or a choice.
    """
    name, value = bound
    if name == "guided_json":
        return _parsed(value) if isinstance(value, str) else value
    if name != "response_format":
        raise ValidationError.of(
            "tools",
            "go with answers that follow a JSON schema, since calls are JSON; this one "
            "follows a regular expression, a grammar or a choice",
        )
    return value["json_schema"]["schema"] if "json_schema" in value else {"type": "object"}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValidationError(f"the JSON schema is no JSON: {error}") from None
