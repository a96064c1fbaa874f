"""A generator's answers to another of our models, over a local socket instead of Triton.

Triton 2.51 loses errors between models: in a stream of responses they do not say which request they
belong to (python_backend 24.10, ``InferResponse::SaveToSharedMemory``), so that a caller may wait
forever or get another request's error; and when shared memory is full, Triton itself produces such
errors. So a request between our models gets one response through Triton, empty and at once, and the
actual responses come here.

The calling model listens under a secret name in Linux's abstract namespace, which leaves no file
behind, and accepts connections only from processes of its own user.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import socket
import struct
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from atoll.errors import Cancelled, NotReady, Overloaded, ValidationError
from atoll.serving.triton.response_sender import ResponseSender, TritonResponseSender
from atoll.serving.triton.tensors import ANSWERS_TO, FINAL, Array, Failure, error_parts

# A caller that does not read must not block the thread that answers all others.
_SEND_S = 5
# The generator connects before it responds to Triton.
_CONNECT_S = 5.0
_NAME = re.compile(r"atoll-answers-[0-9a-f]{32}")
_TIME = struct.Struct("ll")  # seconds, microseconds
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True)
class _Response:
    outputs: dict[str, Array]
    is_last: bool


class Answers:
    """Receives the answer to one request; after ``leave`` or ``close`` the generator cancels it."""

    def __init__(self) -> None:
        self.name = f"atoll-answers-{uuid.uuid4().hex}"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"\0{self.name}")
        self._listening.listen(1)
        self._listening.settimeout(_CONNECT_S)
        self._connection: socket.socket | None = None
        self._lock, self._has_left = threading.Lock(), False

    def leave(self) -> None:
        """Ends the iteration, which raises NotReady; any thread may call, at any time."""
        with self._lock, contextlib.suppress(OSError):
            self._has_left = True
            if self._connection is not None:
                # Unlike ``close``, this also ends a read in progress.
                self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Called by the thread that iterates."""
        self._listening.close()
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """The outputs of each response; to be called after the request was sent.

        Raises:
            Failure: the generator's error.
            NotReady: the connection has ended before the last response.
        """
        connection = self._accepted()
        with self._lock:
            self._connection = connection
            if self._has_left:
                raise NotReady("the request has ended")
        with self._connection.makefile("rb") as messages:
            is_last = False
            while not is_last:
                try:
                    message = pickle.load(messages)
                except (EOFError, OSError, pickle.UnpicklingError):
                    raise NotReady("the generator has ended before its answer") from None
                if isinstance(message, Failure):
                    raise message
                is_last = message.is_last
                yield message.outputs

    def _accepted(self) -> socket.socket:
        try:
            connection, _ = self._listening.accept()
        except TimeoutError:
            raise NotReady("the generator has not answered") from None
        connection.settimeout(None)
        size = _CREDENTIALS.size
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        if _CREDENTIALS.unpack(credentials)[1] != os.getuid():
            connection.close()
            raise NotReady("a process of another user has answered")
        return connection


class AnswerSender:
    """Sends a request's responses to the model that listens for them instead of to Triton."""

    def __init__(self, connection: socket.socket, *, as_json: bool, is_canary: bool) -> None:
        self._as_json, self.is_canary = as_json, is_canary
        self._lock = threading.Lock()
        self._connection: socket.socket | None = connection

    @property
    def is_closed(self) -> bool:
        """True once the last response was sent, or one could not be delivered."""
        return self._connection is None

    def send(self, outputs: Mapping[str, Array], flags: int = 0) -> None:
        """Sends a response; ``FINAL`` makes it the last.

        Raises:
            RuntimeError: the last one was sent before.
            Cancelled, Overloaded: it could not be delivered, and the connection is closed.
        """
        with self._lock:
            if self._connection is None:
                raise RuntimeError("a response was sent after the final one")
            self._write(_Response(dict(outputs), flags == FINAL), is_last=flags == FINAL)

    def fail(self, error: BaseException) -> None:
        """Sends the error as the last response. Never raises."""
        with self._lock, contextlib.suppress(Cancelled, Overloaded):
            if self._connection is not None:
                kind = getattr(error, "error_type", "internal")
                self._write(Failure(*error_parts(error, self._as_json), kind), is_last=True)

    def is_cancelled(self) -> bool:
        """Whether the caller has closed the connection."""
        with self._lock:
            if self._connection is None:
                return False
            try:
                # The caller never sends anything.
                return not self._connection.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                return True

    def _write(self, message: _Response | Failure, *, is_last: bool) -> None:
        """Under the lock."""
        connection = self._connection
        assert connection is not None
        self._connection = None  # a message that was sent in part cannot be continued
        try:
            connection.sendall(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        except BlockingIOError:
            connection.close()
            raise Overloaded(f"an answer was not taken within {_SEND_S} s") from None
        except OSError:
            connection.close()
            raise Cancelled("the client has left") from None
        if is_last:
            connection.close()
        else:
            self._connection = connection


def sender_of(sender: TritonResponseSender) -> ResponseSender:
    """The request's own sender, or one to the address in ``answers_to``; then the request is
    ended at Triton.

    Raises:
        ValidationError: nothing listens there.
    """
    name = sender.answers_to
    if name is None:
        return sender
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValidationError(f"{ANSWERS_TO} is {name!r}; only this server's models set it")
    connection = socket.socket(socket.AF_UNIX)
    # Set on the socket, since Python's own timeout would also apply to MSG_DONTWAIT.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME.pack(_SEND_S, 0))
    try:
        connection.connect(f"\0{name}")
    except OSError as error:
        connection.close()
        raise ValidationError(f"{ANSWERS_TO} is {name!r}: {error.strerror}") from None
    found = AnswerSender(connection, as_json=sender.as_json, is_canary=sender.is_canary)
    sender.end()
    return found
