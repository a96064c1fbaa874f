"""One request of the fuzzer, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class HttpShot:
    """port: the flag's name of the one that it is for, or "socket"."""

    port: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""


@dataclass(frozen=True)
class GrpcShot:
    """method: with its service. messages: serialized, or not even that."""

    port: str
    method: str
    messages: tuple[bytes, ...]
    is_stream: bool = False
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RawShot:
    """pieces: of bytes, sent one after the other. closes: whether the client says that it has sent
    everything, which ends a request that is not whole."""

    port: str
    pieces: tuple[bytes, ...]
    closes: bool = True


Shot = HttpShot | GrpcShot | RawShot


class Outcome(NamedTuple):
    """status: an HTTP status's class, a gRPC code's name, or another end. problem: what is wrong
    with it; "": it is an end that a request may have."""

    status: str
    problem: str = ""


def shown(shot: Any) -> str:
    """For a person."""
    text = repr(shot)
    return text if len(text) < 1500 else f"{text[:1000]} ... {text[-400:]} ({len(text)} characters)"
