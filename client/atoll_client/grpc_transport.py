"""The gRPC transport, which is preferred."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from atoll_client.errors import Unreached, from_grpc
from atoll_client.grpc_calls import Calls
from atoll_client.grpc_channel import open_channel, unary
from atoll_client.kserve import Message
from atoll_client.transport import Metadata


class GrpcTransport:
    """Supports immediate cancellation, streaming, and requests of any size."""

    has_sequences = True
    notices_leaving = True

    def __init__(self, address: str, metadata: Metadata) -> None:
        self._address, self._metadata = address, metadata
        self._channel: grpc.aio.Channel | None = None
        self._calls: Calls | None = None

    async def close(self) -> None:
        """See ``Transport``."""
        if self._calls is not None:
            await self._calls.close()
            self._calls = None
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def model_names(self, timeout_s: float) -> list[str]:
        """See ``Transport``. Uses statistics, since the index is restricted to administrators."""
        request = pb.ModelStatisticsRequest()
        found = await self._unary("ModelStatistics", request, timeout_s)
        return sorted({one.name for one in found.model_stats})

    async def metadata(self, name: str, timeout_s: float) -> Any:
        """See ``Transport``."""
        request = pb.ModelMetadataRequest(name=name)
        return await self._unary("ModelMetadata", request, timeout_s)

    async def infer(self, message: Message, timeout_s: float) -> Message:
        """See ``Transport``."""
        return await self._begun().infer(message, timeout_s, self._metadata)

    async def share(self, name: str, size: int, timeout_s: float) -> None:
        """See ``Transport``."""
        request = pb.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", byte_size=size)
        await self._unary("SystemSharedMemoryRegister", request, timeout_s)

    async def unshare(self, name: str, timeout_s: float) -> None:
        """See ``Transport``."""
        request = pb.SystemSharedMemoryUnregisterRequest(name=name)
        await self._unary("SystemSharedMemoryUnregister", request, timeout_s)

    async def responses(
        self, message: Message, timeout_s: float, canceller: str = ""
    ) -> AsyncGenerator[Message, None]:
        """See ``Transport``."""
        responses = self._begun().responses(message, timeout_s, self._metadata, canceller)
        async with contextlib.aclosing(responses):
            async for response in responses:
                yield response

    async def _unary(self, name: str, message: Message, timeout_s: float) -> Any:
        call = unary(self._open(), name)
        try:
            return await call(message, timeout=timeout_s, metadata=self._metadata or None)
        except grpc.aio.AioRpcError as error:
            found = from_grpc(error.code(), error.details())
            if isinstance(found, Unreached):
                raise Unreached(_unreached(self._address, str(found))) from error
            raise found from error

    def _begun(self) -> Calls:
        if self._calls is None:
            self._calls = Calls(self._open())
        return self._calls

    def _open(self) -> grpc.aio.Channel:
        """Opens the channel at first use: it belongs to the event loop that is running then."""
        if self._channel is None:
            self._channel = open_channel(self._address)
        return self._channel


def _unreached(address: str, reason: str) -> str:
    """A message with the address as it was given, and the most likely mistake."""
    if "http1" in reason.lower():
        return f"{address} answers over HTTP and not gRPC: give it as http://{address}"
    return f"no server answers at {address}: {reason.rpartition(': ')[2]}"
