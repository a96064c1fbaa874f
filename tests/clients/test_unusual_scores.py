"""Scores beyond float32's sigmoid, through every interface: the order is that of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from gateways import Served
from scored import reference
from unusual_encoders import (
    QUERY,
    TEXTS,
    encoders_served,
    logits_of,
    post,
    write_encoders,
)

from atoll_client import Client
from atoll_client.errors import UnsupportedModel, ValidationError
from atoll_client.gateway.tei import grpc_schema


def test_rerankers_order_is_that_of_the_logits(
    http: httpx.Client, bare: Served, logits: Any
) -> None:
    """Logits from 25 to 32: all scores were 1.0, in the order of the input, and the best text was
    cut off by top_n."""
    order = np.argsort(-logits, kind="stable").tolist()
    assert order != sorted(order) and logits.min() > 20
    exact = 1 / (1 + np.exp(-logits))

    def check(indices: list[int], scores: list[float], expected: Any) -> None:
        assert indices == order[: len(indices)]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)
        np.testing.assert_allclose(scores, expected[indices], rtol=1e-6)

    body = {"query": QUERY, "texts": TEXTS}
    for path in ("/rerank", "/", "/steep/rerank"):
        ranks = post(http, path, body)
        check([r["index"] for r in ranks], [r["score"] for r in ranks], exact)
    ranks = post(http, "/rerank", {**body, "raw_scores": True})
    check([r["index"] for r in ranks], [r["score"] for r in ranks], logits)
    (ranks,) = post(http, "/vertex", {"instances": [body]})["predictions"]
    check([r["index"] for r in ranks], [r["score"] for r in ranks], exact)
    cohere = {"query": QUERY, "documents": TEXTS, "top_n": 2}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        found = post(http, path, cohere)["results"]
        assert len(found) == 2
        check([r["index"] for r in found], [r["relevance_score"] for r in found], exact)
        raw = post(http, path, {**cohere, "use_activation": False})["results"]
        check([r["index"] for r in raw], [r["relevance_score"] for r in raw], logits)
    nim = {"query": {"text": QUERY}, "passages": [{"text": t} for t in TEXTS]}
    found = post(http, "/v1/ranking", nim)["rankings"]
    check([r["index"] for r in found], [r["logit"] for r in found], logits)
    pairs = post(http, "/v1/score", {"text_1": QUERY, "text_2": TEXTS})["data"]
    scores = [pair["score"] for pair in pairs]
    check(np.argsort(-np.array(scores)).tolist(), sorted(scores, reverse=True), exact)
    for address in (bare.server.grpc_url, bare.server.http_url):
        with Client(address) as client:
            best = client.rerank(QUERY, TEXTS, top_n=2)
            check([rank.index for rank in best], [rank.score for rank in best], exact)
            with pytest.raises(ValidationError, match="top_n is 0"):
                client.rerank(QUERY, TEXTS, top_n=0)


def test_the_models_own_answer_has_the_logits(bare: Served, logits: Any) -> None:
    """KServe's scores are float32; whoever sorts them needs more."""
    with triton.InferenceServerClient(bare.server.grpc_url) as client:
        inputs = []
        for name, texts in (("query", [QUERY]), ("text_input", TEXTS)):
            tensor = triton.InferInput(name, [len(texts), 1], "BYTES")
            tensor.set_data_from_numpy(np.array(texts, dtype=object).reshape(-1, 1))
            inputs.append(tensor)
        answer = client.infer("steep", inputs)
    np.testing.assert_allclose(answer.as_numpy("logit")[:, 0], logits, rtol=1e-5)
    np.testing.assert_allclose(answer.as_numpy("score"), 1.0, atol=1e-6)


def test_labels_are_in_the_order_of_the_logits(
    http: httpx.Client, bare_folders: dict[str, Path]
) -> None:
    rows = reference(bare_folders["steep-labels"], [("abc", None), ("abc", "def")]).astype(float)
    assert rows.min() > 37  # float64's sigmoid is 1, too
    to = {"model": "steep-labels"}
    for inputs, row in ((["abc", "def"], rows[1]), ("abc", rows[0])):
        labels = [f"LABEL_{i}" for i in np.argsort(-row, kind="stable")]
        found = post(http, "/predict", {"inputs": inputs, **to})
        assert [one["label"] for one in found] == labels
        scores = [one["score"] for one in found]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)
        np.testing.assert_allclose(scores, 1.0, atol=1e-9)
        for kind in ("sigmoid", "softmax", "none"):
            body = {"inputs": inputs, "parameters": {"function_to_apply": kind, "top_k": 3}, **to}
            (found,) = post(http, "/", body)
            assert [one["label"] for one in found] == labels[:3]
            if kind == "softmax":
                chances = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
                scores = [one["score"] for one in found]
                np.testing.assert_allclose(scores, np.sort(chances)[::-1][:3], rtol=1e-4)


