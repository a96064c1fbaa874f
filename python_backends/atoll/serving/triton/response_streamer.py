"""The thread that sends responses, so that engines never wait for text, clients or Triton.

It detokenizes what an engine has delivered, sends it, detects clients that have disconnected, and
enforces time limits. While it is busy or pauses (``SendThrottle``), a stream's tokens accumulate
and are sent together: slow clients and loaded machines get fewer and larger responses instead of
slowing the engine down.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, ParamSpec, Protocol, TypeVar

from atoll.errors import Cancelled, NotReady
from atoll.serving.requests.served_request import ServedRequest
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton.tensors import FINAL, Array

logger = logging.getLogger(__name__)

# Triton notices that an HTTP client has disconnected only after a first response: send an empty one
# if the first token takes longer than this.
_FIRST_RESPONSE_S = 0.5
# Asking Triton whether a client has disconnected costs 28-65 us, so it is done every few tokens,
# and in turn for requests without new tokens (waiting, or in a long prompt).
_POLL_TOKENS = 8
_POLL_INTERVAL_S = 0.05
_POLLS_PER_INTERVAL = 16
# How often gauges are updated without requests, since conversations may still expire.
_IDLE_INTERVAL_S = 1.0

P = ParamSpec("P")
R = TypeVar("R", bound=ServedRequest)
R_contra = TypeVar("R_contra", bound=ServedRequest, contravariant=True)


class SendThrottle:
    """Pauses sending for 9 times as long as it took, at most 50 ms.

    Sending takes time on the cores that the engine computes on: with 32 streams on two cores, one
    response per token reduces throughput by a fifth. A single stream's response takes less than a
    tenth of a step, so that there every token is sent at once.
    """

    _RESTS, _LONGEST_S = 9.0, 0.05

    def __init__(self) -> None:
        self._until = 0.0

    def worked(self, start: float, end: float) -> None:
        """Records the start and end of one round of sending, in seconds."""
        self._until = end + min(self._RESTS * (end - start), self._LONGEST_S)

    def left(self, now: float) -> float:
        """Remaining seconds of the pause, or 0."""
        return max(self._until - now, 0.0)


class Answering(Protocol[R_contra]):
    """A model's part in answering; called on the streamer's thread."""

    def respond(self, request: R_contra, even_if_empty: bool) -> Sequence[Mapping[str, Array]]:
        """A stream's new responses, and the last response of a complete request."""

    def overdue(self, request: R_contra, waited_s: float) -> Exception | None:
        """The error of a request that arrived ``waited_s`` ago, if that is too long."""

    def closing(self, request: R_contra) -> None:
        """Called once for every request, before its last response."""

    def closed(self, request: R_contra) -> None:
        """Called once for every request, after its last response."""

    def tick(self) -> None:
        """Called a few times a second while requests are open, and once after the last."""


