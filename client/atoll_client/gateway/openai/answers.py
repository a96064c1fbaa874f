"""What OpenAI's routes and their relatives answer: for the gateway's description of itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class Usage(BaseModel):
    """Tokens of a request and of its answers."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: dict[str, Any] | None = None


class OpenAIProblem(BaseModel):
    """What is wrong, in which field, and OpenAI's word for it."""

    message: str
    type: str
    param: str | None
    code: str | int | None


class OpenAIError(BaseModel):
    """An answer that is none."""

    error: OpenAIProblem


class ModelCard(BaseModel):
    """A model, or an adapter of one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    task: str
    max_model_len: int | None


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"]
    data: list[ModelCard]


class Embedding(BaseModel):
    """A vector, or the base64 of its little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Relevance(BaseModel):
    """A document's place in the request and its score; the document, if it was asked for."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class Reranked(BaseModel):
    """Documents by relevance, the best first."""

    id: str
    model: str
    results: list[Relevance]
    usage: Usage
    meta: dict[str, Any]


class Ranking(BaseModel):
    """A passage's place in the request and its logit."""

    index: int
    logit: float


class Rankings(BaseModel):
    """Passages by logit, the best first."""

    rankings: list[Ranking]
    usage: Usage


class PairScore(BaseModel):
    """The score of one pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreList(BaseModel):
    """Scores in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PairScore]
    usage: Usage


class _Answer(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = None


class CompletionChoice(BaseModel):
    """One text."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class Completion(_Answer):
    """Texts, or a piece of one."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class FunctionCall(BaseModel):
    """``arguments``: JSON in a text."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(BaseModel):
    """A call, or a piece of one, whose ``index`` says of which."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCall
    index: int | None = None


class ChatMessage(BaseModel):
    """What a model said, or a piece of it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class ChatCompletion(_Answer):
    """Answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class ChatDelta(BaseModel):
    """What one answer has gained."""

    index: int
    delta: ChatMessage
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(_Answer):
    """An event of a streamed answer; after the last one comes ``[DONE]``."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatDelta]
