"""Content as text and as parts, before templates that take the one, the other, or both."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from atoll.errors import ConfigError, ValidationError
from atoll.text.chat import ChatTemplate

CHATML = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}{% endfor %}"
GUARD = """{% for message in messages %}<{{ message['role'] }}>
{%- for content in message['content'] %}{% if content['type'] == 'text' %}
{{- content['text'] | trim }}{% endif %}{% endfor %}{% endfor %}"""
BOTH = """{% for message in messages %}<{{ message.role }}>{% set said = message.content %}
{%- if said is string %}{{ said }}{% else %}
{%- for part in said %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}{% endfor %}"""
MACRO = """{% macro render(said, upper=false) %}{% if said is string %}{{ said }}{% else %}
{%- for item in said %}{{ item.text }}{% endfor %}{% endif %}{% endmacro %}
{%- for message in messages %}<{{ message.role }}>{{ render(message.content) }}{% endfor %}"""
FIRST = "{% for m in messages %}<{{ m.role }}>{{ m['content'][0]['text'] }}{% endfor %}"
GET = """{% for m in messages %}<{{ m.role }}>
{%- for p in m.get('content') or [] %}{{ p.text }}{% endfor %}{% endfor %}"""
SLICED = """{% set rest = messages[1:] %}<{{ messages[0]['role'] }}>{{ messages[0]['content'] }}
{%- for m in rest %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"""
SPLIT = """{% for m in messages %}<{{ m.role }}>
{%- for line in m.content.split('\\n') %}{{ line }} {% endfor %}
{%- if m.content and m.content[0].isupper() %}!{% endif %}{% endfor %}"""
SYSTEM = """{% set system = messages[0]['content'] | trim %}{{ '<system>' + system }}
{%- for m in messages[1:] %}<{{ m.role }}>
{%- if m.content is string %}{{ m.content }}{% else %}
{%- for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}"""

TEXTS = [("system", "Be brief."), ("user", "Two words"), ("assistant", "Yes")]
SAID = "<system>Be brief.<user>Two words<assistant>Yes"
TEMPLATES = {
    "text only": CHATML, "parts only": GUARD, "both": BOTH, "a macro": MACRO, "the first": FIRST,
    "get": GET, "system as text": SLICED, "system as text, others both": SYSTEM,
}  # fmt: skip


def template(source: str, **variants: str) -> ChatTemplate:
    return ChatTemplate({"default": source, **variants}, {"eos_token": "</s>"})


def said(form: str) -> list[dict[str, Any]]:
    """The conversation with contents as text, as one part, or as text and a part by turns."""
    found: list[dict[str, Any]] = []
    for index, (role, text) in enumerate(TEXTS):
        is_part = form == "parts" or (form == "both" and index % 2 == 1)
        content: Any = [{"type": "text", "text": text}] if is_part else text
        found.append({"role": role, "content": content})
    return found


@pytest.mark.parametrize("form", ["text", "parts", "both"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_all_that_is_said_is_in_the_prompt(name: str, form: str) -> None:
    """A template that loops over parts was given text, and lost it."""
    assert template(TEMPLATES[name]).render(said(form)) == SAID


@pytest.mark.parametrize("source", [GUARD, BOTH, MACRO])
def test_parts_are_given_as_they_are(source: str) -> None:
    """As transformers does: nothing is put between them, and the template sees each."""
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": parts}]
    expected = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    assert template(source).render(messages) == expected.render(messages=messages)


def test_several_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    assert template(CHATML).render([{"role": "user", "content": parts}]) == "<user>a b"


def test_a_loop_over_lines_is_none_over_parts() -> None:
    assert template(SPLIT).render([{"role": "user", "content": "A\nb"}]) == "<user>A b !"


@pytest.mark.parametrize("source", [CHATML, GUARD, BOTH])
@pytest.mark.parametrize("content", [None, "", []])
def test_no_content(source: str, content: Any) -> None:
    assert template(source).render([{"role": "user", "content": content}]) == "<user>"


@pytest.mark.parametrize(("content", "message"), [
    ([{"type": "image_url", "image_url": {"url": "x"}}], r"\[0\]\.content\[0\] .*'image_url'"),
    ([{"type": "text", "text": "a"}, {"type": "input_audio"}], r"content\[1\] .*'input_audio'"),
    ([{"type": "text"}], r"content\[0\]\.text is None"),
    ([{"type": "text", "text": 5}], r"content\[0\]\.text is 5"),
    (["a"], r"content\[0\] is of type 'a'"),
    ({"type": "text", "text": "a"}, "expected text"),
    (5, "content is 5"),
])  # fmt: skip
@pytest.mark.parametrize("source", [CHATML, GUARD, BOTH])
def test_what_is_no_text_is_refused_by_name(source: str, content: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        template(source).render([{"role": "user", "content": content}])


@pytest.mark.parametrize("source", [
    "{{ raise_exception('roles must alternate') }}", "{{ messages + '' }}",
    "{{ 'abc'.index('x') }}", "{{ 1 // 0 }}", "{{ {}['a'].b }}", "{{ ''.__class__.mro() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% for i in range(10**9) %}{% endfor %}",
    "{{ strftime_now(5) }}", "{{ messages[0].content.encode('ascii').decode('utf-16') }}",
    "{{ messages | tojson(indent='x' * -1, separators=1) }}", "{{ none + 1 }}",
])  # fmt: skip
def test_whatever_a_template_raises_is_a_refusal(source: str) -> None:
    """ValueError and its like were errors of the server."""
    with pytest.raises(ValidationError, match="chat template"):
        template(source).render([{"role": "user", "content": "odd"}])


@pytest.mark.parametrize("source", ["{% for %}", "{{ a | nothing }}", "{% endif %}", "{{ 'a"])
def test_a_template_that_cannot_be_compiled(source: str) -> None:
    with pytest.raises(ConfigError, match="chat template"):
        template(source)


def test_of_several_templates_without_a_default_none_is_taken() -> None:
    """The first was."""
    several = ChatTemplate({"rag": CHATML, "tool_use": CHATML + "{% if tools %}{% endif %}"}, {})
    with pytest.raises(ValidationError, match="rag, tool_use"):
        several.render(said("text"))
    assert several.render(said("text"), [{"type": "function"}]) == SAID
    assert ChatTemplate({"rag": CHATML}, {}).render(said("text")) == SAID
