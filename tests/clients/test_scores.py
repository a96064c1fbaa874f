"""Rerankers, classifiers and sparse embedders behind the gateway, on tiny random checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gateways import Served
from scored import reference

QUERY, TEXTS = "abc def", ["ghi", "abc abc def", "zzz", "abc"]


@pytest.fixture(scope="module")
def http(scoring: Served) -> Iterator[httpx.Client]:
    """Plain HTTP to the gateway in front of all of them."""
    with httpx.Client(base_url=scoring.url, timeout=60.0) as client:
        yield client


def _post(http: httpx.Client, path: str, body: Any) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_rerank_in_every_dialect(http: httpx.Client, folders: dict[str, Path]) -> None:
    logits = reference(folders["rerank"], [(QUERY, text) for text in TEXTS])[:, 0]
    order = np.argsort(-logits, kind="stable").tolist()
    scores = 1 / (1 + np.exp(-logits))

    body = {"query": QUERY, "texts": TEXTS}
    ranks = _post(http, "/rerank", {**body, "return_text": True})
    assert [r["index"] for r in ranks] == order
    assert [r["text"] for r in ranks] == [TEXTS[i] for i in order]
    np.testing.assert_allclose([r["score"] for r in ranks], scores[order], atol=1e-4)
    raw = _post(http, "/", {**body, "raw_scores": True})
    assert set(raw[0]) == {"index", "score"}
    np.testing.assert_allclose([r["score"] for r in raw], logits[order], atol=1e-4)

    cohere = {"model": "tiny-rerank", "query": QUERY, "documents": TEXTS, "top_n": 2}
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        results = _post(http, path, cohere)["results"]
        assert [r["index"] for r in results] == order[:2]
        np.testing.assert_allclose(results[0]["relevance_score"], scores[order[0]], atol=1e-4)
    objects = {**cohere, "documents": [{"text": t} for t in TEXTS], "return_documents": True}
    assert _post(http, "/v1/rerank", objects)["results"][0]["document"] == {"text": TEXTS[order[0]]}
    nim = {"query": {"text": QUERY}, "passages": [{"text": t} for t in TEXTS]}
    rankings = _post(http, "/v1/ranking", nim)["rankings"]
    np.testing.assert_allclose([r["logit"] for r in rankings], logits[order], atol=1e-4)
    pairs = _post(http, "/v1/score", {"text_1": QUERY, "text_2": TEXTS})["data"]
    np.testing.assert_allclose([p["score"] for p in pairs], scores, atol=1e-4)


def test_predict_single_pair_and_batch(http: httpx.Client, folders: dict[str, Path]) -> None:
    def check(labels: Any, logits: Any) -> None:
        chances = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-logits, kind="stable")
        assert [one["label"] for one in labels] == [f"LABEL_{i}" for i in order]
        np.testing.assert_allclose([one["score"] for one in labels], chances[order], atol=1e-4)

    logits = reference(folders["classify"], [("abc", None), ("abc", "def"), ("ghi", None)])
    to = {"model": "tiny-classify"}
    check(_post(http, "/predict", {"inputs": "abc", **to}), logits[0])
    check(_post(http, "/predict", {"inputs": ["abc", "def"], **to}), logits[1])
    batch = _post(http, "/predict", {"inputs": [["abc"], ["abc", "def"], ["ghi"]], **to})
    for labels, row in zip(batch, logits, strict=True):
        check(labels, row)
    nested = _post(http, "/tiny-classify", {"inputs": "abc"})
    check(nested[0], logits[0])
    raw = _post(http, "/predict", {"inputs": "abc", "raw_scores": True, **to})
    np.testing.assert_allclose(raw[0]["score"], logits[0].max(), atol=1e-4)
    of_reranker = _post(http, "/tiny-rerank/predict", {"inputs": [[QUERY, TEXTS[0]]]})
    assert [len(row) for row in of_reranker] == [1]


def test_sparse(http: httpx.Client) -> None:
    rows = _post(http, "/embed_sparse", {"inputs": TEXTS})
    assert len(rows) == len(TEXTS)
    assert all(set(item) == {"index", "value"} and item["value"] > 0 for item in rows[0])
    indices = [item["index"] for item in rows[0]]
    assert indices == sorted(indices)
    alone = _post(http, "/tiny-sparse", {"inputs": TEXTS[0]})[0]
    assert [item["index"] for item in alone] == indices
    np.testing.assert_allclose(
        [item["value"] for item in alone], [item["value"] for item in rows[0]], atol=1e-5
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/rerank", {"query": "q", "texts": []}, 400, "Empty"),
        ("/rerank", {"query": "", "texts": ["a"]}, 400, "Empty"),
        ("/rerank", {"query": "q", "texts": ["a"] * 33}, 422, "Validation"),
        ("/rerank", {"query": "q"}, 422, "Validation"),
        ("/predict", {"inputs": ""}, 400, "Empty"),
        ("/predict", {"inputs": ["", ""]}, 400, "Empty"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation"),
        ("/predict", {"inputs": ["a", "b"], "prompt_name": "x"}, 422, "Validation"),
        ("/tiny-rerank/predict", {"inputs": "a"}, 424, "Backend"),
        ("/embed", {"inputs": "a"}, 424, "Backend"),
        ("/rerank", {"query": "q", "texts": ["a b " * 40], "truncate": False}, 422, "Validation"),
    ],
)
def test_errors(http: httpx.Client, path: str, body: Any, status: int, kind: str) -> None:
    response = http.post(path, json=body)
    assert (response.status_code, response.json()["error_type"]) == (status, kind), response.text


def test_a_single_text_for_a_reranker_is_told_the_remedy(http: httpx.Client) -> None:
    """A grader of texts has one label, too, and was refused without a word of task=classify."""
    response = http.post("/tiny-rerank/predict", json={"inputs": "a"})
    assert "one label is served with task=classify" in response.json()["error"]


def test_info_tells_the_labels(http: httpx.Client) -> None:
    kind = http.get("/tiny-classify/info").json()["model_type"]["classifier"]
    assert kind["id2label"] == {str(i): f"LABEL_{i}" for i in range(3)}
    assert kind["label2id"] == {f"LABEL_{i}": i for i in range(3)}
