"""A chat's answer as OpenAI's deltas: role, text, tool calls, log-probabilities, finish reason.

Complete answers are joined from the same deltas as streamed ones, so that both are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from atoll_client.gateway.chat_formats.events import Called, Event, Reasoned, Said
from atoll_client.gateway.chat_formats.reader import AnswerReader, Format
from atoll_client.gateway.openai import answers
from atoll_client.types import Chunk

Entries = list[answers.TokenLogprob]


class Deltas:
    """The deltas of one answer.

    Args:
        form: how the model writes its reasoning and the calls of tools.
        has_reasoning: whether the reasoning is part of the answer.
        num_earlier_calls: those of the conversation.
        entries: the log-probabilities of a chunk's tokens; None: not requested.
    """

    def __init__(
        self,
        form: Format,
        entries: Callable[[Chunk], Entries] | None,
        *,
        has_reasoning: bool = True,
        num_earlier_calls: int = 0,
    ) -> None:
        self._form, self._entries, self._has_reasoning = form, entries, has_reasoning
        self._num_earlier_calls = num_earlier_calls
        self._reader: AnswerReader | None = None
        self._pending: Entries = []
        self._has_said = False
        # White space that is part of the content, or of the reasoning, only if more follows.
        self._blank, self._blank_reason = "", ""
        self._index = -1

    def write(self, chunk: Chunk) -> list[answers.Piece]:
        """What one more chunk adds to the answer.

        The log-probabilities of tokens whose text is still held back come with the next piece.
        """
        found = []
        if self._reader is None:
            self._reader = AnswerReader(self._form, chunk.reasoning_state)
            found = [_piece({"role": "assistant", "content": ""})]
        own = self._entries(chunk) if self._entries is not None else []
        self._pending += own
        is_last = bool(chunk.finish_reason)
        pieces = [_piece(delta) for delta in self._deltas(self._reader, chunk.text, is_last)]
        if self._pending and (pieces or is_last):
            pieces = pieces or [_piece({"content": ""})]
            pieces[0]["logprobs"] = _logprobs(self._pending)
            self._pending = []
        found += pieces
        if is_last:
            found.append(_piece({}, self._reason(chunk)))
        return found

    def _reason(self, chunk: Chunk) -> str:
        has_called = self._index >= 0
        return "tool_calls" if has_called and chunk.finish_reason == "stop" else chunk.finish_reason

    def _deltas(
        self, reader: AnswerReader, text: str, is_last: bool
    ) -> Iterator[answers.MessageDelta]:
        for event in [*reader.feed(text), *(reader.finish() if is_last else ())]:
            yield from self._delta(event)
        if is_last and self._blank and self._index < 0:
            yield {"content": self._blank}

    def _delta(self, event: Event) -> Iterator[answers.MessageDelta]:
        if isinstance(event, Said):
            content = event.text if self._form.calls is None else self._content(event.text)
            if content:
                yield {"content": content}
        elif isinstance(event, Reasoned):
            text = self._blank_reason + event.text
            kept = text.rstrip()
            self._blank_reason = text[len(kept) :]
            if kept and self._has_reasoning:
                yield {"reasoning_content": kept, "reasoning": kept}
        elif isinstance(event, Called):
            self._index += 1
            number = self._num_earlier_calls + self._index
            yield {"tool_calls": [{
                "index": self._index, "id": event.id or self._form.new_id(event.name, number),
                "type": "function", "function": {"name": event.name, "arguments": ""},
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
    message: answers.ChatMessage = {"role": "assistant", "content": content}
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
