"""Entries that use encoders: ensembles, retrieve and rerank, hybrid search, in a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from encoder_fleet import Fleet, asker, started
from tiny.checkpoint import write
from tiny.encoders import MASKED, TRUNKS, classifiers, write_text_files
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from atoll.catalogue import entry_for, read_model, write_repository
from atoll.catalogue.pipelines import ensemble, hybrid_search, retrieve_rerank, tokens

BY_NAME = {variant.name: variant for variant in TRUNKS}
TEXTS = ["Hello", "A ring of coral", "x" * 40, "1"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("pipelines")
    references: dict[str, Any] = {
        "bert": write(BY_NAME["bert"], root / "bert").model,
        "splade": write(MASKED, root / "splade").model,
        "reranker": write(classifiers(1)[2], root / "reranker").model,
    }
    write_text_files(root / "bert", "mean", {"query": "Q:"})
    entries = []
    for name in references:
        if name != "bert":
            write_text_files(root / name)
        detected = read_model(root / name, task="sparse" if name == "splade" else None)
        entries.append(entry_for(str(root / name), detected, name=name))
    pipelines = [
        tokens("bert-tokens", str(root / "bert")),
        ensemble("bert-ensemble", "bert-tokens", "bert", 48),
        retrieve_rerank("search", "bert", "reranker"),
        hybrid_search("hybrid", "bert", "splade", "reranker", query_prompt_name="query"),
        hybrid_search("words", sparse_embedder="splade", weights='{"sparse": 2}'),
    ]
    write_repository([*entries, *pipelines], root / "repository")
    tokenizer = Tokenizer.from_file(str(root / "bert" / "tokenizer.json"))
    with started(root / "repository") as server:
        yield Fleet(server, references, tokenizer)


@pytest.fixture(scope="module", params=["grpc", "http"])
def ask(request: pytest.FixtureRequest, fleet: Fleet) -> Any:
    return asker(fleet.server, request.param)


def test_ensemble_and_its_steps(fleet: Fleet, ask: Any) -> None:
    whole = ask("bert-ensemble", {"text_input": TEXTS})
    np.testing.assert_allclose(
        whole["embedding"], ask("bert", {"text_input": TEXTS})["embedding"], atol=1e-6
    )
    step = ask("bert-tokens", {"text_input": TEXTS})
    for row, text in zip(step["input_ids"], TEXTS, strict=True):
        assert [i for i in row.tolist() if i != -1] == fleet.ids(text)
    with pytest.raises(InferenceServerException, match=r"text_input\[0\] is empty"):
        ask("bert-ensemble", {"text_input": [""]})


def test_a_step_without_texts(ask: Any) -> None:
    """The tokenizer's entry failed with "max() arg is an empty sequence"."""
    for shape in ((0, 1), (1, 0)):
        with pytest.raises(InferenceServerException) as caught:
            ask("bert-tokens", {"text_input": np.empty(shape, dtype=object)})
        assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "400"), caught.value
    with pytest.raises(InferenceServerException) as caught:
        ask("bert-tokens", {})
    assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "400"), caught.value


def test_retrieve_then_rerank(fleet: Fleet, ask: Any) -> None:
    documents = [f"document {i} {'xyz'[i % 3] * i}" for i in range(20)]
    query = "document 7"
    vectors = ask("bert", {"text_input": [query, *documents]})["embedding"]
    kept = np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")[:5]
    scores = ask("reranker", {"query": [query], "text_input": [documents[i] for i in kept]})
    order = np.argsort(-scores["score"].reshape(-1), kind="stable")[:3]
    rows = np.array([query.encode()], dtype=object)
    found = ask("search", {"query": rows, "text_input": documents}, num_retrieved=5, top_k=3)
    assert found["index"].tolist() == kept[order].tolist()
    np.testing.assert_allclose(found["score"], scores["score"].reshape(-1)[order], atol=1e-6)
    with pytest.raises(InferenceServerException, match=r"text_input\[20\] is empty"):
        ask("search", {"query": rows, "text_input": [*documents, ""]})


def _fused(k: int, *rankings: tuple[float, list[int]]) -> dict[int, float]:
    """Reciprocal rank fusion by its formula: weight and documents, best first, of each ranking."""
    found: dict[int, float] = {}
    for weight, documents in rankings:
        for rank, document in enumerate(documents, start=1):
            found[document] = found.get(document, 0.0) + weight / (k + rank)
    return found


