"""The queries of the routes of stored responses, checked as bodies are."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.fields import no_effect, refused, unknown
from atoll_client.gateway.core.problems import first_problem
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.responses.kinds import OTHER_INCLUDES
from atoll_client.gateway.responses.schemas import Included

Q = TypeVar("Q", bound=BaseModel)


class NoQuery(BaseModel):
    """Of a route that reads none."""

    model_config = ConfigDict(extra="allow")


class _Query(NoQuery):
    include: list[Annotated[Included, OTHER_INCLUDES]] | None = no_effect(
        "what was included is stored"
    )


class StoredQuery(_Query):
    """GET /v1/responses/{response_id}."""

    include_obfuscation: str | None = no_effect("events are never padded")
    starting_after: Any = refused("events are not stored")
    stream: Any = refused("events are not stored", "false")


class PageQuery(_Query):
    """GET /v1/responses/{response_id}/input_items."""

    after: str | None = Field(None, description="The id of the item before the first")
    limit: int = Field(20, ge=1, le=100, description="The most items")
    order: Literal["asc", "desc"] = Field("desc", description="By time: the newest first, or last")


def read_query(request: Request, kind: type[Q]) -> Q:
    """The query of a request.

    Raises:
        ValidationError: a parameter is wrong or unknown.
    """
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        plain = name.removesuffix("[]")
        if plain == "include":
            found.setdefault(plain, []).append(value)
        else:
            found[plain] = value
    try:
        query = kind.model_validate(found)
    except pydantic.ValidationError as error:
        raise first_problem(error, found, kind) from None
    for name in unknown(query):
        raise ValidationError.of(name, "is unknown here", code="unknown_parameter")
    return query
