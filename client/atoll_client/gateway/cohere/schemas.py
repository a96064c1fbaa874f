"""Cohere's embeddings: the body and the response."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.core.arrays import Vectors
from atoll_client.gateway.core.embed_parts import ContentPart, ImageUri, Part, only_part
from atoll_client.gateway.core.fields import refused
from atoll_client.gateway.core.schemas import Priority, Strict
from atoll_client.gateway.openai.embeddings_schemas import NimCut

InputType = Literal["search_document", "search_query", "classification", "clustering", "image"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class CohereInput(Strict):
    """One input: a text or an image."""

    content: list[ContentPart]


class CohereEmbedBody(Strict):
    """POST /v2/embed. Images are those of models that take some, as data URIs."""

    texts: list[str] | None = Field(None, description="one of texts, images and inputs is required")
    images: list[str] | None = None
    inputs: list[CohereInput] | None = None
    model: str | None = None
    input_type: InputType | None = Field(
        None, description="selects the model's prompt of that use, if it has one"
    )
    embedding_types: list[EmbeddingType] = Field(["float"], min_length=1)
    output_dimension: int | None = None
    truncate: NimCut = "END"
    priority: Priority | None = None

    max_tokens: Any = refused("inputs are truncated to the model's limit")

    def parts(self) -> tuple[str, list[Part] | None]:
        """The field that holds the inputs, and these if they may be images.

        Raises:
            ValidationError: there are several such fields, or none.
        """
        given = [name for name in ("texts", "images", "inputs") if getattr(self, name) is not None]
        if not given:
            raise ValidationError(
                "`texts`: Field required", param="texts", code="missing_required_parameter"
            )
        if len(given) > 1:
            raise ValidationError.of(given[1], f"is given, and so is `{given[0]}`")
        if given == ["texts"]:
            return "texts", None
        parts: list[Part] = [ImageUri(uri) for uri in self.images or ()]
        parts += [only_part(one.content, f"inputs[{i}]") for i, one in enumerate(self.inputs or ())]
        if not parts:
            raise EmptyInputError(f"`{given[0]}` cannot be empty", param=given[0])
        return given[0], parts


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
    texts: NotRequired[list[str]]
    meta: dict[str, Any]
    response_type: Literal["embeddings_by_type"]
