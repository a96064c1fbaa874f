"""Channels to a server, and the methods of its inference service by name."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

_SERVICE = "/inference.GRPCInferenceService/"
# No limit: messages are as large as their tensors.
_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def open_channel(address: str, *options: tuple[str, int]) -> grpc.aio.Channel:
    """A connection, which belongs to the running event loop."""
    return grpc.aio.insecure_channel(address, options=(*_OPTIONS, *options))


def unary(channel: grpc.aio.Channel, name: str) -> Any:
    """A method with one request and one response."""
    return channel.unary_unary(_SERVICE + name, **_coders(name, name))


def stream(channel: grpc.aio.Channel, name: str, request: str) -> Any:
    """A method that streams in both directions. request: the method with the same requests."""
    return channel.stream_stream(_SERVICE + name, **_coders(request, name))


def _coders(request: str, response: str) -> dict[str, Any]:
    return {
        "request_serializer": getattr(pb, f"{request}Request").SerializeToString,
        "response_deserializer": getattr(pb, f"{response}Response").FromString,
    }
