"""A chat's answer in OpenAI's pieces: role, text, tool calls, log-probabilities, and how it ended.

Whole answers are put together from the same pieces as streamed ones, so that both say the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterator
from typing import Any

from atoll_client.gateway.openai.tool_reader import Called, Event, Said, ToolReader
from atoll_client.types import Chunk

Entries = list[dict[str, Any]]


class Deltas:
    """The deltas of one answer. names: of the tools that it may call; None: it calls none.

    entries: OpenAI's log-probabilities of a chunk's tokens; None: nobody wants them.
    """

    def __init__(
        self,
        names: Container[str] | None,
        max_calls: int | None,
        entries: Callable[[Chunk], Entries] | None,
    ) -> None:
        self._reader = None if names is None else ToolReader(names, max_calls)
        self._entries = entries
        self._pending: Entries = []
        self._has_begun, self._has_said = False, False
        # Blanks that belong to the text only if text follows them.
        self._blank = ""
        self._index = -1

    def write(self, chunk: Chunk) -> list[dict[str, Any]]:
        """``delta``, ``logprobs`` and ``finish_reason`` of each piece of one more chunk.

        Tokens whose text is still held back have their log-probabilities with the next piece.
        """
        found = [] if self._has_begun else [_piece({"role": "assistant", "content": ""})]
        self._has_begun = True
        own = self._entries(chunk) if self._entries is not None else []
        self._pending += own
        is_last = bool(chunk.finish_reason)
        pieces = [_piece(delta) for delta in self._deltas(chunk.text, is_last)]
        if self._pending and (pieces or is_last):
            pieces = pieces or [_piece({"content": ""})]
            pieces[0]["logprobs"] = {"content": self._pending, "refusal": None}
            self._pending = []
        found += pieces
        if is_last:
            found.append(_piece({}, self._reason(chunk)))
        return found

    def _reason(self, chunk: Chunk) -> str:
        has_called = self._reader is not None and self._reader.num_calls > 0
        if has_called and chunk.finish_reason == "stop":
            return "tool_calls"
        return chunk.finish_reason

    def _deltas(self, text: str, is_last: bool) -> Iterator[dict[str, Any]]:
        if self._reader is None:
            if text:
                yield {"content": text}
            return
        events = [*self._reader.feed(text), *(self._reader.finish() if is_last else ())]
        for event in events:
            yield from self._delta(event)
        if is_last and self._blank and not self._reader.num_calls:
            yield {"content": self._blank}

    def _delta(self, event: Event) -> Iterator[dict[str, Any]]:
        assert self._reader is not None
        if isinstance(event, Said):
            content = self._content(event.text)
            if content:
                yield {"content": content}
        elif isinstance(event, Called):
            self._index += 1
            yield {"tool_calls": [{
                "index": self._index, "id": f"call_{secrets.token_hex(12)}", "type": "function",
                "function": {"name": event.name, "arguments": ""},
            }]}  # fmt: skip
        else:
            function = {"arguments": event.text}
            yield {"tool_calls": [{"index": self._index, "function": function}]}

    def _content(self, text: str) -> str:
        """Text without the blanks between it and calls."""
        text = self._blank + text
        if not self._has_said and self._index >= 0:
            text = text.lstrip()
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        self._has_said = self._has_said or bool(kept)
        return kept


def whole(pieces: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """Message, log-probabilities and finish reason of all the pieces of an answer."""
    content, calls, entries, reason = "", [], [], ""
    for piece in pieces:
        delta = piece["delta"]
        content += delta.get("content", "")
        entries += (piece["logprobs"] or {}).get("content", [])
        reason = piece["finish_reason"] or reason
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append(
                    {"id": call["id"], "type": call["type"], "function": {**call["function"]}}
                )
            else:
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    return message, {"content": entries, "refusal": None} if entries else None, reason


def logprobs_of(chunk: Chunk, count: int) -> Entries:
    """OpenAI's entries for a chunk's tokens, with ``count`` of the likeliest in each place."""
    return [
        {
            **_entry(token.text, token.logprob, token.bytes),
            "top_logprobs": [_entry(t.text, t.logprob, t.bytes) for t in token.top[:count]],
        }
        for token in chunk.tokens
    ]


def _entry(text: str, logprob: float | None, data: bytes) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(data)}


def _piece(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"delta": delta, "logprobs": None, "finish_reason": reason}
