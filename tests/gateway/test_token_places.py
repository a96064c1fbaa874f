"""Tokens of long texts: their places in bytes, and who waits while they are written."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll_client.errors import TooMuch
from atoll_client.gateway.core import tokens
from atoll_client.gateway.tei import routes as tei
from atoll_client.gateway.tei.schemas import TokenizeBody
from atoll_client.types import ModelInfo

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def _token(start: int | None, stop: int | None) -> dict[str, Any]:
    return {"id": 7, "text": "x", "special": start is None, "start": start, "stop": stop}


@QUICK
@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_places_in_bytes(text: str, spans: list[tuple[int, int]]) -> None:
    spans = [(min(a, len(text)), min(b, len(text))) for a, b in spans]
    row = [_token(None, None), *(_token(*span) for span in spans)]
    (found,) = tokens.in_bytes([text], [row])
    assert found[0] == row[0]
    for token, (start, stop) in zip(found[1:], spans, strict=True):
        sizes = len(text[:start].encode()), len(text[:stop].encode())
        assert (token["start"], token["stop"]) == sizes


class Text(str):
    """Counts how often a part of it is copied."""

    num_slices = 0

    def __getitem__(self, key: Any) -> str:
        type(self).num_slices += 1
        return super().__getitem__(key)


def test_a_text_is_gone_through_once() -> None:
    """For each token, all of the text before it was copied and encoded: 37 s for 300 KB."""
    text = Text("你" * 10_000)
    (found,) = tokens.in_bytes([text], [[_token(i, i + 1) for i in range(10_000)]])
    assert found[-1]["stop"] == 30_000
    assert Text.num_slices == 0


def _request() -> Any:
    return SimpleNamespace(model=None, labels={})


def _context(rows: Any) -> Any:
    async def ask(model: str, question: Any) -> Any:
        return rows

    model = ModelInfo("m", "embed", {"max_input_tokens": 100})
    pool = SimpleNamespace(ask=ask)
    return SimpleNamespace(find=lambda request, named, kinds: model, pool=pool)


def test_others_are_answered_while_tokens_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was done on the event loop, and /health stood still meanwhile."""
    begun, go_on, were_free = threading.Event(), threading.Event(), []

    def slow(texts: Any, rows: Any) -> Any:
        begun.set()
        were_free.append(go_on.wait(20))
        return rows

    monkeypatch.setattr(tokens, "in_bytes", slow)

    async def main() -> Any:
        body = TokenizeBody(inputs="a" * 20_000)
        work = asyncio.create_task(tei.tokenize(_request(), _context([[_token(0, 1)]]), body))
        while not begun.is_set():
            await asyncio.sleep(0.005)
        go_on.set()
        return await work

    answer = asyncio.run(main())
    assert were_free == [True]
    assert json.loads(answer.body) == [[_token(0, 1)]]


def test_long_lists_are_asked_about_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of 2 MB, in one answer, took half a gigabyte of the model's memory, which stayed."""
    monkeypatch.setattr(tokens, "_PART_CHARACTERS", 25)
    asked: list[list[str]] = []
    context = _context([])

    async def ask(model: str, question: Any) -> Any:
        asked.append(question["inputs"])
        return [[_token(0, len(text))] for text in question["inputs"]]

    context.pool.ask = ask
    texts = ["a" * 10, "é" * 10, "b" * 10, "c" * 40, "d", "e"]
    answer = asyncio.run(tei.tokenize(_request(), context, TokenizeBody(inputs=texts)))
    assert [len(part) for part in asked] == [2, 1, 1, 2]
    assert [row[0]["stop"] for row in json.loads(answer.body)] == [10, 20, 10, 40, 1, 1]


def test_texts_beyond_teis_limit_are_refused() -> None:
    with pytest.raises(TooMuch, match="less than 25000 characters. Given: 25001"):
        body = TokenizeBody(inputs=["a", "a" * 25_001])
        asyncio.run(tei.tokenize(_request(), _context([]), body))
