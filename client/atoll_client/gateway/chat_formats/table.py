"""The formats by the names that vLLM has for their parsers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from atoll_client.errors import UnsupportedModel
from atoll_client.gateway.chat_formats.deepseek import DeepSeekCalls
from atoll_client.gateway.chat_formats.gemma import FunctionGemmaCalls, GemmaCalls
from atoll_client.gateway.chat_formats.harmony import HarmonyCalls, HarmonyFormat, HarmonyReasoning
from atoll_client.gateway.chat_formats.json_calls import JsonCalls
from atoll_client.gateway.chat_formats.json_lists import GraniteCalls, PhiCalls
from atoll_client.gateway.chat_formats.kimi import KimiCalls
from atoll_client.gateway.chat_formats.llama import LlamaCalls
from atoll_client.gateway.chat_formats.mistral import MistralCalls
from atoll_client.gateway.chat_formats.python_calls import OlmoCalls
from atoll_client.gateway.chat_formats.reader import Calls, Format, Functions, Reasoning
from atoll_client.gateway.chat_formats.tags import Tags
from atoll_client.gateway.chat_formats.typed_parameters import GlmCalls, QwenCoderCalls
from atoll_client.types import ModelInfo

T = TypeVar("T")
NONE = "none"
_THINK = Tags()

TOOL_CALL_FORMATS: Mapping[str, type[Calls]] = {
    "deepseek_v3": DeepSeekCalls, "deepseek_v31": DeepSeekCalls,
    "functiongemma": FunctionGemmaCalls, "gemma4": GemmaCalls,
    "glm45": GlmCalls, "glm47": GlmCalls,
    "granite": GraniteCalls,
    "hermes": JsonCalls, "json": JsonCalls,
    "kimi_k2": KimiCalls,
    "llama3_json": LlamaCalls, "llama4_json": LlamaCalls,
    "llama4_pythonic": LlamaCalls, "pythonic": LlamaCalls,
    "mistral": MistralCalls,
    "olmo3": OlmoCalls,
    "openai": HarmonyCalls,
    "phi4_mini_json": PhiCalls,
    "qwen3_coder": QwenCoderCalls, "qwen3_xml": QwenCoderCalls,
}  # fmt: skip
REASONING_FORMATS: Mapping[str, Reasoning] = {
    "deepseek_r1": Tags(begins_inside=True), "deepseek_v3": _THINK,
    "gemma4": Tags("<|channel>thought\n", "<channel|>", token="<|channel>"),
    "glm45": _THINK,
    "granite": Tags("Here is my thought process:", "Here is my response:"),
    "granite3.3": Tags(tags=("<response>", "</response>")),
    "kimi_k2": _THINK,
    "mistral": Tags("[THINK]", "[/THINK]"),
    "olmo3": _THINK,
    "openai_gptoss": HarmonyReasoning(),
    "qwen3": _THINK,
}  # fmt: skip


def format_of(
    model: ModelInfo, functions: Functions | None, is_bound: bool, max_calls: int | None
) -> Format:
    """How a model writes its answer to one request.

    Args:
        functions: the tools that it may call; None: there are none.
        is_bound: the answer follows a grammar, in which calls are JSON objects.

    Raises:
        UnsupportedModel: the model names a format that is not known here.
    """
    named = str(model.facts.get("reasoning_parser") or NONE)
    reasoning = None if named == NONE else _known("reasoning_parser", named, REASONING_FORMATS)
    named = str(model.facts.get("tool_call_parser") or "json")
    kind = None if named == NONE else _known("tool_call_parser", named, TOOL_CALL_FORMATS)
    is_harmony = isinstance(reasoning, HarmonyReasoning) or kind is HarmonyCalls
    # Ids are part of some templates, whatever the notation of a call.
    new_id = (kind or Calls).new_id
    if is_bound:
        kind = JsonCalls
    calls = None if functions is None or kind is None else kind(functions)
    return (HarmonyFormat if is_harmony else Format)(reasoning, calls, max_calls, new_id)


def _known(name: str, value: str, table: Mapping[str, T]) -> T:
    if value not in table:
        known = ", ".join(sorted(table))
        raise UnsupportedModel(f"the model's {name} is {value!r}; known here: {known}")
    return table[value]
