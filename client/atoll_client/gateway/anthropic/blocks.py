"""An answer's events as Anthropic's content blocks: reasoning, text, calls.

Complete answers are joined from the same events as streamed ones, so that both are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from atoll_client.gateway.anthropic.answers import (
    BlockEvent,
    ContentBlock,
    Delta,
    MessageUsage,
    Stop,
    StopReason,
)
from atoll_client.gateway.chat_formats.arguments import complete
from atoll_client.gateway.chat_formats.events import Argued, Called, Ended, Event, Reasoned, Said
from atoll_client.types import Chunk

_REASONS: dict[str, StopReason] = {"tool_calls": "tool_use", "length": "max_tokens"}


class Blocks:
    """The blocks of one answer.

    Args:
        signature: of the reasoning; clients send it back with the block.
        shows_thinking: false: the blocks of the reasoning have no text.
    """

    def __init__(self, signature: str, shows_thinking: bool) -> None:
        self._signature, self._shows_thinking = signature, shows_thinking
        self._index, self._open = -1, ""

    def write(self, events: Iterable[Event | Ended]) -> Iterator[BlockEvent]:
        """What further events add: each block begins, grows and ends."""
        for event in events:
            if isinstance(event, Reasoned):
                yield from self._begin(
                    "thinking", {"type": "thinking", "thinking": "", "signature": ""}
                )
                if self._shows_thinking:
                    yield self._more({"type": "thinking_delta", "thinking": event.text})
            elif isinstance(event, Said):
                yield from self._begin("text", {"type": "text", "text": "", "citations": None})
                yield self._more({"type": "text_delta", "text": event.text})
            elif isinstance(event, Called):
                assert event.id is not None, "an answer's calls have ids"
                yield from self._end()
                yield from self._begin(
                    "call", {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
                )
            elif isinstance(event, Argued):
                yield self._more({"type": "input_json_delta", "partial_json": event.text})
            else:
                yield from self._end()

    def _begin(self, name: str, block: ContentBlock) -> Iterator[BlockEvent]:
        if name == self._open:
            return
        yield from self._end()
        self._index, self._open = self._index + 1, name
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _more(self, delta: Delta) -> BlockEvent:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _end(self) -> Iterator[BlockEvent]:
        if self._open == "thinking":
            yield self._more({"type": "signature_delta", "signature": self._signature})
        if self._open:
            yield {"type": "content_block_stop", "index": self._index}
        self._open = ""


def whole(events: Iterable[BlockEvent]) -> list[ContentBlock]:
    """The blocks of a complete answer. A call that was cut off has the part of its input."""
    found: list[Any] = []
    written = ""
    for event in events:
        if event["type"] == "content_block_start":
            found.append(event["content_block"])
            written = ""
        elif event["type"] == "content_block_delta":
            delta: Any = event["delta"]
            if delta["type"] == "input_json_delta":
                written += delta["partial_json"]
            else:
                name = delta["type"].removesuffix("_delta")
                found[-1][name] += delta[name]
        elif written:
            found[-1]["input"] = complete(written)
    return found


def stop_of(reason: str, chunk: Chunk, stop_sequences: Sequence[str]) -> Stop:
    """Why an answer ended. reason: see ``Ended``."""
    if chunk.stop_string in stop_sequences:
        return {"stop_reason": "stop_sequence", "stop_sequence": chunk.stop_string}
    return {"stop_reason": _REASONS.get(reason, "end_turn"), "stop_sequence": None}


def usage_of(chunk: Chunk) -> MessageUsage:
    """The tokens so far. How many were cached is known at the end."""
    return {
        "input_tokens": chunk.num_input_tokens - chunk.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": chunk.num_cached_tokens,
        "output_tokens": chunk.num_output_tokens,
    }
