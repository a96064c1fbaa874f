"""What a request says of reasoning, as variables of the chat templates that there are."""

from __future__ import annotations

from typing import Any

import pytest

from atoll_client.errors import ValidationError
from atoll_client.gateway.chat_formats.thinking import effort_variables, thinking_variables
from atoll_client.types import ModelInfo


def _model(parser: str, *variables: str) -> ModelInfo:
    facts = {"reasoning_parser": parser, "chat_template_variables": list(variables)}
    return ModelInfo("m", "generate", facts)


QWEN, DEEPSEEK = _model("qwen3", "enable_thinking"), _model("deepseek_v3", "thinking", "documents")
R1, HARMONY = _model("deepseek_r1"), _model("openai_gptoss", "reasoning_effort")


@pytest.mark.parametrize(
    ("model", "is_on", "found"),
    [
        (QWEN, True, {"enable_thinking": True}), (QWEN, False, {"enable_thinking": False}),
        (DEEPSEEK, True, {"thinking": True}), (R1, True, {}), (R1, False, "always reasons"),
        (HARMONY, True, {}), (HARMONY, False, "always reasons"),
        (_model("none"), True, "does not reason"), (_model("none"), False, {}),
        (ModelInfo("m", "generate"), True, "does not reason"),
    ],
)  # fmt: skip
def test_reasoning_on_and_off(model: ModelInfo, is_on: bool, found: Any) -> None:
    if isinstance(found, str):
        with pytest.raises(ValidationError, match=f"`think` is not supported by 'm'.*{found}"):
            thinking_variables(model, is_on, "think")
    else:
        assert thinking_variables(model, is_on, "think") == found


@pytest.mark.parametrize(
    ("model", "effort", "found"),
    [
        (HARMONY, "low", {"reasoning_effort": "low"}),
        (HARMONY, "high", {"reasoning_effort": "high"}),
        (HARMONY, "max", "is 'max'; chat templates know low, medium, high"),
        (QWEN, "high", {}), (QWEN, "low", "has no levels of effort"),
    ],
)  # fmt: skip
def test_levels_of_effort(model: ModelInfo, effort: str, found: Any) -> None:
    """\"high\" is what Anthropic's requests mean that name none."""
    if isinstance(found, str):
        with pytest.raises(ValidationError, match=f"effort.*{found}"):
            effort_variables(model, effort, "effort", "high")
    else:
        assert effort_variables(model, effort, "effort", "high") == found
