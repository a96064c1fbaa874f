"""OpenAI's ``tool_choice``: which tools an answer may call, and whether it has to call one.

``chat_formats`` finds the calls in an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from atoll_client.errors import ValidationError
from atoll_client.gateway.chat_formats.tool_choice import ToolChoice
from atoll_client.gateway.openai.messages import Choice, Tool


def read_choice(tools: Sequence[Tool], choice: str | Choice | None) -> ToolChoice | None:
    """The choice of a request; None: no tools may be called.

    Raises:
        ValidationError: two tools have the same name, or the choice is not one of them.
    """
    check_names([tool.function.name for tool in tools])
    free = ToolChoice({tool.function.name: tool.function.given() for tool in tools}, False)
    if choice == "none" or (choice in (None, "auto") and not tools):
        return None
    if choice in (None, "auto"):
        return free
    if not tools:
        raise ValidationError.of("tool_choice", "is set, but `tools` is empty")
    if choice == "required":
        return ToolChoice(free.functions, True)
    if not isinstance(choice, Choice):
        return free.only([choice], True)
    if (choice.function is None) != (choice.type == "allowed_tools") or (
        choice.allowed_tools is None
    ) != (choice.type == "function"):
        raise ValidationError(
            f"`tool_choice.type` is {choice.type!r}; expected `tool_choice.{choice.type}` and "
            "no other",
            param=f"tool_choice.{choice.type}",
        )
    if choice.allowed_tools is not None:
        names = [tool.function.name for tool in choice.allowed_tools.tools]
        return free.only(names, choice.allowed_tools.mode == "required")
    assert choice.function is not None
    return free.only([choice.function.name], True)


def check_names(names: Sequence[str]) -> None:
    """Raises ValidationError: two tools have the same name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValidationError.of("tools", f"has {twice!r} more than once")
