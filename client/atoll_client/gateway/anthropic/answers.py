"""The responses of Anthropic's routes: handlers build them, and OpenAPI shows them."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageUsage(TypedDict):
    """Tokens. ``input_tokens`` are those that were not found in the prefix cache."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageText(TypedDict):
    """Text of the answer."""

    type: Literal["text"]
    text: str
    citations: None


class MessageThinking(TypedDict):
    """The reasoning before the answer. The signature says nothing."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class MessageToolUse(TypedDict):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = MessageText | MessageThinking | MessageToolUse


class AssistantMessage(TypedDict):
    """An answer, or its beginning in a stream."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class AnthropicModel(TypedDict):
    """A model that answers messages. ``created_at``: when the gateway was started."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int
    max_tokens: int


class AnthropicModels(TypedDict):
    """All of them, on one page."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class TokenCount(TypedDict):
    """The tokens of a prompt."""

    input_tokens: int


class MessageStart(TypedDict):
    """The first event."""

    type: Literal["message_start"]
    message: AssistantMessage


class BlockStart(TypedDict):
    """A block begins: empty."""

    type: Literal["content_block_start"]
    index: int
    content_block: ContentBlock


class TextDelta(TypedDict):
    """More text."""

    type: Literal["text_delta"]
    text: str


class ThinkingDelta(TypedDict):
    """More reasoning."""

    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(TypedDict):
    """The end of the reasoning."""

    type: Literal["signature_delta"]
    signature: str


class InputDelta(TypedDict):
    """A piece of a call's input, which is JSON."""

    type: Literal["input_json_delta"]
    partial_json: str


Delta = TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockDelta(TypedDict):
    """More of the block."""

    type: Literal["content_block_delta"]
    index: int
    delta: Delta


class BlockStop(TypedDict):
    """A block is complete."""

    type: Literal["content_block_stop"]
    index: int


class Stop(TypedDict):
    """Why the answer ended. ``stop_sequence``: the text that ended it, if one did."""

    stop_reason: StopReason
    stop_sequence: str | None


class StopDelta(TypedDict):
    """The end of the answer; the tokens are those of the whole request."""

    type: Literal["message_delta"]
    delta: Stop
    usage: MessageUsage


class MessageStop(TypedDict):
    """The last event."""

    type: Literal["message_stop"]


BlockEvent = BlockStart | BlockDelta | BlockStop
MessageEvent = MessageStart | BlockEvent | StopDelta | MessageStop
