"""The responses of KServe's routes, for OpenAPI and for the handlers that build them.

Triton's own descriptions are converted from protocol buffers, which may have more fields.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import NotRequired, TypedDict

# Numbers, strings or booleans, flat or nested according to the shape.
Elements = list[Any]
_with_more_fields = with_config(ConfigDict(extra="allow"))


class ServerDescription(TypedDict):
    """A server and the extensions of the protocol that it supports."""

    name: str
    version: str
    extensions: list[str]


class TensorDescription(TypedDict):
    """An input or output of a model; a dimension of -1 has any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelDescription(TypedDict):
    """A model's versions and tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


@_with_more_fields
class ModelConfig(TypedDict):
    """A model's completed config.pbtxt, with the field names of Triton's protocol buffers."""

    name: str
    backend: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]


class Duration(TypedDict):
    """How often something happened, and the total time in nanoseconds."""

    count: int
    ns: int


@_with_more_fields
class ModelStatistics(TypedDict):
    """Counts and durations of one version of a model."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, Duration]
    batch_stats: list[dict[str, int | Duration]]


class Statistics(TypedDict):
    """Statistics of one model or of all models."""

    model_stats: list[ModelStatistics]


class LoadedModel(TypedDict):
    """A model in the repository."""

    name: str
    version: str
    state: str


class InferredOutput(TypedDict):
    """A tensor. Without ``data``, its bytes follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: NotRequired[Elements]
    parameters: NotRequired[dict[str, Any]]


class ResponseIdentity(TypedDict):
    """The model, and the id of the request if it has one."""

    id: NotRequired[str]
    model_name: str
    model_version: str


class InferResponse(ResponseIdentity):
    """The outputs of a model."""

    outputs: list[InferredOutput]
    parameters: NotRequired[dict[str, Any]]


@_with_more_fields
class GenerateResponse(ResponseIdentity):
    """The outputs by name; one of a single element is a plain value."""
