"""What TEI's routes are sent: each class is the table of a body's fields, see ``fields``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atoll_client.gateway.core.encoders import Parameters, truncation
from atoll_client.gateway.core.fields import NoEffect, Refused
from atoll_client.gateway.core.schemas import Inputs, Strict

Direction = Literal["Right", "Left", "right", "left"]

_AS_TRAINED = "a model pools as it was trained to; the setting pooling changes it"
_POOLING = Refused(_AS_TRAINED)
_LENGTH = Refused("truncate cuts to what the model takes; its setting max_input_tokens is less")
_SPECIAL = Refused("inputs have special tokens; token ids are taken as they are", (True,))
_TASK = Refused("prompts are named by prompt_name")
_PARAMETERS = Refused("options stand beside inputs", ({},))
_NO_PROMPT = Refused("a reranker's query has no prompt of its own")
_OPTIONS = NoEffect("nothing is cached, and nothing is waited for")


class Cut(Strict):
    """What every body of texts may say of long ones."""

    truncate: bool | None = None
    truncation_direction: Direction | None = None

    max_length: Annotated[Any, _LENGTH] = None
    truncate_prompt_tokens: Annotated[Any, _LENGTH] = None
    truncation: Annotated[Any, Refused("it is called truncate here")] = None
    truncation_side: Annotated[Any, Refused("it is called truncation_direction here")] = None

    def cut(self) -> Parameters:
        """How inputs are cut, and which prompt they get."""
        name = getattr(self, "prompt_name", None)
        return truncation(self.truncate, self.truncation_direction, name)


class VectorsBody(Cut):
    """Fields of all routes that give vectors."""

    inputs: Inputs
    model: str | None = None
    prompt_name: str | None = None

    add_special_tokens: Annotated[Any, _SPECIAL] = None
    input_type: Annotated[Any, _TASK] = None
    instruction: Annotated[Any, _TASK] = None
    options: Annotated[dict[str, Any] | None, _OPTIONS] = None
    parameters: Annotated[Any, _PARAMETERS] = None
    pooling: Annotated[Any, _POOLING] = None
    prompt: Annotated[Any, _TASK] = None
    task: Annotated[Any, _TASK] = None
    user: Annotated[str | None, NoEffect("users are not told apart")] = None


class EmbedBody(VectorsBody):
    """POST /embed; ``dimensions`` keeps the first values of each vector."""

    normalize: bool = True
    dimensions: int | None = None

    encoding_format: Annotated[Any, Refused("/v1/embeddings has base64", ("float",))] = None
    precision: Annotated[Any, Refused("vectors are float32", ("float32",))] = None


class EmbedAllBody(VectorsBody):
    """POST /embed_all."""

    normalize: Annotated[Any, Refused("vectors of tokens are as the model has them", (False,))] = (
        None
    )
    dimensions: Annotated[Any, Refused("vectors of tokens are not cut")] = None
    encoding_format: Annotated[Any, Refused("vectors are lists of numbers", ("float",))] = None


class EmbedSparseBody(VectorsBody):
    """POST /embed_sparse."""

    normalize: Annotated[Any, Refused("sparse vectors are as the model has them", (False,))] = None
    dimensions: Annotated[Any, Refused("sparse vectors are not cut")] = None
    encoding_format: Annotated[Any, Refused("vectors are lists of entries", ("float",))] = None
    max_active_dims: Annotated[Any, Refused("sparse vectors are not cut")] = None


class PredictBody(Cut):
    """POST /predict: a text, one pair, or a list of lists of one or two texts."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False
    model: str | None = None
    prompt_name: str | None = None

    function_to_apply: Annotated[Any, Refused("POST / has it, below parameters")] = None
    options: Annotated[dict[str, Any] | None, _OPTIONS] = None
    parameters: Annotated[Any, Refused("POST / has function_to_apply and top_k", ({},))] = None
    top_k: Annotated[Any, Refused("POST / has it, below parameters")] = None
    return_all_scores: Annotated[Any, Refused("all scores are returned", (True,))] = None


class RerankBody(Cut):
    """POST /rerank."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    model: str | None = None

    instruction: Annotated[Any, _NO_PROMPT] = None
    parameters: Annotated[Any, Refused("options stand beside texts", ({},))] = None
    prompt_name: Annotated[Any, _NO_PROMPT] = None
    return_documents: Annotated[Any, Refused("it is called return_text here", (False,))] = None
    top_k: Annotated[Any, Refused("all texts are returned; Cohere's body has top_n")] = None
    top_n: Annotated[Any, Refused("all texts are returned; Cohere's body has it")] = None


class SimilarityInputs(Strict):
    """One sentence and those it is compared with."""

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

    options: Annotated[dict[str, Any] | None, _OPTIONS] = None
    truncate: Annotated[Any, Refused("it stands in parameters")] = None
    truncation_direction: Annotated[Any, Refused("it stands in parameters")] = None
    prompt_name: Annotated[Any, Refused("it stands in parameters")] = None


class TokenizeBody(Strict):
    """POST /tokenize."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None

    truncate: Annotated[Any, Refused("all tokens are returned", (False,))] = None
    return_token_strs: Annotated[bool | None, NoEffect("tokens have their text")] = None


class DecodeBody(Strict):
    """POST /decode."""

    ids: list[int] | list[list[int]]
    skip_special_tokens: bool = True
    model: str | None = None

    clean_up_tokenization_spaces: Annotated[
        Any, Refused("texts are as the tokenizer decodes them")
    ] = None
