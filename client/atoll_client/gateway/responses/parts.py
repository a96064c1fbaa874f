"""The items of an output while they are written: each yields the events of its beginning, of each
piece, and of its end."""

from __future__ import annotations

import copy
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator

from atoll_client.gateway.openai.answers import TokenLogprob
from atoll_client.gateway.responses.answers import (
    CustomToolCall,
    FunctionToolCall,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    ReasoningItem,
    SummaryText,
)
from atoll_client.gateway.responses.custom_input import CustomInput
from atoll_client.gateway.responses.events import StreamEvent
from atoll_client.gateway.responses.messages import encoded

Events = Iterator[StreamEvent]


def new_id(prefix: str) -> str:
    """An id that cannot be guessed."""
    return f"{prefix}_{secrets.token_hex(24)}"


class Part(ABC):
    """An item at a place of the output. Sequence numbers are set by the caller."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._pieces: list[str] = []

    @property
    @abstractmethod
    def item(self) -> OutputItem:
        """The item as it is so far."""

    def begin(self) -> Events:
        """The events of the beginning."""
        yield {
            "type": "response.output_item.added", "sequence_number": 0, "output_index": self.index,
            "item": copy.copy(self.item),
        }  # fmt: skip

    @abstractmethod
    def add(self, text: str, entries: list[TokenLogprob]) -> Events:
        """The events of one more piece. entries: its log-probabilities, if they are wanted."""

    def end(self, status: ItemStatus) -> Events:
        """The events of the end."""
        self.item["status"] = status
        yield {
            "type": "response.output_item.done", "sequence_number": 0, "output_index": self.index,
            "item": self.item,
        }  # fmt: skip


class MessagePart(Part):
    """A message."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self._item: OutputMessage = {
            "id": new_id("msg"), "type": "message", "role": "assistant", "status": "in_progress",
            "content": [],
        }  # fmt: skip
        self._text: OutputText = {
            "type": "output_text", "text": "", "annotations": [], "logprobs": [],
        }  # fmt: skip

    @property
    def item(self) -> OutputMessage:
        """See ``Part``."""
        return self._item

    def begin(self) -> Events:
        """See ``Part``."""
        yield from super().begin()
        yield {
            "type": "response.content_part.added", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index,
            "part": {**self._text, "logprobs": []},
        }  # fmt: skip
        self._item["content"] = [self._text]

    def add(self, text: str, entries: list[TokenLogprob]) -> Events:
        """See ``Part``."""
        self._pieces.append(text)
        self._text["logprobs"] += entries
        yield {
            "type": "response.output_text.delta", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index, "delta": text,
            "logprobs": entries,
        }  # fmt: skip

    def end(self, status: ItemStatus) -> Events:
        """See ``Part``."""
        self._text["text"] = "".join(self._pieces)
        yield {
            "type": "response.output_text.done", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index, "text": self._text["text"],
            "logprobs": self._text["logprobs"],
        }  # fmt: skip
        yield {
            "type": "response.content_part.done", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index, "part": self._text,
        }  # fmt: skip
        yield from super().end(status)


