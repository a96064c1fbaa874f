"""The interface of the gRPC and HTTP transports; both use the server's protobuf messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from atoll_client.kserve import Message

Metadata = tuple[tuple[str, str], ...]


class Transport(Protocol):
    """A connection to a server. All errors are those of ``errors``.

    After ``timeout_s``, a request raises DeadlineExceeded, and the server stops working on it.
    has_sequences: whether requests can have correlation ids. notices_leaving: whether the server
    stops working on an answer that is not streamed when the client disconnects.
    """

    has_sequences: bool
    notices_leaving: bool

    async def model_names(self, timeout_s: float) -> list[str]:
        """Names of all loaded models."""

    async def metadata(self, name: str, timeout_s: float) -> Any:
        """A model's tensors: ``inputs`` and ``outputs`` with name and shape."""

    async def infer(self, message: Message, timeout_s: float) -> Message:
        """The response of a model that gives exactly one."""

    def responses(
        self, message: Message, timeout_s: float, canceller: str = ""
    ) -> AsyncGenerator[Message, None]:
        """The responses of a decoupled model; closing the generator cancels the work.

        canceller: the model that can cancel the request, if it is a different one.
        """

    async def share(self, name: str, size: int, timeout_s: float) -> None:
        """Registers POSIX shared memory ``/name`` of ``size`` bytes with the server."""

    async def unshare(self, name: str, timeout_s: float) -> None:
        """Unregisters it."""

    async def close(self) -> None:
        """Ends the connection."""
