"""Earlier calls and reasoning, before templates that read them as published ones do."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import ValidationError
from atoll.text.chat import ChatTemplate
from atoll.text.chat_options import ChatOptions


def _call(name: str, index: int = 0, arguments: Any = '{"city": "Köln"}') -> dict[str, Any]:
    return {"id": f"id{index}", "function": {"name": name, "arguments": arguments}}


ASKED = {"role": "user", "content": "Weather?"}
CALLED = {
    "role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [_call("f")],
}  # fmt: skip
TOLD = {"role": "tool", "content": "Rain.", "tool_call_id": "id0"}

ITEMS = """{% for m in messages %}{% for c in m.tool_calls or [] %}
{%- for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}
"""
JSON = """{% for m in messages %}{% for c in m['tool_calls'] or [] %}
{{- '[' + c['function']['arguments'] | tojson + ']' }}{% endfor %}{% endfor %}"""
JOINED = """{% for m in messages %}{% if m['role'] == 'assistant' and m['content'] is none %}
{%- for c in m['tool_calls'] %}{{ c['type'] + ':' + c['function']['arguments'] }}{% endfor %}
{%- endif %}{% endfor %}"""
EITHER = """{% for m in messages %}{% for c in m.tool_calls or [] %}
{%- if c.function.arguments is string %}no{{ c.function.arguments }}{% else %}
{{- c.function.arguments | tojson }}{% endif %}{% endfor %}{% endfor %}"""
PRINTED = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments }}" \
    "{% endfor %}{% endfor %}"  # fmt: skip


@pytest.mark.parametrize("arguments", ['{"city": "Köln"}', {"city": "Köln"}])
@pytest.mark.parametrize(("source", "prompt"), [
    (ITEMS, "city=Köln;"),
    (JSON, '[{"city": "Köln"}]'),
    (JOINED, 'function:{"city": "Köln"}'),
    (EITHER, '{"city": "Köln"}'),
    (PRINTED, '{"city": "Köln"}'),
])  # fmt: skip
def test_arguments_as_the_template_reads_them(source: str, prompt: str, arguments: Any) -> None:
    message = {**CALLED, "tool_calls": [_call("f", arguments=arguments)]}
    found = ChatTemplate({"default": source}, {}).render([ASKED, message])
    assert found.strip() == prompt and message["content"] is None


LISTED = """{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}
{%- elif m.role == 'assistant' %}<assistant>{{ m.content }}{% endif %}{% endfor %}"""
ALTERNATING = """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}
{%- endfor %}"""


@pytest.mark.parametrize("source", [LISTED, ALTERNATING])
def test_results_before_a_template_that_knows_no_tools(source: str) -> None:
    """Phi-4's left them out, Gemma 3's refused them."""
    called = {**CALLED, "tool_calls": [_call("f", arguments="{}")]}
    results = [TOLD, {**TOLD, "content": "Wind."}]
    found = ChatTemplate({"default": source}, {}).render([ASKED, called, *results])
    assert found == '<user>Weather?<assistant>{"name": "f", "arguments": {}}<user>Rain.\nWind.'


# DeepSeek R1's and V3's, V3.1's, and Ministral 3's.
ALONE = """{% for m in messages %}{% if m['role'] == 'assistant' and m['content'] is none %}
{%- for c in m['tool_calls'] %}<{{ c['function']['name'] }}>{% endfor %}{% endif %}
{%- if m['role'] == 'assistant' and m['content'] is not none %}{{ m['content'] }};{% endif %}
{%- endfor %}"""
WITHIN = """{% for m in messages %}{% for c in m['tool_calls'] or [] %}{% if m['content'] is none %}
{{- '<' + c['function']['name'] + '>' }}{% else %}{{ m['content'] }}<{{ c['function']['name'] }}>
{%- endif %}{% endfor %}{% endfor %}"""
COUNTED = """{% for m in messages %}{% if (m['content'] is none or m['content'] == '') and
not m['tool_calls'] %}{{ raise_exception('empty') }}{% endif %}{% if m['content']|length > 0 and
m['tool_calls'] %}{{ m['content'] }}{% endif %}{% for c in m['tool_calls'] or [] %}
{{- '<' + c['function']['name'] + '>' }}{% endfor %}{% endfor %}"""


@pytest.mark.parametrize(("source", "between"), [(ALONE, ";"), (WITHIN, ""), (COUNTED, "")])
def test_content_before_calls(source: str, between: str) -> None:
    template = ChatTemplate({"default": source}, {})
    for content, prompt in ((None, "<f>"), ("", "<f>"), ("I look.", f"I look.{between}<f>")):
        assert template.render([ASKED, {**CALLED, "content": content}]).strip() == prompt


@pytest.mark.parametrize("sent", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("read", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_under_the_name_that_the_template_reads(sent: str, read: str) -> None:
    source = "{% for m in messages %}{{ m." + read + " }}{{ m.content }}{% endfor %}"
    message = {"role": "assistant", "content": "Yes.", sent: "Hm. "}
    assert ChatTemplate({"default": source}, {}).render([ASKED, message]) == "Weather?Hm. Yes."


# gpt-oss': the analysis is dropped behind a final answer, and kept among calls.
HARMONY = """{% for m in messages %}{% if m.role == 'assistant' and 'tool_calls' in m %}
{%- set later = namespace(is_final=false) %}{% for n in messages[loop.index:] %}
{%- if n.role == 'assistant' and 'tool_calls' not in n %}{% set later.is_final = true %}{% endif %}
{%- endfor %}{% set call = m.tool_calls[0].function %}
{%- if m.content and m.thinking %}{{ raise_exception('both') }}
{%- elif m.thinking and not later.is_final %}<analysis>{{ m.thinking }}{% endif %}
{{- '<to ' + call.name + '>' + call.arguments | tojson }}{% elif m.role == 'assistant' %}
{{- '<final>' + m.content }}{% elif m.role == 'tool' %}<result>{{ m.content }}{% else %}
{{- '<user>' + m.content }}{% endif %}{% endfor %}"""


def test_harmony_keeps_the_analysis_among_calls_and_drops_it_behind_an_answer() -> None:
    template = ChatTemplate({"default": HARMONY}, {})
    history = [ASKED, CALLED, TOLD]
    begun = '<user>Weather?<analysis>Hm.<to f>{"city": "Köln"}<result>Rain.'
    assert template.render(history) == begun
    answer = {"role": "assistant", "content": "It rains.", "reasoning": "So.", "tool_calls": []}
    found = template.render([*history, answer, ASKED])
    assert found == f"{begun.replace('<analysis>Hm.', '')}<final>It rains.<user>Weather?"


def test_several_calls_before_a_template_that_reads_one() -> None:
    """The others were lost, and their results seemed to be of the first."""
    calls = [_call("f"), _call("g", 1, "{}"), _call("h", 2, "{}")]
    called = {**CALLED, "content": "I look.", "tool_calls": calls}
    results = [{**TOLD, "content": f"R{i}", "tool_call_id": f"id{i}"} for i in (1, 0, 7)]
    found = ChatTemplate({"default": HARMONY}, {}).render([ASKED, called, *results])
    assert found == (
        '<user>Weather?<analysis>Hm.\n\nI look.<to f>{"city": "Köln"}<result>R0'
        "<to g>{}<result>R1<to h>{}<result>R7"
    )


@pytest.mark.parametrize("name", ["bos_token", "raise_exception", "namespace", "messages"])
def test_a_variable_that_templates_have_anyway_is_refused(name: str) -> None:
    """A request could replace special tokens and functions."""
    source = "{{ bos_token }}{% set a = namespace(b=thinking) %}{{ raise_exception is defined }}"
    template = ChatTemplate({"default": source}, {"bos_token": "<s>"})
    with pytest.raises(ValidationError, match=f"chat_template_kwargs.{name} has"):
        template.render([ASKED], options=ChatOptions.read({"chat_template_kwargs": {name: "x"}}))
    with pytest.raises(ValidationError, match=r"no variable of this name; it reads: thinking$"):
        template.render([ASKED], options=ChatOptions.read({"chat_template_kwargs": {"x": 1}}))
