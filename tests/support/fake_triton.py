"""A gRPC server with Triton's interface and scripted answers: for errors that a real one gives
only when it is in trouble, and for several servers of which some are down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from atoll_client import kserve

_SERVICE = "inference.GRPCInferenceService"


class Refusal(Exception):
    """A call ends with this status."""

    def __init__(
        self, code: grpc.StatusCode, text: str, metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(text)
        self.code, self.text, self.metadata = code, text, metadata


Embed = Callable[[Any], Awaitable[Any]]
Generate = Callable[[Any], AsyncIterator[Any]]


class FakeTriton:
    """``async with FakeTriton(facts by model) as triton``; ``embed`` and ``generate`` are scripts.

    calls: names of the models that were asked, in order. questions: control requests besides
    ``info``; ``questioned`` is set by the first. told: their answers by operation.
    """

    def __init__(self, models: Mapping[str, Mapping[str, Any]], place: str = "127.0.0.1:0") -> None:
        self.models, self.place = models, place
        self.is_ready = True
        self.num_looks = 0
        self.calls: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.questions: list[dict[str, Any]] = []
        self.questioned = asyncio.Event()
        self.told: dict[str, Any] = {}
        self.embed: Embed = vectors
        self.generate: Generate = words
        self.address = ""
        self._server: Any = None

    async def __aenter__(self) -> FakeTriton:
        self._server = grpc.aio.server()
        unary, stream = (
            grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler,
        )  # fmt: skip
        table = {
            name: unary(method, request.FromString, response.SerializeToString)
            for name, method, request, response in (
                ("ServerReady", self._ready, pb.ServerReadyRequest, pb.ServerReadyResponse),
                ("ServerMetadata", self._server_about, pb.ServerMetadataRequest,
                 pb.ServerMetadataResponse),
                ("ModelReady", self._model_ready, pb.ModelReadyRequest, pb.ModelReadyResponse),
                ("ModelStatistics", self._statistics, pb.ModelStatisticsRequest,
                 pb.ModelStatisticsResponse),
                ("ModelConfig", self._config, pb.ModelConfigRequest, pb.ModelConfigResponse),
                ("ModelMetadata", self._about, pb.ModelMetadataRequest, pb.ModelMetadataResponse),
                ("ModelInfer", self._infer, pb.ModelInferRequest, pb.ModelInferResponse),
            )
        }  # fmt: skip
        table["ModelStreamInfer"] = stream(
            self._stream, pb.ModelInferRequest.FromString,
            pb.ModelStreamInferResponse.SerializeToString,
        )  # fmt: skip
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, table),)
        )
        self.port = self._server.add_insecure_port(self.place)
        self.address = f"{self.place.rpartition(':')[0]}:{self.port}"
        await self._server.start()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Goes away at once."""
        await self._server.stop(0)

    async def looked_at(self) -> None:
        """Returns once a gateway has looked again: one look that began after this, and its end."""
        num_before = self.num_looks
        while self.num_looks < num_before + 2:
            await asyncio.sleep(0.01)

    async def _ready(self, message: Any, context: Any) -> Any:
        self.num_looks += 1
        return pb.ServerReadyResponse(ready=self.is_ready)

    async def _statistics(self, message: Any, context: Any) -> Any:
        stats = {"success": {"count": 1, "ns": 1}}
        return pb.ModelStatisticsResponse(
            model_stats=[{"name": name, "inference_stats": stats} for name in self.models]
        )

    async def _server_about(self, message: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(name="triton", version="2", extensions=["statistics"])

    async def _model_ready(self, message: Any, context: Any) -> Any:
        return pb.ModelReadyResponse(ready=message.name in self.models)

    async def _about(self, message: Any, context: Any) -> Any:
        task = self.models[message.name]["task"]
        outputs = {"generate": ("text_output", "control"), "session": ("text_output",)}
        shape = [1] if task in outputs else [-1, 1]
        return pb.ModelMetadataResponse(
            name=message.name,
            inputs=[{"name": "text_input", "datatype": "BYTES", "shape": shape}],
            outputs=[
                {"name": name, "datatype": "BYTES", "shape": [-1]}
                for name in outputs.get(task, ("control",))
            ],
        )

    async def _config(self, message: Any, context: Any) -> Any:
        found = pb.ModelConfigResponse()
        is_decoupled = self.models[message.name]["task"] in ("generate", "session")
        found.config.model_transaction_policy.decoupled = is_decoupled
        found.config.max_batch_size = 0 if is_decoupled else 32
        return found

    async def _infer(self, message: Any, context: Any) -> Any:
        if "control" in message.parameters:
            return self._control(message)
        self._seen(message, context)
        try:
            return await self.embed(message)
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.text, refusal.metadata)

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for message in requests:
            if "control" in message.parameters:
                yield pb.ModelStreamInferResponse(infer_response=self._control(message))
                continue
            self._seen(message, context)
            try:
                async for response in self.generate(message):
                    yield pb.ModelStreamInferResponse(infer_response=response)
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.text, refusal.metadata)

    def _seen(self, message: Any, context: Any) -> None:
        self.calls.append(message.model_name)
        self.metadata.append(dict(context.invocation_metadata()))

    def _control(self, message: Any) -> Any:
        question = json.loads(message.parameters["control"].string_param)
        answer: Any = self.models[message.model_name]
        if question["op"] != "info":
            self.questions.append(question)
            self.questioned.set()
            answer = self.told.get(question["op"], True)
        found = pb.ModelInferResponse()
        _add(found, "control", "BYTES", [json.dumps(answer)])
        return found


