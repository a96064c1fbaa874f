"""Bodies of Triton's generate routes as other programs write them."""

from __future__ import annotations

from typing import Any

import pytest

from atoll_client.errors import ValidationError
from atoll_client.gateway.kserve.generate import read_generate
from atoll_client.gateway.kserve.signature import Declared, Signature


def _signature(is_ours: bool, *more: str) -> Signature:
    inputs = {name: Declared("BYTES", (-1,)) for name in ("text_input", *more)}
    return Signature("m", inputs, {}, ("text_input",), True, False, frozenset(), is_ours)


def _body(**parameters: Any) -> dict[str, Any]:
    return {"text_input": "a", "parameters": {"max_tokens": 3, **parameters}, "stream": False}


# LiteLLM's for every model.
NO_WORDS: dict[str, Any] = {"bad_words": [""], "stop_words": [""]}


def test_lists_of_no_words_ask_for_nothing() -> None:
    """LiteLLM's completions were refused: a parameter cannot be a list."""
    found = read_generate(_body(**NO_WORDS), _signature(True), "1")
    assert found == read_generate(_body(), _signature(True), "1")
    assert found.parameters["max_tokens"].int64_param == 3


@pytest.mark.parametrize("words", [{"bad_words": ["x"]}, {"stop_words": ["", "x"]}])
def test_words_are_not_left_out(words: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(words))):
        read_generate(_body(**words), _signature(True), "1")


def test_other_models_see_what_was_sent() -> None:
    found = read_generate(_body(**NO_WORDS), _signature(False, "bad_words", "stop_words"), "1")
    assert {one.name for one in found.inputs} == {"text_input", "bad_words", "stop_words"}
    with pytest.raises(ValidationError, match="bad_words"):
        read_generate(_body(**NO_WORDS), _signature(False), "1")
