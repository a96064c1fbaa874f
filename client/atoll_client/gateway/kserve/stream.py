"""ModelStreamInfer: independent requests over one stream, and their responses.

Models with one response respond in the order of the requests, decoupled models as soon as they can.
Requests of a sequence are sent one after the other. Nothing is read from servers as long as the
client does not read, and no more requests are read than may be processed concurrently.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from atoll_client.errors import AtollError, Overloaded
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.grpc_calls import logger, read_message
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.kserve.parameters import EMPTY_FINAL, FINAL, JSON_ERRORS, check_version
from atoll_client.kserve import Message

# The metadata key of clients that want an error to end the stream with its status.
_AS_STATUS = "triton_grpc_error"


class MessageStream:
    """One stream. Leaving ``async with`` cancels its requests. Made by the task that reads it."""

    def __init__(self, request: Request, context: Context) -> None:
        self._request, self._context = request, context
        self._caller = asyncio.current_task()
        self._settings = context.settings
        self._free = asyncio.Semaphore(self._settings.grpc_max_parallel_stream_requests)
        # One at a time: a task waits with its response until the client has read the one before.
        self._out: asyncio.Queue[Message | AtollError | None] = asyncio.Queue(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_taken = 0
        # Done when the response to the previous message has been passed on.
        self._last: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last.set_result(None)
        self._sequences: dict[tuple[str, Any], asyncio.Task[None]] = {}
        self._is_status = request.headers.get(_AS_STATUS, "").lower() == "true"

    async def __aenter__(self) -> MessageStream:
        return self

    async def __aexit__(self, *reason: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answers(self, messages: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        """Responses, until the client has closed its side and all requests are done.

        Raises:
            AtollError: of a request, if the client wants errors as a status.
        """
        reader = asyncio.create_task(self._read(messages))
        self._tasks.add(reader)
        while (found := await self._out.get()) is not None:
            self._num_taken += 1
            if isinstance(found, AtollError):
                raise found
            yield found
        await reader

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        own = asyncio.current_task()
        try:
            async for raw in messages:
                await self._free.acquire()
                self._start(raw)
        finally:
            while work := [task for task in self._tasks if task is not own]:
                await asyncio.wait(work)
            await self._put(None)

    def _start(self, raw: bytes) -> None:
        """Starts a task for one message. It waits only for other tasks, so that all of them end."""
        message: Message | AtollError
        try:
            message = read_message(pb.ModelInferRequest, self._settings.tensor_payload_limit, raw)
        except AtollError as error:
            message = error
        key = _sequence(message)
        before = self._sequences.get(key) if key is not None else None
        turn = _Turn(self._last)
        self._last = turn.is_over
        task = asyncio.create_task(self._answer(message, len(raw), before, turn))
        if key is not None:
            self._sequences[key] = task
        self._tasks.add(task)

        def ended(_: Any) -> None:
            self._tasks.discard(task)
            self._free.release()
            turn.skip()
            if key is not None and self._sequences.get(key) is task:
                del self._sequences[key]

        task.add_done_callback(ended)

    async def _answer(
        self,
        message: Message | AtollError,
        num_bytes: int,
        before: asyncio.Task[None] | None,
        turn: _Turn,
    ) -> None:
        try:
            if isinstance(message, AtollError):
                raise message
            admission, client = self._context.admission, self._request.client_name
            self._context.client_limits.admit(self._request)
            with admission.admitted(client), admission.held(client) as held:
                held(num_bytes)
                if before is not None:
                    await asyncio.wait([before])
                await self._infer(message, turn)
        except AtollError as error:
            await self._fail(error, message, turn)
        except Exception as error:
            logger.exception("request %s: a stream's message", self._request.request_id)
            problem = AtollError(f"{type(error).__name__}: {error}")
            await self._fail(problem, message, turn)

    async def _infer(self, message: Message, turn: _Turn) -> None:
        upstream = self._context.upstream
        check_version(message.model_version)
        signature = await upstream.signature(message.model_name, message.model_version)
        signature.check(message)
        signature.prioritize(message, self._request.priority)
        asked = self._request
        rest = (remaining_s(asked, self._context), asked.metadata, asked.session_name)
        if signature.is_decoupled:
            turn.skip()
            async with contextlib.aclosing(upstream.exchange(signature, message, *rest)) as found:
                async for response in found:
                    await self._put(response)
            return
        message.parameters.pop(EMPTY_FINAL, None)
        response = await upstream.infer(signature, message, *rest)
        await turn.wait()
        response.parameters[FINAL].bool_param = True
        await self._put(pb.ModelStreamInferResponse(infer_response=response))

    async def _fail(self, error: AtollError, message: Message | AtollError, turn: _Turn) -> None:
        await turn.wait()
        if self._is_status:
            await self._put(error)
            return
        text, about = str(error), pb.ModelInferResponse()
        if not isinstance(message, AtollError):
            about.id = message.id
            if message.parameters[JSON_ERRORS].bool_param:
                # As the models do: the text alone does not say whether to ask again.
                text = json.dumps({"error": text, "error_type": error.error_type})
        response = pb.ModelStreamInferResponse(error_message=text, infer_response=about)
        await self._put(response)

    async def _put(self, found: Message | AtollError | None) -> None:
        """Passes a response on. The stream of a client that does not read for too long is ended."""
        put = asyncio.ensure_future(self._out.put(found))
        try:
            while not put.done():
                taken = self._num_taken
                await asyncio.wait([put], timeout=self._settings.write_timeout_s)
                if not put.done() and taken == self._num_taken:
                    assert self._caller is not None
                    self._caller.cancel()
                    raise Overloaded("the client reads nothing")
        finally:
            put.cancel()


def remaining_s(request: Request, context: Context) -> float:
    """The timeout in seconds: the gateway's, or the client's if that is less."""
    limit = context.settings.request_timeout_s
    return limit if request.deadline_s is None else max(0.0, min(limit, request.deadline_s))


class _Turn:
    """The position of a response in the order of requests."""

    def __init__(self, before: asyncio.Future[None]) -> None:
        self._before: asyncio.Future[None] | None = before
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Waits for all responses before; returns at once after ``skip``."""
        if self._before is not None:
            await asyncio.wait([self._before])

    def skip(self) -> None:
        """Leaves the order: later responses wait only for those before this one."""
        before, self._before = self._before, None
        if before is not None:
            before.add_done_callback(lambda _: self.is_over.set_result(None))


def _sequence(message: Message | AtollError) -> tuple[str, Any] | None:
    if isinstance(message, AtollError) or "sequence_id" not in message.parameters:
        return None
    value = message.parameters["sequence_id"]
    return message.model_name, value.string_param or value.int64_param
