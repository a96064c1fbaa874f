"""A constraint of an answer in any form that clients send, as kind and source of a grammar."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from atoll import json_text
from atoll.errors import ValidationError

# The member of a format that holds its source, and what OpenAI's ``json_schema`` may hold besides.
_SOURCES = ("value", "json_schema", "schema")
_HOLDER = frozenset({"name", "description", "strict", "schema"})


def read_constraint(option: str, value: Any) -> tuple[str, str] | None:
    """(kind, source) of a request's option in any form that clients send; None: unconstrained.

    TGI's ``grammar`` and huggingface_hub's ``response_format``: {"type", "value"}; OpenAI's
    ``response_format``: {"type": "json_schema", "json_schema": {"schema"}}; vLLM's ``guided_json``,
    ``guided_regex``, ``guided_grammar`` and ``guided_choice``: the source alone. Objects and lists
    may come as JSON text.

    Raises:
        ValidationError: another form.
    """
    if option == "guided_choice":
        return "choice", _choices(option, value)
    if option.startswith("guided_"):
        kind, inner = option.removeprefix("guided_"), value
    else:
        kind, inner = _formatted(option, _object(option, value))
    if kind == "text" and inner is None:
        return None
    if kind in ("regex", "grammar"):
        return kind, _text(option, inner)
    if kind == "json_object" and inner is None:
        return kind, ""
    if kind in ("json", "json_object", "json_schema"):
        return "json_schema", _schema(option, inner)
    raise ValidationError(
        f"{option}.type is {kind!r}; known: json, json_object, json_schema, regex, grammar, text"
        + (", which goes with no schema" if kind == "text" else "")
    )


def _formatted(option: str, found: dict[str, Any]) -> tuple[Any, Any]:
    """Type and source (or None) of a format. Raises ValidationError: unknown members."""
    given = {name: value for name, value in found.items() if value is not None}
    kind = given.pop("type", None)
    unknown = [name for name in given if name not in _SOURCES]
    if unknown:
        raise ValidationError(
            f"{option}.{unknown[0]} is unknown; known: type, {', '.join(_SOURCES)}"
        )
    if len(given) > 1:
        raise ValidationError(f"{option} has {' and '.join(given)}; expected one of them")
    inner = next(iter(given.values()), None)
    if isinstance(inner, dict) and inner.keys() <= _HOLDER:
        schema = inner.get("schema")
        return kind, schema if isinstance(schema, dict) else inner
    return kind, inner


def _object(option: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json_text.loads(value)
        except ValueError as error:
            raise ValidationError(f"{option} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValidationError(f"{option} is {value!r}; expected an object")
    return value


def _schema(option: str, value: Any) -> str:
    """The schema as JSON. Text is returned as it is, so that duplicate keys are detected later."""
    _object(option, value)
    return value if isinstance(value, str) else json.dumps(value)


def _choices(option: str, value: Any) -> str:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValidationError(f"{option} is {value!r:.200}; expected a list of texts")
    return json.dumps(value)


def _text(option: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValidationError(f"{option} is {value!r}; expected text")
    return value