class ResponseStreamer(Generic[R]):
    """Sends responses, and ends requests whose client has disconnected or whose time is over.

    ``notify`` and ``wake`` may be called by any thread.
    """

    def __init__(self, model: Answering[R]) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._event, self._urgent = threading.Event(), threading.Event()
        self._throttle = SendThrottle()
        self._notified: deque[R] = deque()
        self._is_urgent = self._stopping = False
        self._unsent: dict[R, None] = {}  # the thread's own
        self._open: dict[R, None] = {}
        self._thread = threading.Thread(target=self._loop, name="atoll-streamer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, within_s: float | None = None) -> None:
        """Sends what has been delivered, then ends the thread; waits for it, if need be forever."""
        self._stopping = True
        self._urgent.set()
        self._event.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def abandon(self, error: Exception, within_s: float) -> None:
        """Ends every open request with the error, then the thread, if it takes no longer."""
        with self._lock:
            requests = list(self._open)
        for request in requests:
            request.fail(error)
        self.stop(within_s)

    def open(self, request: R) -> None:
        """Watches a request until it is closed; it may be closed already."""
        with self._lock:
            if not request.is_closed:
                self._open[request] = None
        self._event.set()  # from here on the thread polls

    def notify(self, request: R, is_urgent: bool) -> None:
        """A request has something to send; if it is not urgent, it is sent after the pause."""
        self._notified.append(request)
        if is_urgent:
            self._is_urgent = True

    def wake(self) -> None:
        """Called after every step of an engine, so that the last token is sent with the end."""
        if self._notified:
            if self._is_urgent:
                self._urgent.set()
            self._event.set()

    def _loop(self) -> None:
        end_without_marks()
        next_poll = time.monotonic()
        while True:
            self._event.wait(_POLL_INTERVAL_S if self._open else _IDLE_INTERVAL_S)
            self._urgent.wait(self._throttle.left(time.monotonic()))
            self._urgent.clear()
            self._event.clear()
            self._is_urgent = False
            self._work(time.monotonic())
            if time.monotonic() >= next_poll or not self._open:
                self._check_open()
                next_poll = time.monotonic() + _POLL_INTERVAL_S
            if self._stopping and not self._notified:
                self._refuse_open()
                return

    def _work(self, now: float) -> None:
        """Sends first and last responses at once, others after the pause."""
        is_pausing = self._throttle.left(now) > 0
        for request in self._take_notified():
            self._guarded(request.advance, request)
            self._unsent[request] = None
        for request in list(self._unsent):
            if is_pausing and request.has_answered and not request.is_done:
                self._event.set()
            else:
                del self._unsent[request]
                self._guarded(partial(self._attend, request), request)
        if not is_pausing:
            self._throttle.worked(now, time.monotonic())

    def _take_notified(self) -> list[R]:
        notified = dict.fromkeys(self._notified.popleft() for _ in range(len(self._notified)))
        return [request for request in notified if not request.is_closed]

    def _check_open(self) -> None:
        """Checks the time limits of all requests, and the clients of a few, in turn."""
        with self._lock:
            requests = list(self._open)
            for request in requests[:_POLLS_PER_INTERVAL]:
                self._open[request] = self._open.pop(request)  # to the end of the queue
        for index, request in enumerate(requests):
            self._guarded(partial(self._check, request, index < _POLLS_PER_INTERVAL), request)
        _quietly(self._model.tick)

    def _check(self, request: R, is_polled: bool) -> None:
        waited_s = time.monotonic() - request.arrival
        error = self._model.overdue(request, waited_s)
        if error is not None:
            request.fail(error)
        elif is_polled and waited_s > _POLL_INTERVAL_S:
            if request.is_stream and not request.has_answered and waited_s > _FIRST_RESPONSE_S:
                self._send(request, even_if_empty=True)
            self._poll(request)

    def _attend(self, request: R) -> None:
        if request.is_done:
            self._finish(request)
            return
        if request.is_stream:
            self._send(request)
        if request.num_tokens_unpolled >= _POLL_TOKENS:
            self._poll(request)

    def _send(self, request: R, even_if_empty: bool = False) -> None:
        for outputs in self._model.respond(request, even_if_empty):
            request.has_answered = True
            request.sender.send(outputs)

    def _poll(self, request: R) -> None:
        request.num_tokens_unpolled = 0
        if request.sender.is_cancelled():
            request.fail(Cancelled("the client has left"))

    def _finish(self, request: R) -> None:
        """Sends the last response, and informs the model and the engine. Never raises."""
        with self._lock:
            if request.is_closed:
                return
            request.is_closed = True
            self._open.pop(request, None)
        _quietly(self._model.closing, request)
        error = request.error
        if error is None:
            try:
                *others, last = self._model.respond(request, False) or [{}]
                for outputs in others:
                    request.sender.send(outputs)
                request.sender.send(last, FINAL)
            except Exception as problem:
                logger.exception("an answer could not be sent")
                error = problem
        request.error = error  # overwrites what other threads may have set meanwhile
        if error is not None:
            request.sender.fail(error)
            _quietly(request.cancel)  # of several answers, the others may still be computed
        _quietly(self._model.closed, request)

    def _refuse_open(self) -> None:
        """Ends the requests that the engine does not know, after it has ended all others."""
        for request in list(self._open):
            request.error = request.error or NotReady("the model is shutting down")
            self._finish(request)

    def _guarded(self, function: Callable[[], None], request: R) -> None:
        """Calls ``function``; an error ends the request, not the thread."""
        try:
            function()
        except Exception as error:
            logger.exception("a response could not be made or sent")
            request.error = request.error or error
            self._finish(request)


def _quietly(function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Calls ``function`` and logs errors, which must not end the request or the thread."""
    try:
        function(*args, **kwargs)
    except Exception:
        logger.exception("something could not be noted; answers go on")