def _sparse_ranking(ask: Any, query: str, documents: list[str]) -> list[int]:
    """Documents that share a word with the query."""
    texts, rows = [query, *documents], np.zeros((len(documents) + 1, 96))
    for at in range(0, len(texts), 200):
        out = ask("splade", {"text_input": texts[at : at + 200]})
        bounds = zip(out["offsets"][:-1], out["offsets"][1:], strict=True)
        for row, (start, stop) in zip(rows[at:], bounds, strict=False):
            row[out["indices"][start:stop]] = out["values"][start:stop]
    sums = rows[1:] @ rows[0]
    return [i for i in np.argsort(-sums, kind="stable").tolist() if sums[i] > 0]


@pytest.mark.parametrize(
    ("k", "weights", "num_retrieved", "top_k"),
    [(60, {}, 20, None), (1, {"sparse": 0.25, "rerank": 3}, 5, 4), (60, {"rerank": 0}, 5, None),
     (60, {"dense": 0, "sparse": 0}, 20, None)],
)  # fmt: skip
def test_hybrid_search(
    fleet: Fleet, ask: Any, k: int, weights: dict[str, float], num_retrieved: int,
    top_k: int | None,
) -> None:  # fmt: skip
    documents = [f"document {i} {'xyz'[i % 3] * i}" for i in range(20)]
    query = "document 7"
    asked = ask("bert", {"text_input": [query]}, prompt_name="query")["embedding"][0]
    cosines = ask("bert", {"text_input": documents})["embedding"] @ asked
    given = {"dense": 1.0, "sparse": 1.0, "rerank": 1.0, **weights}
    rankings = [
        (given["dense"], np.argsort(-cosines, kind="stable").tolist()),
        (given["sparse"], _sparse_ranking(ask, query, documents)),
    ]
    first = _fused(k, *rankings)
    kept = sorted(range(20), key=lambda i: -first[i])
    if given["rerank"]:
        kept = kept[:num_retrieved]
        pairs = {"query": [query], "text_input": [documents[i] for i in kept]}
        logits = ask("reranker", pairs)["logit"].reshape(-1)
        by_reranker = [kept[i] for i in np.argsort(-logits, kind="stable")]
        rankings.append((given["rerank"], by_reranker))
        kept = by_reranker
    expected = _fused(k, *rankings)
    kept = sorted(kept, key=lambda i: -expected[i])[:top_k]
    rows = np.array([query.encode()], dtype=object)
    options = {} if top_k is None else {"top_k": top_k}
    found = ask(
        "hybrid", {"query": rows, "text_input": documents}, k=k, weights=json.dumps(weights),
        num_retrieved=num_retrieved, **options,
    )  # fmt: skip
    assert found["index"].tolist() == kept
    np.testing.assert_allclose(found["score"], [expected[i] for i in kept], rtol=1e-6)


def test_hybrid_search_by_words_alone(fleet: Fleet, ask: Any) -> None:
    """More documents than a model takes at once."""
    documents = [f"{'abcdefg'[i % 7]} {i}" for i in range(300)]
    rows = np.array([b"c 17"], dtype=object)
    found = ask("words", {"query": rows, "text_input": documents})
    wanted = _fused(60, (2.0, _sparse_ranking(ask, "c 17", documents)))
    assert sorted(found["index"].tolist()) == list(range(300))
    np.testing.assert_allclose(
        found["score"], [wanted.get(i, 0.0) for i in found["index"].tolist()], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("hybrid", {"k": 0}, "k is 0; the least allowed is 1"),
        ("hybrid", {"weights": "2"}, "weights is '2'; expected a JSON object"),
        ("hybrid", {"weights": '{"bm25": 1}'}, "weights has 'bm25'; this entry ranks by dense, sp"),
        ("hybrid", {"weights": '{"dense": -1}'}, "weights.dense is -1.0; the least allowed is 0"),
        ("words", {"weights": '{"sparse": 0}'}, "one must be more than 0"),
        ("words", {"num_retrieved": 5}, "num_retrieved is 5, which limits .* ranks by sparse"),
        ("hybrid", {"more": 5}, "unknown parameter 'more'"),
    ],
)
def test_hybrid_search_refuses_by_name(
    ask: Any, model: str, parameters: dict[str, Any], message: str
) -> None:
    rows = np.array([b"a"], dtype=object)
    with pytest.raises(InferenceServerException, match=message):
        ask(model, {"query": rows, "text_input": ["b"]}, **parameters)


def test_hybrid_search_names_the_model_that_failed(ask: Any) -> None:
    rows = np.array([b"a"], dtype=object)
    with pytest.raises(InferenceServerException, match=r"text_input\[1\] is empty"):
        ask("hybrid", {"query": rows, "text_input": ["b", ""]})
    # Blanks without end cannot be cut, which only a model's tokenizer notices.
    with pytest.raises(InferenceServerException, match="(bert|splade): "):
        ask("hybrid", {"query": rows, "text_input": ["b", " " * 200_000]})
