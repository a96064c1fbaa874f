"""The asynchronous client: every task of every model on one server, over gRPC or HTTP.

    async with AsyncClient("localhost:8001") as client:
        vectors = await client.embed(["a text"])
        async for chunk in client.stream("Once upon a time", max_tokens=50):
            print(chunk.text, end="")

Without ``model``, the server's first model for the task is used. Cancelling the task that awaits an
answer cancels the work on the server.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from atoll_client import kserve, speech, tasks
from atoll_client.aio_encoders import AsyncEncoders
from atoll_client.batching import several
from atoll_client.conversation import AsyncConversation
from atoll_client.errors import ValidationError
from atoll_client.speech import Transcript
from atoll_client.tasks import Prompt
from atoll_client.types import (
    Chunk,
    Generation,
    ModelInfo,
    TextToken,
)


class AsyncClient(AsyncEncoders):
    """A connection to one server: ``host:port`` of its gRPC endpoint, or an ``http://`` URL.

    Args:
        timeout_s: deadline of each request including retries, after which the server is told to
            stop; ``within`` sets another for some calls.
        retries: how often a request is repeated after a refusal (the server is full or cannot be
            reached), with growing pauses. A generation is only repeated if it was refused before it
            began.
    """

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def within(self, timeout_s: float) -> AsyncClient:
        """The same connection with another deadline: ``client.within(0.5).embed(...)``."""
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    def with_priority(self, priority: int) -> AsyncClient:
        """The same connection for requests that wait by a priority: lower goes first; 0 by default.

        Raises:
            ValidationError: it is not between -999 and 999.
        """
        if not -kserve.MAX_PRIORITY <= priority <= kserve.MAX_PRIORITY:
            most = kserve.MAX_PRIORITY
            raise ValidationError(f"priority is {priority}; it must be between -{most} and {most}")
        other = copy.copy(self)
        other._priority = priority
        return other

    async def models(self) -> list[ModelInfo]:
        """All of Atoll's models on the server."""
        await self._find(refresh=True)
        return [found.info for found in self._known.models.values()]

    async def generate(
        self, prompt: str | Sequence[int], model: str | None = None, **options: Any
    ) -> Generation:
        """A complete answer. Options: ``max_tokens``, ``temperature``, ``stop``, and others."""
        return await self._whole(tasks.prompt_of(prompt), model, options)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Generation:
        """The answer to a conversation; the model's chat template makes the prompt."""
        return await self._whole(Prompt(messages=messages, tools=tools), model, options)

    async def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, Any]],
        model: str | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks as they arrive; the prompt is a text, token ids or messages (with tools).

        Leaving the loop early cancels the work.
        """
        found = dataclasses.replace(tasks.prompt_of(prompt), tools=tools)
        async with contextlib.aclosing(self._chunks(found, model, options, True)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def transcribe(
        self, sound: speech.Sound, model: str | None = None, **options: Any
    ) -> Transcript:
        """What is said in a sound; options: those of ``stream_transcript``."""
        pieces = self._transcripts(sound, model, options, False)
        async with contextlib.aclosing(pieces):
            return [piece async for piece in pieces][-1]

    async def stream_transcript(
        self, sound: speech.Sound, model: str | None = None, **options: Any
    ) -> AsyncGenerator[Transcript, None]:
        """The transcript as it is written, some segments at a time.

        Args:
            sound: the bytes of a file (WAV, FLAC, MP3, OGG), a ``pathlib.Path``, which is read
                here, or samples at 16 kHz.
            options: ``language`` (detected if it is not set), ``task`` (transcribe or translate),
                ``prompt`` (what the transcript follows), ``temperature``, ``seed``, and
                ``timestamps`` (false: one segment, of at most a window of 30 s).
        """
        pieces = self._transcripts(sound, model, options, True)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _transcripts(
        self, sound: speech.Sound, model: str | None, options: Mapping[str, Any], stream: bool
    ) -> AsyncGenerator[Transcript, None]:
        parameters = {**options, "stream": stream}
        prompt = parameters.pop("prompt", None)
        info = await self._model(model, str(options.get("task") or "transcribe"))
        message = speech.transcribe(info.name, speech.sound_of(sound), prompt, parameters)
        async with contextlib.aclosing(self._responses(message, info.name)) as responses:
            async for response in responses:
                if response.outputs:
                    yield speech.read(response)

    def conversation(
        self, model: str | None = None, system: str | None = None, *, session: bool | None = None
    ) -> AsyncConversation:
        """A chat with history; see ``AsyncConversation``."""
        return AsyncConversation(self, model, system, session)

    async def tokenize(
        self, texts: Sequence[str], model: str, *, add_special_tokens: bool = True
    ) -> list[list[TextToken]]:
        """Tokens of texts, from a model's tokenizer."""
        question = {
            "op": "tokenize", "inputs": several(texts), "add_special_tokens": add_special_tokens,
        }  # fmt: skip
        rows = await self._ask(model, question)
        return [[TextToken(**token) for token in row] for row in rows]

    async def decode(self, ids: Sequence[Sequence[int]], model: str) -> list[str]:
        """Texts of token ids, from a model's tokenizer."""
        question = {"op": "decode", "ids": [list(row) for row in ids]}
        texts: list[str] = await self._ask(model, question)
        return texts

    async def input_shapes(self, model: str) -> dict[str, list[int]]:
        """Shapes of the inputs of any model on the server, by name; -1: any length."""
        about = await self._transport.metadata(model, self._timeout_s)
        return {tensor.name: [int(size) for size in tensor.shape] for tensor in about.inputs}

    async def infer(self, model: str, inputs: Mapping[str, Any], **parameters: Any) -> Any:
        """Runs any model on the server, including ensembles and pipelines, by its tensors' names.

        Args:
            inputs: numpy arrays, or lists of texts.

        Returns:
            Arrays by name; texts as lists of str.
        """
        message = kserve.request(model, parameters)
        for name, value in inputs.items():
            kserve.add_array(message, name, value)
        return kserve.as_text(kserve.outputs(await self._send(message)))
