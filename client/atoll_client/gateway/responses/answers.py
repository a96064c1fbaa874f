"""What POST and GET /v1/responses answer: handlers build it, and OpenAPI shows it."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from atoll_client.gateway.openai.answers import TokenLogprob

Status = Literal["completed", "failed", "in_progress", "incomplete"]
ItemStatus = Literal["completed", "in_progress", "incomplete"]
# Of failures.
Code = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]


class OutputText(TypedDict):
    """Text of a message. logprobs: of its tokens, if the request includes them."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[TokenLogprob]


class ReasoningText(TypedDict):
    """Text of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


class SummaryText(TypedDict):
    """The reasoning once more, if a summary was asked for."""

    type: Literal["summary_text"]
    text: str


class OutputMessage(TypedDict):
    """A message of the model."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputText]


class ReasoningItem(TypedDict):
    """The reasoning before a message or a call."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: NotRequired[str]


class FunctionToolCall(TypedDict):
    """A call of a function; ``arguments`` is JSON text."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    namespace: NotRequired[str]
    arguments: str


class CustomToolCall(TypedDict):
    """A call of a custom tool; ``input`` is text."""

    id: str
    type: Literal["custom_tool_call"]
    status: ItemStatus
    call_id: str
    name: str
    namespace: NotRequired[str]
    input: str


OutputItem = OutputMessage | ReasoningItem | FunctionToolCall | CustomToolCall


class InputDetails(TypedDict):
    """Tokens of the input that were found in the prefix cache; writing to it is not counted."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(TypedDict):
    """Tokens of the output that are reasoning, with its tags."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseProblem(TypedDict):
    """Why a response failed."""

    code: Code
    message: str


class IncompleteDetails(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class TextConfig(TypedDict):
    """``text`` of the request."""

    format: dict[str, Any]
    verbosity: Literal["medium"]


class ReasoningConfig(TypedDict):
    """``reasoning`` of the request."""

    effort: str | None
    summary: str | None


class ModelResponse(TypedDict):
    """A response, with the options of its request."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: Literal[False]
    error: ResponseProblem | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningConfig
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: TextConfig
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedResponse(TypedDict):
    """A response that is no longer stored."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(TypedDict):
    """The number of tokens of a prompt."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class ItemList(TypedDict):
    """A page of a response's input."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