class ReasoningPart(Part):
    """Reasoning. Nothing summarizes it: if a summary is wanted, it is the same text."""

    def __init__(self, index: int, *, has_summary: bool, is_encoded: bool) -> None:
        super().__init__(index)
        self._has_summary, self._is_encoded = has_summary, is_encoded
        self._item: ReasoningItem = {
            "id": new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": [],
            "content": [],
        }  # fmt: skip

    @property
    def item(self) -> ReasoningItem:
        """See ``Part``."""
        return self._item

    def begin(self) -> Events:
        """See ``Part``."""
        yield from super().begin()
        if self._has_summary:
            yield {
                "type": "response.reasoning_summary_part.added", "sequence_number": 0,
                "item_id": self.item["id"], "output_index": self.index, "summary_index": 0,
                "part": {"type": "summary_text", "text": ""},
            }  # fmt: skip
        yield {
            "type": "response.content_part.added", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index,
            "part": {"type": "reasoning_text", "text": ""},
        }  # fmt: skip

    def add(self, text: str, entries: list[TokenLogprob]) -> Events:
        """See ``Part``."""
        self._pieces.append(text)
        if self._has_summary:
            yield {
                "type": "response.reasoning_summary_text.delta", "sequence_number": 0,
                "item_id": self.item["id"], "output_index": self.index, "summary_index": 0,
                "delta": text,
            }  # fmt: skip
        yield {
            "type": "response.reasoning_text.delta", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index, "delta": text,
        }  # fmt: skip

    def end(self, status: ItemStatus) -> Events:
        """See ``Part``."""
        text = "".join(self._pieces)
        if self._has_summary:
            yield from self._end_of_summary({"type": "summary_text", "text": text})
        yield {
            "type": "response.reasoning_text.done", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index, "text": text,
        }  # fmt: skip
        self._item["content"] = [{"type": "reasoning_text", "text": text}]
        yield {
            "type": "response.content_part.done", "sequence_number": 0, "content_index": 0,
            "item_id": self.item["id"], "output_index": self.index,
            "part": self._item["content"][0],
        }  # fmt: skip
        if self._is_encoded:
            self._item["encrypted_content"] = encoded(text)
        yield from super().end(status)

    def _end_of_summary(self, part: SummaryText) -> Events:
        yield {
            "type": "response.reasoning_summary_text.done", "sequence_number": 0,
            "item_id": self.item["id"], "output_index": self.index, "summary_index": 0,
            "text": part["text"],
        }  # fmt: skip
        self._item["summary"] = [part]
        yield {
            "type": "response.reasoning_summary_part.done", "sequence_number": 0,
            "item_id": self.item["id"], "output_index": self.index, "summary_index": 0,
            "part": part,
        }  # fmt: skip


class FunctionPart(Part):
    """A call of a function."""

    def __init__(self, index: int, name: str, call_id: str, namespace: str | None = None) -> None:
        super().__init__(index)
        self._item: FunctionToolCall = {
            "id": new_id("fc"), "type": "function_call", "status": "in_progress",
            "call_id": call_id, "name": name, "arguments": "",
        }  # fmt: skip
        if namespace is not None:
            self._item["namespace"] = namespace

    @property
    def item(self) -> FunctionToolCall:
        """See ``Part``."""
        return self._item

    def add(self, text: str, entries: list[TokenLogprob]) -> Events:
        """See ``Part``."""
        self._pieces.append(text)
        yield {
            "type": "response.function_call_arguments.delta", "sequence_number": 0,
            "item_id": self.item["id"], "output_index": self.index, "delta": text,
        }  # fmt: skip

    def end(self, status: ItemStatus) -> Events:
        """See ``Part``."""
        self._item["arguments"] = "".join(self._pieces)
        yield {
            "type": "response.function_call_arguments.done", "sequence_number": 0,
            "item_id": self.item["id"], "output_index": self.index, "name": self.item["name"],
            "arguments": self.item["arguments"],
        }  # fmt: skip
        yield from super().end(status)


class CustomPart(Part):
    """A call of a custom tool."""

    def __init__(self, index: int, name: str, call_id: str, namespace: str | None = None) -> None:
        super().__init__(index)
        self._reader = CustomInput()
        self._item: CustomToolCall = {
            "id": new_id("ctc"), "type": "custom_tool_call", "status": "in_progress",
            "call_id": call_id, "name": name, "input": "",
        }  # fmt: skip
        if namespace is not None:
            self._item["namespace"] = namespace

    @property
    def item(self) -> CustomToolCall:
        """See ``Part``."""
        return self._item

    def add(self, text: str, entries: list[TokenLogprob]) -> Events:
        """See ``Part``."""
        yield from self._more(self._reader.feed(text))

    def end(self, status: ItemStatus) -> Events:
        """See ``Part``."""
        yield from self._more(self._reader.finish())
        self._item["input"] = "".join(self._pieces)
        yield {
            "type": "response.custom_tool_call_input.done", "sequence_number": 0,
            "item_id": self.item["id"], "output_index": self.index, "input": self.item["input"],
        }  # fmt: skip
        yield from super().end(status)

    def _more(self, text: str) -> Events:
        if text:
            self._pieces.append(text)
            yield {
                "type": "response.custom_tool_call_input.delta", "sequence_number": 0,
                "item_id": self.item["id"], "output_index": self.index, "delta": text,
            }  # fmt: skip
