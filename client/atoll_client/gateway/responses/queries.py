"""The queries of the routes of stored responses, checked as bodies are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.queries import NoQuery
from atoll_client.gateway.responses.kinds import OTHER_INCLUDES
from atoll_client.gateway.responses.schemas import Included


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
