"""What a request says of its prompt beside the messages, against transformers' own rendering."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from atoll.errors import ValidationError
from atoll.text.chat import ChatTemplate
from atoll.text.chat_options import ChatOptions

CHATML = """{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
TRIMMED = CHATML.replace("m['content']", "m['content'] | trim")
PARTS = """{% for m in messages %}<|{{ m.role }}|>
{%- for part in m.content %}{{ part.text }}{% endfor %}<|end|>{% endfor %}"""
THINKING = """{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}
{%- for d in documents or [] %}[{{ d.text }}]{% endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>{% endif %}{% endif %}"""
# Harmony's constructs: variables with defaults inside a macro, and calls named by their last one.
HARMONY = """{%- macro told() -%}
    {%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
    {{- "Current date: " + strftime_now("%Y") + "\\n\\nReasoning: " + reasoning_effort }}
    {%- if builtin_tools %}{{- "\\n" + builtin_tools | join(", ") }}{%- endif %}
    {%- if tools %}{{- "\\nCalls go to the channel commentary." }}{%- endif %}
{%- endmacro -%}
<|start|>system<|message|>{{ told() }}<|end|>
{%- if messages[0].role in ("developer", "system") %}
    {%- set instructions, rest = messages[0].content, messages[1:] %}
{%- else %}{%- set instructions, rest = "", messages %}{%- endif %}
{%- if instructions or tools %}
    {{- "<|start|>developer<|message|># Instructions\\n\\n" + instructions }}
    {%- for tool in tools or [] %}{{- "\\ntype " + tool.function.name + " = () => any;" }}
    {%- endfor %}
    {{- "<|end|>" }}
{%- endif %}
{%- set last = namespace(name=none) %}
{%- for m in rest %}
    {%- if m.role == "assistant" and "tool_calls" in m %}
        {%- if m.thinking %}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" + m.thinking + "<|end|>" }}
        {%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- "<|start|>assistant to=functions." + call.name + "<|channel|>commentary json" }}
        {{- "<|message|>" + call.arguments | tojson + "<|call|>" }}
        {%- set last.name = call.name %}
    {%- elif m.role == "assistant" %}
        {{- "<|start|>assistant<|channel|>final<|message|>" + m.content + "<|end|>" }}
    {%- elif m.role == "tool" %}
        {%- if last.name is none %}{{- raise_exception("no call before") }}{%- endif %}
        {{- "<|start|>functions." + last.name + " to=assistant<|channel|>commentary<|message|>" }}
        {{- m.content | tojson + "<|end|>" }}
    {%- else %}{{- "<|start|>user<|message|>" + m.content + "<|end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}"""
# Gemma's constructs: it has no system role, so that the system's text goes in front of the first
# turn, and turns must alternate.
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set before = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set before = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set before, turns = "", messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must alternate") }}
    {%- endif -%}
    {%- set role = 'model' if turn['role'] == 'assistant' else turn['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (before if loop.first else "") }}
    {%- if turn['content'] is string -%}
        {{ turn['content'] | trim }}
    {%- elif turn['content'] is iterable -%}
        {%- for part in turn['content'] -%}
            {%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}
            {%- elif part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
ENDS = ["The capital is", "The capital is ", " \n The capital\n\n", "is", "<|end|>", "Hi"]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(*contents: str) -> list[dict[str, Any]]:
    """A conversation by turns."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


def expected(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    """As transformers renders it."""
    copied = [dict(message) for message in messages]
    found = render_jinja_template(conversations=[copied], chat_template=source, **options)
    return str(found[0][0])


def rendered(source: str, messages: list[dict[str, Any]], tools: Any = None, **options: Any) -> str:
    return ChatTemplate({"default": source}, {}).render(messages, tools, ChatOptions.read(options))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("source", [CHATML, TRIMMED])
def test_the_final_message_goes_on(source: str, end: str) -> None:
    """It was dropped: the prompt closed the message and began another."""
    messages = chat("Hi", end)
    found = rendered(source, messages, continue_final_message=True)
    assert found == expected(
        source, messages, continue_final_message=True, add_generation_prompt=False
    )
    assert not found.endswith("<|end|>\n") and "TAG" not in found


def test_parts_go_on_too() -> None:
    parts = [{"type": "text", "text": "The "}, {"type": "text", "text": "capital "}]
    messages: Any = [*chat("Hi"), {"role": "assistant", "content": parts}]
    found = rendered(PARTS, messages, continue_final_message=True)
    assert found == "<|user|>Hi<|end|><|assistant|>The capital "
    assert parts == [{"type": "text", "text": "The "}, {"type": "text", "text": "capital "}]


@pytest.mark.parametrize("prompts", [True, False, None])
@pytest.mark.parametrize("thinking", [True, False, None])
def test_variables_of_the_template(prompts: bool | None, thinking: bool | None) -> None:
    """Qwen's ``enable_thinking: false`` was ignored."""
    variables = {"documents": [{"text": "one"}]}
    if thinking is not None:
        variables["enable_thinking"] = thinking  # type: ignore[assignment]
    found = rendered(
        THINKING, chat("Hi"), [TOOL], add_generation_prompt=prompts, chat_template_kwargs=variables
    )
    assert found == expected(
        THINKING, chat("Hi"), tools=[TOOL], add_generation_prompt=prompts is not False, **variables
    )


@pytest.mark.parametrize("effort", [None, "low", "high"])
def test_harmony(effort: str | None) -> None:
    """What gpt-oss' template reads inside of macros: how long to think, and built-in tools."""
    function = {"name": "f", "arguments": {"a": "é"}}
    messages = [
        {"role": "developer", "content": "Be brief."}, *chat("Hi"),
        {"role": "assistant", "content": "", "thinking": "Look it up.",
         "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "7"},
    ]  # fmt: skip
    asked: Any = {} if effort is None else {"reasoning_effort": effort, "builtin_tools": ["python"]}
    found = rendered(HARMONY, messages, [TOOL], chat_template_kwargs=asked)
    assert found == expected(HARMONY, messages, tools=[TOOL], add_generation_prompt=True, **asked)
    assert f"Reasoning: {effort or 'medium'}\n" in found and found.endswith("<|start|>assistant")
    assert '<|message|>{"a": "é"}<|call|><|start|>functions.f to=assistant' in found


@pytest.mark.parametrize("system", [None, "Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_gemma(system: Any) -> None:
    """The system's text is part of the user's first turn."""
    parts = [{"type": "text", "text": " Hi"}, {"type": "text", "text": "there "}]
    turns = [{"role": "user", "content": parts}, *chat("", "Hello ", "Bye")[1:]]
    messages = [*([] if system is None else [{"role": "system", "content": system}]), *turns]
    template = ChatTemplate({"default": GEMMA}, {"bos_token": "<bos>"})
    found = template.render(messages)
    assert found == expected(GEMMA, messages, bos_token="<bos>", add_generation_prompt=True)
    before = "" if system is None else "Be brief.\n\n"
    assert found.startswith(f"<bos><start_of_turn>user\n{before}Hithere<end_of_turn>\n")
    with pytest.raises(ValidationError, match="Roles must alternate"):
        template.render([*messages, *chat("a", "b")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chat_template_kwargs": {"thinking": 1}}, "kwargs.thinking.*it reads: documents, enable"),
        ({"chat_template_kwargs": {"messages": []}}, "kwargs.messages has a field of its own"),
        ({"chat_template_kwargs": [1]}, "expected an object"),
        ({"continue_final_message": "yes"}, "continue_final_message is 'yes'"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "are true"),
    ],
)
def test_what_the_template_does_not_read_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        rendered(THINKING, chat("Hi", "a"), **options)


@pytest.mark.parametrize("content", [None, []])
def test_nothing_to_go_on_with(content: Any) -> None:
    messages = [*chat("Hi"), {"role": "assistant", "content": content}]
    with pytest.raises(ValidationError, match=r"messages\[1\].content is"):
        rendered(CHATML, messages, continue_final_message=True)
    silent = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValidationError, match="leaves the final message out"):
        rendered(silent, chat("Hi", "a"), continue_final_message=True)


def test_tools_of_a_template_that_has_no_place_for_them() -> None:
    """The model never heard of them, though the caller asked for calls."""
    messages = chat("Hi", "Hello", "Bye")
    found = rendered(CHATML, messages, [TOOL])
    before, _, after = found.partition("Bye\n---\n")
    assert before.endswith("<|assistant|>Hello<|end|>\n<|user|>") and '"name": "f"' in after
    assert 'of the form {"name"' in after and messages == chat("Hi", "Hello", "Bye")
    told = rendered(CHATML, messages, [TOOL], tool_prompt="Call one.")
    assert "\nCall one.<|end|>" in told and "of the form" not in told
    # A template that has a place shows them itself.
    assert rendered(THINKING, messages, [TOOL]) == expected(
        THINKING, messages, tools=[TOOL], add_generation_prompt=True
    )
    assert "Bye\n---\nCall one.<|" in rendered(THINKING, messages, [TOOL], tool_prompt="Call one.")
    assert rendered(CHATML, messages) == expected(CHATML, messages, add_generation_prompt=True)


@pytest.mark.parametrize("said", [None, "", "Let me see.", [{"type": "text", "text": "Hm."}]])
def test_calls_of_a_template_that_does_not_read_them(said: Any) -> None:
    """Earlier calls were left out: the model saw an empty message, and a tool's answer to it."""
    functions = [{"name": "f", "arguments": '{"a": "é"}'}, {"name": "g", "arguments": "{"}]
    calls = [{"id": "1", "type": "function", "function": one} for one in functions]
    answer = {"role": "tool", "tool_call_id": "1", "content": "7"}
    messages = [*chat("Hi"), {"role": "assistant", "content": said, "tool_calls": calls}, answer]
    found = rendered(CHATML, messages)
    written = '{"name": "f", "arguments": {"a": "é"}}\n{"name": "g", "arguments": "{"}'
    before = said[0]["text"] if isinstance(said, list) else said
    shown = f"{before}\n{written}" if before else written
    assert f"<|assistant|>{shown}<|end|>" in found and messages[1]["tool_calls"] is calls
    for read in ("message.tool_calls", "message['tool_calls']", "message.get('tool_calls')"):
        knows = "{% for message in messages %}{{ message.content or " + read + " }}{% endfor %}"
        assert written not in rendered(knows, messages)


def test_roles() -> None:
    """A misspelt role became part of the prompt as it was."""
    with pytest.raises(ValidationError, match=r"messages\[1\].role is 'bot'; expected one of"):
        rendered(CHATML, [*chat("Hi"), {"role": "bot", "content": "a"}])
    named = CHATML + "{% if messages[0].role == 'ipython' %}!{% endif %}"
    assert "<|ipython|>a" in rendered(named, [{"role": "ipython", "content": "a"}])
    told = [{"role": "developer", "content": "Be brief."}, *chat("Hi")]
    assert rendered(CHATML, told).startswith("<|system|>Be brief.")
    knows = CHATML + "{% if messages[0].role == 'developer' %}!{% endif %}"
    assert rendered(knows, told).startswith("<|developer|>Be brief.")
