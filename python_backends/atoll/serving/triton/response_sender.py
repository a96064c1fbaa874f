"""Sends a request's responses so that the server cannot crash, and so that every client gets a last
response even if shared memory is full.

Triton frees a response sender's memory with the final response; asking a freed one whether its
client has disconnected is a segmentation fault of the whole server. So every sender is wrapped, and
a lock separates sending and asking. Threads that take mutexes shared with the server are prepared
for the end of this process (see ``robust_mutexes``).

A final response can be sent only once: the backend counts it before it allocates memory. So if
shared memory is scarce, the data are sent first, followed by an empty final response, for which
there is always room, or which is sent later if the pool is completely full; if there is no room for
the data, an error is sent instead. A model that is not decoupled has a single, final response: a
second one, even empty, would crash the server if another model had sent the request. So it is sent
only if there is room for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from atoll.errors import Overloaded
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton import shared_memory
from atoll.serving.triton.tensors import (
    ANSWERS_TO,
    CANARY,
    FINAL,
    JSON_ERRORS,
    Array,
    failure,
    read_parameters,
    response,
)

logger = logging.getLogger(__name__)

# An error or end for which there was no room is retried for a minute.
_RETRY_S, _MAX_RETRIES = 0.05, 1200


class ResponseSender(Protocol):
    """Sends the responses of one request."""

    is_canary: bool

    @property
    def is_closed(self) -> bool: ...

    def send(self, outputs: Mapping[str, Array], flags: int = 0) -> None: ...

    def fail(self, error: BaseException) -> None: ...

    def is_cancelled(self) -> bool: ...


class TritonResponseSender:
    """Sends responses to Triton, the last of them marked as final; any thread may call.

    It holds the request's parameters, some of which determine how it is answered. ``json_errors``
    makes an error's message a JSON object with ``error`` and ``error_type``, since a stream's
    response has no field for an error's code. ``canary`` excludes the request from the metrics, so
    that those of an idle server do not change. ``answers_to``: see ``answer_stream``.
    """

    def __init__(self, request: Any, *, is_decoupled: bool = True) -> None:
        self._sender, self._is_decoupled = request.get_response_sender(), is_decoupled
        self._lock = threading.Lock()
        self._is_closed = False
        self._parameters, self._error = read_parameters(request)
        self.as_json = self._parameters.get(JSON_ERRORS) is True
        self.is_canary = self._parameters.get(CANARY) is True
        self.answers_to = self._parameters.get(ANSWERS_TO)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """All of the request's parameters, including the server's own.

        Raises:
            ValidationError: one is given twice, or is not UTF-8.
        """
        if self._error is not None:
            raise self._error
        return self._parameters

    @property
    def is_closed(self) -> bool:
        """True once the last response was sent."""
        return self._is_closed

    def send(self, outputs: Mapping[str, Array], flags: int = 0) -> None:
        """Sends a response; ``FINAL`` makes it the last.

        Raises:
            RuntimeError: the last one was sent before.
            Overloaded: there was no room for it. The caller must then call ``fail``, which does
                nothing if the client has been answered already.
        """
        num_bytes = shared_memory.num_bytes(outputs)
        with self._lock:
            if self._is_closed:
                raise RuntimeError("a response was sent after the final one")
            try:
                self._put(lambda: response(outputs), num_bytes, is_last=flags == FINAL)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise Overloaded(
                    f"an answer of {num_bytes} bytes could not be sent, with "
                    f"{shared_memory.free_text()}: {reason}"
                ) from None

    def fail(self, error: BaseException, num_retries: int = _MAX_RETRIES) -> None:
        """Sends the error as the last response, later if there is no room for it now.

        Never raises; does nothing once the last response was sent.
        """
        with self._lock:
            if self._is_closed:
                return
            try:
                self._put(lambda: failure(error, self.as_json), 0, is_last=True)
            except Exception as problem:
                if self._is_closed or num_retries == 0:
                    logger.exception("a client cannot be told that its request has failed")
                else:
                    logger.warning("an error could not be sent, trying again: %s", problem)
                    _later(self.fail, error, num_retries - 1)

    def end(self, num_retries: int = _MAX_RETRIES) -> None:
        """Sends a final response without data, later if there is no room for it now."""
        with self._lock:
            self._end(num_retries)

    def is_cancelled(self) -> bool:
        """Whether the client has disconnected; False once the last response was sent, and while
        Triton cannot be asked because memory is exhausted. Takes 28 to 65 us."""
        with self._lock:
            if self._is_closed or shared_memory.is_exhausted():
                return False
            end_without_marks()
            return bool(self._sender.is_cancelled())

    def _put(self, make: Callable[[], Any], num_bytes: int, *, is_last: bool) -> None:
        """Under the lock."""
        has_one = not self._is_decoupled
        with shared_memory.held(num_bytes):
            if has_one and not shared_memory.has_room(num_bytes):
                raise MemoryError("there is no room in shared memory")
            end_without_marks()
            made = make()
            is_direct = is_last and (has_one or shared_memory.is_plentiful(num_bytes))
            self._is_closed = is_direct  # even if it fails: the backend counts it now
            try:
                self._sender.send(made, FINAL if is_direct else 0)
            finally:
                del made  # frees memory that the final response may need
        if is_last and not is_direct:
            self._end()

    def _end(self, num_retries: int = _MAX_RETRIES) -> None:
        """Under the lock: the final response, without data."""
        self._is_closed = True
        # It cannot be repeated, so it is not tried if there is no room.
        if num_retries and not shared_memory.has_room_for_messages():
            _later(self.end, num_retries - 1)
            return
        end_without_marks()
        try:
            self._sender.send(flags=FINAL)
        except Exception:
            logger.exception("a client waits for an end that cannot be sent")


def _later(function: Callable[..., None], *arguments: Any) -> None:
    again = threading.Timer(_RETRY_S, function, arguments)
    again.name, again.daemon = "atoll-late-answer", True
    again.start()
