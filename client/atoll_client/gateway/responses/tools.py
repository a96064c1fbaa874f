"""Tools of a request in the form of chat completions, for chat templates and grammars.

Models know functions alone. A custom tool is shown to them as a function of one text, ``input``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.gateway.chat_formats.tool_choice import ToolChoice
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.openai.tools import check_names
from atoll_client.gateway.responses.namespaces import NamedTool, check_unset
from atoll_client.gateway.responses.schemas import (
    ChosenTool,
    GroupedTool,
    ResponseChoice,
    ResponseTool,
)
from atoll_client.types import ModelInfo

INPUT = "input"


def as_functions(tools: Sequence[NamedTool]) -> list[dict[str, Any]]:
    """The tools as chat completions have them.

    Raises:
        ValidationError: a tool has a field of the other type, or its format is incomplete.
    """
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _function(named: NamedTool) -> dict[str, Any]:
    tool = named.tool
    is_custom = tool.type == "custom"
    check_unset(tool, named.field, ("parameters" if is_custom else "format",))
    found: dict[str, Any] = {"name": named.shown}
    if named.description is not None:
        found["description"] = named.description
    if is_custom:
        return {**found, "parameters": _input(tool, f"{named.field}.format")}
    return found if tool.parameters is None else {**found, "parameters": tool.parameters}


def _input(tool: GroupedTool | ResponseTool, name: str) -> dict[str, Any]:
    """The parameters of a custom tool."""
    text: dict[str, Any] = {"type": "string"}
    form = tool.format
    if form is not None and form.type == "text":
        check_unset(form, name, ("syntax", "definition"))
    if form is not None and form.type == "grammar":
        for field in ("syntax", "definition"):
            if getattr(form, field) is None:
                raise ValidationError.of(f"{name}.{field}", "is missing")
        text["pattern"] = f"^(?:{form.definition})$"
    return {
        "type": "object", "properties": {INPUT: text}, "required": [INPUT],
        "additionalProperties": False,
    }  # fmt: skip


async def check_grammars(context: Context, model: ModelInfo, tools: Sequence[NamedTool]) -> None:
    """Asks the model whether the grammars of custom tools are such: an answer that may call a tool
    but need not is bound to none of them.

    Raises:
        ValidationError: one is not; names it.
    """
    for field, tool, _ in tools:
        if tool.format is None or tool.format.definition is None:
            continue
        question = {"op": "regex", "pattern": tool.format.definition}
        try:
            await context.pool.ask(model.name, question)
        except ValidationError as error:
            name = f"{field}.format.definition"
            raise ValidationError(f"`{name}`: {error}", param=name, code="invalid_value") from error


def read_choice(
    tools: Sequence[NamedTool],
    functions: Iterable[dict[str, Any]],
    choice: str | ResponseChoice | None,
) -> ToolChoice | None:
    """The choice of a request; None: no tools may be called. functions: ``as_functions``.

    Raises:
        ValidationError: two tools have the same name, or the choice is not one of them.
    """
    check_names([tool.shown for tool in tools])
    free = ToolChoice({one["function"]["name"]: one["function"] for one in functions}, False)
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        raise ValidationError.of(
            "tool_choice", f"is {choice!r}; expected auto, none, required or an object"
        )
    if choice == "none" or (choice in (None, "auto") and not tools):
        return None
    if choice in (None, "auto"):
        return free
    if not tools:
        raise ValidationError.of("tool_choice", "is set, but `tools` is empty")
    if not isinstance(choice, ResponseChoice):
        return ToolChoice(free.functions, True)
    kinds = {named.shown: named.tool.type for named in tools}
    is_list = choice.type == "allowed_tools"
    check_unset(choice, "tool_choice", ("name",) if is_list else ("mode", "tools"))
    if is_list:
        return _allowed(free, choice, kinds)
    if choice.name is None:
        raise ValidationError.of("tool_choice.name", "is missing")
    _check_kind(choice, kinds, "tool_choice")
    return free.only([choice.name], True, "tool_choice.name")


def _allowed(free: ToolChoice, choice: ResponseChoice, kinds: Mapping[str, str]) -> ToolChoice:
    if choice.tools is None:
        raise ValidationError.of("tool_choice.tools", "is missing")
    for index, one in enumerate(choice.tools):
        _check_kind(one, kinds, f"tool_choice.tools[{index}]")
    names = [one.name for one in choice.tools]
    return free.only(names, choice.mode == "required", "tool_choice.tools")


def _check_kind(one: ResponseChoice | ChosenTool, kinds: Mapping[str, str], field: str) -> None:
    kind = kinds.get(one.name or "", one.type)
    if kind != one.type:
        raise ValidationError.of(
            f"{field}.type", f"is {one.type!r}, but the tool {one.name!r} is of type {kind!r}"
        )
