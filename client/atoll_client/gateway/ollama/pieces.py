"""An answer's events as parts of Ollama's messages: text, reasoning, and calls as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from atoll_client.gateway.chat_formats.arguments import complete
from atoll_client.gateway.chat_formats.events import Argued, Called, Ended, Event, Reasoned, Said
from atoll_client.gateway.ollama.answers import OllamaLogprob, OllamaToolCall
from atoll_client.types import Alternative, Chunk, Token


class Piece(NamedTuple):
    """A part of an answer."""

    content: str = ""
    thinking: str = ""
    calls: Sequence[OllamaToolCall] = ()


class Pieces:
    """The parts of one answer."""

    def __init__(self) -> None:
        self._called: Called | None = None
        self._written = ""
        self._num_calls = 0

    def write(self, events: Iterable[Event | Ended]) -> Iterator[Piece]:
        """What further events add. A call comes when it is complete, or when the answer ends."""
        for event in events:
            if isinstance(event, Argued):
                self._written += event.text
                continue
            if self._called is not None:
                yield Piece(calls=[self._call(self._called)])
            self._called = event if isinstance(event, Called) else None
            if isinstance(event, Said):
                yield Piece(content=event.text)
            elif isinstance(event, Reasoned):
                yield Piece(thinking=event.text)

    def _call(self, called: Called) -> OllamaToolCall:
        assert called.id is not None, "an answer's calls have ids"
        arguments, index = complete(self._written), self._num_calls
        self._written, self._num_calls = "", index + 1
        return {
            "id": called.id,
            "function": {"index": index, "name": called.name, "arguments": arguments},
        }


def joined(pieces: Iterable[Piece]) -> Piece:
    """All parts of an answer as one."""
    content, thinking = "", ""
    calls: list[OllamaToolCall] = []
    for piece in pieces:
        content += piece.content
        thinking += piece.thinking
        calls += piece.calls
    return Piece(content, thinking, calls)


def logprobs_of(chunk: Chunk, count: int) -> list[OllamaLogprob]:
    """A chunk's tokens, with the ``count`` most likely at each position."""
    found: list[OllamaLogprob] = []
    for token in chunk.tokens:
        entry: OllamaLogprob = _entry(token)
        if count:
            entry["top_logprobs"] = [_entry(one) for one in token.top[:count]]
        found.append(entry)
    return found


def _entry(token: Token | Alternative) -> OllamaLogprob:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}
