"""OpenAI's predicted outputs: the answer is the same, and usage says what they were worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from echo import told
from gateways import Served

ANSWER = "One two three four five six seven eight."


def _content(text: str | list[Any]) -> Any:
    return {"type": "content", "content": text}


@pytest.mark.parametrize(
    ("prediction", "num_accepted", "num_rejected"),
    [
        # The first token is not guessed; of five others that a step gives, the last is not.
        (_content(ANSWER), range(30, 33), range(1)),
        (_content([{"type": "text", "text": "One two "}, {"type": "text", "text": "no"}]),
         range(6, 12), range(1, 41)),
        (_content("zzzz zzzz zzzz"), range(1), range(1)),
    ],
)  # fmt: skip
def test_a_prediction_only_speeds_an_answer_up(
    echoes: Served, checkpoints: dict[str, Path], prediction: Any, num_accepted: range,
    num_rejected: range,
) -> None:  # fmt: skip
    asked: Any = {
        "model": "xml", "temperature": 0, "max_tokens": 64,
        "messages": [{"role": "user", "content": told(checkpoints["xml"], ANSWER)}],
    }  # fmt: skip
    with openai.OpenAI(base_url=f"{echoes.url}/v1", api_key="unused", max_retries=0) as client:
        plain = client.chat.completions.create(**asked)
        whole = client.chat.completions.create(**asked, prediction=prediction)
        *parts, end = client.chat.completions.create(
            **asked, prediction=prediction, stream=True, stream_options={"include_usage": True}
        )
    assert plain.usage is not None and plain.usage.completion_tokens_details is not None
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens is None
    streamed = "".join(part.choices[0].delta.content or "" for part in parts)
    assert plain.choices[0].message.content == whole.choices[0].message.content == streamed
    assert streamed == ANSWER
    for usage in (whole.usage, end.usage):
        assert usage.completion_tokens == plain.usage.completion_tokens
        details = usage.completion_tokens_details
        assert details.accepted_prediction_tokens in num_accepted, details
        assert details.rejected_prediction_tokens in num_rejected, details
