"""Embeddings as LiteLLM's ``triton/`` provider asks for them, and what is near to that."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from gateways import EMBEDDER, GENERATOR, Served

TEXTS = ["a reef", "an atoll", "bread"]
INFER = f"/v2/models/{EMBEDDER}/infer"


def _body(name: str, shape: list[int], *more: dict[str, Any]) -> dict[str, Any]:
    first = {"name": name, "shape": shape, "datatype": "BYTES", "data": TEXTS}
    return {"inputs": [first, *more]}


def _vectors(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    found = {output["name"]: output for output in answer.json()["outputs"]}["embedding"]
    return np.array(found["data"]).reshape(found["shape"])


def test_the_vectors_alone_are_answered(http: httpx.Client) -> None:
    """The input was refused as unknown; the client takes every output for a matrix of vectors."""
    answer = http.post(INFER, json=_body("input_text", [3]))
    assert [output["name"] for output in answer.json()["outputs"]] == ["embedding"]
    assert answer.json()["outputs"][0]["shape"] == [3, 384]
    usual = http.post(INFER, json=_body("text_input", [3, 1]))
    np.testing.assert_allclose(_vectors(answer), _vectors(usual), atol=1e-5)


def test_what_is_asked_beside_it_is_done(http: httpx.Client) -> None:
    body = _body("input_text", [3])
    body |= {"parameters": {"dimensions": 8}, "outputs": [{"name": "num_input_tokens"}]}
    answer = http.post(INFER, json=body)
    assert [output["name"] for output in answer.json()["outputs"]] == ["num_input_tokens"]
    body["outputs"].append({"name": "embedding"})
    assert _vectors(http.post(INFER, json=body)).shape == (3, 8)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INFER, _body("input_text", [3, 1])),
        (INFER, _body("input_text", [3], _body("text_input", [3, 1])["inputs"][0])),
        (INFER.replace("infer", "generate"), {"input_text": TEXTS}),
    ],
)
def test_others_are_refused_as_before(http: httpx.Client, path: str, body: Any) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400 and "input_text" in answer.text, answer.text


def test_a_generator_says_where_it_answers(http: httpx.Client) -> None:
    """LiteLLM's completions go to /infer, too, which is for models with one response."""
    answer = http.post(INFER.replace(EMBEDDER, GENERATOR), json=_body("text_input", [3]))
    assert answer.status_code >= 400 and "use /generate or /generate_stream" in answer.text


def test_models_of_others_get_what_was_sent(others: Any) -> None:
    answer = httpx.post(
        f"{others.url}/v2/models/echo/infer", json=_body("input_text", [3]), timeout=60
    )
    assert answer.status_code == 400 and "'input_text' for model 'echo'" in answer.text


def test_tritons_own_port_names_the_input(served: Served) -> None:
    answer = httpx.post(
        f"{served.server.http_url}{INFER}", json=_body("input_text", [3]), timeout=60
    )
    assert answer.status_code == 400 and "input_text" in answer.text
