"""A request to an encoder and its one response, sent when the last of its rows is computed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.encoders.packer import Item
from atoll.errors import Cancelled
from atoll.serving.triton import tensors
from atoll.serving.triton.response_sender import TritonResponseSender
from atoll.text.text_encoder import Encoded, Texts

if TYPE_CHECKING:
    from atoll.serving.tasks.encoder import EncoderModel

logger = logging.getLogger(__name__)

# How often it is asked whether the client of a request that waits is still there.
_LOOK_INTERVAL_S = 0.05


@dataclass(frozen=True)
class Work:
    """A request as it was read: texts (or pairs) or token ids, and what its task asks for.

    limit_s: seconds after which it is ended.
    """

    name: str
    options: Any
    texts: Texts = ()
    ids: tuple[list[int], ...] = ()
    truncate: bool = True
    direction: str = "right"
    limit_s: float | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the answer."""
        return len(self.ids) or len(self.texts)


class Reply:
    """Collects the rows of one request and sends its response exactly once.

    Any thread may end it; rows are set on the engine's.
    """

    def __init__(self, model: EncoderModel, work: Work, sender: TritonResponseSender) -> None:
        self.work = work
        self._model, self._sender = model, sender
        # Its arrival, then the end of each part of its time: see ``serving.parts``.
        self._moments = [time.monotonic()]
        self._next_look = self._moments[0] + _LOOK_INTERVAL_S
        self._items: list[Item] = []
        self._lengths: list[int] = []
        self._rows: list[Any] = [None] * work.num_rows
        self._num_missing = work.num_rows
        self._is_closed = self._is_abandoned = False
        self._lock = threading.Lock()
        model.deadlines.add(self.fail, self._moments[0], work.limit_s)

    def items(self, encoded: Sequence[Encoded]) -> list[Item]:
        """The request's rows for the engine."""
        self._lengths = [len(e.ids) for e in encoded]
        options = self.work.options
        self._items = [
            Item(
                e.ids,
                self._setter(i),
                e.type_ids,
                options,
                is_dropped=self._is_dropped,
                is_counted=not self._sender.is_canary,
            )
            for i, e in enumerate(encoded)
        ]
        self._moments.append(time.monotonic())
        return self._items

    def fail(self, error: BaseException) -> None:
        """Answers with an error, unless the request has been answered."""
        self._close(lambda: self._sender.fail(error), error)

    def abandon(self) -> bool:
        """Nobody waits any more: what has not been computed is answered with an error, on the
        engine's thread. False: it is answered already."""
        self._is_abandoned = True
        return not self._is_closed

    def _is_dropped(self) -> bool:
        """Whether the client has left, or another row has failed. Asking the server costs 50 us, so
        a request is asked after only once it has waited, and not for each of its rows."""
        now = time.monotonic()
        has_left = False
        if not self._is_closed and (self._is_abandoned or now >= self._next_look):
            self._next_look = now + _LOOK_INTERVAL_S
            # Triton ends if it is asked about a request that has had its answer.
            with self._lock:
                has_left = not self._is_closed and (
                    self._is_abandoned or self._sender.is_cancelled()
                )
        if has_left:
            self.fail(Cancelled("the client has left"))
        return self._is_closed

    def _setter(self, row: int) -> Callable[[Any], None]:
        return lambda result: self._set(row, result)

    def _set(self, row: int, result: Any) -> None:
        """On the engine's thread."""
        if isinstance(result, BaseException):
            self.fail(result)
            return
        self._rows[row] = result
        self._num_missing -= 1
        items = self._items  # none, once it is closed
        if self._num_missing == 0 and items:
            self._moments += [min(item.started for item in items), time.monotonic()]
            try:
                outputs = self._model.answer(self.work, self._rows, self._lengths)
            except Exception as error:
                self.fail(error)
            else:
                self._close(lambda: self._sender.send(outputs, tensors.FINAL), None)

    def _close(self, send: Callable[[], None], error: BaseException | None) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._model.deadlines.remove(self.fail)
        self._model.release()
        try:
            send()
        except Exception as unsent:
            logger.exception("an answer could not be sent")
            error = unsent
            self._sender.fail(unsent)
        if not self._sender.is_canary:
            self._model.count(error, self._moments)
        # They hold this reply, which would otherwise wait for the collector of cycles.
        self._items = []
