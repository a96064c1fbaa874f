"""A tiny Qwen3-Reranker behind the gateway: its authors' scores on every route that ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from gateways import Served
from tiny.rerankers import Reranker

from atoll_client import Client
from atoll_client.errors import ValidationError
from atoll_client.gateway.tei import grpc_schema

TEI = grpc_schema.tei()
NAME = "tiny-yes-qwen3-reranker-0.6b"
QUERY = "What is the capital of France?"
TEXTS = ["A ring of coral", "Paris is the capital of France.", "yes", "no, or none"]
STRICT = "Judge strictly"


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


@pytest.fixture(scope="module")
def http(scoring: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=scoring.url, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def logits(decoding_reranker: tuple[Path, Reranker]) -> dict[str | None, Any]:
    """Of the texts, by instruction."""
    asked = decoding_reranker[1]
    return {
        one: np.array([asked.score(asked.ids(QUERY, text, one)) for text in TEXTS])
        for one in (None, STRICT)
    }


@pytest.mark.parametrize("instruction", [None, STRICT])
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_the_client(
    scoring: Served, logits: dict[str | None, Any], transport: str, instruction: str | None
) -> None:
    expected, server = logits[instruction], scoring.server
    order = np.argsort(-expected).tolist()
    with Client(server.grpc_url if transport == "grpc" else server.http_url) as client:
        ranks = client.rerank(QUERY, TEXTS, NAME, instruction=instruction, raw_scores=True)
        assert [rank.index for rank in ranks] == order
        np.testing.assert_allclose([rank.score for rank in ranks], expected[order], atol=1e-5)
        tensors = {"query": [[QUERY]], "text_input": [[text] for text in TEXTS]}
        options = {} if instruction is None else {"instruction": instruction}
        found = client.infer(NAME, tensors, **options)
        np.testing.assert_allclose(found["score"][:, 0], sigmoid(expected), atol=1e-5)
        np.testing.assert_allclose(found["logit"][:, 0], expected, atol=1e-5)
        with pytest.raises(ValidationError, match="instruction is 'x'.*no place for one"):
            client.rerank(QUERY, TEXTS, "tiny-rerank", instruction="x")


@pytest.mark.parametrize("instruction", [None, STRICT])
def test_the_gateways_routes(
    http: httpx.Client, logits: dict[str | None, Any], instruction: str | None
) -> None:
    expected = logits[instruction]
    order = np.argsort(-expected).tolist()
    more = {"model": NAME, **({} if instruction is None else {"instruction": instruction})}
    ranks = http.post("/rerank", json={"query": QUERY, "texts": TEXTS, **more}).json()
    assert [one["index"] for one in ranks] == order
    np.testing.assert_allclose([r["score"] for r in ranks], sigmoid(expected[order]), atol=1e-5)
    body = {"query": QUERY, "documents": TEXTS, **more}
    for path in ("/v1/rerank", "/v2/rerank"):
        results = http.post(path, json=body).json()["results"]
        scores = [one["relevance_score"] for one in results]
        np.testing.assert_allclose(scores, sigmoid(expected[order]), atol=1e-5)
    pairs = {"text_1": QUERY, "text_2": TEXTS, "raw_scores": True, **more}
    data = http.post("/v1/score", json=pairs).json()["data"]
    np.testing.assert_allclose([one["score"] for one in data], expected, atol=1e-5)


def test_teis_grpc(scoring: Served, logits: dict[str | None, Any]) -> None:
    message = TEI["RerankRequest"](query=QUERY, texts=TEXTS, raw_scores=True)
    with grpc.insecure_channel(scoring.grpc_address) as channel:
        call = channel.unary_unary(
            "/tei.v1.Rerank/Rerank",
            request_serializer=TEI["RerankRequest"].SerializeToString,
            response_deserializer=TEI["RerankResponse"].FromString,
        )
        found = call(message, timeout=60, metadata=[("model", NAME)])
    scores = [rank.score for rank in sorted(found.ranks, key=lambda rank: rank.index)]
    np.testing.assert_allclose(scores, logits[None], atol=1e-5)
