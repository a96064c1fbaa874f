"""Fields of requests: none that a client's own types have is forgotten, and each is told apart."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import orjson
import pydantic
import pytest

from atoll_client.errors import ValidationError
from atoll_client.gateway.core.fields import table, unknown
from atoll_client.gateway.core.problems import first_problem
from atoll_client.gateway.core.schemas import read
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.openai.chat import ChatBody
from atoll_client.gateway.openai.completions import CompletionsBody
from atoll_client.gateway.routes import ROUTES
from atoll_client.gateway.tei.rerankers_schemas import CohereBody
from atoll_client.gateway.tgi.schemas import GenerateBody

ASKED: Any = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("route", [r for r in ROUTES if r.body is not None], ids=lambda r: r.path)
def test_every_field_has_a_row_with_a_reason(route: Any) -> None:
    for row in table(route.body):
        assert row.effect == "honoured" or row.note, row
        assert row.effect == "refused" or row.values, row


def _context(setting: str = "dialect") -> Any:
    return SimpleNamespace(settings=SimpleNamespace(unknown_fields=setting))


def _request(body: Any, dialect: str = "openai") -> Request:
    request = Request({"type": "http", "method": "POST", "path": "/x", "headers": []})
    request.raw, request.dialect, request.route = orjson.dumps(body), dialect, "/x"
    return request


REFUSED: list[tuple[Any, str, str]] = [
    ({"foo": 1}, "foo", "unknown_parameter"),
    ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo", "unknown_parameter"),
    ({"messages": [{"role": "user", "content": "a", "x": 0}]}, "messages[0].x",
     "unknown_parameter"),
    ({"tools": [{"function": {"name": "f", "foo": 1}}]}, "tools[0].function.foo",
     "unknown_parameter"),
    ({"response_format": {"type": "text", "foo": 1}}, "response_format.foo", "unknown_parameter"),
    ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
    ({"functions": []}, "functions", "unsupported_parameter"),
    ({"priority": 1000}, "priority", "invalid_value"),
    ({"priority": False}, "priority", "invalid_type"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}, "function": {"name": "f"}}]},
     "tools[0].custom", "unsupported_parameter"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "messages[0].content[0].image_url", "unsupported_parameter"),
    ({"messages": [{"content": "a"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [5]}, "messages[0]", "invalid_type"),
    ({"messages": 5}, "messages", "invalid_type"),
    ({"stop": 5}, "stop", "invalid_type"),
    ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
    ({"temperature": "1"}, "temperature", "invalid_type"),
    ({"temperature": -1}, "temperature", "invalid_value"),
    ({"logit_bias": {"5": "a"}}, "logit_bias.5", "invalid_type"),
    ({"logit_bias": [1.0]}, "logit_bias", "invalid_type"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
    ({"tool_choice": {"type": "x"}}, "tool_choice.type", "invalid_value"),
    ({"tool_choice": 5}, "tool_choice", "invalid_type"),
    ({"n": 129}, "n", "invalid_value"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {"k" * 65: "a"}}, f"metadata.{'k' * 65}", "invalid_value"),
    ({"metadata": {"a": "v" * 513}}, "metadata.a", "invalid_value"),
    ({"metadata": {str(i): "a" for i in range(17)}}, "metadata", "invalid_value"),
    *(
        ({"tools": [{"function": {"name": name}}]}, "tools[0].function.name", "invalid_value")
        for name in ("", "a b", "f\n", "\u00e9", "x" * 65)
    ),
    ({"seed": 2**63}, "seed", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
def test_what_is_refused_is_named(fields: Any, param: str, code: str) -> None:
    """With its value, and by OpenAI's words for what is wrong with it."""
    with pytest.raises(ValidationError) as caught:
        read(_request({**ASKED, **fields}), _context(), ChatBody)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert f"`{param}`" in str(caught.value)


