"""The encoder engine: one thread that packs waiting texts and runs them.

``submit`` never blocks. Every item is answered exactly once; a forward that fails answers the items
of its pack, and the engine goes on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import torch

from atoll.encoders.packer import PREFERRED_TOKENS, Item, batch_of, take
from atoll.errors import AtollError, Cancelled, GenerationError, NotReady
from atoll.layers import Batch
from atoll_kernels.device import enter

logger = logging.getLogger(__name__)

# Runs a pack: the batch and its items in, one result (or error) per item out.
Forward = Callable[[Batch, Sequence[Item]], Sequence[object]]


class EncoderEngine:
    """A queue, a thread and a forward.

    on_pack: called after every pack with its items, their tokens, when it started
        (``time.monotonic``) and the seconds it took.
    """

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        *,
        max_batch_tokens: int,
        max_batch_requests: int | None = None,
        on_pack: Callable[[Sequence[Item], int, float, float], None] = lambda *_: None,
    ) -> None:
        self._forward, self._device, self._on_pack = forward, device, on_pack
        is_cpu = device.type == "cpu"
        self._max_tokens = min(max_batch_tokens, PREFERRED_TOKENS) if is_cpu else max_batch_tokens
        self._max_items = max_batch_requests
        self._waiting: deque[Item] = deque()  # the thread's own
        # A condition would wake the thread twice: it needs the lock that the waker still holds.
        self._arrivals: SimpleQueue[Sequence[Item]] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopping = False
        self._pack: list[Item] = []  # being run
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._loop, name="atoll-encoder", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why nothing can be submitted any more though nobody has called ``stop``; None: it can."""
        return self._failure

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, items: Sequence[Item]) -> None:
        """Queues items.

        Raises:
            NotReady: the engine is stopping, or has failed.
        """
        now = time.monotonic()
        for item in items:
            item.queued = now
        with self._lock:
            if self._is_stopping:
                raise self._not_ready()
            self._arrivals.put(items)

    def stop(self) -> None:
        """Answers what waits with NotReady and ends the thread."""
        with self._lock:
            self._is_stopping = True
            self._arrivals.put(())
        if self._thread.is_alive():
            self._thread.join()
        self._refuse_waiting()

    def _not_ready(self) -> NotReady:
        if self._failure is None:
            return NotReady("the model is shutting down")
        return NotReady(f"the model is not healthy, it has to be loaded again: {self._failure}")

    def _refuse_waiting(self) -> None:
        self._collect()
        while self._waiting:
            _answer(self._waiting.popleft(), self._not_ready())

    def _loop(self) -> None:
        try:
            enter(self._device)
            while self._turn():
                continue
        except BaseException as error:
            logger.exception("the engine's thread ends")
            with self._lock:
                self._failure = f"its engine ended with {type(error).__name__}: {error}"
                self._is_stopping = True
            for item in self._pack:
                _answer(item, self._not_ready())
            self._refuse_waiting()

    def _turn(self) -> bool:
        """Takes what has arrived and runs a pack of it. False: stop."""
        if not self._waiting:
            self._waiting.extend(self._arrivals.get())
        self._collect()
        if self._is_stopping:
            return False
        self._pack = take(self._waiting, self._max_tokens, self._max_items)
        pack = [item for item in self._pack if not _is_dropped(item)]
        if pack:
            self._run(pack)
        self._pack = []
        return True

    def _collect(self) -> None:
        """Takes over what has arrived, without waiting."""
        with contextlib.suppress(Empty):
            while True:
                self._waiting.extend(self._arrivals.get_nowait())

    def _run(self, pack: list[Item]) -> None:
        start = time.monotonic()
        for item in pack:
            item.started = start
        try:
            with torch.inference_mode():
                results = self._forward(batch_of(pack, self._device), pack)
            if len(results) != len(pack):
                raise ValueError(f"{len(results)} results for {len(pack)} texts")
        except AtollError as error:
            results = [error] * len(pack)
        except Exception as error:
            logger.exception(
                "a forward failed; its %d texts are answered with the error", len(pack)
            )
            failure = GenerationError(f"the forward failed: {type(error).__name__}: {error}")
            results = [failure] * len(pack)
        seconds = time.monotonic() - start
        for item, result in zip(pack, results, strict=True):
            _answer(item, result)
        # Somebody waits for the answers, nobody for this.
        try:
            self._on_pack(pack, sum(len(item.ids) for item in pack), start, seconds)
        except Exception:
            logger.exception("a pack could not be counted; the engine goes on")


def _answer(item: Item, result: object) -> None:
    """An answer that cannot be taken costs its request, never the engine's thread."""
    try:
        item.done(result)
    except Exception:
        logger.exception("an answer could not be taken; the engine goes on")


def _is_dropped(item: Item) -> bool:
    """Answers an item that nobody waits for, instead of running it."""
    try:
        if item.is_dropped is None or not item.is_dropped():
            return False
    except Exception:
        logger.exception("it is unknown whether a client has left; its text is run")
        return False
    _answer(item, Cancelled("the client has left"))
    return True