async def vectors(message: Any) -> Any:
    """A vector of ones for each text."""
    count = message.inputs[0].shape[0]
    found = pb.ModelInferResponse()
    _add(found, "embedding", "FP32", np.full((count, 4), 0.5))
    _add(found, "num_input_tokens", "INT32", np.full((count, 1), 3))
    return found


async def words(message: Any) -> AsyncIterator[Any]:
    """Two chunks."""
    yield chunk("one")
    yield chunk(" two", "stop")


async def never(message: Any) -> Any:
    """An answer that does not come."""
    await asyncio.sleep(60)


def chunk(
    text: str, finish_reason: str = "", cumulative_logprob: float | None = None, **more: str
) -> Any:
    """A piece of a generation. more: outputs of texts."""
    found = pb.ModelInferResponse()
    _add(found, "text_output", "BYTES", [text])
    _add(found, "finish_reason", "BYTES", [finish_reason])
    _add(found, "num_input_tokens", "UINT32", np.array([2]))
    _add(found, "num_output_tokens", "UINT32", np.array([1]))
    if cumulative_logprob is not None:
        _add(found, "cumulative_logprob", "FP32", np.array([cumulative_logprob]))
    for name, value in more.items():
        _add(found, name, "BYTES", [value])
    return found


def response(**outputs: Any) -> Any:
    """An encoder's answer: arrays of float32, int32 or texts by name."""
    found, kinds = pb.ModelInferResponse(), {"f": "FP32", "U": "BYTES"}
    for name, value in outputs.items():
        _add(found, name, kinds.get(np.asarray(value).dtype.kind, "INT32"), value)
    return found


def scores(values: list[float]) -> Any:
    """A reranker's answer."""
    found = pb.ModelInferResponse()
    _add(found, "score", "FP32", np.array(values).reshape(-1, 1))
    _add(found, "num_input_tokens", "INT32", np.full((len(values), 1), 3))
    return found


def _add(message: Any, name: str, datatype: str, items: Any) -> None:
    array = np.asarray(items)
    message.outputs.add(name=name, datatype=datatype, shape=array.shape)
    message.raw_output_contents.append(kserve.packed(datatype, array.reshape(-1).tolist()))
