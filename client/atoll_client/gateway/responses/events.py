"""The events of a streamed response."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from atoll_client.gateway.openai.answers import TokenLogprob
from atoll_client.gateway.responses.answers import (
    ModelResponse,
    OutputItem,
    OutputText,
    ReasoningText,
    SummaryText,
)


class _Numbered(TypedDict):
    sequence_number: int


class _OfItem(_Numbered):
    item_id: str
    output_index: int


class _OfContent(_OfItem):
    content_index: int


class _OfSummary(_OfItem):
    summary_index: int


class ResponseEvent(_Numbered):
    """The response as it is at the beginning or at the end."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete",
        "response.failed",
    ]  # fmt: skip
    response: ModelResponse


class OutputItemEvent(_Numbered):
    """An item begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class ContentPartEvent(_OfContent):
    """A part of an item's content begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText | ReasoningText


class OutputTextDelta(_OfContent):
    """More text of a message."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[TokenLogprob]


class OutputTextDone(_OfContent):
    """The whole text of a message."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[TokenLogprob]


class ReasoningTextDelta(_OfContent):
    """More of the reasoning."""

    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningTextDone(_OfContent):
    """The whole reasoning."""

    type: Literal["response.reasoning_text.done"]
    text: str


class SummaryPartEvent(_OfSummary):
    """The summary begins or ends."""

    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    part: SummaryText


class SummaryTextDelta(_OfSummary):
    """More of the summary."""

    type: Literal["response.reasoning_summary_text.delta"]
    delta: str


class SummaryTextDone(_OfSummary):
    """The whole summary."""

    type: Literal["response.reasoning_summary_text.done"]
    text: str


class CallDelta(_OfItem):
    """More of a call's arguments, or of a custom tool's input."""

    type: Literal["response.function_call_arguments.delta", "response.custom_tool_call_input.delta"]
    delta: str


class ArgumentsDone(_OfItem):
    """The whole arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class CustomInputDone(_OfItem):
    """The whole input of a custom tool."""

    type: Literal["response.custom_tool_call_input.done"]
    input: str


class ErrorEvent(_Numbered):
    """A stream that was refused after the connection was kept open for a while."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None


StreamEvent = (
    ResponseEvent | OutputItemEvent | ContentPartEvent | OutputTextDelta | OutputTextDone
    | ReasoningTextDelta | ReasoningTextDone | SummaryPartEvent | SummaryTextDelta
    | SummaryTextDone | CallDelta | ArgumentsDone | CustomInputDone | ErrorEvent
)  # fmt: skip
