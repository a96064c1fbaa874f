"""A chat's answer as OpenAI's deltas: role, text, tool calls, log-probabilities, finish reason.

Complete answers are joined from the same deltas as streamed ones, so that both are the same.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll_client.gateway.chat_formats.answer import Answer
from atoll_client.gateway.chat_formats.events import Argued, Called, Ended, Event, Reasoned, Said
from atoll_client.gateway.openai import answers
from atoll_client.types import Chunk

Entries = list[answers.TokenLogprob]


class Deltas:
    """The deltas of one answer.

    Args:
        entries: the log-probabilities of a chunk's tokens; None: not requested.
        has_reasoning: whether the reasoning is part of the answer.
    """

    def __init__(
        self,
        answer: Answer,
        entries: Callable[[Chunk], Entries] | None,
        *,
        has_reasoning: bool = True,
    ) -> None:
        self._answer, self._entries, self._has_reasoning = answer, entries, has_reasoning
        self._pending: Entries = []
        self._has_begun = False
        self._index = -1

    def write(self, chunk: Chunk) -> list[answers.Piece]:
        """What one more chunk adds to the answer.

        The log-probabilities of tokens whose text is still held back come with the next piece.
        """
        found = []
        if not self._has_begun:
            self._has_begun = True
            found = [_piece({"role": "assistant", "content": ""})]
        if self._entries is not None:
            self._pending += self._entries(chunk)
        pieces, reason = [], None
        for event in self._answer.write(chunk):
            if isinstance(event, Ended):
                reason = event.reason
            elif self._has_reasoning or not isinstance(event, Reasoned):
                pieces.append(_piece(self._delta(event)))
        if self._pending and (pieces or reason):
            pieces = pieces or [_piece({"content": ""})]
            pieces[0]["logprobs"] = _logprobs(self._pending)
            self._pending = []
        found += pieces
        if reason is not None:
            found.append(_piece({}, reason))
        return found

    @property
    def num_reasoning_tokens(self) -> int:
        """See ``Answer``."""
        return self._answer.num_reasoning_tokens

    def _delta(self, event: Event) -> answers.MessageDelta:
        if isinstance(event, Said):
            return {"content": event.text}
        if isinstance(event, Reasoned):
            return {"reasoning_content": event.text, "reasoning": event.text}
        if isinstance(event, Argued):
            return {"tool_calls": [
                {"index": self._index, "function": {"arguments": event.text}}
            ]}  # fmt: skip
        return self._call(event)

    def _call(self, event: Called) -> answers.MessageDelta:
        self._index += 1
        assert event.id is not None, "Answer gives each call an id"
        return {"tool_calls": [{
            "index": self._index, "id": event.id, "type": "function",
            "function": {"name": event.name, "arguments": ""},
        }]}  # fmt: skip


def whole(
    pieces: list[answers.Piece],
) -> tuple[answers.ChatMessage, answers.ChatLogprobs | None, str]:
    """Message, log-probabilities and finish reason of all pieces of an answer."""
    content, reasoning, reason = "", "", ""
    calls: list[answers.ToolCall] = []
    entries: Entries = []
    for piece in pieces:
        delta = piece["delta"]
        content += delta.get("content", "")
        reasoning += delta.get("reasoning_content", "")
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
    message: answers.ChatMessage = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
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
