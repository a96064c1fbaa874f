"""The bodies of TEI's routes. ``core.fields`` explains how fields are declared."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from atoll_client.gateway.core.encoders import Direction, Parameters, truncation
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Inputs, Strict

_LENGTH = "truncate cuts to the model's limit; the setting max_input_tokens lowers it"
_TASK = "prompts are selected by prompt_name"
_NO_PROMPT = "a reranker's query has no separate prompt"
_OPTIONS = "answers are not cached, and models are already loaded"


class Cut(Strict):
    """How long inputs are truncated."""

    truncate: bool | None = None
    truncation_direction: Direction | None = None

    max_length: Any = refused(_LENGTH)
    truncate_prompt_tokens: Any = refused(_LENGTH)
    truncation: Any = refused("it is called truncate here")
    truncation_side: Any = refused("it is called truncation_direction here")

    def cut(self) -> Parameters:
        """The models' parameters of truncation and of the prompt."""
        name = getattr(self, "prompt_name", None)
        return truncation(self.truncate, self.truncation_direction, name)


class VectorsBody(Cut):
    """Fields of all routes that return vectors."""

    inputs: Inputs
    model: str | None = None
    prompt_name: str | None = None

    add_special_tokens: Any = refused(
        "special tokens are added to texts, but not to token ids", True
    )
    input_type: Any = refused(_TASK)
    instruction: Any = refused(_TASK)
    options: dict[str, Any] | None = no_effect(_OPTIONS)
    parameters: Any = refused("options are fields next to inputs", {})
    pooling: Any = refused(
        "a model uses the pooling it was trained with; the setting pooling changes it"
    )
    prompt: Any = refused(_TASK)
    task: Any = refused(_TASK)
    user: str | None = no_effect("requests of all users are treated alike")


class EmbedBody(VectorsBody):
    """POST /embed; ``dimensions`` keeps the first values of each vector."""

    normalize: bool = True
    dimensions: int | None = None

    encoding_format: Any = refused("/v1/embeddings has base64", "float")
    precision: Any = refused("vectors are float32", "float32")


class EmbedAllBody(VectorsBody):
    """POST /embed_all."""

    normalize: Any = refused("vectors of tokens are returned as the model computes them", False)
    dimensions: Any = refused("vectors of tokens are not shortened")
    encoding_format: Any = refused("vectors are lists of numbers", "float")


class EmbedSparseBody(VectorsBody):
    """POST /embed_sparse."""

    normalize: Any = refused("sparse vectors are returned as the model computes them", False)
    dimensions: Any = refused("sparse vectors are not shortened")
    encoding_format: Any = refused("vectors are lists of entries", "float")
    max_active_dims: Any = refused("sparse vectors are not shortened")


class EntityOptions(Strict):
    """What a token classifier reads besides texts."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = None
    ignore_labels: list[str] | None = None

    stride: Any = refused("a text that is too long is cut, or refused: send it in parts")

    @property
    def entity_fields(self) -> tuple[str, ...]:
        """The fields of token classifiers that have a value."""
        return tuple(name for name in EntityOptions.model_fields if getattr(self, name) is not None)


class PredictBody(Cut, EntityOptions):
    """POST /predict: a text, one pair, or a list of lists of one or two texts."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False
    model: str | None = None
    prompt_name: str | None = None

    function_to_apply: Any = refused("POST / has it, in parameters")
    options: dict[str, Any] | None = no_effect(_OPTIONS)
    parameters: Any = refused("POST / has function_to_apply and top_k", {})
    top_k: Any = refused("POST / has it, in parameters")
    return_all_scores: Any = refused("all scores are returned", True)


class RerankBody(Cut):
    """POST /rerank."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    model: str | None = None
    instruction: str | None = None

    parameters: Any = refused("options are fields next to texts", {})
    prompt_name: Any = refused(_NO_PROMPT)
    return_documents: Any = refused("it is called return_text here", False)
    top_k: Any = refused("all texts are returned; Cohere's body has top_n")
    top_n: Any = refused("all texts are returned; Cohere's body has it")

    def cut(self) -> Parameters:
        """The models' parameters of truncation and of the instruction."""
        return {**super().cut(), "instruction": self.instruction}


class SimilarityInputs(Strict):
    """A sentence and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Cut):
    """``parameters`` of POST /similarity."""

    prompt_name: str | None = None


class SimilarityBody(Strict):
    """POST /similarity."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters = Field(default_factory=SimilarityParameters)
    model: str | None = None

    options: dict[str, Any] | None = no_effect(_OPTIONS)
    truncate: Any = refused("it belongs in parameters")
    truncation_direction: Any = refused("it belongs in parameters")
    prompt_name: Any = refused("it belongs in parameters")


class TokenizeBody(Strict):
    """POST /tokenize."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None

    truncate: Any = refused("all tokens are returned", False)
    return_token_strs: bool | None = no_effect("tokens include their text")


class DecodeBody(Strict):
    """POST /decode."""

    ids: list[int] | list[list[int]]
    skip_special_tokens: bool = True
    model: str | None = None

    clean_up_tokenization_spaces: Any = refused("texts are returned as the tokenizer decodes them")
