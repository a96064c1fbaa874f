"""The bodies of KServe's inference routes, for OpenAPI: handlers read them by themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from atoll_client.gateway.kserve.answers import Elements


class InferInput(BaseModel):
    """A tensor. Its data is here, or follows the JSON (parameter ``binary_data_size``)."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[int]
    datatype: str
    data: Elements | None = None
    parameters: dict[str, Any] = {}


class InferOutput(BaseModel):
    """A requested output; parameters ``binary_data``, ``classification``."""

    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """The model's inputs by name. All outputs are returned if none is named."""

    model_config = ConfigDict(extra="forbid")

    id: str = ""
    parameters: dict[str, bool | int | float | str] = {}
    inputs: list[InferInput]
    outputs: list[InferOutput] = []


class GenerateRequest(BaseModel):
    """Fields named like the model's inputs are tensors, all others are request parameters.

    The fields of ``parameters`` are read like those next to it.
    """

    model_config = ConfigDict(extra="allow")

    id: str = ""
    parameters: dict[str, Any] = {}
