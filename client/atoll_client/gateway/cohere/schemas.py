"""Cohere's embeddings: the body and the response."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from atoll_client.gateway.core.arrays import Vectors
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Strict
from atoll_client.gateway.openai.embeddings_schemas import NimCut

InputType = Literal["search_document", "search_query", "classification", "clustering"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

_TEXTS = "inputs are texts: see texts"


class CohereEmbedBody(Strict):
    """POST /v2/embed."""

    texts: list[str]
    model: str | None = None
    input_type: InputType | None = Field(
        None, description="selects the model's prompt of that use, if it has one"
    )
    embedding_types: list[EmbeddingType] = Field(["float"], min_length=1)
    output_dimension: int | None = None
    truncate: NimCut = "END"

    images: Any = refused(_TEXTS)
    inputs: Any = refused(
        "texts are a list in texts; contents of several parts, with images, are not embedded"
    )
    max_tokens: Any = refused("inputs are truncated to the model's limit")
    priority: int | None = no_effect("all requests wait in the same queue")


class EmbeddingsByType(TypedDict):
    """Vectors in the order of the texts, in each of the requested types."""

    float: NotRequired[Vectors]
    int8: NotRequired[list[list[int]]]
    uint8: NotRequired[list[list[int]]]
    binary: NotRequired[list[list[int]]]
    ubinary: NotRequired[list[list[int]]]
    base64: NotRequired[list[str]]


class CohereEmbeddings(TypedDict):
    """Vectors of all texts in each of the requested types; meta: tokens, and warnings if any."""

    id: str
    embeddings: EmbeddingsByType
    texts: list[str]
    meta: dict[str, Any]
    response_type: Literal["embeddings_by_type"]
