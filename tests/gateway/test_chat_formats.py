"""Answers as models write them, by format: whole or split at any place, which comes to the same.

``test_tool_calls`` has the same for JSON objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from chat_answers import CALL, CASES, FUNCTIONS, Case
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll_client.errors import UnsupportedModel
from atoll_client.gateway.chat_formats.answer import Answer
from atoll_client.gateway.chat_formats.table import (
    REASONING_FORMATS,
    TOOL_CALL_FORMATS,
    format_of,
)
from atoll_client.gateway.openai.deltas import Deltas, whole
from atoll_client.types import Chunk, ModelInfo


def _read(case: Case, pieces: list[str], max_calls: int | None = None) -> dict[str, Any]:
    facts = {"tool_call_parser": case.calls_by, "reasoning_parser": case.reasoning_by}
    functions = None if case.calls_by == "none" else FUNCTIONS
    form = format_of(ModelInfo("m", "generate", facts), functions, False, max_calls)
    deltas = Deltas(Answer(form), None)
    last = len(pieces) - 1
    found = []
    for index, piece in enumerate(pieces):
        state = "" if index else case.state
        chunk = Chunk(piece, finish_reason="stop" if index == last else "", reasoning_state=state)
        found += deltas.write(chunk)
    message, _, reason = whole(found)
    assert reason == ("tool_calls" if "tool_calls" in message else "stop")
    return dict(message)


def _splits(text: str) -> Iterator[list[str]]:
    yield [text]
    yield [*text, ""]
    for at in range(len(text)):
        yield [text[:at], text[at:]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.calls_by}-{case.text[:30]}")
def test_an_answer_however_it_is_split(case: Case) -> None:
    for pieces in _splits(case.text):
        found = _read(case, pieces)
        calls = found.get("tool_calls", [])
        names = [call["function"]["name"] for call in calls]
        arguments = [call["function"]["arguments"] for call in calls]
        assert (found["content"] or "") == case.content and names == [n for n, _ in case.calls]
        for written, (_, wanted) in zip(arguments, case.calls, strict=True):
            assert (written if isinstance(wanted, str) else json.loads(written)) == wanted
        assert found.get("reasoning_content", "") == found.get("reasoning", "") == case.reasoning
        ids = [call["id"] for call in calls]
        assert len({*ids}) == len(ids) and (not case.ids or ids == list(case.ids))


PARTS = [
    *{marker for kind in TOOL_CALL_FORMATS.values() for marker in kind.markers},
    *{marker for form in REASONING_FORMATS.values() for marker in form.markers},
    "<function=f>", "<parameter=city>", "</parameter>", "</function>", "call:f{", "functions.f:0",
    "functools", "```json\n", "[", "]", "{", "}", CALL, "f(city='", "')", "f", "{}", "analysis",
    " to=functions.g", "\n", " ", '"', "\\", "é\U0001f600", "word",
]  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@pytest.mark.parametrize(("calls_by", "reasoning_by"), [
    *((name, "none") for name in sorted({k: n for n, k in TOOL_CALL_FORMATS.items()}.values())),
    ("openai", "openai_gptoss"), ("hermes", "deepseek_r1"), ("mistral", "mistral"),
])  # fmt: skip
@given(text=st.lists(st.sampled_from(PARTS), max_size=10).map("".join), data=st.data())
def test_hostile_answers_are_read_the_same_and_lose_nothing(
    calls_by: str, reasoning_by: str, text: str, data: Any
) -> None:
    """Half markers, nested markers, unfinished calls."""
    case = Case(calls_by, text, reasoning_by=reasoning_by)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    one, other = _read(case, [text]), _read(case, pieces)
    for found in (one, other):
        for call in found.get("tool_calls", []):
            call.pop("id")
    assert one == other
    functions = [call["function"] for call in one.get("tool_calls", [])]
    said = "".join([
        one["content"] or "", one.get("reasoning", ""),
        *(f["name"] + f["arguments"] for f in functions),
    ])  # fmt: skip
    if not functions:
        assert said.count("word") == text.count("word")


def test_ids_as_the_formats_demand() -> None:
    calls = _read(Case("mistral", ""), ["[TOOL_CALLS]g{}[TOOL_CALLS]g{}"])["tool_calls"]
    assert all(len(c["id"]) == 9 and c["id"].isalnum() for c in calls)
    calls = _read(Case("glm45", ""), ["<tool_call>g</tool_call>"])["tool_calls"]
    assert calls[0]["id"].startswith("call_")
    # A forced call has none of its own.
    form = format_of(
        ModelInfo("m", "generate", {"tool_call_parser": "kimi_k2"}), FUNCTIONS, True, None
    )
    forced = Deltas(Answer(form, 2), None).write(Chunk(CALL, finish_reason="stop"))
    assert whole(forced)[0]["tool_calls"][0]["id"] == "functions.f:2"


def test_one_call_only() -> None:
    for case in CASES:
        if len(case.calls) > 1:
            assert len(_read(case, list(case.text), 1)["tool_calls"]) == 1


def test_long_texts_come_as_they_are_written() -> None:
    """Not in one lump at the end of the call."""
    facts = {"tool_call_parser": "qwen3_coder"}
    form = format_of(ModelInfo("m", "generate", facts), FUNCTIONS, False, None)
    deltas = Deltas(Answer(form), None)
    deltas.write(Chunk("<tool_call>\n<function=f>\n<parameter=city>\n"))
    for _ in range(3):
        (piece,) = deltas.write(Chunk("text "))
        assert piece["delta"]["tool_calls"][0]["function"] == {"arguments": "text "}


@pytest.mark.parametrize(("calls_by", "text"), [
    ("granite", f'<|tool_call|>[{{"arguments": {{"city": "{"x" * 60_000}"}}, "name": "f"}}]'),
    ("olmo3", "<function_calls>f((((" * 2000), ("glm45", "<tool_call>f\n" * 2500),
    ("qwen3_coder", f"<function=f><parameter=list>[{'1,' * 30_000}1]</parameter>"),
])  # fmt: skip
def test_long_answers_are_not_read_again_for_each_piece(calls_by: str, text: str) -> None:
    """One read again at each of its pieces would take minutes."""
    case, pieces = Case(calls_by, text), [text[i : i + 4] for i in range(0, len(text), 4)]
    one, other = _read(case, [text]), _read(case, pieces)
    assert one["content"] == other["content"]
    for whole_call, call in zip(
        one.get("tool_calls", ()), other.get("tool_calls", ()), strict=True
    ):
        assert whole_call["function"] == call["function"]


def test_what_follows_a_grammar_is_json() -> None:
    """A forced call is a JSON object, whatever the model's format, behind its reasoning."""
    facts = {"tool_call_parser": "openai", "reasoning_parser": "openai_gptoss"}
    for named, text in (
        (facts, "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final"
         f"<|message|>{CALL}"),
        ({"tool_call_parser": "glm45", "reasoning_parser": "glm45"}, f"<think>Hm</think>{CALL}"),
    ):  # fmt: skip
        form = format_of(ModelInfo("m", "generate", named), FUNCTIONS, True, None)
        message, _, reason = whole(
            Deltas(Answer(form), None).write(Chunk(text, finish_reason="stop"))
        )
        assert message["tool_calls"][0]["function"]["name"] == "f" and reason == "tool_calls"
        assert message["reasoning"] == "Hm" and message["content"] is None


def test_a_format_that_a_newer_model_names() -> None:
    model = ModelInfo("m", "generate", {"tool_call_parser": "newer"})
    with pytest.raises(UnsupportedModel, match="tool_call_parser is 'newer'; known here"):
        format_of(model, FUNCTIONS, False, None)
