"""Tool calls in a chat's answer: whole, and in pieces of every size, which come to the same."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll_client.errors import ValidationError
from atoll_client.gateway.anthropic.blocks import Blocks
from atoll_client.gateway.anthropic.blocks import whole as blocks_of
from atoll_client.gateway.chat_formats.answer import Answer
from atoll_client.gateway.chat_formats.arguments import complete
from atoll_client.gateway.chat_formats.constraints import schema_of
from atoll_client.gateway.chat_formats.events import Argued, Called, Ended
from atoll_client.gateway.chat_formats.json_calls import JsonCalls
from atoll_client.gateway.chat_formats.reader import Format
from atoll_client.gateway.chat_formats.tool_choice import ToolChoice
from atoll_client.gateway.openai.chat import ChatBody
from atoll_client.gateway.openai.deltas import Deltas, logprobs_of, whole
from atoll_client.gateway.openai.tools import read_choice
from atoll_client.types import Chunk, Token

CALL = '{"name": "f", "arguments": {"x": 1}}'
TAGGED = f"<tool_call>\n{CALL}\n</tool_call>"
ONE = [("f", '{"x": 1}')]


class Wanted(NamedTuple):
    """What an answer says, and which calls it makes."""

    said: str | None
    calls: list[tuple[str, str]] = []


ANSWERS = {
    "": Wanted(""),
    "Hello <tool": Wanted("Hello <tool"),
    " a < b and <tool_calls> \n": Wanted(" a < b and <tool_calls> \n"),
    CALL: Wanted(None, ONE),
    f"\n {CALL} \n": Wanted(None, ONE),
    f"[{CALL}, {CALL}]": Wanted(None, ONE * 2),
    f"{CALL}\n{CALL}": Wanted(None, ONE * 2),
    f"{CALL} Done.": Wanted("Done.", ONE),
    # JSON that is no call: an answer that somebody asked for.
    '{"name": "g"}': Wanted('{"name": "g"}'),
    '{"name": "f", "age": 3}': Wanted('{"name": "f", "age": 3}'),
    '{"name": "f"}': Wanted('{"name": "f"}'),
    '{"name": "f", "arguments": [1]}': Wanted('{"name": "f", "arguments": [1]}'),
    '{"name": "f", "arguments": "1", "parameters": {}}': Wanted(
        '{"name": "f", "arguments": "1", "parameters": {}}'
    ),
    '{"city": "f"}': Wanted('{"city": "f"}'),
    "{": Wanted("{"),
    '["f", {"name": "f"}]': Wanted('["f", {"name": "f"}]'),
    f"Write {CALL}": Wanted(f"Write {CALL}"),
    TAGGED: Wanted(None, ONE),
    f"I look.\n\n{TAGGED}\n{TAGGED}": Wanted("I look.", ONE * 2),
    f"<think>\nHm <b>\n</think>\n\n{TAGGED}": Wanted("<think>\nHm <b>\n</think>", ONE),
    # Text behind a call was lost.
    f"A {TAGGED} and then\n": Wanted("A  and then", ONE),
    f"<tool_call>\n{CALL}\n{CALL}\n</tool_call>": Wanted(None, ONE * 2),
    # A call that is broken, or none at all, was lost where another was whole.
    "<tool_call>nothing": Wanted("<tool_call>nothing"),
    f"{TAGGED}<tool_call>nothing</tool_call>": Wanted("<tool_call>nothing</tool_call>", ONE),
    f'{TAGGED}<tool_call>{{"name": "g", "arguments": {{}}}}</tool_call>': Wanted(
        '<tool_call>{"name": "g", "arguments": {}}</tool_call>', ONE
    ),
    f'{TAGGED}\n<tool_call>\n{{"name": "f", "arguments": {{"y": [1, "}}': Wanted(
        None, [*ONE, ("f", '{"y": [1, "}')]
    ),
    f'<tool_call>{{"name": "f", "arguments": {{"y": 1</tool_call>{TAGGED}': Wanted(
        None, [("f", '{"y": 1'), *ONE]
    ),
    f'<tool_call>{{"arguments": {{x}}, "name": "f"}}</tool_call>{TAGGED}': Wanted(
        '<tool_call>{"arguments": {x}, "name": "f"}</tool_call>', ONE
    ),
    # As they were written: another alphabet became escapes.
    '{"name": "f", "parameters": {"city":"Münster 東京 \\u00fc \\" } <b>"}}': Wanted(
        None, [("f", '{"city":"Münster 東京 \\u00fc \\" } <b>"}')]
    ),
    '{"parameters": {"a": {"b": [1e5]}}, "name": "f"}': Wanted(
        None, [("f", '{"a": {"b": [1e5]}}')]
    ),
    '{"name": "f", "arguments": "{\\"x\\": 1}"}': Wanted(None, ONE),
    '{"type": "function", "function": {"name": "f", "parameters": {"x": 1}}}': Wanted(None, ONE),
    '{"type": "function", "name": "f", "parameters": {"x": 1}}': Wanted(None, ONE),
    '<tool_call>{"name": "f"}</tool_call>': Wanted(None, [("f", "{}")]),
    '<tool_call>{"name": "f", "arguments": null}</tool_': Wanted(None, [("f", "{}")]),
}  # fmt: skip


def _read(pieces: list[str], reason: str = "stop", max_calls: int | None = None) -> Any:
    """Message, log-probabilities, reason; and the single deltas."""
    form = Format(calls=JsonCalls({"f": {}}), max_calls=max_calls)
    deltas = Deltas(Answer(form), lambda chunk: logprobs_of(chunk, 0))
    chunks = [Chunk(text, (Token(0, text, -1.0),)) for text in pieces[:-1]]
    chunks.append(Chunk(pieces[-1], (Token(0, pieces[-1], -1.0),), reason))
    found = [piece for chunk in chunks for piece in deltas.write(chunk)]
    return (*whole(found), found)


def _calls(message: dict[str, Any]) -> list[tuple[str, str]]:
    calls = message.get("tool_calls", [])
    assert all(call["id"].startswith("call_") and call["type"] == "function" for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize("text", ANSWERS)
def test_whole(text: str) -> None:
    message, logprobs, reason, _ = _read([text])
    assert (message["content"], _calls(message)) == ANSWERS[text]
    assert reason == ("tool_calls" if ANSWERS[text].calls else "stop")
    assert [one["token"] for one in logprobs["content"]] == [text]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("text", ANSWERS)
def test_in_pieces(text: str, size: int) -> None:
    """A call behind other text was streamed as text, while a whole answer had it as a call; and
    the log-probabilities of all tokens whose text was held back were missing."""
    pieces = [text[i : i + size] for i in range(0, len(text), size)] or [""]
    # The last piece may come with the reason, or before it.
    for parts in (pieces, [*pieces, ""]):
        message, logprobs, reason, found = _read(parts)
        assert (message["content"], _calls(message)) == ANSWERS[text]
        assert reason == ("tool_calls" if ANSWERS[text].calls else "stop")
        assert [one["token"] for one in logprobs["content"]] == parts
        assert found[0]["delta"]["role"] == "assistant"
        assert [one["finish_reason"] for one in found[:-1]] == [None] * (len(found) - 1)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.sampled_from([
            CALL, TAGGED, "<tool_call>", "</tool_call>", '{"name": "f"', ', "arguments": ', "{",
            "}", '"', "\\", "[", "]", ",", " ", "\n", "text", '"g"', "null",
            '{"x": "</tool_call>"}',
        ]),
        max_size=8,
    ).map("".join),
    st.data(),
)  # fmt: skip
def test_every_split_comes_to_the_same_and_loses_nothing(text: str, data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    one, several = _read([text]), _read(pieces)
    assert one[0].get("content") == several[0].get("content")
    assert _calls(one[0]) == _calls(several[0]) and one[2] == several[2]
    said = one[0]["content"] or ""
    # Only what frames a call is left out.
    for word in ("text", '"g"'):
        kept = said.count(word) + sum(a.count(word) for _, a in _calls(one[0]))
        assert kept == text.count(word)


def test_arguments_come_as_they_are_written() -> None:
    """They came in one lump at the end: the name goes first, then each piece."""
    text = '<tool_call>\n{"name": "f", "arguments": {"a": "one two", "b": [1, 2]}}\n</tool_call>'
    found = _read(list(text))[3]
    calls = [one["delta"]["tool_calls"][0] for one in found if "tool_calls" in one["delta"]]
    assert calls[0]["function"] == {"name": "f", "arguments": ""} and calls[0]["index"] == 0
    assert len(calls) == 1 + len('{"a": "one two", "b": [1, 2]}')
    assert all("name" not in call["function"] and "id" not in call for call in calls[1:])


def test_an_answer_cut_off_inside_a_call_ends_by_length() -> None:
    message, _, reason, _ = _read(['{"name": "f", "arguments": {"x": "lo'], "length")
    assert _calls(message) == [("f", '{"x": "lo')] and reason == "length"
    message, _, reason, _ = _read(['{"name": "f", "argu'], "length")
    written = '{"name": "f", "argu'
    assert message == {"role": "assistant", "content": written, "refusal": None}
    assert reason == "length"


def test_without_parallel_calls_there_is_one() -> None:
    for text in (f"[{CALL}, {CALL}]", f"{TAGGED}\n{TAGGED}", f"{CALL}\n{CALL}"):
        message, _, reason, _ = _read([text], max_calls=1)
        assert _calls(message) == ONE and reason == "tool_calls"


def _choice(choice: Any, *names: str) -> ToolChoice | None:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    asked = {"messages": [], "tools": tools, "tool_choice": choice}
    body = ChatBody.model_validate(asked)
    return read_choice(body.tools or (), body.tool_choice)


def test_choices() -> None:
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}],
        },
    }  # fmt: skip
    named = {"type": "function", "function": {"name": "g"}}
    auto = _choice(None, "f", "g")
    assert auto is not None and list(auto.functions) == ["f", "g"] and not auto.is_forced
    assert _choice("auto", "f", "g") == auto and _choice("none", "f") is None
    for choice in (allowed, named, "g"):
        found = _choice(choice, "f", "g")
        assert found is not None and list(found.functions) == ["g"] and found.is_forced
    allowed["allowed_tools"]["mode"] = "auto"  # type: ignore[index]
    found = _choice(allowed, "f", "g")
    assert found is not None and list(found.functions) == ["g"] and not found.is_forced
    assert _choice("auto") is None and _choice(None) is None and _choice("none") is None


@pytest.mark.parametrize(
    ("choice", "names", "message"),
    [
        ("required", (), "`tools` is empty"),
        ({"type": "function", "function": {"name": "f"}}, (), "`tools` is empty"),
        ("h", ("f",), "'h'; the tools are \\['f'\\]"),
        ({"type": "function"}, ("f",), "`tool_choice.function`"),
        ({"type": "allowed_tools", "function": {"name": "f"}}, ("f",), "allowed_tools"),
        ("auto", ("f", "f"), "'f' more than once"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice: Any, names: Any, message: str) -> None:
    """``required`` without tools was told that it names None, other kinds were ignored."""
    with pytest.raises(ValidationError, match=message):
        _choice(choice, *names)


def test_a_function_without_parameters_has_none() -> None:
    """Its arguments were free, and went on until the answer was full."""
    for parameters in ({}, {"parameters": {}}, {"parameters": None}):
        bound = ToolChoice({"f": {"name": "f", **parameters}}, True).constraint(None)
        assert bound is not None
        fits = jsonschema.Draft202012Validator(schema_of(bound)).is_valid
        assert fits({"name": "f", "arguments": {}})
        assert not fits({"name": "f", "arguments": {"a": 1}})


def test_a_call_or_what_the_answer_is_bound_to() -> None:
    """Both were refused together."""
    choice = _choice("auto", "f")
    assert choice is not None and choice.constraint(None) is None
    schema = {"$defs": {"a": {"type": "null"}}, "properties": {"x": {"$ref": "#/$defs/a"}}}
    bound = choice.constraint(
        ("response_format", {"type": "json_schema", "json_schema": {"schema": schema}})
    )
    assert bound is not None
    found = bound[1]["json_schema"]["schema"]
    assert [list(kind) for kind in found["anyOf"]] == [
        ["type", "properties", "required", "additionalProperties"], ["$ref"],
    ]  # fmt: skip
    assert found["$defs"]["1"]["properties"]["x"] == {"$ref": "#/$defs/1/$defs/a"}
    assert choice.constraint(("guided_json", json.dumps(schema))) == bound
    with pytest.raises(ValidationError, match="`tools` go with"):
        choice.constraint(("guided_regex", "a"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}), ('{"a": 1}', {"a": 1}), ('{"a": 1, "b": "c', {"a": 1}), ('{"a', {}),
        ('{"a": b}', {"INVALID_JSON": '{"a": b}'}), ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)  # fmt: skip
def test_arguments_as_an_object(text: str, found: Any) -> None:
    """Anthropic's and Ollama's calls hold objects, whatever a model has written."""
    assert complete(text) == found


def test_two_calls_with_the_same_id_are_two_blocks() -> None:
    call = [Called("f", "functions.f:0"), Argued("{}")]
    found = blocks_of(Blocks("", True).write([*call, *call, Ended("tool_calls")]))
    assert [block["type"] for block in found] == ["tool_use", "tool_use"]
