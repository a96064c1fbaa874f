"""One batch, from where it stands to its end.

Its lines are calls of the gateway's routes. A line is answered once: what was computed but not
written when the process ended is computed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from atoll_client.gateway.batches import lines
from atoll_client.gateway.batches.answers import Status, StoredBatch
from atoll_client.gateway.batches.calls import Answer, Caller
from atoll_client.gateway.batches.publish import insist, publish
from atoll_client.gateway.batches.results import ERROR, OUTPUT, Results
from atoll_client.gateway.batches.schemas import BatchLine
from atoll_client.gateway.batches.validation import validate
from atoll_client.gateway.core.context import Context

logger = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 30.0
# A line that ends a model's process each time is not tried forever.
_MAX_UNREADY = 10
_READ_LINES, _READ_BYTES = 64, 1_000_000
_EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


class Run:
    """A batch at work. slots: of the lines that all batches may have at work together."""

    def __init__(
        self, context: Context, caller: Caller, slots: asyncio.Semaphore, stored: StoredBatch
    ) -> None:
        self.stored = stored
        self._context, self._caller, self._slots = context, caller, slots
        self._store = context.batches
        self._stopped = asyncio.Event()
        self._deadline: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def cancel(self) -> None:
        """The batch's status says that it is to end."""
        self._stopped.set()

    def pause(self, deadline: float) -> None:
        """The process ends; running lines have until this time of ``time.monotonic()``."""
        self._deadline = deadline
        self._stopped.set()

    async def run(self) -> None:
        """Returns when the batch has ended, or the process is to end."""
        stored = self.stored
        if stored.batch["status"] == "validating":
            await validate(self._context, stored)
        if stored.is_finished:
            return
        final: Status | None = _FINAL[stored.batch["status"]]
        if stored.outputs is None:
            final = await self._answer()
        if final is not None:
            await publish(self._store, stored, final)

    async def _answer(self) -> Status | None:
        """Answers what is not answered; returns how the batch ends. None: later, not now."""
        results = Results(self._work, lambda: self._count(results))
        await insist(results.open)
        self._count(results)
        try:
            if self._is_cancelled:
                return "cancelled"
            feeder = asyncio.create_task(self._feed(results))
            await self._until(feeder)
            is_complete = feeder.done() and not feeder.cancelled()
            if self._deadline is not None and not is_complete:
                await self._finish_running()
            self._stopped.set()
            await _end([feeder, *self._tasks])
            if is_complete:
                feeder.result()
                return "completed"
            if self._is_cancelled:
                return "cancelled"
            if self._deadline is not None:
                return None
            self._stopped.clear()
            writer = asyncio.create_task(self._expire(results))
            await self._until(writer, for_ever=True)
            is_complete = writer.done()
            await _end([writer])
            return "expired" if is_complete else None
        finally:
            await results.close()
            self._count(results)

    async def _until(self, work: asyncio.Task[None], *, for_ever: bool = False) -> None:
        """Waits for the end of the work, the batch's time, or a stop."""
        stop = asyncio.create_task(self._stopped.wait())
        left_s = max(0.0, self.stored.batch["expires_at"] - time.time())
        waited: set[asyncio.Task[Any]] = {work, stop}
        await asyncio.wait(
            waited, timeout=None if for_ever else left_s, return_when=asyncio.FIRST_COMPLETED
        )
        await _end([stop])

    async def _feed(self, results: Results) -> None:
        """Starts a task for each line that is not answered, and waits for all."""
        async for line in self._unanswered(results):
            await self._slots.acquire()
            if self._stopped.is_set():
                self._slots.release()
                break
            task = asyncio.create_task(self._line(results, line))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        await asyncio.gather(*self._tasks)
        if self._failure is not None:
            raise self._failure
        await results.flush()
        if self._stopped.is_set():
            raise asyncio.CancelledError

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            self._failure = self._failure or task.exception()

    async def _unanswered(self, results: Results) -> Any:
        found = lines.requests(self._work / "input", self._context.settings.payload_limit)
        while block := await asyncio.to_thread(_take, found):
            for line in block:
                if line.custom_id not in results.answered:
                    yield line

    async def _finish_running(self) -> None:
        assert self._deadline is not None
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, self._deadline - time.monotonic()))

    async def _line(self, results: Results, line: BatchLine) -> None:
        self._store.num_running += 1
        try:
            answer = await self._answer_of(line)
        finally:
            self._store.num_running -= 1
        if answer is None:
            return
        kind = OUTPUT if answer.status < 400 else ERROR
        response = {
            "status_code": answer.status, "request_id": answer.request_id,
            "body": orjson.Fragment(answer.body),
        }  # fmt: skip
        await results.add(
            kind, line.custom_id, _written(line, response, None), orjson.loads(answer.body)
        )
        self._store.num_lines["completed" if kind == OUTPUT else "failed"] += 1

    async def _answer_of(self, line: BatchLine) -> Answer | None:
        """The answer, once there is room for the request; None: it is given back."""
        stored, num_unready = self.stored, 0
        # 50,000 responses would push those of everyone else out of their store.
        own = {"store": False} if line.url == "/v1/responses" else {}
        body = lines.encoded({**own, **line.body})
        for tries in itertools.count():
            answer = await self._caller.call(line.url, body, stored.owner, stored.path_model)
            is_full, is_unready = answer.status == 429, answer.status == 503
            num_unready += is_unready and self._context.pool.is_ready
            if not (is_full or is_unready):
                return answer
            if self._stopped.is_set():
                # A handler that is cancelled answers 503, too.
                return None
            if num_unready >= _MAX_UNREADY:
                return answer
            wait_s = min(_FIRST_WAIT_S * 2 ** min(tries, 10), _LONGEST_WAIT_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), wait_s * random.uniform(0.5, 1.0))
        return None

    async def _expire(self, results: Results) -> None:
        async for line in self._unanswered(results):
            await results.add(ERROR, line.custom_id, _written(line, None, _EXPIRED), None)
            self._store.num_lines["failed"] += 1
        await results.flush()

    def _count(self, results: Results) -> None:
        batch = self.stored.batch
        batch["request_counts"] = {
            "total": batch["request_counts"]["total"], "completed": results.num_completed,
            "failed": results.num_failed,
        }  # fmt: skip
        batch["usage"] = results.usage
        size = (self._work / "input").stat().st_size
        self._store.hold(batch["id"], size + results.num_bytes)

    @property
    def _is_cancelled(self) -> bool:
        return self.stored.batch["status"] == "cancelling"

    @property
    def _work(self) -> Path:
        return self._store.folder.work(self.stored.batch["id"])


_FINAL: dict[Status, Status] = {
    # With its files already chosen, a batch in progress is one that has expired.
    "in_progress": "expired", "finalizing": "completed", "cancelling": "cancelled",
}  # fmt: skip


def _written(line: BatchLine, response: Any, error: Any) -> bytes:
    return orjson.dumps({
        "id": f"batch_req_{secrets.token_hex(12)}", "custom_id": line.custom_id,
        "response": response, "error": error,
    }) + b"\n"  # fmt: skip


def _take(found: Iterator[tuple[BatchLine, int]]) -> list[BatchLine]:
    """The next lines, as many as are worth a thread's time."""
    block: list[BatchLine] = []
    num_bytes = 0
    for line, size in found:
        block.append(line)
        num_bytes += size
        if len(block) >= _READ_LINES or num_bytes >= _READ_BYTES:
            break
    return block


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
