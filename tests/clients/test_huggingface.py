"""huggingface_hub.InferenceClient, unmodified, against the gateway's root and one model's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gateways import EMBEDDER, GENERATOR, Served
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, TextGenerationError

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def client(served: Served) -> InferenceClient:
    """By the address alone: the gateway finds the model."""
    return InferenceClient(served.url)


def test_text_generation(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, max_new_tokens=4)
    found: Any = client.text_generation(PROMPT, max_new_tokens=4, details=True)
    assert text.startswith(" Paris") and found.generated_text == text
    assert found.details.finish_reason == "length" and found.details.generated_tokens == 4
    assert "".join(token.text for token in found.details.tokens) == text


def test_text_generation_streamed(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, max_new_tokens=4)
    assert "".join(client.text_generation(PROMPT, max_new_tokens=4, stream=True)) == text
    events: Any = list(client.text_generation(PROMPT, max_new_tokens=4, stream=True, details=True))
    assert events[-1].generated_text == text and events[-1].details.generated_tokens == 4
    assert "".join(event.token.text for event in events) == text


def test_text_generation_with_a_grammar(client: InferenceClient) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    text = client.text_generation(
        PROMPT, max_new_tokens=30, grammar={"type": "json", "value": schema}
    )
    assert isinstance(json.loads(text)["n"], bool)


def test_text_generation_refused(client: InferenceClient) -> None:
    with pytest.raises((HfHubHTTPError, TextGenerationError), match="top_p"):
        client.text_generation(PROMPT, top_p=2.0)


def test_feature_extraction(client: InferenceClient) -> None:
    one = client.feature_extraction("What is deep learning?")
    raw = client.feature_extraction("What is deep learning?", normalize=False)
    assert one.shape == (1, 384) and np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), one, atol=1e-5)


def test_sentence_similarity(client: InferenceClient) -> None:
    scores = client.sentence_similarity("a cat", other_sentences=["a kitten", "the stock market"])
    assert len(scores) == 2 and scores[0] > scores[1]


@pytest.mark.parametrize("path", ["", f"/{GENERATOR}"])
def test_chat_completion(served: Served, path: str) -> None:
    client = InferenceClient(served.url + path)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    answer: Any = client.chat_completion(messages, max_tokens=8, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    chunks: Any = client.chat_completion(messages, max_tokens=8, temperature=0, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer.choices[0].message.content


def test_chat_completion_with_a_schema(client: InferenceClient) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"]}
    answer: Any = client.chat_completion(
        [{"role": "user", "content": "Answer in JSON."}], max_tokens=30, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    )  # fmt: skip
    assert isinstance(json.loads(answer.choices[0].message.content)["n"], bool)


def test_one_model_by_its_prefix(served: Served) -> None:
    client = InferenceClient(f"{served.url}/{EMBEDDER}")
    assert client.feature_extraction("toto").shape == (1, 384)
