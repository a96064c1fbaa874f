"""Kinds of tools, items and contents: those that are known here, and those refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from atoll_client.gateway.core.fields import REFUSED

_HOSTED = "the gateway runs no tools; those of the caller have the types function and custom"
_ITEMS = "it belongs to a tool that OpenAI runs"
_TEXT_ONLY = "the models here read text"
NOT_COMPACTED = "conversations are not compacted"


def _refusing(why: dict[str, Iterable[str]]) -> BeforeValidator:
    """Refuses kinds by name, each with its reason, before a literal lists those that are known."""
    reasons = {kind: reason for reason, kinds in why.items() for kind in kinds}

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in reasons:
            raise PydanticCustomError(REFUSED, "{why}", {"why": reasons[value]})
        return value

    found: Callable[[Any], Any] = check
    return BeforeValidator(found)


HOSTED_TOOLS = _refusing(
    {
        _HOSTED: (
            "apply_patch", "code_interpreter", "computer", "computer_use", "computer_use_preview",
            "file_search", "image_generation", "local_shell", "mcp", "programmatic_tool_calling",
            "shell", "tool_search", "web_search", "web_search_2025_08_26", "web_search_preview",
            "web_search_preview_2025_03_11",
        ),
    }
)  # fmt: skip
HOSTED_ITEMS = _refusing(
    {
        _ITEMS: (
            "apply_patch_call", "apply_patch_call_output", "code_interpreter_call",
            "computer_call", "computer_call_output", "file_search_call", "image_generation_call",
            "local_shell_call", "local_shell_call_output", "mcp_approval_request",
            "mcp_approval_response", "mcp_call", "mcp_list_tools", "program", "program_output",
            "shell_call", "shell_call_output", "tool_search_call", "tool_search_output",
            "web_search_call",
        ),
        "tools belong in `tools`": ("additional_tools",),
        "options are those of the request": ("configuration_update",),
        NOT_COMPACTED: ("compaction", "compaction_trigger"),
    }
)  # fmt: skip
OTHER_CONTENTS = _refusing(
    {_TEXT_ONLY: ("input_image", "input_file", "input_audio", "computer_screenshot")}
)
OTHER_INCLUDES = _refusing(
    {
        _ITEMS: (
            "file_search_call.results", "web_search_call.results",
            "web_search_call.action.sources", "computer_call_output.output.image_url",
            "code_interpreter_call.outputs",
        ),
        _TEXT_ONLY: ("message.input_image.image_url",),
    }
)  # fmt: skip
LARK = _refusing({"grammars are regular expressions here": ("lark",)})
