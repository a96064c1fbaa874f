"""The responses of one streaming call, buffered for a caller that is slower or leaves early."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc
import grpc.aio

from atoll_client.errors import AtollError, DeadlineExceeded, from_call, from_grpc
from atoll_client.kserve import Message

# Bytes of a stream that are buffered for a caller that is slower than the server. At this size,
# reading pauses, and gRPC's flow control slows the server down.
MAX_KEPT_BYTES = 1_000_000


class CallStream:
    """Reads a call to its end in its own task: its caller may be cancelled, but a read may not."""

    def __init__(self, call: Any, message: Message, timeout_s: float) -> None:
        self._call, self._message = call, message
        self._kept: deque[Message] = deque()
        self._num_kept_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._error: AtollError | None = None
        self._is_left = False
        self._changed: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(timeout_s, self._expire, timeout_s)
        self.task = asyncio.create_task(self._read())
        self.task.add_done_callback(lambda _: self._notify())

    async def next(self) -> Message | None:
        """The next response; None after the last."""
        while not self._kept:
            if self._error is not None:
                raise self._error
            if self.task.done():
                return None
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed
        response = self._kept.popleft()
        self._num_kept_bytes -= response.ByteSize()
        if self._num_kept_bytes < MAX_KEPT_BYTES:
            self._has_room.set()
        return response

    def leave(self) -> None:
        """Drops all further responses."""
        self._is_left = True
        self._kept.clear()
        self._has_room.set()
        self._timer.cancel()

    async def _read(self) -> None:
        try:
            await self._call.write(self._message)
            await self._call.done_writing()
            async for response in self._call:
                if not self._is_left:
                    self._keep(response)
                    await self._has_room.wait()
        except grpc.aio.AioRpcError as error:
            self._error = from_call(error, self._message.model_name)
        except asyncio.InvalidStateError:
            # The call ended while the request was being written.
            code, details = await self._call.code(), await self._call.details()
            self._error = from_grpc(code, details, self._message.model_name)

    def _keep(self, response: Message) -> None:
        self._kept.append(response)
        self._num_kept_bytes += response.ByteSize()
        if self._num_kept_bytes >= MAX_KEPT_BYTES:
            self._has_room.clear()
        self._notify()

    def fail(self, error: AtollError) -> None:
        """Ends the stream with an error, which ``next`` raises after the buffered responses."""
        self._error = self._error or error
        self._has_room.set()
        self._notify()

    def _expire(self, timeout_s: float) -> None:
        # Buffered responses are dropped, so that a slow caller also learns of the deadline.
        self._kept.clear()
        self._num_kept_bytes = 0
        self.fail(late(timeout_s))

    def _notify(self) -> None:
        if self._changed is not None:
            wake(self._changed)


def wake(waiting: asyncio.Future[None]) -> None:
    """Resumes the task that waits for the future."""
    if not waiting.done():
        waiting.set_result(None)


def late(timeout_s: float) -> DeadlineExceeded:
    """The error of a call whose time is up."""
    error = DeadlineExceeded(f"no answer within {timeout_s:.1f} s")
    error.timeout_s = timeout_s
    return error
