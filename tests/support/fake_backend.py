"""Triton's Python backend without a server: what a ``model.py`` imports, with sends that can fail.

Importing this module makes it ``triton_python_backend_utils``, which exists only inside the server.
Senders count as the backend's own do (python_backend, src/response_sender.cc): a sender is closed,
and the one response of a model that is not decoupled is used up, *before* memory for the response
is allocated, so that neither can be repeated if there is none.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    """What the backend raises."""


class TritonError:
    """An error with a code."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, CANCELLED = range(7)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    """A name and an array."""

    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class InferenceResponse:
    """Tensors or an error."""

    def __init__(self, output_tensors: Any = (), error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def texts(self) -> list[str]:
        """The response's ``text_output``."""
        found = [t.as_numpy() for t in self._tensors if t.name() == "text_output"]
        return [text.decode() for array in found for text in array.reshape(-1)]


class SharedMemory:
    """The room that responses need. ``fail_next``: so many of the next ones find none.

    An empty response needs next to nothing and always finds room.
    """

    def __init__(self) -> None:
        self.fail_next = 0
        self.num_failed = 0
        self._lock = threading.Lock()

    def allocate(self) -> None:
        with self._lock:
            if self.fail_next > 0:
                self.fail_next -= 1
                self.num_failed += 1
                raise TritonModelException("Failed to increase the shared memory pool size")

    def has_room(self, num_bytes: int) -> bool:
        """What the product asks before it sends an only response."""
        try:
            self.allocate()
        except TritonModelException:
            return False
        return True


class ResponseSender:
    """Collects the responses of one request; ``ended`` is set by the final one."""

    def __init__(self, memory: SharedMemory, is_decoupled: bool) -> None:
        self._memory, self._is_decoupled = memory, is_decoupled
        self._num_counted, self._is_closed = 0, False
        self.responses: queue.Queue[InferenceResponse | None] = queue.Queue()
        self.all: list[InferenceResponse] = []
        self.num_finals = 0
        self.has_left = False
        self.ended = threading.Event()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        is_final = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if response is None and not is_final:
            raise TritonModelException("Inference Response object must be provided")
        if not self._is_decoupled:
            if response is not None and self._num_counted > 0:
                raise TritonModelException("cannot send more than one response")
            if response is None and self._num_counted == 0:
                raise TritonModelException("cannot send complete final before sending a response")
            if response is None or not is_final:
                raise AssertionError("two responses: a crash in Triton if a model had asked")
        if self._is_closed:
            raise TritonModelException("Response sender has been closed")
        self._is_closed = is_final
        self._num_counted += 1
        if response is not None:
            self._memory.allocate()
            self.all.append(response)
            self.responses.put(response)
        if is_final:
            self.num_finals += 1
            self.responses.put(None)
            self.ended.set()

    def is_cancelled(self) -> bool:
        if self.num_finals:
            raise AssertionError("a client was asked after that has its answer: a crash in Triton")
        return self.has_left

    @property
    def error(self) -> str | None:
        """The message of the error that was sent."""
        errors = [r.error() for r in self.all if r.has_error()]
        return errors[0].message() if errors and errors[0] is not None else None


class Request:
    """A request with its sender."""

    def __init__(
        self,
        inputs: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        *,
        memory: SharedMemory | None = None,
        is_decoupled: bool = True,
        request_id: str = "",
        correlation_id: str = "",
        flags: int = 0,
        timeout: int = 0,
        requested: Iterable[str] = (),
    ) -> None:
        self.requested = set(requested)
        self._inputs = [Tensor(name, _array(value)) for name, value in inputs.items()]
        self._parameters = json.dumps(parameters or {})
        self._id, self._correlation_id, self._flags = request_id, correlation_id, flags
        self._timeout = timeout
        self.sender = ResponseSender(memory or SharedMemory(), is_decoupled)

    def get_response_sender(self) -> ResponseSender:
        return self.sender

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def parameters(self) -> str:
        return self._parameters

    def requested_output_names(self) -> set[str]:
        return self.requested

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> str:
        return self._correlation_id

    def flags(self) -> int:
        return self._flags

    def timeout(self) -> int:
        return self._timeout


class InferenceRequest:
    """A request from one model to another; ``MODELS`` has them by name.

    Triton 2.51 loses errors that are not a request's only response: who waits for one waits on.
    """

    MODELS: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, model_name: str, requested_output_names: list[str], inputs: list[Tensor],
        parameters: Mapping[str, Any] | None = None, request_id: str = "",
    ) -> None:  # fmt: skip
        self._model = self.MODELS[model_name]
        arrays = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        self._request = Request(arrays, parameters, request_id=request_id)

    def exec(self, decoupled: bool = False) -> Iterator[InferenceResponse]:
        assert decoupled
        self._model.execute([self._request])
        responses, is_first = self._request.sender.responses, True
        while (response := responses.get(timeout=60)) is not None:
            if is_first or not response.has_error():
                yield response
            is_first = False


class Logger:
    """Lines of the server's log, which nobody reads."""

    @staticmethod
    def log_info(message: str) -> None: ...


class _Metric:
    def increment(self, amount: float) -> None: ...

    def set(self, value: float) -> None: ...

    def observe(self, value: float) -> None: ...


class MetricFamily:
    """Metrics that count nothing."""

    COUNTER, GAUGE, HISTOGRAM = range(3)

    def __init__(self, **described: Any) -> None: ...

    def Metric(self, **described: Any) -> _Metric:  # noqa: N802 - the backend's name
        return _Metric()


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    """One input of a request."""
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def _array(value: Any) -> Any:
    if isinstance(value, str):
        return np.array([value.encode()], dtype=np.object_)
    if isinstance(value, bool):
        return np.array([value])
    if isinstance(value, list):
        return np.array([text.encode() for text in value], dtype=np.object_)
    return value


sys.modules["triton_python_backend_utils"] = sys.modules[__name__]
