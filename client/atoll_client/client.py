"""The synchronous client: ``AsyncClient`` on an event loop of its own, in a background thread.

    with Client("localhost:8001") as client:
        vectors = client.embed(["a text", "another"])
        for chunk in client.stream("Once upon a time", max_tokens=50):
            print(chunk.text, end="")

May be used from several threads at once.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping, Sequence
from typing import Any, TypeVar

from atoll_client.aio import AsyncClient
from atoll_client.conversation import AsyncConversation
from atoll_client.embeddings import Image
from atoll_client.speech import Sound, Transcript
from atoll_client.types import (
    Chunk,
    Entity,
    Floats,
    Generation,
    HybridEmbeddings,
    Label,
    ModelInfo,
    Rank,
    SparseVector,
    TextToken,
)

T = TypeVar("T")


class Client:
    """The methods and their arguments are those of ``AsyncClient``."""

    def __init__(
        self,
        address: str = "localhost:8001",
        *,
        timeout_s: float = 600.0,
        retries: int = 3,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._client = AsyncClient(address, timeout_s=timeout_s, retries=retries, metadata=metadata)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="atoll-client", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and the thread."""
        if self._thread.is_alive():
            self._run(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def within(self, timeout_s: float) -> Client:
        """The same connection with another deadline: ``client.within(0.5).embed(...)``."""
        other = copy.copy(self)
        other._client = self._client.within(timeout_s)
        return other

    def with_priority(self, priority: int) -> Client:
        """The same connection with a priority: ``client.with_priority(10).embed(...)``."""
        other = copy.copy(self)
        other._client = self._client.with_priority(priority)
        return other

    def models(self) -> list[ModelInfo]:
        """All of Atoll's models on the server."""
        return self._run(self._client.models())

    def embed(
        self,
        texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        model: str | None = None,
        **options: Any,
    ) -> Any:
        """Vectors: (width,) of one text, (texts, width) of several; float32."""
        return self._run(self._client.embed(texts, model, **options))

    def embed_images(
        self, images: Image | Sequence[Image], model: str | None = None, **options: Any
    ) -> Any:
        """Vectors of images, (width,) of one, (images, width) of several; float32."""
        return self._run(self._client.embed_images(images, model, **options))

    def embed_all(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[Floats]:
        """A vector for each token of each text."""
        return self._run(self._client.embed_all(texts, model, **options))

    def similarity(
        self, source: str, sentences: Sequence[str], model: str | None = None, **options: Any
    ) -> Floats:
        """Cosine of each sentence with the source, (sentences,)."""
        return self._run(self._client.similarity(source, sentences, model, **options))

    def embed_sparse(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[SparseVector]:
        """A sparse vector for each text."""
        return self._run(self._client.embed_sparse(texts, model, **options))

    def embed_hybrid(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> HybridEmbeddings:
        """Vectors of texts, weights of their words and vectors of their tokens, by bge-m3."""
        return self._run(self._client.embed_hybrid(texts, model, **options))

    def embed_tokens(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[Floats]:
        """A late-interaction model's vectors, (tokens, width) of each text; float32."""
        return self._run(self._client.embed_tokens(texts, model, **options))

    def rerank(
        self, query: str, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[Rank]:
        """Texts ranked by their relevance to the query, the best first."""
        return self._run(self._client.rerank(query, texts, model, **options))

    def classify(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[list[Label]]:
        """Labels of each text with scores, the best first."""
        return self._run(self._client.classify(texts, model, **options))

    def classify_tokens(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[list[Entity]]:
        """The entities of each text, in order."""
        return self._run(self._client.classify_tokens(texts, model, **options))

    def generate(
        self, prompt: str | Sequence[int], model: str | None = None, **options: Any
    ) -> Generation:
        """A complete answer."""
        return self._run(self._client.generate(prompt, model, **options))

    def chat(
        self, messages: Sequence[Mapping[str, Any]], model: str | None = None, **options: Any
    ) -> Generation:
        """The answer to a conversation."""
        return self._run(self._client.chat(messages, model, **options))

    def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Mapping[str, Any]],
        model: str | None = None,
        **options: Any,
    ) -> Generator[Chunk, None, None]:
        """Chunks as they arrive. Leaving the loop early cancels the work."""
        return self._pieces(self._client.stream(prompt, model, **options))

    def transcribe(self, sound: Sound, model: str | None = None, **options: Any) -> Transcript:
        """What is said in a sound."""
        return self._run(self._client.transcribe(sound, model, **options))

    def stream_transcript(
        self, sound: Sound, model: str | None = None, **options: Any
    ) -> Generator[Transcript, None, None]:
        """The transcript as it is written. Leaving the loop early cancels the work."""
        return self._pieces(self._client.stream_transcript(sound, model, **options))

    def conversation(
        self, model: str | None = None, system: str | None = None, *, session: bool | None = None
    ) -> Conversation:
        """A chat with history; see ``AsyncConversation``."""
        return Conversation(self, self._client.conversation(model, system, session=session))

    def tokenize(
        self, texts: Sequence[str], model: str, *, add_special_tokens: bool = True
    ) -> list[list[TextToken]]:
        """Tokens of texts, from a model's tokenizer."""
        return self._run(self._client.tokenize(texts, model, add_special_tokens=add_special_tokens))

    def decode(self, ids: Sequence[Sequence[int]], model: str) -> list[str]:
        """Texts of token ids, from a model's tokenizer."""
        return self._run(self._client.decode(ids, model))

    def input_shapes(self, model: str) -> dict[str, list[int]]:
        """Shapes of the inputs of any model on the server, by name; -1: any length."""
        return self._run(self._client.input_shapes(model))

    def infer(self, model: str, inputs: Mapping[str, Any], **parameters: Any) -> Any:
        """Runs any model on the server, by its tensors' names."""
        return self._run(self._client.infer(model, inputs, **parameters))

    def _pieces(self, work: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items of an asynchronous stream, which is closed with this one."""
        end = object()
        try:
            while True:
                piece: Any = self._run(_next(work, end))
                if piece is end:
                    return
                yield piece
        finally:
            self._run(work.aclose())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for the result; Ctrl-C cancels the request as well."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


class Conversation:
    """``AsyncConversation`` for the synchronous client."""

    def __init__(self, client: Client, talk: AsyncConversation) -> None:
        self._client, self._talk = client, talk

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat so far; may be changed between turns."""
        return self._talk.messages

    @messages.setter
    def messages(self, said: list[dict[str, Any]]) -> None:
        self._talk.messages = said

    @property
    def uses_session(self) -> bool | None:
        """Whether the last turn went to the session entry; None before the first."""
        return self._talk.uses_session

    def close(self) -> None:
        """Frees what the server keeps; a later turn would send all messages again."""
        self._client._run(self._talk.close())

    def say(self, text: str, **options: Any) -> str:
        """The answer to one more message."""
        return "".join(self.stream(text, **options))

    def stream(self, text: str, **options: Any) -> Generator[str, None, None]:
        """The answer as it arrives; if the loop is left early, the part that was read is kept."""
        return self._client._pieces(self._talk.stream(text, **options))


async def _next(work: AsyncGenerator[T, None], end: object) -> T | object:
    return await anext(work, end)
