"""TEI's routes in TEI's shapes, and each of its errors once: status, type, message."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

LONG = "word " * 400


def _post(http: httpx.Client, path: str, body: Any) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_embed_is_nested_for_one_text_and_for_many(http: httpx.Client) -> None:
    one = _post(http, "/embed", {"inputs": "What is deep learning?"})
    many = _post(http, "/embed", {"inputs": ["What is deep learning?", "toto"]})
    assert np.shape(one) == (1, 384) and np.shape(many) == (2, 384)
    np.testing.assert_allclose(one[0], many[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1.0, atol=1e-5)


def test_embed_options(http: httpx.Client) -> None:
    raw = np.array(_post(http, "/embed", {"inputs": "toto", "normalize": False}))
    unit = np.array(_post(http, "/embed", {"inputs": "toto"}))
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-5)
    short = np.array(_post(http, "/embed", {"inputs": "toto", "dimensions": 32}))
    np.testing.assert_allclose(short, unit[:, :32] / np.linalg.norm(unit[:, :32]), atol=1e-5)


def test_embed_takes_token_ids_and_ignores_nulls_and_unknown_fields(http: httpx.Client) -> None:
    ids = [t["id"] for t in _post(http, "/tokenize", {"inputs": "toto"})[0]]
    by_text = _post(http, "/embed", {"inputs": "toto", "truncate": None, "nonsense": 1})
    for inputs in (ids, [ids]):
        by_ids = _post(http, "/embed", {"inputs": inputs, "prompt_name": None})
        np.testing.assert_allclose(by_ids, by_text, atol=1e-5)


def test_embed_cuts_left_or_right(http: httpx.Client) -> None:
    body = {"inputs": f"first {LONG} last", "truncate": True}
    right = _post(http, "/embed", {**body, "truncation_direction": "Right"})
    left = _post(http, "/embed", {**body, "truncation_direction": "left"})
    assert not np.allclose(right, left, atol=1e-3)


def test_embed_says_what_it_took(http: httpx.Client) -> None:
    response = http.post("/embed", json={"inputs": "What is deep learning?"})
    headers = response.headers
    assert headers["x-compute-tokens"] == "7"
    assert headers["x-compute-characters"] == "22"
    for name in ("x-compute-time", "x-total-time", "x-inference-time"):
        assert int(headers[name]) >= 0


def test_similarity_is_the_cosine(http: httpx.Client) -> None:
    sentences = ["What is machine learning?", "A house on a hill."]
    body = {"inputs": {"source_sentence": "What is deep learning?", "sentences": sentences}}
    scores = _post(http, "/similarity", {**body, "parameters": {"truncate": False}})
    vectors = np.array(_post(http, "/embed", {"inputs": ["What is deep learning?", *sentences]}))
    np.testing.assert_allclose(scores, vectors[1:] @ vectors[0], atol=1e-5)


def test_tokenize_counts_bytes_and_decode_goes_back(http: httpx.Client) -> None:
    text = "naïve cats"
    (tokens,) = _post(http, "/tokenize", {"inputs": text})
    assert [t["special"] for t in tokens] == [True, False, False, True]
    assert tokens[0]["start"] is None and tokens[0]["stop"] is None
    raw = text.encode()
    assert [raw[t["start"] : t["stop"]].decode() for t in tokens[1:-1]] == ["naïve", "cats"]
    assert [t["text"] for t in tokens[1:-1]] == ["naïve", "cats"]
    bare = _post(http, "/tokenize", {"inputs": [text, "a"], "add_special_tokens": False})
    assert [len(row) for row in bare] == [2, 1]
    ids = [t["id"] for t in tokens]
    assert _post(http, "/decode", {"ids": ids}) == ["naive cats"]
    kept = _post(http, "/decode", {"ids": [ids], "skip_special_tokens": False})
    assert kept == ["[CLS] naive cats [SEP]"]


def test_info_and_health(http: httpx.Client) -> None:
    info = http.get("/all-minilm-l6-v2/info").json()
    assert info["model_id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["max_input_length"] == 256 and info["max_client_batch_size"] == 32
    for path in ("/health", "/ping", "/", "/v1/health/ready", "/v1/health/live"):
        assert http.get(path).status_code == 200


def test_root_answers_by_the_bodys_shape(http: httpx.Client) -> None:
    assert np.shape(_post(http, "/", {"inputs": "toto"})) == (1, 384)
    assert np.shape(_post(http, "/", {"inputs": ["toto", "tata"]})) == (2, 384)
    pair = {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}
    assert np.shape(_post(http, "/invocations", pair)) == (2,)
    generated = _post(http, "/", {"inputs": "Hello", "parameters": {"max_new_tokens": 2}})
    assert list(generated[0]) == ["generated_text"]


ERRORS: list[tuple[str, Any, int, str, str]] = [
    ("/embed", {"inputs": []}, 400, "Empty", "`inputs` cannot be empty"),
    ("/embed", {"inputs": ""}, 400, "Empty", "`inputs` cannot be empty"),
    ("/embed", {"inputs": ["a", ""]}, 400, "Empty", "`inputs` cannot be empty"),
    ("/embed", {"inputs": [[]]}, 400, "Empty", "`inputs` cannot be empty"),
    (
        "/embed", {"inputs": ["a"] * 33}, 422, "Validation",
        "batch size 33 > maximum allowed batch size 32",
    ),
    (
        "/embed", {"inputs": LONG, "truncate": False}, 422, "Validation",
        "`inputs` must have less than 256 tokens. Given: 402",
    ),
    (
        "/embed", {"inputs": "a" * 64_001, "truncate": False}, 422, "Validation",
        "`inputs` must have less than 64000 characters. Given: 64001",
    ),
    (
        "/tokenize", {"inputs": ["a", "a" * 64_001], "model": "all-minilm-l6-v2"}, 422,
        "Validation", "`inputs` must have less than 64000 characters. Given: 64001",
    ),
    ("/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation",
     "`dimensions` should be positive"),
    (
        "/embed", {"inputs": "a", "dimensions": 385}, 422, "Validation",
        "`dimensions` should be smaller than the maximum embedding dimension 384. Given: 385",
    ),
    ("/embed", {"inputs": "a", "prompt_name": "nix"}, 422, "Validation", "prompt_name"),
    ("/embed", {}, 422, "Validation", "`inputs`: Field required"),
    ("/embed", {"inputs": 5}, 422, "Validation", "`inputs` is 5; expected a text or a list"),
    ("/embed", {"inputs": "a", "truncate": "yes"}, 422, "Validation", "`truncate`"),
    ("/embed", {"inputs": [-1]}, 422, "Validation", "outside the vocabulary"),
    ("/embed", {"inputs": "a", "model": "nix"}, 404, "Validation", "model 'nix' is not served"),
    ("/embed", {"inputs": "a", "model": "smollm2-135m-instruct"}, 424, "Backend", "cannot embed"),
    ("/embed_sparse", {"inputs": "a"}, 424, "Backend", "sparse"),
    ("/predict", {"inputs": "a"}, 424, "Backend", "no model here can classify"),
    ("/rerank", {"query": "q", "texts": ["a"]}, 424, "Backend", "no model here can rerank"),
    (
        "/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty",
        "`inputs.sentences` cannot be empty",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "kind", "message"), ERRORS)
def test_errors(
    http: httpx.Client, path: str, body: Any, status: int, kind: str, message: str
) -> None:
    response = http.post(path, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error_type"] == kind
    assert message in response.json()["error"]


def test_bodies_that_cannot_be_read(http: httpx.Client) -> None:
    assert http.post("/embed", content=b"{").status_code == 400
    assert http.post("/embed", content=b"[1]").status_code == 422
    assert http.post("/embed", content=b'"' + b"a" * 2_000_001 + b'"').status_code == 413
    assert http.post("/nowhere", json={}).status_code == 404
    assert http.get("/embed").status_code == 405
