"""What KServe's routes take and answer: for the gateway's description of itself.

A model's own tensors, and the members of ``/generate``, are whatever its config declares.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

# Numbers, texts or truth values, flat or nested as the shape says.
Elements = list[Any]


class KServeError(BaseModel):
    """An answer that is none."""

    error: str


class ServerDescription(BaseModel):
    """A server and which extensions of the protocol it has."""

    name: str
    version: str
    extensions: list[str]


class TensorDescription(BaseModel):
    """A tensor that a model takes or gives; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelDescription(BaseModel):
    """A model's versions and tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


class ModelConfig(BaseModel):
    """A model's config.pbtxt, completed, as Triton's protocol buffers name its fields."""

    model_config = ConfigDict(extra="allow")

    name: str
    backend: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]


class Duration(BaseModel):
    """How often something happened, and the nanoseconds of all together."""

    count: int
    ns: int


class ModelStatistics(BaseModel):
    """Counts and durations of one version of a model."""

    model_config = ConfigDict(extra="allow")

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, Duration]
    batch_stats: list[dict[str, int | Duration]]


class Statistics(BaseModel):
    """Of one model or of all."""

    model_stats: list[ModelStatistics]


class LoadedModel(BaseModel):
    """A model in the repository."""

    name: str
    version: str
    state: str


class InferInput(BaseModel):
    """A tensor; its data are here, or behind the JSON (parameter ``binary_data_size``)."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[int]
    datatype: str
    data: Elements | None = None
    parameters: dict[str, Any] = {}


class InferOutput(BaseModel):
    """An output that is wanted; parameters ``binary_data``, ``classification``."""

    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """Tensors, by the names of the model's inputs; all outputs if none is named."""

    model_config = ConfigDict(extra="forbid")

    id: str = ""
    parameters: dict[str, bool | int | float | str] = {}
    inputs: list[InferInput]
    outputs: list[InferOutput] = []


class InferredOutput(BaseModel):
    """A tensor; without data if they follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: Elements | None = None
    parameters: dict[str, Any] | None = None


class InferResponse(BaseModel):
    """The outputs; ``id`` is the request's, if it had one."""

    id: str | None = None
    model_name: str
    model_version: str
    outputs: list[InferredOutput]
    parameters: dict[str, Any] | None = None


class GenerateRequest(BaseModel):
    """Members named as the model's inputs are tensors, all others request parameters.

    Those in ``parameters`` are taken as if they stood beside it.
    """

    model_config = ConfigDict(extra="allow")

    id: str = ""
    parameters: dict[str, Any] = {}


class GenerateResponse(BaseModel):
    """An output each, one of a single element as a plain value."""

    model_config = ConfigDict(extra="allow")

    id: str | None = None
    model_name: str
    model_version: str


class GenerateEvent(BaseModel):
    """The data of an event: a response, or the error that ends the stream."""

    model_config = ConfigDict(extra="allow")

    model_name: str | None = None
    model_version: str | None = None
    error: str | None = None
