"""The responses of Ollama's routes: handlers build them, and OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from atoll_client.gateway.core.arrays import Vector, Vectors


class OllamaCalled(TypedDict):
    """A called function. ``index``: of the answer's calls."""

    index: int
    name: str
    arguments: dict[str, Any]


class OllamaToolCall(TypedDict):
    """A call of a tool."""

    id: str
    function: OllamaCalled


class OllamaReply(TypedDict):
    """A message of the model, or a part of one."""

    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[OllamaToolCall]]


class OllamaToken(TypedDict):
    """A token and its log-probability; ``bytes`` is its UTF-8."""

    token: str
    logprob: float | None
    bytes: list[int]


class OllamaLogprob(OllamaToken):
    """A token of the answer, with the most likely tokens at its position."""

    top_logprobs: NotRequired[list[OllamaToken]]


class Timed(TypedDict):
    """What the end of an answer says; durations are in nanoseconds.

    A whole answer has no ``prompt_eval_duration``: it is part of ``eval_duration``.
    """

    done_reason: NotRequired[Literal["stop", "length", "load"]]
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]


class OllamaLine(Timed):
    """A part of an answer, or the whole of it."""

    model: str
    created_at: str
    done: bool
    logprobs: NotRequired[list[OllamaLogprob]]


class OllamaChatLine(OllamaLine):
    """Of a chat."""

    message: OllamaReply


class OllamaTextLine(OllamaLine):
    """Of a text."""

    response: str
    thinking: NotRequired[str]


class OllamaDetails(TypedDict):
    """What a model is; "" for what is not known."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(TypedDict):
    """A served model. ``size`` is not known, and 0. ``digest``: of its name and revision."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(TypedDict):
    """All models."""

    models: list[OllamaModel]


class OllamaRunning(TypedDict):
    """A model in memory, which it never leaves."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int


class OllamaProcesses(TypedDict):
    """All models: each is in memory."""

    models: list[OllamaRunning]


class OllamaShown(TypedDict):
    """One model. ``template`` is Jinja."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(TypedDict):
    """The version of Ollama whose interface is followed."""

    version: str


class OllamaEmbeddings(TypedDict):
    """Normalized vectors, in the order of the inputs."""

    model: str
    embeddings: Vectors
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbedding(TypedDict):
    """One vector, as the model gives it."""

    embedding: Vector
