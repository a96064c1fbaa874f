"""Whether and how much a model reasons, as variables of its chat template."""

from __future__ import annotations

from typing import Any

from atoll_client.errors import ValidationError
from atoll_client.types import ModelInfo

# The names that templates have for the switch: most have the first, DeepSeek's and Granite's the
# second.
_SWITCHES = ("enable_thinking", "thinking")
_EFFORT = "reasoning_effort"
# gpt-oss's.
_EFFORTS = ("low", "medium", "high")


def reasons(model: ModelInfo) -> bool:
    """Whether a model reasons before it answers, always or if it is told to."""
    return model.facts.get("reasoning_parser") not in (None, "none")


def thinking_variables(model: ModelInfo, is_on: bool, field: str) -> dict[str, Any]:
    """The variable that switches reasoning on or off; none, if the model does that anyway.

    field: the one that asks for it.

    Raises:
        ValidationError: the model does not reason, or it always does.
    """
    known = _variables(model)
    switch = next((name for name in _SWITCHES if name in known), None)
    if switch is not None:
        return {switch: is_on}
    if is_on == reasons(model):
        return {}
    reason = (
        "does not reason: it has no reasoning_parser, and its chat template no variable for it"
        if is_on
        else "always reasons: its chat template has no variable that switches it off"
    )
    raise ValidationError.of(field, f"is not supported by {model.name!r}, which {reason}")


def effort_variables(
    model: ModelInfo, effort: str, field: str, default: str = ""
) -> dict[str, Any]:
    """The variable for how much a model reasons.

    default: the level that asks for nothing, where the chat template has no levels.

    Raises:
        ValidationError: the chat template has no levels, or not this one.
    """
    if _EFFORT not in _variables(model):
        if effort == default:
            return {}
        raise ValidationError.of(
            field, f"is {effort!r}; the chat template of {model.name!r} has no levels of effort"
        )
    if effort not in _EFFORTS:
        raise ValidationError.of(field, f"is {effort!r}; chat templates know {', '.join(_EFFORTS)}")
    return {_EFFORT: effort}


def _variables(model: ModelInfo) -> frozenset[str]:
    return frozenset(model.facts.get("chat_template_variables") or ())
