"""Anthropic's messages, system prompt and tools as those of a chat template.

A message's blocks become the text, the reasoning and the calls of one message; each result of a
tool is a message of its own. Several blocks of text are paragraphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from atoll_client.errors import EmptyInputError, ValidationError
from atoll_client.gateway.anthropic.schemas import (
    AnthropicChoice,
    AnthropicMessage,
    AnthropicTool,
    Block,
    CountTokensBody,
    TextBlock,
)
from atoll_client.gateway.chat_formats.thinking import effort_variables, thinking_variables
from atoll_client.gateway.chat_formats.tool_choice import ToolChoice
from atoll_client.gateway.openai.tools import check_names
from atoll_client.types import ModelInfo

_PARAGRAPH = "\n\n"
_ERROR = "Error: "
# Anthropic's, for requests that name none.
_DEFAULT_EFFORT = "high"
# What a block needs, what it may have besides, and which role it belongs to, by its type.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",), "thinking": ("thinking",), "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"), "tool_result": ("tool_use_id",),
}  # fmt: skip
_MAY_HAVE: Mapping[str, tuple[str, ...]] = {"tool_result": ("content", "is_error")}
_OF_TYPES = tuple(dict.fromkeys(sum((*_NEEDS.values(), *_MAY_HAVE.values()), ())))
_ROLES = {
    "thinking": "assistant", "redacted_thinking": "assistant", "tool_use": "assistant",
    "tool_result": "user",
}  # fmt: skip
Chat = dict[str, Any]


def chat_messages(body: CountTokensBody) -> list[Chat]:
    """The messages for the chat template, the system prompt first.

    Raises:
        EmptyInputError: there are none. ValidationError: a block lacks a field, has one of
            another type or the wrong role, or is the result of no call.
    """
    if not body.messages:
        raise EmptyInputError.of("messages", "cannot be empty")
    found: list[Chat] = []
    system = body.system if isinstance(body.system, str) else _joined(body.system or ())
    if system:
        found.append({"role": "system", "content": system})
    names: dict[str, str] = {}
    for index, message in enumerate(body.messages):
        _check(message, f"messages[{index}]")
        for one in _messages_of(message, f"messages[{index}]", names):
            _append(found, one)
    return found


def template_options(model: ModelInfo, body: CountTokensBody) -> dict[str, Any]:
    """The model's options of the chat template.

    Raises:
        ValidationError: the template cannot do what the request says of reasoning, or the last
            message cannot be continued.
    """
    variables: dict[str, Any] = {}
    if body.thinking is not None and body.thinking.type != "adaptive":
        is_on = body.thinking.type == "enabled"
        variables |= thinking_variables(model, is_on, "thinking.type")
    effort = body.output_config.effort if body.output_config else None
    if effort is not None:
        variables |= effort_variables(model, effort, "output_config.effort", _DEFAULT_EFFORT)
    found: dict[str, Any] = {"chat_template_kwargs": variables} if variables else {}
    last = body.messages[-1]
    if last.role == "assistant":
        if isinstance(last.content, list) and any(one.type == "tool_use" for one in last.content):
            raise ValidationError.of(
                f"messages[{len(body.messages) - 1}].content",
                "has calls of tools, whose results must be in the next message",
            )
        found["continue_final_message"] = True
    return found


def functions_of(tools: Sequence[AnthropicTool]) -> list[Chat]:
    """The tools as OpenAI's, which chat templates print."""
    found = []
    for tool in tools:
        described = {} if tool.description is None else {"description": tool.description}
        function = {"name": tool.name, **described, "parameters": tool.input_schema}
        found.append({"type": "function", "function": function})
    return found


