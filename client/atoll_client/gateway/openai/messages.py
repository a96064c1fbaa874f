"""The messages, tools and tool choice of a chat.

Chat templates print messages and tools, so these are passed on as they were sent.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import Kept, Strict, ToolName

_BREAKPOINT = "prompts are cached automatically"
_TEXT_ONLY = "the models here read text"


class Function(Kept):
    """A tool's ``function``."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = no_effect(
        "a forced call always follows the parameters; other calls are as the model writes them"
    )


class Tool(Kept):
    """One of ``tools``."""

    type: Literal["function"] = "function"
    function: Function
    custom: Any = refused("the arguments of tools are JSON")


class NamedFunction(Strict):
    """The function to call."""

    name: str


class NamedTool(Strict):
    """One of ``tool_choice.allowed_tools.tools``."""

    type: Literal["function"] = "function"
    function: NamedFunction


class AllowedTools(Strict):
    """``tool_choice.allowed_tools``."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class Choice(Strict):
    """``tool_choice`` if it is an object."""

    type: Literal["function", "allowed_tools"] = "function"
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None
    custom: Any = refused("the arguments of tools are JSON")


class Part(Kept):
    """A part of a message's ``content``."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = no_effect(_BREAKPOINT)
    image_url: Any = refused(_TEXT_ONLY)
    input_audio: Any = refused(_TEXT_ONLY)
    file: Any = refused(_TEXT_ONLY)


class CalledFunction(Kept):
    """The function of an earlier call. ``arguments`` is JSON text or an object."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class Call(Kept):
    """One of the ``tool_calls`` of an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = no_effect("calls are in order")
    custom: Any = refused("the arguments of tools are JSON")


class Message(Kept):
    """One of ``messages``. Fields besides role and content are for the chat template."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[Call] | None = None
    annotations: Any = no_effect("answers have none here")
    audio: Any = refused(_TEXT_ONLY)
    function_call: Any = refused("it is called tool_calls now")
    refusal: Any = refused("text belongs in content")

    def given(self) -> dict[str, Any]:
        """The message as it was sent, with refusals as text parts."""
        found = super().given()
        if isinstance(self.content, list):
            found["content"] = [_text_part(part) for part in self.content]
        return found


class TemplateFields(Strict):
    """Messages and tools, and the options and variables of the chat template."""

    messages: list[Message]
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    tool_prompt: str | None = None
    tools: list[Tool] | None = None

    chat_template: Any = refused("the model has its own")
    guideline: Any = refused("variables for templates belong in chat_template_kwargs")

    def template_options(self) -> dict[str, Any]:
        """The options that are set, with the models' names."""
        variables = dict(self.chat_template_kwargs or {})
        for name in ("documents", "reasoning_effort"):
            value = getattr(self, name)
            if value is not None:
                variables[name] = value
        found = {
            "add_generation_prompt": self.add_generation_prompt,
            "continue_final_message": self.continue_final_message,
            "chat_template_kwargs": variables or None,
            "tool_prompt": self.tool_prompt,
        }
        return {name: value for name, value in found.items() if value is not None}


def check_messages(messages: list[Message]) -> None:
    """Raises ValidationError: a message lacks what its role needs, or a part lacks its text."""
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        is_silent = message.role == "assistant" and bool(message.tool_calls)
        if message.content is None and not is_silent:
            raise _missing(f"{name}.content")
        if message.tool_calls is not None and message.role != "assistant":
            raise ValidationError.of(
                f"{name}.tool_calls", f"is set, but `{name}.role` is {message.role!r}"
            )
        parts = message.content if isinstance(message.content, list) else []
        for place, part in enumerate(parts):
            if (part.text if part.type == "text" else part.refusal) is None:
                raise _missing(f"{name}.content[{place}].{part.type}")


def _missing(name: str) -> ValidationError:
    return ValidationError(
        f"`{name}`: Field required", param=name, code="missing_required_parameter"
    )


def _text_part(part: Part) -> dict[str, Any]:
    text = part.refusal if part.type == "refusal" else part.text
    return {"type": "text", "text": text or ""}
