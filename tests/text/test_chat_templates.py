"""Content as text and as parts, before templates that take the one, the other, or both."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

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
# Mistral Nemo's: calls may be the content of messages of a role of their own.
CALLS = """{% for m in messages %}<{{ m.role }}>{% if m.role == 'tool_calls' %}
{%- set tool_calls = m.content %}{% for call in tool_calls %}{{ call.name }}{% endfor %}
{%- else %}{{ m.content + '' }}{% endif %}{% endfor %}"""

TEXTS = [("system", "Be brief."), ("user", "Two words"), ("assistant", "Yes")]
SAID = "<system>Be brief.<user>Two words<assistant>Yes"
TEMPLATES = {
    "text only": CHATML, "parts only": GUARD, "both": BOTH, "a macro": MACRO, "the first": FIRST,
    "get": GET, "system as text": SLICED, "system as text, others both": SYSTEM,
    "calls as content": CALLS,
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


HUGE = {
    "a constant": "{{ 'x' * 10**9 }}", "a number": "{{ 'x' * 1000000000 }}",
    "unused": "{% set a = 'x' * 1000000000 %}hi", "the other way": "{{ 10**9 * 'x' }}",
    "a list": "{{ [0] * 1000000000 }}", "a tuple": "{{ ((1, 2) * 10**9)|length }}",
    "a power": "{{ 10**(10**9) }}", "a square": "{% set n = namespace(x=10) %}"
    "{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "center": "{{ 'x'|center(1000000000) }}", "ljust": "{{ 'x'.ljust(1000000000) }}",
    "zfill": "{{ '1'.zfill(10**9) }}", "tabs": "{{ '\t'.expandtabs(1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}", "format": "{{ '{:1000000000}'.format(1) }}",
    "the filter format": "{{ '%1000000000d'|format(1) }}", "a width": "{{ '%*d' % (10**9, 1) }}",
    "an inner width": "{{ '{:{}}'.format(1, 10**9) }}", "indent": "{{ 'x'|indent(10**9, true) }}",
    "an indented object": "{{ {'a': 1}|tojson(indent=1000000000) }}",
    "places": "{{ ('{0}' * 100000).format('x' * 100000) }}",
    "names": "{{ ('%(a)s' * 100000) % {'a': 'x' * 100000} }}",
    "slices": "{{ [1]|slice(1000000000)|list }}", "batches": "{{ [1]|batch(10**9, 0)|list }}",
    "replace": "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
    "the filter replace": "{{ ('x' * 100000)|replace('', 'y' * 100000) }}",
    "join": "{{ (['x'] * 100000)|join('y' * 100000) }}",
    "join of a text": "{{ ('y' * 100000).join(['x'] * 100000) }}",
    "join of attributes": "{{ ([{'a': 'x' * 100000}] * 100000)|join(attribute='a') }}",
    "written": "{{ ['x' * 100000] * 100000 }}",
    "a text of it": "{{ (['x' * 100000] * 9999)|string }}",
    "doubled by +": "{% set n = namespace(x='ab') %}"
    "{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubled by ~": "{% set n = namespace(x='ab') %}"
    "{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubled by a block": "{% set n = namespace(x='ab') %}"
    "{% for i in range(60) %}{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
    "{% set n.x = y %}{% endfor %}",
    "doubled by a macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}"
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = m(n.x) %}{% endfor %}",
    "written often": "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
    "lipsum": "{{ lipsum(1000000000) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_what_would_cost_gigabytes_is_refused(name: str) -> None:
    """Constants of a template were computed at load, 'x' * 10**9 for a gigabyte."""
    with memory_limit(1 << 30), pytest.raises(ValidationError, match="the limit is|is an argument"):
        template(HUGE[name]).render([{"role": "user", "content": "odd"}])


@contextlib.contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
    """So many bytes more than there are now; beyond, MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("source", [
    "{{ '-' * 80 }}{{ 'a' ~ 1 ~ none ~ ['x'] }}{{ [1] * 3 + [2] }}{{ 2**10 * 3 }}",
    "{{ 'a'|center(9) }}|{{ '%5.2f|%s' % (1.5, 'x') }}|{{ '%s%%'|format(3) }}|{{ 10 % 3 }}",
    "{{ '{:>5}|{a}|{{}}'.format(1, a='b') }}{{ 'a.b'.replace('.', '--') }}",
    "{{ 'aa'|replace('a', 'b', 1) }}",
    "{{ [1, 'b', none]|join(', ') }}{{ [{'a': 1}]|join(attribute='a') }}{{ '-'.join(['a', 'b']) }}",
    "{{ {'a': [1, {'b': 'c'}]}|tojson(indent=2) }}{{ 'a\nb'|indent(3, true) }}{{ 'ab'.ljust(4) }}|",
    "{% macro m(x, n) %}[{{ x }}{{ n }}]{% endmacro %}{{ m('a', 10**12) }}{{ (1, 'a') }}{{ none }}",
    "{% set s %}a{{ 1.5 }}{% endset %}{{ s + s }}{{ [[1, 2], [3]]|sum(start=[]) }}{{ true }}",
    "{{ [1, 2, 3]|batch(2, 0)|list }}{{ [1, 2]|slice(2)|list }}{{ undefined_name }}{{ 7 * 1.5 }}",
])  # fmt: skip
def test_the_sandbox_says_what_jinjas_own_says(source: str) -> None:
    own = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    assert template(source).render([]) == own.from_string(source).render().replace("&#39;", "'")
