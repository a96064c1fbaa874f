"""Writes a response: the events of the model's answer become those of OpenAI's stream.

A complete response is the one that the last event of the same stream has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from atoll_client.errors import AtollError, Overloaded, ValidationError
from atoll_client.gateway.chat_formats.answer import Answer
from atoll_client.gateway.chat_formats.events import Argued, Called, Ended, Event, Reasoned, Said
from atoll_client.gateway.core.error_formats import openai_problem
from atoll_client.gateway.openai.answers import TokenLogprob
from atoll_client.gateway.openai.deltas import logprobs_of
from atoll_client.gateway.responses.answers import (
    Code,
    ItemStatus,
    ModelResponse,
    ResponseUsage,
)
from atoll_client.gateway.responses.events import StreamEvent
from atoll_client.gateway.responses.namespaces import NamedTool
from atoll_client.gateway.responses.parts import (
    CustomPart,
    FunctionPart,
    MessagePart,
    Part,
    ReasoningPart,
)
from atoll_client.types import Chunk


class Writer:
    """Call ``begin``, then ``write`` with each chunk of the answer.

    Args:
        response: without output; it is filled.
        tools: those of the request, by the names that the model is told.
        num_logprobs: of the likeliest tokens at each place; None: log-probabilities are not wanted.
        is_encoded: reasoning has ``encrypted_content``.

    Attributes:
        has_begun: an event was written.
    """

    def __init__(
        self,
        response: ModelResponse,
        answer: Answer,
        *,
        tools: Mapping[str, NamedTool],
        num_logprobs: int | None,
        has_summary: bool,
        is_encoded: bool,
    ) -> None:
        self.response, self._answer = response, answer
        self._tools, self._num_logprobs = tools, num_logprobs
        self._has_summary, self._is_encoded = has_summary, is_encoded
        self._part: Part | None = None
        # Log-probabilities of tokens whose text was not written yet, with the tokens' places.
        self._pending: list[tuple[int, TokenLogprob]] = []
        self._number = 0
        self.has_begun = False

    def begin(self) -> Iterator[StreamEvent]:
        """The first events."""
        self.has_begun = True
        for kind in ("response.created", "response.in_progress"):
            yield self._numbered({"type": kind, "sequence_number": 0, "response": self._copy()})

    def write(self, chunk: Chunk, events: list[Event | Ended]) -> Iterator[StreamEvent]:
        """The events of one chunk, the last of which has the response."""
        if self._num_logprobs is not None:
            entries = logprobs_of(chunk, self._num_logprobs)
            start = len(self._answer.places) - len(entries)
            self._pending += zip(self._answer.places[start:], entries, strict=True)
        for event in events:
            found = self._end(chunk, event) if isinstance(event, Ended) else self._event(event)
            for one in found:
                yield self._numbered(one)

    def failed(self, error: AtollError) -> StreamEvent:
        """The event that ends a stream which fails."""
        problem = openai_problem(error)
        if not self.has_begun:
            return self._numbered({
                "type": "error", "sequence_number": 0, "code": problem["code"],
                "message": problem["message"], "param": problem["param"],
            })  # fmt: skip
        code: Code = "server_error"
        if isinstance(error, Overloaded | ValidationError):
            code = "rate_limit_exceeded" if isinstance(error, Overloaded) else "invalid_prompt"
        self.response["status"] = "failed"
        self.response["error"] = {"code": code, "message": problem["message"]}
        return self._numbered(
            {"type": "response.failed", "sequence_number": 0, "response": self._copy()}
        )

    def _event(self, event: Event) -> Iterator[StreamEvent]:
        if isinstance(event, Called):
            yield from self._close("completed")
            assert event.id is not None, "Answer gives each call an id"
            yield from self._open(self._call(event.name, event.id))
        elif isinstance(event, Argued):
            assert self._part is not None, "arguments follow their call"
            yield from self._part.add(event.text, [])
        else:
            yield from self._text(event)
        if not isinstance(event, Said):
            self._pending = []

    def _text(self, event: Said | Reasoned) -> Iterator[StreamEvent]:
        is_message = isinstance(event, Said)
        if not isinstance(self._part, MessagePart if is_message else ReasoningPart):
            yield from self._close("completed")
            yield from self._open(
                MessagePart(self._num_items)
                if is_message
                else ReasoningPart(
                    self._num_items, has_summary=self._has_summary, is_encoded=self._is_encoded
                )
            )
        assert self._part is not None, "it was opened"
        end = self._answer.reasoning_end
        entries = [entry for place, entry in self._pending if is_message and place >= end]
        self._pending = []
        yield from self._part.add(event.text, entries)

    def _end(self, chunk: Chunk, event: Ended) -> Iterator[StreamEvent]:
        is_cut = event.reason == "length"
        if self._part is None:
            # An answer without any text is an empty message.
            yield from self._open(MessagePart(0))
        yield from self._close("incomplete" if is_cut else "completed")
        response = self.response
        response["usage"] = self._usage(chunk)
        response["completed_at"] = None if is_cut else int(time.time())
        response["status"] = "incomplete" if is_cut else "completed"
        if is_cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        yield {
            "type": "response.incomplete" if is_cut else "response.completed",
            "sequence_number": 0, "response": response,
        }  # fmt: skip

    def _call(self, name: str, call_id: str) -> Part:
        found = self._tools[name]
        namespace = None if found.namespace is None else found.namespace.name
        kind = CustomPart if found.tool.type == "custom" else FunctionPart
        return kind(self._num_items, found.tool.name, call_id, namespace)

    def _open(self, part: Part) -> Iterator[StreamEvent]:
        self._part = part
        yield from part.begin()

    def _close(self, status: ItemStatus) -> Iterator[StreamEvent]:
        if self._part is not None:
            yield from self._part.end(status)
            self.response["output"].append(self._part.item)
            self._part = None

    @property
    def _num_items(self) -> int:
        return len(self.response["output"])

    def _usage(self, chunk: Chunk) -> ResponseUsage:
        return {
            "input_tokens": chunk.num_input_tokens,
            "input_tokens_details": {
                "cached_tokens": chunk.num_cached_tokens, "cache_write_tokens": 0,
            },
            "output_tokens": chunk.num_output_tokens,
            "output_tokens_details": {
                "reasoning_tokens": self._answer.num_reasoning_tokens,
            },
            "total_tokens": chunk.num_input_tokens + chunk.num_output_tokens,
        }  # fmt: skip

    def _copy(self) -> ModelResponse:
        """The response as it is now: later events change it."""
        found: ModelResponse = {**self.response, "output": list(self.response["output"])}
        return found

    def _numbered(self, event: StreamEvent) -> StreamEvent:
        event["sequence_number"] = self._number
        self._number += 1
        return event
