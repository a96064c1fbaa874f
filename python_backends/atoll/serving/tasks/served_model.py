"""The path of a request, for generators, encoders and conversations alike.

    execute -> read_request -> prepare (inline, or in the preparation pool) -> engine -> streamer

``execute`` reads and returns; a task defines how its requests are read, how they are prepared for
its engine, and how its responses look. Every request gets exactly one last response, even if it
fails.
"""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from atoll.errors import Cancelled
from atoll.serving.observer import Observer
from atoll.serving.preparation import PreparationPool
from atoll.serving.requests.report import Origin
from atoll.serving.requests.served_request import ServedRequest
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton import tensors
from atoll.serving.triton.instance import end_without_teardown
from atoll.serving.triton.request_metrics import RequestMetrics
from atoll.serving.triton.response_sender import ResponseSender, TritonResponseSender
from atoll.serving.triton.response_streamer import ResponseStreamer
from atoll.serving.triton.shutdown import Shutdown
from atoll.serving.triton.tensors import Array

R = TypeVar("R", bound=ServedRequest)


class Effort(enum.Enum):
    """Where a request is prepared: inline, in the pool, or on the pool's thread for long work."""

    LITTLE = enum.auto()
    ORDINARY = enum.auto()
    MUCH = enum.auto()


class TaskEngine(Protocol):
    """A loaded engine."""

    @property
    def failure(self) -> str | None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class ServedModel(ABC, Generic[R]):
    """Base of the classes that ``model.py`` exports as ``TritonPythonModel``.

    cancelled: the error message of a request that was cancelled by its id.
    """

    is_decoupled: ClassVar[bool]
    cancelled: ClassVar[str]
    task: ClassVar[str]

    @abstractmethod
    def initialize(self, args: dict[str, str]) -> None:
        """Loads the model and starts the engine; an exception here is shown by the server."""

    @abstractmethod
    def read_request(
        self, request: Any, parameters: Mapping[str, Any], sender: ResponseSender
    ) -> R:
        """The task's inputs and the request's parameters, checked.

        Raises:
            ValidationError: names the field, the value and the limit.
        """

    @abstractmethod
    def effort(self, request: R) -> Effort:
        """How much work it is to prepare a request."""

    @abstractmethod
    def prepare(self, request: R) -> None:
        """Converts a request to the engine's input and submits it; on any thread.

        Raises:
            AtollError: ends the request.
        """

    @abstractmethod
    def respond(self, request: R, even_if_empty: bool) -> Sequence[Mapping[str, Array]]:
        """See ``Answering``."""

    def open(self, args: Mapping[str, str]) -> None:
        """First in ``initialize``.

        Raises:
            ConfigError: a setting of logs or traces has a wrong value.
        """
        end_without_teardown()
        end_without_marks()
        parameters = tensors.settings_parameters(args["model_config"])
        self.observer = Observer.of(args, parameters, self.task)
        self.streamer: ResponseStreamer[R] = ResponseStreamer(self)

    def begin(self, engine: TaskEngine, metrics: RequestMetrics[R], *, num_preparing: int) -> None:
        """Last in ``initialize``: starts the threads. num_preparing: threads that prepare."""
        self._engine, self._metrics = engine, metrics
        self.preparation = PreparationPool(num_preparing)
        self._requests: WeakValueDictionary[str, R] = WeakValueDictionary()
        engine.start()
        self.streamer.start()
        self.ending = Shutdown(self._end)

    def execute(self, requests: list[Any]) -> None:
        """Never blocks and never raises: a request that cannot start is answered at once."""
        for request in requests:
            own = TritonResponseSender(request, is_decoupled=self.is_decoupled)
            sender: ResponseSender = own
            origin, arrival = Origin(), time.monotonic()
            try:
                request_id = request.request_id()
                origin = self.origin(own.parameters, request_id)
                sender = self.sender(own)
                if not self.answer_control(own.parameters, sender):
                    served = self.read_request(request, own.parameters, sender)
                    served.origin = origin
                    self._take(served, request_id)
            except Exception as error:
                self.refuse(sender, error)
                if not sender.is_canary:
                    self.observer.ended(origin, arrival, error)

    def origin(self, parameters: Mapping[str, Any], request_id: str) -> Origin:
        """Who sends a request."""
        return Origin.read(parameters, request_id)

    def finalize(self) -> None:
        """Ends what is running with an error, and the threads."""
        self.ending.finish()
        self._metrics.close()
        self.observer.close()

    def is_ready(self) -> bool:
        """Asked by Triton from 26.04 on; earlier servers call a model ready whatever it says."""
        return self._engine.failure is None

    def sender(self, own: TritonResponseSender) -> ResponseSender:
        """The sender of a request's responses, in general its own.

        Raises:
            ValidationError: the request names a wrong one.
        """
        return own

    def answer_control(self, parameters: Mapping[str, Any], sender: ResponseSender) -> bool:
        """Whether it is a control request, which is then answered; see ``ModelOps``."""
        return False

    def cancel(self, request_id: str) -> bool:
        """Ends a request whose client has disconnected; False: there is none with this id."""
        request = self._requests.get(request_id)
        if request is None or request.is_done:
            return False
        request.fail(Cancelled(self.cancelled))
        return True

    def refuse(self, sender: ResponseSender, error: BaseException) -> None:
        """Answers a request that was not accepted."""
        if not sender.is_canary:
            self._metrics.refused(error)
        sender.fail(error)

    def admit(self, request: R) -> None:
        """Counts a request that is accepted.

        Raises:
            ValidationError, Overloaded: it is not accepted.
        """
        self._metrics.opened(request)

    def schedule(self, request: R) -> None:
        """Has a request prepared; errors end it."""
        prepare = partial(self.prepare, request)
        effort = self.effort(request)
        try:
            if effort is Effort.LITTLE:
                prepare()
            else:
                is_long, client = effort is Effort.MUCH, request.origin.client
                self.preparation.submit(request, prepare, is_long=is_long, client=client)
        except Exception as error:
            request.fail(error)

    def overdue(self, request: R, waited_s: float) -> Exception | None:
        """See ``Answering``."""
        if request.limit_s is not None and waited_s > request.limit_s:
            return Cancelled(f"the request's time is over, {request.limit_s:g} s")
        return None

    def closing(self, request: R) -> None:
        """See ``Answering``."""

    def closed(self, request: R) -> None:
        """See ``Answering``."""
        self._metrics.closed(request)
        self.observer.closed(request)

    def tick(self) -> None:
        """See ``Answering``."""
        self.preparation.relieve()

    def _take(self, request: R, request_id: str) -> None:
        """Accepts a request; later errors are reported to the request.

        Raises:
            ValidationError, Overloaded: it is not accepted.
        """
        self.admit(request)
        if request_id:
            self._requests[request_id] = request
        self.streamer.open(request)
        self.schedule(request)

    def _end(self) -> None:
        self.preparation.close()
        self._engine.stop()
        self.streamer.stop()
