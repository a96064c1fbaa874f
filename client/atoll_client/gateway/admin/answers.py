"""What the admin routes answer."""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict


class AdminModel(TypedDict):
    """A model of the server, loaded or not. Bytes and processes are those of the server's machine.

    idle_s: since its last request; running, waiting: its requests, as far as it counts them.
    """

    name: str
    kind: str
    versions: list[str]
    checkpoint: str | None
    state: str
    reason: NotRequired[str]
    processes: list[int]
    memory_bytes: int
    running: NotRequired[int]
    waiting: NotRequired[int]
    idle_s: NotRequired[float]
    uptime_s: NotRequired[float]
    device: NotRequired[str]
    dtype: NotRequired[str]
    num_shard: NotRequired[int]
    adapters: NotRequired[list[str]]
    max_total_tokens: NotRequired[int]
    max_input_tokens: NotRequired[int]


class AdminReport(TypedDict):
    """A server and its models."""

    server: dict[str, Any]
    models: list[AdminModel]


class AdminDone(TypedDict):
    """Names of the models that have been loaded, unloaded or replaced."""

    models: list[str]


class AdminEvent(TypedDict, total=False):
    """A line: a phase and what belongs to it; at the end ``models``, or ``error``."""

    phase: str
    model: str
    step: str
    bytes: int
    total_bytes: int
    memory_bytes: int
    within_seconds: float
    seconds: float
    models: list[str]
    error: str
    error_type: str
