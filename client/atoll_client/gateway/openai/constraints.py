"""The constraint of an answer, from one of the fields that OpenAI, vLLM and TGI have for it."""

from __future__ import annotations

from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.gateway.chat_formats.constraints import Constraint, json_schema
from atoll_client.gateway.openai.schemas import ResponseFormat, SamplingFields, StructuredOutputs

_GUIDED = ("guided_choice", "guided_grammar", "guided_json", "guided_regex")
# The fields that may hold a format's schema; formats that are not listed allow any.
_PLACES: dict[str, tuple[str, ...]] = {"text": (), "json_object": ("schema", "value")}


def constraint(body: SamplingFields) -> Constraint | None:
    """The constraint of a request, or None.

    Raises:
        ValidationError: two fields contain one, or a field is incomplete.
    """
    guided = {
        **{name: _option(name, getattr(body, name)) for name in _GUIDED},
        "response_format": _formatted(body.response_format),
        "structured_outputs": _structured(body.structured_outputs),
    }
    found = {name: value for name, value in guided.items() if value is not None}
    if len(found) > 1:
        names = " and ".join(f"`{name}`" for name in found)
        raise ValidationError(
            f"{names} are set; only one of them can be", param=next(iter(found)),
            code="invalid_value",
        )  # fmt: skip
    return next(iter(found.values()), None)


def _option(name: str, value: Any) -> Constraint | None:
    return None if value is None else (name, value)


def _formatted(given: ResponseFormat | None) -> Constraint | None:
    if given is None:
        return None
    holder = given.json_schema.schema_ if given.json_schema else None
    sources = {"json_schema": holder, "schema": given.schema_, "value": given.value}
    found = {name: value for name, value in sources.items() if value is not None}
    if len(found) > 1:
        names = " and ".join(f"`response_format.{name}`" for name in found)
        raise ValidationError(f"{names} are set; expected one", param="response_format")
    name, value = next(iter(found.items()), ("", None))
    if given.type == "text" and not name:
        return None
    if given.type == "regex":
        if not isinstance(value, str):
            raise ValidationError.of("response_format.value", "must be a text for the type regex")
        return "guided_regex", value
    if given.type == "json_object" and value is None:
        return "response_format", {"type": "json_object"}
    if given.type == "json_schema" and not isinstance(value, dict):
        raise ValidationError.of("response_format.json_schema.schema", "must be an object")
    is_place = name in _PLACES.get(given.type, sources)
    if not isinstance(value, dict) or not is_place:
        raise ValidationError.of(
            "response_format.type",
            f"is {given.type!r}, which does not go with "
            f"`response_format.{name or 'value'}` as it is given",
        )
    return json_schema(value)


def _structured(given: StructuredOutputs | None) -> Constraint | None:
    if given is None:
        return None
    found = {
        "choice": _option("guided_choice", given.choice),
        "grammar": _option("guided_grammar", given.grammar),
        "json": _option("guided_json", given.json_),
        "json_object": ("response_format", {"type": "json_object"}) if given.json_object else None,
        "regex": _option("guided_regex", given.regex),
    }
    named = {name: value for name, value in found.items() if value is not None}
    if len(named) != 1:
        raise ValidationError.of(
            "structured_outputs",
            f"sets {', '.join(named) or 'none'}; expected one of {', '.join(found)}",
        )
    return next(iter(named.values()))
