"""A chat's answer as OpenAI's deltas: role, text, tool calls, log-probabilities, finish reason.

Complete answers are joined from the same deltas as streamed ones, so that both are the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Container, Iterator

from atoll_client.gateway.openai import answers
from atoll_client.gateway.openai.tool_reader import Called, Event, Said, ToolReader
from atoll_client.types import Chunk

Entries = list[answers.TokenLogprob]


class Deltas:
    """The deltas of one answer.

    Args:
        names: the tools that it may call; None: it calls none.
        entries: the log-probabilities of a chunk's tokens; None: not requested.
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
        # White space that is part of the content only if more content follows.
        self._blank = ""
        self._index = -1

    def write(self, chunk: Chunk) -> list[answers.Piece]:
        """What one more chunk adds to the answer.

        The log-probabilities of tokens whose text is still held back come with the next piece.
        """
        found = [] if self._has_begun else [_piece({"role": "assistant", "content": ""})]
        self._has_begun = True
        own = self._entries(chunk) if self._entries is not None else []
        self._pending += own
        is_last = bool(chunk.finish_reason)
        pieces = [_piece(delta) for delta in self._deltas(chunk.text, is_last)]
        if self._pending and (pieces or is_last):
            pieces = pieces or [_piece({"content": ""})]
            pieces[0]["logprobs"] = _logprobs(self._pending)
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

    def _deltas(self, text: str, is_last: bool) -> Iterator[answers.MessageDelta]:
        if self._reader is None:
            if text:
                yield {"content": text}
            return
        events = [*self._reader.feed(text), *(self._reader.finish() if is_last else ())]
        for event in events:
            yield from self._delta(event)
        if is_last and self._blank and not self._reader.num_calls:
            yield {"content": self._blank}

    def _delta(self, event: Event) -> Iterator[answers.MessageDelta]:
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
            yield {"tool_calls": [{"index": self._index, "function": {"arguments": event.text}}]}

    def _content(self, text: str) -> str:
        """The text without the white space between it and calls."""
        text = self._blank + text
        if not self._has_said and self._index >= 0:
            text = text.lstrip()
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        self._has_said = self._has_said or bool(kept)
        return kept


def whole(
    pieces: list[answers.Piece],
) -> tuple[answers.ChatMessage, answers.ChatLogprobs | None, str]:
    """Message, log-probabilities and finish reason of all pieces of an answer."""
    content, reason = "", ""
    calls: list[answers.ToolCall] = []
    entries: Entries = []
    for piece in pieces:
        delta = piece["delta"]
        content += delta.get("content", "")
        if piece["logprobs"] is not None:
            entries += piece["logprobs"]["content"]
        reason = piece["finish_reason"] or reason
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            if "id" in call:
                first: answers.ToolCall = {
                    "id": call["id"], "type": "function",
                    "function": {"name": function["name"], "arguments": function["arguments"]},
                }  # fmt: skip
                calls.append(first)
            else:
                calls[-1]["function"]["arguments"] += function["arguments"]
    message: answers.ChatMessage = {"role": "assistant", "content": content}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    return message, _logprobs(entries) if entries else None, reason


def logprobs_of(chunk: Chunk, count: int) -> Entries:
    """OpenAI's entries for a chunk's tokens, with the ``count`` most likely at each position."""
    return [
        {
            **_entry(token.text, token.logprob, token.bytes),
            "top_logprobs": [_entry(t.text, t.logprob, t.bytes) for t in token.top[:count]],
        }
        for token in chunk.tokens
    ]


def _logprobs(entries: Entries) -> answers.ChatLogprobs:
    return {"content": entries, "refusal": None}


def _entry(text: str, logprob: float | None, data: bytes) -> answers.TopLogprob:
    return {"token": text, "logprob": logprob, "bytes": list(data)}


def _piece(delta: answers.MessageDelta, reason: str | None = None) -> answers.Piece:
    return {"delta": delta, "logprobs": None, "finish_reason": reason}