def test_a_value_without_any_of_a_fields_types() -> None:
    for prompt in (["a", 5], 5, {"a": 1}, True):
        with pytest.raises(ValidationError, match="`prompt` is .*; expected .*text") as caught:
            read(_request({"prompt": prompt}), _context(), CompletionsBody)
        assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    "fields",
    [
        {"modalities": ["text"], "n": None, "audio": None, "foo": None},
        {"store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "auto"},
        {"messages": [{"role": "user", "content": "a", "x": None}]},
    ],
)
def test_what_changes_nothing_is_taken(fields: Any) -> None:
    read(_request({**ASKED, **fields}), _context(), ChatBody)


@pytest.mark.parametrize(
    ("dialect", "setting", "is_refused"),
    [
        ("openai", "dialect", True), ("tgi", "dialect", False), ("tei", "dialect", False),
        ("openai", "report", False), ("tgi", "refuse", True), ("tei", "refuse", True),
    ],
)  # fmt: skip
def test_unknown_fields_are_refused_or_reported(
    dialect: str, setting: str, is_refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"inputs": "a", "parameters": {"details": True, "foo": 1}, "bar": {"a": None}}
    request, context = _request(asked, dialect), _context(setting)
    if is_refused:
        with pytest.raises(ValidationError, match="`bar` is unknown"):
            read(request, context, GenerateBody)
    else:
        body = read(request, context, GenerateBody)
        assert request.unknown_fields == ["bar", "parameters.foo"] == list(unknown(body))
        assert "bar" in caplog.text and "parameters.foo" in caplog.text


@pytest.mark.parametrize(("number", "is_refused"), [
    (2**64 - 1, False), (-(2**63), False), (10**22, False), (2**64 + 1, True),
    (-(2**63) - 1, True), (123456789012345678901234567890, True), (10**308 + 1, True),
])  # fmt: skip
def test_integers_that_would_become_others_are_refused(number: int, is_refused: bool) -> None:
    """A schema's const of more than 64 bits came as a floating-point number, and so did answers."""
    schema = {"const": number, "title": "9" * 30, "maximum": 0.12345678901234567890123}
    request = _request({})
    request.raw = json.dumps({"prompt": "a", "guided_json": schema}).encode()
    if is_refused:
        with pytest.raises(ValidationError, match="has more than 64 bits"):
            read(request, _context(), CompletionsBody)
    else:
        body: Any = read(request, _context(), CompletionsBody)
        assert body.guided_json["const"] == number


def test_messages_and_tools_go_on_as_they_came() -> None:
    """Templates print them: their order is part of the prompt. Nulls in schemas have a meaning."""
    tool = {
        "function": {"parameters": {"default": None}, "name": "f", "strict": None},
        "type": "function",
    }
    call = {"function": {"arguments": "{}", "name": "f"}, "id": "1", "index": None}
    messages = [
        {"content": [{"text": "a", "type": "text"}], "role": "user", "name": None},
        {"tool_calls": [call], "role": "assistant", "reasoning_content": "r"},
    ]
    body = ChatBody.model_validate({"messages": messages, "tools": [tool]})
    first, second = (message.given() for message in body.messages)
    assert list(first) == ["content", "role"]
    assert list(second.items()) == [
        ("tool_calls", [{"function": {"arguments": "{}", "name": "f"}, "id": "1"}]),
        ("role", "assistant"), ("reasoning_content", "r"),
    ]  # fmt: skip
    assert body.tools is not None
    assert body.tools[0].given() == {
        "function": {"parameters": {"default": None}, "name": "f"}, "type": "function",
    }  # fmt: skip


def test_a_refused_field_is_named_before_a_missing_one() -> None:
    """The error was that ``documents`` is missing, and not that ``texts`` are called so."""
    given = {"query": "a", "texts": ["b"]}
    with pytest.raises(pydantic.ValidationError) as caught:
        CohereBody.model_validate(given)
    found = first_problem(caught.value, given, CohereBody)
    assert found.param == "texts" and "called documents here" in str(found)
