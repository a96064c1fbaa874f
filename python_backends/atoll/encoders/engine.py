"""The encoder engine: one thread that batches waiting texts and runs them.

``submit`` never blocks. Every item is answered exactly once; if a forward pass fails, the items of
its batch get the error, and the engine continues.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

import torch

from atoll.encoders.packer import PREFERRED_TOKENS, Item, batch_of
from atoll.encoders.waiting import WaitingTexts
from atoll.errors import AtollError, Cancelled, GenerationError, NotReady
from atoll.layers import Batch
from atoll_kernels.device import enter

logger = logging.getLogger(__name__)

# Runs a batch with its items; returns a result or an error per item.
Forward = Callable[[Batch, Sequence[Item]], Sequence[object]]


class EncoderEngine:
    """A queue, a thread, and the function that runs batches.

    priority_aging_s: see ``engine.waiting``.
    on_pack: called after every batch with its items, its number of tokens, its start
        (``time.monotonic``) and the seconds it took.
    """

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        *,
        max_batch_tokens: int,
        max_batch_requests: int | None = None,
        priority_aging_s: float = 0.0,
        on_pack: Callable[[Sequence[Item], int, float, float], None] = lambda *_: None,
    ) -> None:
        self._forward, self._device, self._on_pack = forward, device, on_pack
        is_cpu = device.type == "cpu"
        max_tokens = min(max_batch_tokens, PREFERRED_TOKENS) if is_cpu else max_batch_tokens
        self._aging_s = priority_aging_s
        self._waiting = WaitingTexts(max_tokens, max_batch_requests)  # only used by the thread
        # A condition would wake the thread twice, since its notifier still holds the lock.
        self._arrivals: SimpleQueue[Sequence[Item]] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopping = False
        self._pack: list[Item] = []  # the running batch
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._loop, name="atoll-encoder", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why the engine ended without ``stop``; None: it has not."""
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
            item.queued, item.due = now, now + item.priority * self._aging_s
        with self._lock:
            if self._is_stopping:
                raise self._not_ready()
            self._arrivals.put(items)

    def stop(self) -> None:
        """Answers waiting items with NotReady and ends the thread."""
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
        for item in self._waiting.clear():
            _answer(item, self._not_ready())

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
        """Runs a batch of the items that have arrived; False: the engine is stopping."""
        if not self._waiting:
            self._waiting.add(self._arrivals.get())
        self._collect()
        if self._is_stopping:
            return False
        self._pack = self._waiting.take()
        pack = [item for item in self._pack if not _is_dropped(item)]
        if pack:
            self._run(pack)
        self._pack = []
        return True

    def _collect(self) -> None:
        """Moves items that have arrived to the waiting ones, without blocking."""
        with contextlib.suppress(Empty):
            while True:
                self._waiting.add(self._arrivals.get_nowait())

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
        num_tokens = sum(len(item.ids) for item in pack)
        self._waiting.measured(num_tokens, seconds)
        for item, result in zip(pack, results, strict=True):
            _answer(item, result)
        # After the answers, which callers are waiting for.
        try:
            self._on_pack(pack, num_tokens, start, seconds)
        except Exception:
            logger.exception("a pack could not be counted; the engine goes on")


def _answer(item: Item, result: object) -> None:
    """Answers an item; an error in its callback does not end the engine's thread."""
    try:
        item.done(result)
    except Exception:
        logger.exception("an answer could not be taken; the engine goes on")


def _is_dropped(item: Item) -> bool:
    """Whether the client of an item has disconnected; if so, answers it."""
    try:
        if item.is_dropped is None or not item.is_dropped():
            return False
    except Exception:
        logger.exception("it is unknown whether a client has left; its text is run")
        return False
    _answer(item, Cancelled("the client has left"))
    return True
