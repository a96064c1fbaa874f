"""A client's connection to one server: sends, repeats and splits requests, and knows its models."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from atoll_client import discovery, kserve, tasks
from atoll_client.address import parse_address
from atoll_client.batching import in_parts
from atoll_client.errors import NotFound, NotReady, Overloaded, Unreached, UnsupportedModel
from atoll_client.grpc_transport import GrpcTransport
from atoll_client.kserve import Message
from atoll_client.retry import Tries
from atoll_client.sequences import Sequences, Turn
from atoll_client.tasks import Prompt
from atoll_client.transport import Metadata, Transport
from atoll_client.types import Chunk, Generation, ModelInfo

T = TypeVar("T")


def connect(address: str, metadata: Metadata) -> Transport:
    """The transport for an address; nothing is sent yet.

    Raises:
        ValidationError: it is not an address.
    """
    is_http, target = parse_address(address)
    if is_http:
        from atoll_client.http_transport import HttpTransport

        return HttpTransport(target, metadata)
    return GrpcTransport(target, metadata)


class Connection:
    """What all tasks of a client share."""

    def __init__(
        self,
        address: str = "localhost:8001",
        *,
        timeout_s: float = 600.0,
        retries: int = 3,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.address, self._retries, self._timeout_s = address, retries, timeout_s
        self._priority: int | None = None
        self._transport = connect(address, tuple(metadata))
        self._known = discovery.Known()
        self._sequences = Sequences(self._transport)

    async def close(self) -> None:
        """Ends conversations and the connection; requests in flight fail."""
        await self._sequences.end_all()
        await self._transport.close()

    async def _send(self, message: Message) -> Message:
        """One request with one response, repeated if it was refused.

        A request that the server may have begun to work on is never repeated.
        """
        kserve.prioritize(message, self._priority)
        tries = Tries(self._timeout_s, self._retries)
        while True:
            try:
                return await self._transport.infer(message, tries.left_s)
            except (Overloaded, Unreached) as error:
                await tries.pause(error)

    async def _responses(self, message: Message, generator: str) -> AsyncGenerator[Message, None]:
        """A generator's responses; the request is repeated if it was refused before the first."""
        kserve.prioritize(message, self._priority)
        tries = Tries(self._timeout_s, self._retries)
        while True:
            has_begun = False
            try:
                answers = self._transport.responses(message, tries.left_s, generator)
                async with contextlib.aclosing(answers) as responses:
                    async for response in responses:
                        has_begun = True
                        yield response
                return
            except (Overloaded, Unreached) as error:
                if has_begun:
                    raise
                await tries.pause(error)

    async def _in_parts(
        self,
        info: ModelInfo,
        items: Sequence[Any],
        progress: bool,
        build: Callable[[Sequence[Any]], Message],
        read: Callable[[Message], T],
        size: int | None = None,
    ) -> list[T]:
        """size: of a part; None: what the model accepts in one request."""

        async def answer(part: Sequence[Any]) -> T:
            return read(await self._send(build(part)))

        return await in_parts(items, size or info.max_client_batch_size, progress, answer)

    async def _model(self, name: str | None, *tasks: str) -> ModelInfo:
        return await self._chosen(lambda: discovery.choose(self._known.models, name, *tasks))

    async def _chosen(self, choose: Callable[[], T]) -> T:
        """The result of ``choose`` on the known models or, if it fails, on those loaded by now."""
        await self._find()
        try:
            return choose()
        except (NotFound, UnsupportedModel):
            await self._find(refresh=True)
            return choose()

    async def _session_entry(self, model: str | None) -> str | None:
        """The entry for a generator's conversations; None: the server or transport has none.

        Raises:
            NotFound, UnsupportedModel: see ``discovery.choose``.
        """
        info = await self._model(model, "generate")
        return self._known.models[info.name].session if self._transport.has_sequences else None

    async def _whole(self, prompt: Prompt, model: str | None, options: Any) -> Generation:
        tasks.check_one(options)
        # Streamed, so that the server notices if the caller leaves; not for the best of several.
        stream = not (self._transport.notices_leaving or {"n", "best_of"} & options.keys())
        chunks = [chunk async for chunk in self._chunks(prompt, model, options, stream)]
        return tasks.joined(chunks)

    async def _chunks(
        self,
        prompt: Prompt,
        model: str | None,
        options: Mapping[str, Any],
        stream: bool,
        turn: Turn | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """A generator's answer, or its session entry's answer to one turn."""
        info = await self._model(model, "generate")
        sampling, wanted, session = tasks.split_options(options)
        if model in info.adapters:
            sampling.setdefault("adapter_id", model)
        message = tasks.generate(
            info.name, prompt, sampling, stream=stream, wanted=wanted, session=session
        )
        if turn is not None:
            turn.mark(message)
        async with contextlib.aclosing(self._responses(message, info.name)) as responses:
            async for response in responses:
                for chunk in kserve.read_chunks(response):
                    yield chunk

    async def _ask(self, model: str, question: Mapping[str, Any]) -> Any:
        found = await self._chosen(lambda: discovery.named(self._known.models, model))
        return await self._control(found.info.name, found.is_stream, found.is_batched, question)

    async def _control(
        self, name: str, is_stream: bool, is_batched: bool, question: Mapping[str, Any]
    ) -> Any:
        message = kserve.control_request(name, is_batched, question)
        if not is_stream:
            return kserve.read_control(await self._send(message))
        answers = self._transport.responses(message, self._timeout_s)
        async with contextlib.aclosing(answers) as responses:
            async for response in responses:
                return kserve.read_control(response)
        raise NotReady(f"model {name!r} gave no answer")

    async def _find(self, refresh: bool = False) -> None:
        await self._known.find(self._transport, self._control, self._timeout_s, refresh)
