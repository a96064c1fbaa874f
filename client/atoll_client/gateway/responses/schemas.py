"""The bodies of POST /v1/responses and of the route that counts a prompt's tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Kept, Metadata, Priority, Strict, ToolName
from atoll_client.gateway.openai.schemas import MAX_TOP_LOGPROBS
from atoll_client.gateway.responses.items import Item
from atoll_client.gateway.responses.kinds import HOSTED_TOOLS, LARK, OTHER_INCLUDES

_CACHED = "prompts are cached automatically, as long as there is memory"
_SESSION = "chooses the server among several, so that the prompt is found in its cache"
_ALIKE = "requests of all users are treated alike"
_FORCED = "a forced call always follows the parameters; other calls are as the model writes them"
_LOADED = "all tools are part of the prompt"

Included = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]
LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"


class ToolFormat(Strict):
    """``format`` of a custom tool's input."""

    type: Literal["text", "grammar"]
    definition: str | None = None
    syntax: Annotated[Literal["regex"] | None, LARK] = None


class _Tool(Kept):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    format: ToolFormat | None = None
    strict: bool | None = no_effect(_FORCED)
    defer_loading: Any = refused(_LOADED, False)
    allowed_callers: Any = refused("calls are the model's own", ["direct"])
    output_schema: dict[str, Any] | None = no_effect("results are not checked")
    async_: Any = refused("results follow their calls", False, alias="async")


class GroupedTool(_Tool):
    """One of the ``tools`` of a namespace: a function, whose arguments are JSON, or a custom tool,
    whose input is text."""

    type: Annotated[Literal["custom", "function"], HOSTED_TOOLS]


class ResponseTool(_Tool):
    """One of ``tools``: a function, a custom tool, or a namespace of such."""

    type: Annotated[Literal["custom", "function", "namespace"], HOSTED_TOOLS]
    tools: list[GroupedTool] | None = Field(None, min_length=1)


class ChosenTool(Strict):
    """One of ``tool_choice.tools``."""

    type: Annotated[Literal["custom", "function"], HOSTED_TOOLS]
    name: str


class ResponseChoice(Kept):
    """``tool_choice`` if it is an object."""

    type: Annotated[Literal["allowed_tools", "custom", "function"], HOSTED_TOOLS]
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[ChosenTool] | None = Field(None, min_length=1)
    server_label: Any = refused("there are no MCP servers")


class TextFormat(Kept):
    """``text.format``."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = no_effect("the schema is not added to the prompt")
    strict: bool | None = no_effect("answers always follow the schema")


class TextOptions(Strict):
    """``text``."""

    format: TextFormat | None = None
    verbosity: Any = refused("the models here have no levels of verbosity", "medium")


class ReasoningOptions(Strict):
    """``reasoning``. ``effort`` is a variable of the chat template, as in chat completions."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Any = refused("the chat template decides which reasoning it prints", "auto")
    mode: Any = refused("there is one mode", "standard")


class ResponseStreamOptions(Strict):
    """``stream_options``."""

    include_obfuscation: bool | None = no_effect("events are never padded")


class PromptFields(Strict):
    """What the prompt follows from."""

    input: str | list[Item] | None = None
    model: str | None = None
    instructions: str | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tool_choice: str | ResponseChoice | None = None
    tools: list[ResponseTool] | None = None
    truncation: Literal["auto", "disabled"] | None = None

    chat_template_kwargs: dict[str, Any] | None = None

    conversation: Any = refused("there are no conversation objects; see previous_response_id")


class InputTokensBody(PromptFields):
    """POST /v1/responses/input_tokens."""

    personality: Any = refused("the models here have none; see instructions")


class ResponseBody(PromptFields):
    """POST /v1/responses: OpenAI's fields, then those that chat completions take here, too."""

    include: list[Annotated[Included, OTHER_INCLUDES]] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    metadata: Metadata | None = None
    store: bool | None = None
    stream: bool = False
    temperature: float | None = Field(None, ge=0)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    top_p: float | None = Field(None, gt=0, le=1)

    client_metadata: dict[str, Any] | None = no_effect("nothing is made of what a client is")
    max_tool_calls: int | None = no_effect("it counts calls of hosted tools, of which none exist")
    prompt_cache_key: str | None = no_effect(_SESSION)
    prompt_cache_options: dict[str, Any] | None = no_effect(_CACHED)
    prompt_cache_retention: str | None = no_effect(_CACHED)
    safety_identifier: str | None = no_effect(_ALIKE)
    service_tier: str | None = no_effect("requests are ordered by priority")
    stream_options: ResponseStreamOptions | None = no_effect("events are never padded")
    user: str | None = no_effect(_SESSION)

    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    priority: Priority | None = None
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    top_k: int | None = Field(None, ge=-1)

    access_programs: Any = refused("there are none")
    background: Any = refused("a response is complete when its request ends", False)
    background_options: Any = refused("nothing runs in the background")
    context_management: Any = refused("conversations are not compacted", [])
    image: Any = refused("the models here read text")
    max_completion_tokens: Any = refused("it is called max_output_tokens here")
    max_tokens: Any = refused("it is called max_output_tokens here")
    messages: Any = refused("it is called input here")
    moderation: Any = refused("nothing is moderated")
    n: Any = refused("there is one answer", 1)
    prompt: Any = refused("no prompts are stored; see instructions")
    response_format: Any = refused("it is called text.format here")
