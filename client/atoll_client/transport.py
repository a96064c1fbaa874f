"""What a client needs of a connection, whatever carries it.

Messages are the server's protobuf ones over gRPC and over HTTP alike.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from atoll_client.kserve import Message

Metadata = tuple[tuple[str, str], ...]


class Transport(Protocol):
    """What a client needs of a connection. Errors are those of ``errors``.

    ``timeout_s`` is a request's deadline: DeadlineExceeded, and the server stops its work.
    has_sequences: whether ``responses`` can carry correlation ids. notices_leaving: whether the
    server stops an answer that comes in one piece when the client leaves.
    """

    has_sequences: bool
    notices_leaving: bool

    async def model_names(self, timeout_s: float) -> list[str]:
        """Every model that is loaded."""

    async def metadata(self, name: str, timeout_s: float) -> Any:
        """A model's tensors: ``inputs`` and ``outputs`` with name and shape."""

    async def infer(self, message: Message, timeout_s: float) -> Message:
        """The one response of a model that gives one."""

    def responses(
        self, message: Message, timeout_s: float, canceller: str = ""
    ) -> AsyncGenerator[Message, None]:
        """The responses of a decoupled model; closing the generator cancels the work.

        canceller: the model that can cancel it, if another than the one that is asked.
        """

    async def share(self, name: str, size: int, timeout_s: float) -> None:
        """Tells the server of POSIX shared memory under ``/name``, of ``size`` bytes."""

    async def unshare(self, name: str, timeout_s: float) -> None:
        """Makes the server forget it."""

    async def close(self) -> None:
        """Ends the connection."""
