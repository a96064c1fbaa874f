"""Inference calls over gRPC that are never cancelled while the server may be answering.

Two things crash Triton 2.51: a call that its client cancels at the moment its answer is complete,
and an error in a stream if the client asked for status codes. Therefore a stream's error is read
from its text, and if a caller leaves or reaches its deadline, the call continues in its own task:
the model is told to cancel the request by its id, and further responses are dropped. Only a call
that does not end is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from atoll_client import grpc_channel, kserve
from atoll_client.call_stream import CallStream, late, wake
from atoll_client.errors import AtollError, from_call, from_stream
from atoll_client.kserve import Message

Metadata = Sequence[tuple[str, str]]

# The model may not have received the request yet.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.02, 1.0
_PATIENCE_S = 30.0
# For models that cannot cancel by id, whose work runs to its end.
_LONG_PATIENCE_S = 600.0
_CLOSE_S = 2.0


class Calls:
    """Calls of one channel; ``close`` it before the channel.

    Messages with an ``id`` go to Atoll's models, which can cancel a request by its id, unless
    ``can_cancel`` is false.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._infer = grpc_channel.unary(channel, "ModelInfer")
        self._stream = grpc_channel.stream(channel, "ModelStreamInfer", request="ModelInfer")
        self._left: set[asyncio.Task[None]] = set()
        self._open: dict[str, set[_Open]] = {}

    def open_models(self) -> list[str]:
        """Names of the models with pending requests."""
        return [name for name, found in self._open.items() if found]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is pending, calls that callers have left included."""
        return not self._left and not self.open_models()

    def lose(self, model: str, sent_before: float, error: AtollError) -> int:
        """Fails requests sent to a model before a time (``time.monotonic()``); returns how many.

        For servers, which never answer the requests of a process that crashed.
        """
        lost = [one for one in self._open.get(model, ()) if one.sent_at < sent_before]
        for one in lost:
            one.fail(error)
        return len(lost)

    @contextlib.contextmanager
    def _opened(self, model: str, fail: Callable[[AtollError], None]) -> Iterator[None]:
        one = _Open(time.monotonic(), fail)
        self._open.setdefault(model, set()).add(one)
        try:
            yield
        finally:
            self._open[model].discard(one)

    async def close(self) -> None:
        """Waits briefly for calls that callers have left; the rest ends with the channel."""
        if self._left:
            _, pending = await asyncio.wait(self._left, timeout=_CLOSE_S)
            for task in pending:
                task.cancel()

    async def infer(
        self,
        message: Message,
        timeout_s: float,
        metadata: Metadata = (),
        *,
        can_cancel: bool = True,
    ) -> Message:
        """The response of a model that gives exactly one.

        Raises:
            AtollError: as the status says; DeadlineExceeded after ``timeout_s``.
        """
        call = self._infer(message, metadata=tuple(metadata) or None)
        ended = asyncio.get_running_loop().create_future()
        call.add_done_callback(lambda _: wake(ended))
        timer = asyncio.get_running_loop().call_later(timeout_s, _expire, ended, timeout_s)
        try:
            with self._opened(message.model_name, lambda error: _fail(ended, error)):
                await ended
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_call(error, message.model_name) from error
        finally:
            timer.cancel()
            if not call.done():
                is_batched = bool(message.inputs) and len(message.inputs[0].shape) > 1
                self._leave(message, metadata, call, is_batched, can_cancel=can_cancel)

    async def responses(
        self, message: Message, timeout_s: float, metadata: Metadata = (), canceller: str = ""
    ) -> AsyncGenerator[Message, None]:
        """The responses of a decoupled model; closing the generator cancels the work.

        Args:
            canceller: the model that can cancel the request, if it is a different one.

        Raises:
            AtollError: as the error's text says; DeadlineExceeded after ``timeout_s``.
        """
        message.parameters["json_errors"].bool_param = True
        exchange = self.exchange(message, timeout_s, metadata, canceller)
        async with contextlib.aclosing(exchange):
            async for response in exchange:
                if response.error_message:
                    raise from_stream(response.error_message)
                yield response.infer_response

    async def exchange(
        self,
        message: Message,
        timeout_s: float,
        metadata: Metadata = (),
        canceller: str = "",
        *,
        can_cancel: bool = True,
    ) -> AsyncGenerator[Message, None]:
        """Like ``responses``, but yields ModelStreamInferResponses, including those with errors."""
        call = self._stream(metadata=tuple(metadata) or None)
        stream = CallStream(call, message, timeout_s)
        try:
            with self._opened(message.model_name, stream.fail):
                while (response := await stream.next()) is not None:
                    yield response
        finally:
            stream.leave()
            if not stream.task.done():
                self._keep(stream.task)
                self._leave(message, metadata, call, None, canceller, can_cancel=can_cancel)

    def _leave(
        self,
        message: Message,
        metadata: Metadata,
        call: Any,
        is_batched: bool | None,
        canceller: str = "",
        *,
        can_cancel: bool = True,
    ) -> None:
        """Ends a call without its caller.

        is_batched: whether the model's tensors have a batch axis; None: it streams.
        """

        async def cancel() -> bool:
            question = {"op": "cancel", "request_id": message.id}
            asked = kserve.control_request(
                canceller or message.model_name, bool(is_batched), question
            )
            if is_batched is None:
                answers = [r async for r in self.responses(asked, _CLOSE_S, metadata)]
            else:
                answers = [await self.infer(asked, _CLOSE_S, metadata)]
            return bool(answers) and bool(kserve.read_control(answers[0]))

        patience_s = _PATIENCE_S if can_cancel else _LONG_PATIENCE_S
        ask = cancel if message.id and can_cancel else None
        self._keep(asyncio.create_task(_see_off(call, ask, patience_s)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Holds a reference to the task: the event loop only has weak ones."""
        self._left.add(task)
        task.add_done_callback(self._left.discard)


async def _see_off(call: Any, cancel: Callable[[], Any] | None, patience_s: float) -> None:
    """Returns when the call has ended; has the model cancel its request if possible."""
    ended = asyncio.Event()
    call.add_done_callback(lambda _: ended.set())
    until, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while not (ended.is_set() or call.done()) and time.monotonic() < until:
        if cancel is not None:
            with contextlib.suppress(AtollError):
                if await cancel():
                    cancel = None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)
    if not call.done():
        call.cancel()


@dataclass(frozen=True, eq=False)
class _Open:
    """A pending request; sent_at: by ``time.monotonic()``."""

    sent_at: float
    fail: Callable[[AtollError], None]


def _expire(waiting: asyncio.Future[None], timeout_s: float) -> None:
    _fail(waiting, late(timeout_s))


def _fail(waiting: asyncio.Future[None], error: AtollError) -> None:
    if not waiting.done():
        waiting.set_exception(error)
