"""The way of a request, for every task that has an engine.

    execute -> read_request -> prepare (inline, or in the preparation pool) -> engine -> streamer

``execute`` reads, counts and returns; a task says how its requests are read, what makes them ready
for its engine, and how its responses look. Every request gets exactly one last response, whatever
happens to it.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from atoll.errors import Cancelled
from atoll.serving.admission import Admission
from atoll.serving.answer_stream import sender_of
from atoll.serving.model_ops import ModelOps
from atoll.serving.preparation import PreparationPool
from atoll.serving.requests.served_request import ServedRequest
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton.auto_complete import complete
from atoll.serving.triton.instance import (
    checkpoint_folder,
    end_without_teardown,
    instance_settings,
)
from atoll.serving.triton.response_sender import ResponseSender, TritonResponseSender
from atoll.serving.triton.response_streamer import ResponseStreamer
from atoll.serving.triton.shutdown import Shutdown
from atoll.serving.triton.tensors import Array
from atoll.text.chat import ChatTemplate
from atoll.text.tokenizer import Tokenizer

R = TypeVar("R", bound=ServedRequest)
R_contra = TypeVar("R_contra", bound=ServedRequest, contravariant=True)


class Effort(enum.Enum):
    """The work of preparing a request: done at once, by the pool, or by the pool's thread for what
    would hold up all others."""

    LITTLE = enum.auto()
    ORDINARY = enum.auto()
    MUCH = enum.auto()


class TaskEngine(Protocol):
    """An engine that is loaded."""

    @property
    def failure(self) -> str | None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class TaskMetrics(Protocol[R_contra]):
    """What requests are counted by: see ``GenerateMetrics`` and ``EncoderMetrics``."""

    def refused(self, error: BaseException) -> None: ...

    def opened(self, request: R_contra) -> None: ...

    def closed(self, request: R_contra) -> None: ...

    def close(self) -> None: ...


class ServedModel(ABC, Generic[R]):
    """Base of the classes that ``model.py`` exports as ``TritonPythonModel``.

    cancelled: what a request is told that was cancelled by its id.
    """

    task: ClassVar[str]
    is_batched: ClassVar[bool]
    is_decoupled: ClassVar[bool]
    cancelled: ClassVar[str]

    @classmethod
    def auto_complete_config(cls, config: Any) -> Any:
        """Called by Triton before ``initialize``, in a process of its own."""
        return complete(config, cls.task)

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
        """On any thread: makes a request what the engine takes, and submits it.

        Raises:
            AtollError: what the request is to end with.
        """

    @abstractmethod
    def respond(self, request: R, even_if_empty: bool) -> Mapping[str, Array] | None:
        """See ``Answering``."""

    def open(self, args: dict[str, str]) -> Path:
        """First in ``initialize``: settings and tokenizer; returns the checkpoint's folder."""
        end_without_teardown()
        end_without_marks()
        self.settings = instance_settings(args, self.task)
        folder = checkpoint_folder(args, self.settings)
        self.tokenizer = Tokenizer.load(folder)
        self.streamer: ResponseStreamer[R] = ResponseStreamer(self)
        return folder

    def begin(
        self, args: dict[str, str], engine: TaskEngine, metrics: TaskMetrics[R],
        facts: Mapping[str, Any], *, num_preparing: int, chat: ChatTemplate | None = None,
        forget: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        """Last in ``initialize``: starts the threads. num_preparing: those that prepare."""
        self._engine, self._metrics = engine, metrics
        self.admission = Admission(self.settings.max_concurrent_requests)
        self.preparation = PreparationPool(num_preparing)
        self.ops = ModelOps(
            self.settings, self.tokenizer,
            {"task": self.task, "model_version": args["model_version"], **facts},
            self.preparation, self._refuse,
            chat=chat, is_batched=self.is_batched, cancel=self.cancel, forget=forget,
        )  # fmt: skip
        self._requests: WeakValueDictionary[str, R] = WeakValueDictionary()
        engine.start()
        self.streamer.start()
        self.ending = Shutdown(self._end)

    def execute(self, requests: list[Any]) -> None:
        """Never blocks and never raises: a request that cannot start is answered at once."""
        for request in requests:
            own = TritonResponseSender(request, is_decoupled=self.is_decoupled)
            sender: ResponseSender = own
            try:
                if self.is_decoupled:
                    sender = sender_of(own)
                if not self.ops.answer(own.parameters, sender):
                    served = self.read_request(request, own.parameters, sender)
                    self._take(served, request.request_id())
            except Exception as error:
                self._refuse(sender, error)

    def finalize(self) -> None:
        """Ends what is running with an error, and the threads."""
        self.ending.finish()
        self._metrics.close()

    def is_ready(self) -> bool:
        """Asked by Triton from 26.04 on; earlier servers call a model ready whatever it says."""
        return self._engine.failure is None

    def cancel(self, request_id: str) -> bool:
        """Ends a request whose client has left; False: none with this id is being answered."""
        request = self._requests.get(request_id)
        if request is None or request.is_done:
            return False
        request.fail(Cancelled(self.cancelled))
        return True

    def overdue(self, request: R, waited_s: float) -> Exception | None:
        """See ``Answering``."""
        if request.limit_s is not None and waited_s > request.limit_s:
            return Cancelled(f"the request's time is over, {request.limit_s:g} s")
        return None

    def opened(self, request: R) -> None:
        """A request was taken."""
        self._metrics.opened(request)

    def closing(self, request: R) -> None:
        """See ``Answering``: a client that has its answer may ask again at once."""
        self.admission.leave(request.num_answers)

    def closed(self, request: R) -> None:
        """See ``Answering``."""
        self._metrics.closed(request)

    def tick(self) -> None:
        """See ``Answering``."""
        self.preparation.relieve()

    def _take(self, request: R, request_id: str) -> None:
        """Counts a request and has it prepared.

        Raises:
            ValidationError, Overloaded: it was not taken. What happens from then on, it is told.
        """
        self.admission.enter(request.num_answers)
        if request_id:
            self._requests[request_id] = request
        self.opened(request)
        self.streamer.open(request)
        prepare = partial(self.prepare, request)
        effort = self.effort(request)
        try:
            if effort is Effort.LITTLE:
                prepare()
            else:
                self.preparation.submit(request, prepare, is_long=effort is Effort.MUCH)
        except Exception as error:
            request.fail(error)

    def _refuse(self, sender: ResponseSender, error: BaseException) -> None:
        """Answers a request that was not taken."""
        if not sender.is_canary:
            self._metrics.refused(error)
        sender.fail(error)

    def _end(self) -> None:
        self.preparation.close()
        self._engine.stop()
        self.streamer.stop()
