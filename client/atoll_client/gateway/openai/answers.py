"""The responses of OpenAI's and the rerank routes: handlers build them, and OpenAPI shows them.

TypedDicts rather than pydantic models: a list of 1,000 results takes a ninth of the time.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from atoll_client.gateway.core.arrays import Vector
from atoll_client.gateway.core.error_formats import OpenAIProblem


class Usage(TypedDict):
    """Tokens of the inputs of a request without generation."""

    prompt_tokens: int
    total_tokens: int


class PromptTokensDetails(TypedDict):
    """Tokens of the prompt that were found in the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """Tokens of chats that are reasoning, with its tags; and tokens of the prediction that were
    tried: those that the answers have, and the others."""

    reasoning_tokens: NotRequired[int]
    accepted_prediction_tokens: NotRequired[int]
    rejected_prediction_tokens: NotRequired[int]


class RunningUsage(Usage):
    """Tokens of a prompt and of one answer, as far as it is written."""

    completion_tokens: int


class CompletionUsage(RunningUsage):
    """Tokens of the prompts and of all their completions."""

    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: NotRequired[CompletionTokensDetails]


class StreamProblem(OpenAIProblem):
    """The error that ends a stream. TGI's clients expect the status inside."""

    http_status_code: int


class StreamError(TypedDict):
    """The last event of a stream that failed."""

    error: StreamProblem


class ModelCard(TypedDict):
    """A model, or an adapter of one."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    task: str
    max_model_len: int | None


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[ModelCard]


class Embedding(TypedDict):
    """A vector, or its base64: float32, little-endian."""

    object: Literal["embedding"]
    index: int
    embedding: Vector | str


class EmbeddingList(TypedDict):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Relevance(TypedDict):
    """A document's index in the request and its score, with the document on request."""

    index: int
    relevance_score: float
    document: NotRequired[dict[str, Any]]


class Reranked(TypedDict):
    """Documents by relevance, best first."""

    id: str
    model: str
    results: list[Relevance]
    usage: Usage
    meta: dict[str, Any]


class Ranking(TypedDict):
    """A passage's index in the request and its logit."""

    index: int
    logit: float


class Rankings(TypedDict):
    """Passages by logit, best first."""

    rankings: list[Ranking]
    usage: Usage


class PairScore(TypedDict):
    """The score of one pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreList(TypedDict):
    """Scores in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[PairScore]
    usage: Usage


class Identity(TypedDict):
    """Fields that all completions, and all chunks of one, have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class CompletionLogprobs(TypedDict):
    """Log-probabilities of a text's tokens, a list element each."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One text, or a chunk of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(Identity):
    """Texts, or chunks of them."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: NotRequired[CompletionUsage | RunningUsage | None]


class FunctionCall(TypedDict):
    """A called function; ``arguments`` is JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A tool call."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class FunctionDelta(TypedDict):
    """The name, and then pieces of the arguments, of a called function."""

    name: NotRequired[str]
    arguments: str


class ToolCallDelta(TypedDict):
    """A piece of the tool call number ``index``; ``id`` and ``type`` are in its first one."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class TopLogprob(TypedDict):
    """A token and its log-probability; ``bytes`` is its UTF-8."""

    token: str
    logprob: float | None
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer, with the most likely tokens at its position."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log-probabilities of a message's tokens."""

    content: list[TokenLogprob]
    refusal: None


class ChatMessage(TypedDict):
    """A message of the model. The reasoning has two names, of which clients read one."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One answer to a conversation."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(Identity):
    """Answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: CompletionUsage


class MessageDelta(TypedDict):
    """What a chunk adds to a message."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    reasoning_content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallDelta]]


class Piece(TypedDict):
    """What a chunk adds to an answer."""

    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatDelta(Piece):
    """What a chunk adds to the answer number ``index``."""

    index: int


class ChatCompletionChunk(Identity):
    """An event of a streamed answer; the event after the last one is ``[DONE]``."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatDelta]
    usage: NotRequired[CompletionUsage | RunningUsage | None]


def input_usage(num_tokens: int) -> Usage:
    """The usage of a request that generates nothing."""
    return {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
