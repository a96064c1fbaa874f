"""Formats told by chat templates, marks of reasoning in prompts, and special tokens that are kept.

The templates are excerpts: what tells the published ones apart.
"""

from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import ConfigError, ValidationError
from atoll.text.chat_formats import REASONING_PARSERS, TOOL_CALL_PARSERS, chat_formats, facts
from atoll.text.detokenizer import Detokenizer
from atoll.text.reasoning import ReasoningMarks
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve
from atoll_client.gateway.chat_formats.table import REASONING_FORMATS, TOOL_CALL_FORMATS

TEMPLATES = {
    "{{ '<|im_start|>' + message.content }}": ("json", "none"),
    "{{ '<tool_call>\\n{\"name\": \"' }}{{ '\\n}</tool_call>' }}": ("hermes", "none"),
    "<tool_call> </tool_call> <think>\\n\\n</think>\\n\\n": ("hermes", "qwen3"),
    "<|start_of_role|> <tool_call></tool_call>": ("hermes", "none"),
    "<|start_of_role|> <|tool_call|>": ("granite", "none"),
    "<|start_of_role|> <tool_call>[": ("granite", "none"),
    "<|start_of_role|> Here is my thought process:": ("json", "granite"),
    "<|tool_call|> <think></think> <response></response>": ("granite", "granite3.3"),
    "<tool_call>\\n<function=a>\\n<parameter=b>\\n</tool_call>": ("qwen3_coder", "none"),
    "[TOOL_CALLS] [THINK]": ("mistral", "mistral"),
    "<|start|>assistant<|channel|>": ("openai", "openai_gptoss"),
    "<|tool_call>call: <|channel>thought": ("gemma4", "gemma4"),
    "<start_function_call>call:": ("functiongemma", "none"),
    "<｜Assistant｜><｜tool▁call▁begin｜>function\\n```json </think>": (
        "deepseek_v3",
        "deepseek_r1",
    ),
    "{{ '<|im_start|>assistant\\n<think>' }}": ("json", "qwen3"),
    "{{ '<|im_start|>' + content.split('</think>')[-1] }}": ("json", "qwen3"),
    "<｜tool▁call▁begin｜> <think> </think>": ("deepseek_v31", "qwen3"),
    "<tool_call></tool_call><arg_key><think></think>": ("glm45", "qwen3"),
    "<|tool_calls_section_begin|><|tool_call_begin|>": ("kimi_k2", "none"),
    "<|tool|> <|/tool|>": ("phi4_mini_json", "none"),
    "<function_calls>": ("olmo3", "none"),
    "<|python_tag|>": ("llama3_json", "none"),
    "[func_name1(params_name1=params_value1)]": ("pythonic", "none"),
    '<|start_header_id|> "parameters": dictionary': ("llama3_json", "none"),
    '<|header_start|> "parameters": ': ("llama4_json", "none"),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_tells_the_formats(template: str) -> None:
    assert chat_formats(template) == TEMPLATES[template]
    assert chat_formats(template, "none", "qwen3") == ("none", "qwen3")


def test_a_setting_that_names_no_format() -> None:
    with pytest.raises(ConfigError, match="tool_call_parser is 'gpt'; known: .*hermes"):
        facts({"default": ""}, "gpt", None)
    with pytest.raises(ConfigError, match="reasoning_parser is 'gpt'; known: .*qwen3"):
        facts({"default": ""}, None, "gpt")
    with pytest.raises(ConfigError, match="reasoning_parser is 'qwen3', but .* no chat template"):
        facts({}, None, "qwen3")
    assert facts({}, None, None) == {}


def test_models_and_gateway_have_the_same_names() -> None:
    assert {*TOOL_CALL_FORMATS, "none"} == TOOL_CALL_PARSERS
    assert {*REASONING_FORMATS, "none"} == REASONING_PARSERS


@pytest.mark.parametrize(("prompt", "continued", "state"), [
    ("<user>What is <think>?<assistant>", None, ""),
    ("<assistant><think>\n", None, "open"),
    ("<assistant><think>\n\n</think>\n\n", None, "closed"),
    ("<assistant><think>\nHm", "<think>\nHm", "open"),
    ("<assistant><think>\nHm</think>So", "<think>\nHm</think>So", "closed"),
    ("<assistant>So", "So", "closed"),
    ("So", [{"type": "text", "text": "<think>S"}, {"type": "text", "text": "o"}], "open"),
])  # fmt: skip
def test_state_of_a_prompt(prompt: str, continued: Any, state: str) -> None:
    message = None if continued is None else {"role": "assistant", "content": continued}
    assert ReasoningMarks("<think>", "</think>").state(prompt, message) == state


@pytest.mark.parametrize(("value", "message"), [
    ("<think>", "reasoning is '<think>'; expected an object"),
    ({"opening": "a"}, "reasoning.closing is None; expected text"),
    ({"opening": "", "closing": "b"}, "reasoning.opening is ''"),
    ({"opening": "a", "closing": "b", "bridge": 3}, "reasoning.bridge is 3"),
    ({"opening": "a", "closing": "b", "begins_inside": 1}, "begins_inside is 1"),
    ({"opening": "a", "closing": "b", "x": 1}, "reasoning.x is unknown"),
])  # fmt: skip
def test_marks_that_are_none(value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReasoningMarks.read(value)


def test_special_tokens_that_are_kept() -> None:
    tokenizer = Tokenizer.load(resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))
    ids = tokenizer.encode("<repo_name>a<file_sep>b", add_special_tokens=False)
    kept = tokenizer.vocabulary.special_ids(["<repo_name>", "a", "<no token>"])
    for shown, text in ((kept, "<repo_name>ab"), ((), "ab")):
        detokenizer = Detokenizer(tokenizer, kept=shown)
        assert "".join(map(detokenizer.push, ids)) + detokenizer.finish() == text
