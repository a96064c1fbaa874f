"""Which format a model has for tool calls and reasoning: told by the text of its chat template.

The names are those of vLLM's parsers, except for granite3.3. The parsers are the gateway's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from atoll.errors import ConfigError

NONE = "none"
# Calls of models whose template names no format: JSON objects, tagged or at the beginning.
JSON = "json"

# What the template of a format contains: all texts of the first row that fits. Rows with texts that
# other formats have as well come later.
_TOOL_CALLS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("openai", ("<|start|>", "<|channel|>")),
    ("gemma4", ("<|tool_call>",)),
    ("functiongemma", ("<start_function_call>",)),
    ("kimi_k2", ("<|tool_call_begin|>",)),
    ("deepseek_v3", ("<｜tool▁call▁begin｜>", "```json")),
    ("deepseek_v31", ("<｜tool▁call▁begin｜>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("glm45", ("<arg_key>",)),
    ("olmo3", ("<function_calls>",)),
    ("hermes", ("<tool_call>", "</tool_call>")),
    ("phi4_mini_json", ("<|/tool|>",)),
    ("phi4_mini_json", ("functools",)),
    ("granite", ("<|tool_call|>",)),
    ("granite", ("<|start_of_role|>", "<tool_call>")),
    ("hermes", ("<tool_call>",)),
    ("pythonic", ("func_name1(",)),
    ("llama3_json", ("<|python_tag|>",)),
    ("llama3_json", ("<|start_header_id|>", '"parameters"')),
    ("llama4_json", ("<|header_start|>", '"parameters"')),
)
_REASONING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("openai_gptoss", ("<|start|>", "<|channel|>")),
    ("gemma4", ("<|channel>",)),
    ("mistral", ("[THINK]",)),
    ("granite", ("Here is my thought process:",)),
    ("granite3.3", ("<think>", "<response>")),
    ("qwen3", ("<think>",)),
    # The template only removes earlier reasoning: the model begins with it.
    ("deepseek_r1", ("<｜Assistant｜>", "</think>")),
    # Other models begin with it in some of their sizes, and then write the opening tag.
    ("qwen3", ("</think>",)),
)
# Names of the same formats.
_SAME_CALLS = ("qwen3_xml", "llama4_pythonic", "glm47")
_SAME_REASONING = ("deepseek_v3", "glm45", "kimi_k2", "olmo3")

TOOL_CALL_PARSERS = frozenset({JSON, NONE, *(name for name, _ in _TOOL_CALLS), *_SAME_CALLS})
REASONING_PARSERS = frozenset({NONE, *(name for name, _ in _REASONING), *_SAME_REASONING})


class ChatFormats(NamedTuple):
    """Names of formats; ``NONE``: answers are not split."""

    tool_call_parser: str
    reasoning_parser: str


def chat_formats(
    template: str, tool_call_parser: str | None = None, reasoning_parser: str | None = None
) -> ChatFormats:
    """The formats of the model's template, or those that its settings name.

    Raises:
        ConfigError: a setting names no format.
    """
    _check("tool_call_parser", tool_call_parser, TOOL_CALL_PARSERS)
    _check("reasoning_parser", reasoning_parser, REASONING_PARSERS)
    return ChatFormats(
        tool_call_parser or _first(template, _TOOL_CALLS, JSON),
        reasoning_parser or _first(template, _REASONING, NONE),
    )


def facts(
    templates: Mapping[str, str], tool_call_parser: str | None, reasoning_parser: str | None
) -> Mapping[str, str]:
    """The formats as facts for users and the gateway; none for a model without templates.

    templates: all of its templates.

    Raises:
        ConfigError: a setting names no format, or the model has no chats.
    """
    named = {"tool_call_parser": tool_call_parser, "reasoning_parser": reasoning_parser}
    if templates:
        return chat_formats("\n".join(templates.values()), **named)._asdict()
    for name, value in named.items():
        if value is not None:
            raise ConfigError(f"{name} is {value!r}, but the model has no chat template")
    return {}


def _first(template: str, rows: tuple[tuple[str, tuple[str, ...]], ...], default: str) -> str:
    fitting = (name for name, texts in rows if all(text in template for text in texts))
    return next(fitting, default)


def _check(setting: str, value: str | None, known: frozenset[str]) -> None:
    if value is not None and value not in known:
        raise ConfigError(f"{setting} is {value!r}; known: {', '.join(sorted(known))}")
