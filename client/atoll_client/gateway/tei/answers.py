"""The responses of TEI's routes: handlers build them, and OpenAPI shows them."""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict


class SparseEntry(TypedDict):
    """A token of the vocabulary and its weight."""

    index: int
    value: float


class Prediction(TypedDict):
    """A label and its score."""

    score: float
    label: str


class Entity(TypedDict):
    """A part of a text with a label, as in transformers' pipeline.

    start and end count characters (code points). entity and index are of a token; entity_group is
    of tokens that were aggregated.
    """

    entity: NotRequired[str]
    entity_group: NotRequired[str]
    score: float
    index: NotRequired[int]
    word: str
    start: int
    end: int


class RankedText(TypedDict):
    """A text's index in the request and its score, with the text on request."""

    index: int
    score: float
    text: NotRequired[str]


class TokenPlace(TypedDict):
    """A token and its byte offsets in the text; null for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Predictions(TypedDict):
    """Vertex AI's response: for each instance, what TEI or TGI would respond."""

    predictions: list[Any]


class _ModelFacts(TypedDict):
    model_id: str
    model_sha: str | None
    model_dtype: str | None
    served_model_name: str
    max_concurrent_requests: int | None
    max_client_batch_size: int
    version: str | None
    sha: None
    docker_label: None


class Info(_ModelFacts, total=False):
    """A model and its limits: an encoder's are TEI's fields, a generator's TGI's.

    If no model is named, the first one of each kind, and the names of all as ``models``.
    """

    model_type: dict[str, Any]
    max_input_length: int
    max_batch_tokens: int | None
    max_batch_requests: int | None
    auto_truncate: bool | None
    tokenization_workers: int | None

    model_pipeline_tag: str
    max_best_of: int | None
    max_stop_sequences: int | None
    max_input_tokens: int
    max_total_tokens: int | None
    validation_workers: int
    router: str

    models: list[str]
