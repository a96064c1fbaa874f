"""Queries and objects inside files, checked as bodies are: what is unknown is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.fields import unknown
from atoll_client.gateway.core.problems import first_problem
from atoll_client.gateway.core.web import Request

M = TypeVar("M", bound=BaseModel)


class NoQuery(BaseModel):
    """Of a route that reads none."""

    model_config = ConfigDict(extra="allow")


def read_query(request: Request, kind: type[M], lists: Collection[str] = ()) -> M:
    """The query of a request. lists: parameters that may be given several times (``name[]``, too).

    Raises:
        ValidationError: a parameter is wrong, unknown or repeated.
    """
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        plain = name.removesuffix("[]")
        if plain in lists:
            found.setdefault(plain, []).append(value)
        elif name in found:
            raise ValidationError.of(f"{name:.100}", "is given twice")
        else:
            found[name] = value
    return read_object(found, kind)


def read_object(given: Mapping[str, Any], kind: type[M]) -> M:
    """The model of an object.

    Raises:
        ValidationError: a field is wrong or unknown.
    """
    try:
        found = kind.model_validate(given)
    except pydantic.ValidationError as error:
        raise first_problem(error, given, kind) from None
    for name in unknown(found):
        raise ValidationError.of(name, "is unknown here", code="unknown_parameter")
    return found
