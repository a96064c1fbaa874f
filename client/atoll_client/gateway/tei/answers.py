"""What TEI's and TGI's routes answer: for the gateway's description of itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Vectors = list[list[float]]
TokenVectors = list[list[list[float]]]


class TeiError(BaseModel):
    """An answer that is none; TGI's errors have the same members."""

    error: str
    error_type: str


class SparseEntry(BaseModel):
    """A word of the vocabulary and its weight."""

    index: int
    value: float


class Prediction(BaseModel):
    """A label and its score."""

    label: str
    score: float


class RankedText(BaseModel):
    """A text's place in the request and its score; the text, if it was asked for."""

    index: int
    score: float
    text: str | None = None


class TokenPlace(BaseModel):
    """A token and its place in the text in bytes; null for one that is not in it."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class SimpleToken(BaseModel):
    """A token and its place in the text in characters, as TGI has it."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokens(BaseModel):
    """The prompt that a chat becomes, and its tokens."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class GeneratedToken(BaseModel):
    """A token of an answer."""

    id: int
    text: str
    logprob: float
    special: bool


class Details(BaseModel):
    """How an answer ended, and its tokens, if they were asked for."""

    finish_reason: str
    generated_tokens: int
    seed: int | None = None
    input_length: int | None = None
    prefill: list[dict[str, Any]] | None = None
    tokens: list[GeneratedToken] | None = None
    top_tokens: list[list[GeneratedToken]] | None = None
    best_of_sequences: list[dict[str, Any]] | None = None


class Generated(BaseModel):
    """A whole answer."""

    generated_text: str
    details: Details | None = None


class GeneratedEvent(BaseModel):
    """An event for each token; the last one has the text and how it ended."""

    index: int
    token: GeneratedToken
    generated_text: str | None
    details: Details | None
    top_tokens: list[GeneratedToken] | None = None


class Predictions(BaseModel):
    """Vertex AI's answer: one of TEI's or TGI's for each instance."""

    predictions: list[Any]


class Info(BaseModel):
    """A model and its limits; a generator's has TGI's members, another's TEI's."""

    model_id: str
    model_dtype: str | None
    served_model_name: str
    max_client_batch_size: int
    max_concurrent_requests: int | None
    version: str | None
    model_type: dict[str, Any] | None = None
    max_input_length: int | None = None
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    models: list[str] | None = None
