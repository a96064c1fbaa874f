"""The bodies and queries of OpenAI's routes for files and batches."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from atoll_client.gateway.core.schemas import FormBody, Metadata, Strict

Endpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations",
    "/v1/responses",
]  # fmt: skip


class Expiry(Strict):
    """When a file is deleted."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3_600, le=2_592_000, description="after the anchor")


class FileBody(FormBody):
    """POST /v1/files, a form: ``expires_after[anchor]`` and ``expires_after[seconds]`` are fields
    of their own there."""

    file: bytes
    purpose: Literal["batch"]
    expires_after: Expiry | None = None


class BatchBody(Strict):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Expiry | None = Field(
        None, description="of the files with answers and errors; their creation is the anchor"
    )


class BatchLine(Strict):
    """A line of a batch's file."""

    custom_id: str = Field(min_length=1, max_length=512)
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class _Page(BaseModel):
    model_config = ConfigDict(extra="allow")

    after: str | None = Field(None, description="The id before the first of the page")


class FilesQuery(_Page):
    """GET /v1/files."""

    limit: int = Field(10_000, ge=1, le=10_000, description="The most files")
    order: Literal["asc", "desc"] = Field("desc", description="By time: the newest first, or last")
    purpose: Literal["batch", "batch_output"] | None = Field(
        None, description="Only files of this purpose"
    )


class BatchesQuery(_Page):
    """GET /v1/batches."""

    limit: int = Field(20, ge=1, le=100, description="The most batches")
