"""A real request to a model, small enough to be sent every few seconds.

Readiness says nothing about a model's process: Triton still reports a crashed one as ready.
"""

from __future__ import annotations

import array
import json
import math
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from atoll.catalogue import ServedModel
from atoll.errors import NotReady
from atoll.serving.triton.tensor_specs import TASK_TENSORS, TaskTensors, TensorSpec

_TEXT = b"Is anybody there?"


def _silence() -> bytes:
    """A tenth of a second, as a WAV file."""
    file = BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        sound.writeframes(bytes(3200))
    return file.getvalue()


# The inputs that the request sets if the task has them; all others are optional.
_INPUTS = {
    "query": _TEXT, "text_input": _TEXT, "sampling_parameters": b'{"max_tokens": 1}',
    "audio": _silence(),
}  # fmt: skip


class Probe:
    """A gRPC connection to one server; ``close`` it or use it in a ``with`` statement."""

    def __init__(self, address: str, admin_header: tuple[str, str]) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = rpc.GRPCInferenceServiceStub(self._channel)
        self._admin = [admin_header]

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; requests in flight fail."""
        self._channel.close()

    def server_name(self, timeout_s: float = 2.0) -> str | None:
        """The server's ``--id``; None if nothing answers."""
        try:
            metadata = self._stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return None
        return str(metadata.name)

    def check(self, model: ServedModel, timeout_s: float = 60.0) -> None:
        """Sends the canary to every version that is served; for models whose tensors are not ours,
        it only checks readiness.

        Raises:
            NotReady: an error, no answer in time, or an answer that cannot be right.
        """
        with _as_not_ready(model.name):
            for version in self._ready_versions(model.name) or model.versions or ("",):
                self._check_version(model, version, timeout_s)

    def _ready_versions(self, name: str) -> list[str]:
        """Those that Triton has now: an upgrade may have changed them. Empty: it does not say."""
        try:
            request = pb.RepositoryIndexRequest(ready=True)
            index = self._stub.RepositoryIndex(request, timeout=5.0, metadata=self._admin)
        except grpc.RpcError:
            return []
        return [one.version for one in index.models if one.name == name and one.version]

    def _check_version(self, model: ServedModel, version: str, timeout_s: float) -> None:
        wire = TASK_TENSORS.get(model.task or "")
        if wire is None:
            request = pb.ModelReadyRequest(name=model.name, version=version)
            if not self._stub.ModelReady(request, timeout=timeout_s).ready:
                raise NotReady(f"model {model.name!r}, version {version}, is not ready")
        elif wire.decoupled:
            self._check_stream(model, _request(model, version, wire), timeout_s)
        else:
            answer = self._stub.ModelInfer(_request(model, version, wire), timeout=timeout_s)
            _check_answer(model, answer)

    def _check_stream(self, model: ServedModel, request: Any, timeout_s: float) -> None:
        """Reads all responses: cancelling a call at its end may crash Triton 2.51."""
        responses = list(self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s))
        if not responses:
            raise NotReady(f"model {model.name!r} gave no answer")
        for response in responses:
            if response.error_message:
                raise NotReady(f"model {model.name!r}: {response.error_message}")
            _check_answer(model, response.infer_response)

    def load(self, name: str, timeout_s: float) -> None:
        """Raises NotReady: the server could not load the model; says why."""
        request = pb.RepositoryModelLoadRequest(model_name=name)
        with _as_not_ready(name):
            self._stub.RepositoryModelLoad(request, timeout=timeout_s, metadata=self._admin)

    def unload(self, name: str, timeout_s: float) -> None:
        """Raises NotReady: the server refused."""
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        with _as_not_ready(name):
            self._stub.RepositoryModelUnload(request, timeout=timeout_s, metadata=self._admin)

    def states(self, timeout_s: float = 5.0) -> dict[str, tuple[str, str]]:
        """What the server says of each entry that it has dealt with: its state, and why.

        Raises:
            NotReady: it does not answer.
        """
        request = pb.RepositoryIndexRequest()
        with _as_not_ready("any"):
            index = self._stub.RepositoryIndex(request, timeout=timeout_s, metadata=self._admin)
        return {m.name: (m.state, m.reason) for m in index.models if m.state}

    def ask(self, model: ServedModel, question: Mapping[str, Any], timeout_s: float = 5.0) -> Any:
        """The answer of one of our models to a control request (``serving.model_ops``).

        Raises:
            NotReady: it is not one of ours, does not answer in time, or refuses; says why.
        """
        wire = TASK_TENSORS.get(model.task or "")
        if wire is None:
            raise NotReady(f"model {model.name!r} answers no control requests")
        request = _request(model, "", wire)
        request.parameters["control"].string_param = json.dumps(question)
        with _as_not_ready(model.name):
            if wire.decoupled:
                found = list(self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s))
                error = next((one.error_message for one in found if one.error_message), None)
                if error is not None:
                    raise NotReady(f"model {model.name!r}: {error}")
                answers = [one.infer_response for one in found]
            else:
                answers = [self._stub.ModelInfer(request, timeout=timeout_s)]
        for answer in answers:
            for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
                if output.name == "control":
                    return json.loads(raw[4:])  # behind the text's length
        raise NotReady(f"model {model.name!r} gave no answer")


@contextmanager
def _as_not_ready(name: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise NotReady(f"model {name!r}: {error.details() or error.code().name}") from error


def _request(model: ServedModel, version: str, wire: TaskTensors) -> Any:
    request = pb.ModelInferRequest(model_name=model.name, model_version=version)
    # Our models leave the canary out of their metrics.
    request.parameters["canary"].bool_param = True
    for spec in wire.inputs:
        if spec.name in _INPUTS:
            request.inputs.append(_text(spec, _INPUTS[spec.name], wire.max_batch_size > 0))
    return request


def _text(spec: TensorSpec, value: bytes, is_batched: bool) -> Any:
    tensor = pb.ModelInferRequest.InferInputTensor(name=spec.name, datatype="BYTES")
    tensor.shape.extend([1] * (len(spec.dims) + is_batched))
    tensor.contents.bytes_contents.append(value)
    return tensor


def _check_answer(model: ServedModel, answer: Any) -> None:
    """Checks that the answer has outputs and that floating-point outputs are finite."""
    if not answer.outputs:
        raise NotReady(f"model {model.name!r} answered without outputs")
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if output.datatype == "FP32" and not all(map(math.isfinite, array.array("f", raw))):
            raise NotReady(f"model {model.name!r}: {output.name} is not finite")
