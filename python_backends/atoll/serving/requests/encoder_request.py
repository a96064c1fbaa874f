"""A request to an encoder; the engine fills in its rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from atoll.encoders.packer import Item
from atoll.serving.requests.report import Report, parts_of
from atoll.serving.requests.served_request import Notified, ServedRequest
from atoll.serving.triton.response_sender import ResponseSender
from atoll.text.text_encoder import Encoded, Texts


@dataclass(frozen=True)
class Work:
    """What a task has read from a request: texts (or pairs), token ids or images, and options.

    route: which of the model's encoders computes it, if there are several.
    """

    name: str
    options: Any
    texts: Texts = ()
    ids: tuple[list[int], ...] = ()
    truncate: bool = True
    direction: str = "right"
    route: str | None = None
    images: tuple[bytes, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows of the answer."""
        return len(self.ids) or len(self.images) or len(self.texts)


class EncoderRequest(ServedRequest):
    """The rows of one answer.

    rows: filled in on the engine's thread. lengths: tokens of each row. moments: the arrival, then
    the end of each part of the request's time so far (see ``latency_breakdown``).
    """

    def __init__(
        self, work: Work, sender: ResponseSender, streamer: Notified, limit_s: float | None,
        priority: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(sender, streamer, num_answers=1, limit_s=limit_s)
        self.work, self.priority = work, priority
        self.rows: list[Any] = [None] * work.num_rows
        self.lengths: list[int] = []
        self.moments = [self.arrival]
        self._num_missing = work.num_rows
        self._items: list[Item] = []

    @property
    def is_complete(self) -> bool:
        """See ``ServedRequest``."""
        return self._num_missing == 0

    def report(self) -> Report:
        """See ``ServedRequest``. Its ends are those of its first and last text."""
        names = ("tokenize", "queue", "compute", "send")
        moments = [*self.moments, time.monotonic()] if self.is_complete else self.moments
        return Report(num_input_tokens=sum(self.lengths), parts=parts_of(names, moments))

    def asked_text(self) -> Any:
        """See ``ServedRequest``."""
        return self.work.ids or self.work.texts or f"{len(self.work.images)} images"

    def items(self, encoded: Sequence[Encoded]) -> list[Item]:
        """The request's rows for the engine."""
        self.lengths = [len(e.ids) - e.num_padding for e in encoded]
        self._items = [
            Item(
                e.ids,
                partial(self.on_result, row),
                e.type_ids,
                self.work.options,
                e.places,
                route=self.work.route,
                is_dropped=self._is_over,
                is_counted=not self.sender.is_canary,
                prefix=e.prefix,
                pixels=e.pixels,
                priority=self.priority,
                client=None if self.sender.is_canary else self.origin.client,
            )
            for row, e in enumerate(encoded)
        ]
        self.moments.append(time.monotonic())
        return self._items

    def on_result(self, row: int, result: Any) -> None:
        """A row was computed, or has failed, which ends the request; on the engine's thread."""
        if isinstance(result, Exception):
            self.fail(result)
            return
        self.rows[row] = result
        if self._num_missing == 1:
            now, items = time.monotonic(), self._items
            self.moments += [min((item.started for item in items), default=now), now]
            self._items = []  # they hold this request
        self._num_missing -= 1
        if self._num_missing == 0:
            self._call_attention()

    def advance(self) -> None:
        """Nothing: rows need no further work."""

    def cancel(self) -> None:
        """Releases the items; the engine drops them."""
        self._items = []

    def _is_over(self) -> bool:
        return self.is_closed or self.error is not None
