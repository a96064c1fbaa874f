"""The thread that sends: the engine's thread never waits for a client or for Triton.

While it is busy, or rests (``SendThrottle``), tokens of a stream gather and leave together: a slow
client or a loaded machine gets fewer and larger responses instead of slowing the engine down.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from atoll.errors import Cancelled, NotReady
from atoll.serving.requests.generation_request import POLL_TOKENS, GenerationRequest
from atoll.serving.requests.responses import final_response, stream_response
from atoll.serving.triton.send_throttle import SendThrottle
from atoll.serving.triton.tensors import FINAL
from atoll.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# A client of an HTTP stream is only seen to leave after a first response: send an empty one if the
# first token takes longer than this.
_FIRST_RESPONSE_S = 0.5
# Requests without new tokens (waiting, or in a long prompt) are asked after in turn.
_POLL_INTERVAL_S = 0.05
_POLLS_PER_INTERVAL = 16
# Without requests, conversations may still expire: gauges are looked at this often.
_IDLE_INTERVAL_S = 1.0


class ResponseStreamer:
    """Sends what calls have gained, and cancels those whose client has left.

    cancel: told the call. closed: told every call once, after its last response. tick: called a few
    times a second while calls are open, and once they are all closed. overdue: the error of a call
    that was opened so many seconds ago, if that is too long.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        cancel: Callable[[GenerationRequest], None],
        closed: Callable[[GenerationRequest], None],
        tick: Callable[[], None],
        overdue: Callable[[GenerationRequest, float], Exception | None],
    ) -> None:
        self._vocabulary = vocabulary
        self._cancel, self._closed, self._tick = cancel, closed, tick
        self._overdue = overdue
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._urgent = threading.Event()
        self._pace = SendThrottle()
        self._changed: dict[GenerationRequest, None] = {}
        self._marked: dict[
            GenerationRequest, None
        ] = {}  # to be looked at when the engine's step has ended
        self._open: dict[GenerationRequest, None] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="atoll-streamer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Sends what there is to send, then ends the thread."""
        self._stopping = True
        self._urgent.set()
        self._event.set()
        if self._thread.is_alive():
            self._thread.join()

    def open(self, call: GenerationRequest) -> None:
        """Watches a call until it is closed, which it may be already."""
        with self._lock:
            if not call.is_closed:
                self._open[call] = None
        self._event.set()  # from here on the thread looks around by itself

    def changed(self, call: GenerationRequest) -> None:
        """Marks a call; ``flush`` wakes the thread, and an error does. First and last tokens wait
        for no rest."""
        has_failed = call.error is not None
        with self._lock:
            if has_failed:
                self._changed[call] = None
            else:
                self._marked[call] = None
        if call.is_done or not call.has_answered:
            self._urgent.set()
        if has_failed:
            self._event.set()

    def flush(self) -> None:
        """Called after every step of the engine: a last token leaves together with the end."""
        if self._marked:
            with self._lock:
                self._changed |= self._marked
                self._marked = {}
            self._event.set()

    def _loop(self) -> None:
        next_poll = time.monotonic()
        while True:
            self._event.wait(_POLL_INTERVAL_S if self._open else _IDLE_INTERVAL_S)
            self._urgent.wait(self._pace.left(time.monotonic()))
            self._urgent.clear()
            self._event.clear()
            with self._lock:
                changed, self._changed = self._changed, {}
            start = time.monotonic()
            for call in changed:
                self._guarded(self._attend, call)
            self._pace.worked(start, time.monotonic())
            if time.monotonic() >= next_poll or not self._open:
                self._poll_some()
                self._count()
                next_poll = time.monotonic() + _POLL_INTERVAL_S
            if self._stopping and not self._changed:
                self._refuse_open()
                return

    def _refuse_open(self) -> None:
        """The engine has ended all that it knows of; nobody is to wait for what it does not."""
        for call in list(self._open):
            call.error = call.error or NotReady("the model is shutting down")
            self._guarded(self._attend, call)

    def _count(self) -> None:
        try:
            self._tick()
        except Exception:
            logger.exception("the engine could not be counted; answers go on")

    def _guarded(
        self, function: Callable[[GenerationRequest], None], call: GenerationRequest
    ) -> None:
        """A response that cannot be made or sent ends its call, never the thread."""
        try:
            function(call)
        except Exception as error:
            logger.exception("request %s: a response could not be sent", call.request_id)
            call.error = call.error or error
            call.sender.fail(call.error)
            self._end(call)

    def _end(self, call: GenerationRequest) -> None:
        """After the last response of a call that the engine may still work on."""
        try:
            self._cancel(call)
            self._close(call)
        except Exception:
            logger.exception("request %s: its end could not be noted", call.request_id)

    def _attend(self, call: GenerationRequest) -> None:
        if call.is_closed:
            return
        if call.error is not None:
            call.has_answered = True
            call.sender.fail(call.error)
            self._end(call)  # of several answers, the others may still be computed
        elif call.is_done:
            self._send(call, final_response(call, self._vocabulary), FINAL)
            self._close(call)
        else:
            if call.stream:
                self._send(call, stream_response(call, self._vocabulary))
            if call.num_tokens_unpolled >= POLL_TOKENS:
                self._poll(call)

    def _send(self, call: GenerationRequest, response: Any, flags: int = 0) -> None:
        if response is not None:
            call.has_answered = True
            call.sender.send(response, flags)

    def _close(self, call: GenerationRequest) -> None:
        with self._lock:
            if call.is_closed:
                return
            call.is_closed = True
            self._open.pop(call, None)
        self._closed(call)

    def _poll(self, call: GenerationRequest) -> None:
        call.num_tokens_unpolled = 0
        if call.sender.is_cancelled():
            call.fail(Cancelled("the client has left"))

    def _poll_some(self) -> None:
        """Asks after a few calls, those not asked the longest first."""
        with self._lock:
            calls = list(self._open)[:_POLLS_PER_INTERVAL]
            for call in calls:
                self._open[call] = self._open.pop(call)  # to the end of the line
        for call in calls:
            self._guarded(self._look_after, call)

    def _look_after(self, call: GenerationRequest) -> None:
        if call.is_closed:
            return
        waited = time.monotonic() - call.arrival
        error = self._overdue(call, waited)
        if error is not None:
            call.fail(error)
        elif call.stream and call.choices and not call.has_answered and waited > _FIRST_RESPONSE_S:
            self._send(call, stream_response(call, self._vocabulary, empty=True))
        self._poll(call)