def choice_of(tools: Sequence[AnthropicTool], choice: AnthropicChoice | None) -> ToolChoice | None:
    """The tools that the answer may call; None: the model is told of none.

    Raises:
        ValidationError: two tools have the same name, or the choice is not one of them.
    """
    check_names([tool.name for tool in tools])
    kind, name = ("auto", None) if choice is None else (choice.type, choice.name)
    if kind == "tool" and name is None:
        raise _missing("tool_choice.name")
    if kind != "tool" and name is not None:
        raise ValidationError.of("tool_choice.name", f"is set, but `tool_choice.type` is {kind!r}")
    if kind == "none" or (kind == "auto" and not tools):
        return None
    if not tools:
        raise ValidationError.of("tool_choice", "is set, but `tools` is empty")
    functions = {one["function"]["name"]: one["function"] for one in functions_of(tools)}
    free = ToolChoice(functions, kind == "any")
    return free if name is None else free.only([name], True, "tool_choice.name")


def _check(message: AnthropicMessage, place: str) -> None:
    if isinstance(message.content, str):
        return
    for index, block in enumerate(message.content):
        field = f"{place}.content[{index}]"
        for name in _NEEDS[block.type]:
            if getattr(block, name) is None:
                raise _missing(f"{field}.{name}")
        own = _NEEDS[block.type] + _MAY_HAVE.get(block.type, ())
        for name in _OF_TYPES:
            if name not in own and getattr(block, name):
                raise ValidationError.of(
                    f"{field}.{name}", f"is set, but `{field}.type` is {block.type!r}",
                    code="unknown_parameter",
                )  # fmt: skip
        role = _ROLES.get(block.type, message.role)
        if role != message.role:
            raise ValidationError.of(
                f"{field}.type",
                f"is {block.type!r}, which belongs to the {role}; `{place}.role` is "
                f"{message.role!r}",
            )


def _messages_of(message: AnthropicMessage, place: str, names: dict[str, str]) -> Iterator[Chat]:
    """The chat's messages of one. names: those of the tools called so far, by the calls' ids."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    blocks = message.content
    for index, block in enumerate(blocks):
        if block.type == "tool_result":
            yield _result(block, f"{place}.content[{index}].tool_use_id", names)
    texts = [block.text or "" for block in blocks if block.type == "text"]
    found: Chat = {"role": message.role, "content": _PARAGRAPH.join(texts)}
    thoughts = [block.thinking or "" for block in blocks if block.type == "thinking"]
    if any(thoughts):
        found["reasoning_content"] = _PARAGRAPH.join(filter(None, thoughts))
    calls = [_call(block) for block in blocks if block.type == "tool_use"]
    if calls:
        found["tool_calls"] = calls
        names |= {call["id"]: call["function"]["name"] for call in calls}
    # A message that only has results has nothing to say itself.
    if texts or len(found) > 2 or not any(block.type == "tool_result" for block in blocks):
        yield found


def _call(block: Block) -> Chat:
    function = {"name": block.name, "arguments": block.input}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: Block, field: str, names: Mapping[str, str]) -> Chat:
    called = names.get(block.tool_use_id or "")
    if called is None:
        raise ValidationError.of(
            field, f"is {block.tool_use_id!r}; no earlier message has a call with this id"
        )
    text = block.content if isinstance(block.content, str) else _joined(block.content or ())
    content = f"{_ERROR}{text}" if block.is_error else text
    return {"role": "tool", "tool_call_id": block.tool_use_id, "name": called, "content": content}


def _append(found: list[Chat], message: Chat) -> None:
    """Adds a message; two of the user that follow one another are one, as Anthropic reads them."""
    if found and message["role"] == "user" == found[-1]["role"]:
        texts = filter(None, (found[-1]["content"], message["content"]))
        found[-1] = {**found[-1], "content": _PARAGRAPH.join(texts)}
    else:
        found.append(message)


def _joined(blocks: Iterable[TextBlock]) -> str:
    return _PARAGRAPH.join(block.text for block in blocks)


def _missing(field: str) -> ValidationError:
    return ValidationError(
        f"`{field}`: Field required", param=field, code="missing_required_parameter"
    )
