"""The bodies of Anthropic's routes: messages, and the count of their tokens."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Strict

_CACHED = "prompts are cached automatically, as long as there is memory"
_TEXT_ONLY = "the models here read text"
_NO_TOOLS = "the tools of Anthropic's services are not run here"
_AS_SENT = "messages are used as they were sent"
_KEPT_THINKING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}


class TextBlock(Strict):
    """A block of the system prompt, or of a tool's result."""

    type: Literal["text"]
    text: str
    cache_control: dict[str, Any] | None = no_effect(_CACHED)
    citations: Any = no_effect("the chat template prints the text alone")
    source: Any = refused(_TEXT_ONLY)


class Block(Strict):
    """A block of a message. The type says which of the other fields it has."""

    type: Literal["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[TextBlock] | None = None
    is_error: bool = Field(False, description="puts `Error: ` before the result")
    cache_control: dict[str, Any] | None = no_effect(_CACHED)
    caller: dict[str, Any] | None = no_effect("all calls are the model's own")
    citations: Any = no_effect("the chat template prints the text alone")
    data: str | None = no_effect("whoever has encrypted it can read it")
    signature: str | None = no_effect("reasoning is not signed")
    source: Any = refused(_TEXT_ONLY)
    toolset_name: Any = refused(_NO_TOOLS)


class AnthropicMessage(Strict):
    """One of ``messages``. If the last one is the assistant's, the answer continues it."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicTool(Strict):
    """One of ``tools``."""

    name: str = Field(min_length=1)
    description: str | None = None
    input_schema: dict[str, Any]
    type: Any = refused(_NO_TOOLS, "custom")
    cache_control: dict[str, Any] | None = no_effect(_CACHED)
    eager_input_streaming: bool | None = no_effect("arguments are streamed as they are written")
    strict: bool | None = no_effect(
        "a forced call always follows the schema; other calls are as the model writes them"
    )
    allowed_callers: Any = refused(_NO_TOOLS, ["direct"])
    defer_loading: Any = refused("the model is told of all tools", False)
    input_examples: Any = refused("chat templates have no place for them", [])


class AnthropicChoice(Strict):
    """``tool_choice``."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Strict):
    """``thinking``."""

    type: Literal["enabled", "disabled", "adaptive"] = Field(
        description="switches the model's reasoning, if its chat template can; adaptive leaves it "
        "as it is"
    )
    display: Literal["summarized", "omitted"] | None = Field(
        None, description="omitted: blocks without their text; it is never summarized"
    )
    budget_tokens: int | None = no_effect("the model decides how long it reasons")


class OutputFormat(Strict):
    """``output_config.format``."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    """``output_config``."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="low, medium and high, for chat templates that read `reasoning_effort`"
    )
    format: OutputFormat | None = None
    task_budget: Any = refused("max_tokens limits each answer")


class Metadata(Strict):
    """``metadata``."""

    user_id: str | None = no_effect("requests of all users are treated alike")


class CountTokensBody(Strict):
    """POST /v1/messages/count_tokens."""

    messages: list[AnthropicMessage]
    model: str | None = None
    output_config: OutputConfig | None = None
    system: str | list[TextBlock] | None = None
    thinking: Thinking | None = None
    tool_choice: AnthropicChoice | None = None
    tools: list[AnthropicTool] | None = None

    cache_control: dict[str, Any] | None = no_effect(_CACHED)
    user_profile_id: str | None = no_effect("requests of all users are treated alike")
    workspace_id: str | None = no_effect("all keys have the same rights")

    context_management: Any = refused(_AS_SENT, {}, {"edits": []}, _KEPT_THINKING)
    mcp_servers: Any = refused(_NO_TOOLS, [])
    speed: Any = refused("there is one speed", "standard")


class MessagesBody(CountTokensBody):
    """POST /v1/messages."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = Field(None, ge=0)
    top_k: int | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)

    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = no_effect(
        "requests are ordered by the header x-priority"
    )

    billing_policy: Any = refused("nothing is billed")
    compaction: Any = refused(_AS_SENT)
    container: Any = refused(_NO_TOOLS)
    diagnostics: Any = refused("nothing is stored, so requests are not compared")
    fallback_credit_token: Any = refused("nothing is billed")
    fallbacks: Any = refused("the model that is named answers", [])
    inference_geo: Any = refused("the answer is made where this server is")
    thread: Any = refused("nothing is stored")
