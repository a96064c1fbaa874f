"""``inference.GRPCInferenceService``: KServe over gRPC, on the same port as TEI's services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from atoll_client.errors import AtollError, GenerationError, NotOffered, TooLarge, UnsupportedModel
from atoll_client.gateway.core.client_limits import RateLimited
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.grpc_calls import answered, code_of, read_message
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.kserve.parameters import EMPTY_FINAL, check_version
from atoll_client.gateway.kserve.stream import MessageStream, remaining_s
from atoll_client.kserve import Message

SERVICE = "inference.GRPCInferenceService"
_CLOSED = (
    "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
)  # fmt: skip
Method = Callable[[Request, Message], Awaitable[Message]]


def kserve_code(error: AtollError) -> grpc.StatusCode:
    """The status that Triton would return."""
    if isinstance(error, (NotOffered, UnsupportedModel)):
        return grpc.StatusCode.UNIMPLEMENTED
    if isinstance(error, (TooLarge, RateLimited)):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, GenerationError):
        return grpc.StatusCode.INTERNAL
    if error.error_type == "overloaded":
        return grpc.StatusCode.UNAVAILABLE
    return code_of(error)


class InferenceService:
    """The service's methods, as a ``handler`` for a gRPC server."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._upstream = context.upstream

    def handler(self) -> Any:
        """All methods. Closed ones are refused by name."""
        upstream = self._upstream
        methods: dict[str, Method] = {
            "ServerMetadata": lambda *_: upstream.server_metadata(),
            "ModelReady": self._model_ready,
            "ModelMetadata": lambda _, m: upstream.inquire("ModelMetadata", m.name, m.version),
            "ModelConfig": lambda _, m: upstream.inquire("ModelConfig", m.name, m.version),
            "ModelStatistics": lambda _, m: upstream.statistics(m.name, m.version),
            "RepositoryIndex": self._index,
            "ModelInfer": self._infer,
        }
        table = {name: self._unary(name, method) for name, method in methods.items()}
        table |= {name: self._unary(name, _closed(name)) for name in _CLOSED}
        for name, answer in (("ServerLive", self._live), ("ServerReady", self._ready)):
            table[name] = grpc.unary_unary_rpc_method_handler(answer)
        table["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, None, pb.ModelStreamInferResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, table)

    def _unary(self, name: str, method: Method) -> Any:
        kind, answer_kind = getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")
        version = "model_version" if name == "ModelInfer" else "version"

        async def answer(raw: bytes, call: Any) -> Message:
            path = f"/{SERVICE}/{name}"
            async with answered(self._context, path, call, "kserve", None, kserve_code) as request:
                limit = self._context.settings.tensor_payload_limit
                message = read_message(kind, limit, raw)
                check_version(getattr(message, version, ""))
                request.deadline_s = call.time_remaining()
                with self._context.admission.held(request.client_name) as held:
                    held(len(raw))
                    return await method(request, message)

        return grpc.unary_unary_rpc_method_handler(answer, None, answer_kind.SerializeToString)

    async def _live(self, raw: bytes, call: Any) -> bytes:
        return bytes(pb.ServerLiveResponse(live=True).SerializeToString())

    async def _ready(self, raw: bytes, call: Any) -> bytes:
        is_ready = self._context.pool.is_ready
        return bytes(pb.ServerReadyResponse(ready=is_ready).SerializeToString())

    async def _model_ready(self, request: Request, message: Message) -> Message:
        is_ready = await self._upstream.is_model_ready(message.name, message.version)
        return pb.ModelReadyResponse(ready=is_ready)

    async def _index(self, request: Request, message: Message) -> Message:
        found = await self._upstream.statistics("", "")
        models = [
            {"name": one.name, "version": one.version, "state": "READY"}
            for one in found.model_stats
        ]
        return pb.RepositoryIndexResponse(models=models)

    async def _infer(self, request: Request, message: Message) -> Message:
        signature = await self._upstream.signature(message.model_name, message.model_version)
        if signature.is_decoupled:
            raise UnsupportedModel(
                "ModelInfer RPC doesn't support models with decoupled transaction policy"
            )
        signature.check(message)
        signature.prioritize(message, request.priority)
        message.parameters.pop(EMPTY_FINAL, None)
        return await self._upstream.infer(
            signature, message, remaining_s(request, self._context), request.metadata,
            request.session_name,
        )  # fmt: skip

    async def _stream(self, messages: AsyncIterator[bytes], call: Any) -> AsyncIterator[Message]:
        path = f"/{SERVICE}/ModelStreamInfer"
        async with answered(
            self._context, path, call, "kserve", {"method": "stream"}, kserve_code,
            is_counted=False,
        ) as request:  # fmt: skip
            request.deadline_s = call.time_remaining()
            async with MessageStream(request, self._context) as stream:
                async for response in stream.answers(messages):
                    yield response


def _closed(name: str) -> Method:
    async def refuse(request: Request, message: Message) -> Message:
        raise NotOffered(f"{name}: not offered by the gateway")

    return refuse
