"""A ColBERT behind the gateway, beside sentence-transformers: vectors of tokens, and MaxSim."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gateways import Served

from atoll_client import AsyncClient, Client, embeddings
from atoll_client.errors import UnsupportedModel, ValidationError

NAME = "tiny-multi_vector"
QUERY = "abc def"
TEXTS = ["ghi", "abc, abc! def", "zzz", "abc"]


@pytest.fixture(scope="module")
def http(scoring: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=scoring.url, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> tuple[list[Any], list[Any], Any]:
    """Vectors of the texts as queries and as documents, and the query's scores of documents."""
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(folders["multi_vector"]), device="cpu", local_files_only=True)
    queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
    scores = model.similarity(model.encode_query([QUERY]), documents)[0].numpy()
    return [v.numpy() for v in queries], [v.numpy() for v in documents], scores


def close(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_the_client(scoring: Served, expected: Any, transport: str) -> None:
    queries, documents, scores = expected
    order = np.argsort(-scores, kind="stable").tolist()
    server = scoring.server
    with Client(server.grpc_url if transport == "grpc" else server.http_url) as client:
        close(client.embed_tokens(TEXTS), documents)
        close(client.embed_tokens(TEXTS, NAME, input_type="query"), queries)
        assert client.embed_tokens([], NAME) == []
        ranks = client.rerank(QUERY, TEXTS, NAME)
        assert [rank.index for rank in ranks] == order
        np.testing.assert_allclose([rank.score for rank in ranks], scores[order], atol=1e-5)
        # A reranker, where there is one, is the default.
        assert client.rerank(QUERY, TEXTS) == client.rerank(QUERY, TEXTS, "tiny-rerank")
        with pytest.raises(UnsupportedModel, match="is for rerank, not multi_vector"):
            client.embed_tokens(TEXTS, "tiny-rerank")
        with pytest.raises(ValidationError, match="input_type is 'passage'"):
            client.embed_tokens(TEXTS, NAME, input_type="passage")
        tensors = {"query": [[QUERY]] * 4, "text_input": [[text] for text in TEXTS]}
        pairs = client.infer(NAME, tensors)
        np.testing.assert_allclose(pairs["score"], scores[:, None], atol=1e-5)
        close(np.split(pairs["vectors"], pairs["offsets"][1:-1]), documents)
        request = embeddings.embed(NAME, TEXTS, {})
        request.outputs.add(name="score")
        with pytest.raises(ValidationError, match="output score is asked for, .* a query"):
            client._run(client._client._send(request))
        for more, message in (
            ({"query": [[QUERY]] * 3}, "query has 3 texts and text_input 4"),
            ({"query": [[QUERY]], "input_type": "query"}, "with a query to score"),
        ):
            given: dict[str, Any] = {**tensors, **more}
            options = {"input_type": given.pop("input_type")} if "input_type" in given else {}
            with pytest.raises(ValidationError, match=message):
                client.infer(NAME, given, **options)


def test_the_asynchronous_client(scoring: Served, expected: Any) -> None:
    async def scenario() -> None:
        async with AsyncClient(scoring.server.grpc_url) as client:
            close(await client.embed_tokens(TEXTS, NAME), expected[1])
            ranks = await client.rerank(QUERY, TEXTS, NAME, top_n=1)
            assert ranks[0].score == pytest.approx(expected[2].max(), abs=1e-5)

    asyncio.run(scenario())


def test_the_routes(http: httpx.Client, expected: Any) -> None:
    queries, documents, scores = expected
    order = np.argsort(-scores, kind="stable").tolist()

    def post(path: str, body: Any, status: int = 200) -> Any:
        response = http.post(path, json={"model": NAME, **body})
        assert response.status_code == status, response.text
        return response.json()

    close(post("/embed_all", {"inputs": TEXTS}), documents)
    close(post("/embed_all", {"inputs": TEXTS, "prompt_name": "query"}), queries)
    close(post(f"/{NAME}", {"inputs": TEXTS}), documents)
    for raw in (True, False):
        ranks = post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": raw})
        assert [rank["index"] for rank in ranks] == order
        np.testing.assert_allclose([rank["score"] for rank in ranks], scores[order], atol=1e-5)
    # Lists of passages sometimes have an empty one.
    assert len(post("/rerank", {"query": QUERY, "texts": [*TEXTS, ""]})) == len(TEXTS) + 1
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        found = post(path, {"query": QUERY, "documents": TEXTS, "top_n": 2})["results"]
        assert [one["index"] for one in found] == order[:2]
        assert found[0]["relevance_score"] == pytest.approx(scores[order[0]], abs=1e-5)
    nim = {"query": {"text": QUERY}, "passages": [{"text": text} for text in TEXTS]}
    logits = [one["logit"] for one in post("/v1/ranking", nim)["rankings"]]
    np.testing.assert_allclose(logits, scores[order], atol=1e-5)
    pairs = post("/v1/score", {"text_1": [QUERY] * 4, "text_2": TEXTS})["data"]
    np.testing.assert_allclose([pair["score"] for pair in pairs], scores, atol=1e-5)
    assert http.get(f"/{NAME}/info").json()["model_type"] == {"embedding": {"pooling": None}}
    assert "cannot embed" in post("/embed", {"inputs": "a"}, 424)["error"]
    assert "must be texts" in post("/embed_all", {"inputs": [[5, 6]]}, 422)["error"]
    assert "'nix'" in post("/embed_all", {"inputs": "a", "prompt_name": "nix"}, 422)["error"]
    told = post("/rerank", {"query": QUERY, "texts": TEXTS, "instruction": "Judge."}, 422)["error"]
    assert "`instruction` is 'Judge.'" in told and "takes none" in told
    too_long = {"inputs": "abc" * 20, "truncate": False}
    assert "less than 20 tokens. Given: 63" in post("/embed_all", too_long, 422)["error"]
    # A query's limit is its own, and so is the field.
    short = post("/embed_all", {**too_long, "prompt_name": "query"}, 422)["error"]
    assert "less than 12 tokens. Given: 63" in short
    cohere = {"query": "abc" * 20, "documents": ["a"], "truncate": "NONE"}
    told = post("/v2/rerank", cohere, 400)["error"]
    assert told["param"] == "query" and "less than 12 tokens. Given: 63" in told["message"]
