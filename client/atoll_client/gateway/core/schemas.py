"""Reads bodies (JSON, forms) as pydantic models. Nulls count as absent, and errors name the field.

OpenAI's and Anthropic's routes refuse unknown fields, as these services do. Those of TEI, TGI and
Ollama, whose clients may send more, report them in the header ``x-unknown-fields`` and in the log.
With the setting ``unknown_fields``, all routes do the same.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.fields import unknown
from atoll_client.gateway.core.forms import is_form, read_form
from atoll_client.gateway.core.problems import first_problem
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.json_text import parse
from atoll_client.kserve import MAX_PRIORITY

logger = logging.getLogger(__name__)
Body = TypeVar("Body", bound=BaseModel)

# A text, texts, token ids, or lists of token ids.
Inputs = str | list[str] | list[int] | list[list[int]]
# Lower goes first; a body's field `priority` goes before the header.
Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
# OpenAI's limits of what a client notes about an object.
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
# Of a function that a model may call, as OpenAI has it.
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
_STRICT = ("openai", "anthropic")
# The most unknown fields of a body that are named.
_MAX_NAMED = 20


def present(value: Any) -> Any:
    """An object without its null fields; other values as they are.

    Deeper levels may be the caller's own data, such as a JSON schema, where null has a meaning.
    """
    if type(value) is not dict:
        return value
    return {name: member for name, member in value.items() if member is not None}


class Strict(BaseModel):
    """A body or a part of one. Types are not converted: TEI and TGI refuse "1" for 1, too."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _ignore_nulls(cls, value: Any) -> Any:
        return present(value)


class FormBody(Strict):
    """A body that may come as a form, too, whose values are texts and files."""


class Kept(Strict):
    """A part that is checked, and passed on as it was sent, for the model's chat template."""

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        found = handler(value)
        found._given = present(value)
        return found

    def given(self) -> dict[str, Any]:
        """The object as it was sent, without nulls."""
        return {
            name: _given(getattr(self, name, None), value) for name, value in self._given.items()
        }


def _given(checked: Any, value: Any) -> Any:
    if isinstance(checked, Kept):
        return checked.given()
    if isinstance(checked, list) and checked and isinstance(checked[0], Kept):
        return [one.given() for one in checked]
    return value


def read(request: Request, context: Context, kind: type[Body]) -> Body:
    """The request's body, checked; its field ``priority`` becomes the request's.

    Raises:
        MalformedRequest: not JSON, or a key occurs twice. ValidationError: a field is missing,
            wrong or not supported, or unknown, if unknown fields are refused.
    """
    as_form = issubclass(kind, FormBody) and is_form(request)
    given = read_form(request) if as_form else parse(request.raw)
    if type(given) is not dict:
        raise ValidationError("the body must be a JSON object")
    return checked(request, context, kind, given, as_form=as_form)


def checked(
    request: Request, context: Context, kind: type[Body], given: dict[str, Any], *, as_form: bool
) -> Body:
    """The fields of a body, checked. as_form: they are texts and bytes. Raises as ``read``."""
    try:
        body = kind.model_validate(given, strict=False if as_form else None)
    except pydantic.ValidationError as error:
        raise first_problem(error, given, kind) from None
    if isinstance(body, Strict):
        _report(request, context, list(unknown(body)))
    request.body_priority, request.parsed = getattr(body, "priority", None), body
    return body


def _report(request: Request, context: Context, names: list[str]) -> None:
    """Refuses unknown fields, or reports that they are ignored."""
    if not names:
        return
    if _are_refused(context.settings.unknown_fields, request.dialect):
        raise ValidationError.of(
            names[0],
            f"is unknown here; the fields of {request.route} are listed in /openapi.json",
            code="unknown_parameter",
        )
    request.unknown_fields += names[:_MAX_NAMED]
    logger.warning(
        "request %s: %s: unknown fields are not used: %s",
        request.request_id, request.path, ", ".join(map(repr, names[:_MAX_NAMED])),
    )  # fmt: skip


def _are_refused(setting: str, dialect: str) -> bool:
    return setting == "refuse" or (setting == "dialect" and dialect in _STRICT)


def batch(inputs: Inputs, field: str = "inputs") -> tuple[list[str] | list[list[int]], bool]:
    """``inputs`` as a list of texts or token ids, and whether there is a single one.

    Raises:
        EmptyInputError: no inputs, or an empty text or list of ids.
    """
    is_single = isinstance(inputs, str) or (bool(inputs) and isinstance(inputs[0], int))
    items: Any = [inputs] if is_single else inputs
    if not items or any(len(item) == 0 for item in items):
        raise EmptyInputError.of(field, "cannot be empty")
    return items, is_single
