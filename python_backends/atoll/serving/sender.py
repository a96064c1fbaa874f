"""A request's responses, so that no order of events in this package brings the server down.

Triton frees what a response sender points to with the final response, and asking a freed one
whether its client has left is a segmentation fault of the whole server. So every sender is wrapped,
and one lock keeps sending and asking apart.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from atoll.serving.tensors import FINAL, JSON_ERRORS, failure


class Sender:
    """Sends any number of responses and then nothing more; any thread may call.

    The request parameter ``json_errors`` makes an error's message a JSON object with ``error`` and
    ``error_type``: a stream's response has no room for an error's code.
    """

    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        raw = request.parameters() or ""
        self._as_json = JSON_ERRORS in raw and json.loads(raw).get(JSON_ERRORS) is True
        self._lock = threading.Lock()
        self._is_closed = False

    def send(self, response: Any, flags: int = 0) -> None:
        """Sends a response; ``FINAL`` makes it the last.

        Raises:
            RuntimeError: the last one was sent before.
        """
        with self._lock:
            if self._is_closed:
                raise RuntimeError("a response was sent after the final one")
            self._is_closed = flags == FINAL
            self._sender.send(response, flags)

    def fail(self, error: BaseException) -> None:
        """Sends the error as the last response."""
        self.send(failure(error, as_json=self._as_json), FINAL)

    def is_cancelled(self) -> bool:
        """Whether the client has left; False once the last response is sent. Takes 28 to 65 us."""
        with self._lock:
            return not self._is_closed and bool(self._sender.is_cancelled())
