"""How bodies are read: nulls are absent, unknown fields ignored, messages name the field."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import orjson
import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from atoll_client.errors import EmptyInputError, MalformedRequest, ValidationError

Body = TypeVar("Body", bound=BaseModel)

# A text, texts, token ids, or lists of token ids.
Inputs = str | list[str] | list[int] | list[list[int]]


def present(value: Any) -> Any:
    """An object without its members that are null; anything else as it is.

    What lies deeper may be the caller's own data, a JSON schema say, where a null has a meaning.
    """
    if type(value) is not dict:
        return value
    return {name: member for name, member in value.items() if member is not None}


def _tool(value: Any) -> Any:
    """A tool, and its function, without nulls; the function's parameters are a schema."""
    found = present(value)
    if type(found) is dict and "function" in found:
        found["function"] = present(found["function"])
    return found


# Objects whose members nobody lists here: messages, formats; and tools.
Object = Annotated[dict[str, Any], BeforeValidator(present)]
Tool = Annotated[dict[str, Any], BeforeValidator(_tool)]


class Strict(BaseModel):
    """A body or a part of one. Numbers in text are refused, as TEI and TGI refuse them."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _ignore_nulls(cls, value: Any) -> Any:
        return present(value)


def read(kind: type[Body], raw: bytes) -> Body:
    """The body, checked.

    Raises:
        MalformedRequest: not JSON. ValidationError: a field that is missing or of another type.
    """
    try:
        given = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None
    if type(given) is not dict:
        raise ValidationError("the body must be a JSON object")
    try:
        return kind.model_validate(given)
    except pydantic.ValidationError as error:
        raise ValidationError(_message(error)) from None


def _message(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong. A union reports each of its members: one line is enough."""
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"] if not str(part).startswith(_UNION_PARTS)]
    where = ".".join(place)
    if len({str(e["loc"][0]) for e in error.errors() if e["loc"]}) and _is_union(error):
        return f"`{where.split('.')[0]}` has none of the allowed types"
    return f"`{where}`: {first['msg']}" if where else first["msg"]


def _is_union(error: pydantic.ValidationError) -> bool:
    return any(str(part).startswith(_UNION_PARTS) for part in error.errors()[0]["loc"])


_UNION_PARTS = ("str", "list[", "int", "dict[", "function-", "bool", "float", "constrained-str")


def batch(inputs: Inputs, field: str = "inputs") -> tuple[list[str] | list[list[int]], bool]:
    """``inputs`` as a list of texts or of token ids, and whether it was a single one.

    Raises:
        EmptyInputError: nothing, or an empty text or list of ids.
    """
    is_single = isinstance(inputs, str) or (bool(inputs) and isinstance(inputs[0], int))
    items: Any = [inputs] if is_single else inputs
    if not items or any(len(item) == 0 for item in items):
        raise EmptyInputError(f"`{field}` cannot be empty")
    return items, is_single