@pytest.fixture(scope="module")
def bare_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_encoders(tmp_path_factory.mktemp("encoders"), ("steep", "steep-labels", "three"))


@pytest.fixture(scope="module")
def bare(bare_folders: dict[str, Path]) -> Iterator[Served]:
    with encoders_served(bare_folders) as served:
        yield served


@pytest.fixture(scope="module")
def http(bare: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=bare.url, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def logits(bare_folders: dict[str, Path]) -> Any:
    return logits_of(bare_folders)


def num_requests(bare: Served, model: str) -> int:
    with triton.InferenceServerClient(bare.server.grpc_url) as client:
        (found,) = client.get_inference_statistics(model).model_stats
        return int(found.inference_stats.success.count)


def test_pairs_are_one_request(http: httpx.Client, bare: Served, bare_folders: Any) -> None:
    """Each pair was a request of its own, one after the other."""
    pairs = [(f"q{i % 7}", TEXTS[i % 6]) for i in range(30)]
    expected = 1 / (1 + np.exp(-reference(bare_folders["steep"], list(pairs))[:, 0].astype(float)))
    before = num_requests(bare, "steep")
    rows = post(http, "/predict", {"inputs": [list(p) for p in pairs], "model": "steep"})
    assert num_requests(bare, "steep") - before == 1
    np.testing.assert_allclose([row[0]["score"] for row in rows], expected, rtol=1e-6)
    body = {"text_1": [p[0] for p in pairs], "text_2": [p[1] for p in pairs], "model": "steep"}
    scores = [one["score"] for one in post(http, "/v1/score", body)["data"]]
    assert num_requests(bare, "steep") - before == 2
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    post(http, "/rerank", {"query": QUERY, "texts": [text for _, text in pairs]})
    assert num_requests(bare, "steep") - before == 3


def test_streams_over_grpc_have_the_models_limit_and_order(bare: Served, logits: Any) -> None:
    schema = grpc_schema.tei()
    with grpc.insecure_channel(bare.grpc_address) as channel:
        call = channel.stream_unary(
            "/tei.v1.Rerank/RerankStream",
            request_serializer=schema["RerankStreamRequest"].SerializeToString,
            response_deserializer=schema["RerankResponse"].FromString,
        )

        def ranks(count: int) -> list[int]:
            texts = (TEXTS * 7)[:count]
            rows = [schema["RerankStreamRequest"](query=QUERY, text=text) for text in texts]
            return [rank.index for rank in call(iter(rows), timeout=60).ranks]

        assert ranks(6) == np.argsort(-logits, kind="stable").tolist()
        assert len(ranks(40)) == 40
        with pytest.raises(grpc.RpcError, match="batch size 41"):
            ranks(41)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_three_outputs_of_one_model(bare: Served, http: httpx.Client, transport: str) -> None:
    """bge-m3's; the weights of words are a sparse vector on every route that has one."""
    server = bare.server
    address = server.grpc_url if transport == "grpc" else server.http_url
    texts = [*TEXTS, "abc abc de", "Two Reefs"]
    with Client(address) as client:
        found = client.embed_hybrid(texts)
        assert found.sparse is not None and found.colbert_vecs is not None
        np.testing.assert_allclose(found.vectors, client.embed(texts, "three"), atol=1e-6)
        # [CLS] has no vector, [SEP] has one.
        counts = [len(text.replace(" ", "")) + 1 for text in texts]
        assert [vectors.shape for vectors in found.colbert_vecs] == [(n, 48) for n in counts]
        for vectors in found.colbert_vecs:
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert sum(len(row.indices) for row in found.sparse) > 3
        sparse = client.embed_sparse(texts)
        rows = post(http, "/embed_sparse", {"inputs": texts})
        for mine, other, row in zip(found.sparse, sparse, rows, strict=True):
            assert mine.indices.tolist() == other.indices.tolist() == [e["index"] for e in row]
            np.testing.assert_allclose(mine.values, other.values, atol=1e-6)
            np.testing.assert_allclose(mine.values, [e["value"] for e in row], atol=1e-6)
            assert not set(mine.indices.tolist()) & {0, 1, 2, 3}
        part = client.embed_hybrid(texts[:1], "three", colbert_vecs=False)
        assert part.colbert_vecs is None and part.sparse is not None
        assert client.embed_hybrid([]).vectors.shape == (0, 48)
        with pytest.raises(UnsupportedModel, match="is for rerank, not hybrid"):
            client.embed_hybrid(texts, "steep")
    (dense,) = post(http, "/embed", {"inputs": texts[0]})
    np.testing.assert_allclose(dense, found.vectors[0], atol=1e-5)
    (tokens,) = post(http, "/embed_all", {"inputs": texts[0]})
    assert np.shape(tokens) == (counts[0] + 1, 48)
    (one,) = post(http, "/v1/embeddings", {"input": texts[0]})["data"]
    np.testing.assert_allclose(one["embedding"], found.vectors[0], atol=1e-5)
