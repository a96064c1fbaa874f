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
from tiny.late import write_colbert, write_m3
from tiny.routed import write_sparse
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
    for name in ("splade", "reranker"):
        write_text_files(root / name)
    write_colbert(root / "late")
    write_m3(root / "three")
    write_sparse(root / "sparse-parts", root / "routed")
    write(classifiers(3)[0], root / "plain")
    write_text_files(root / "plain")
    entries = []
    for name in (*references, "late", "three", "routed", "plain"):
        detected = read_model(root / name, task="sparse" if name == "splade" else None)
        settings = {"max_client_batch_size": "40"} if name == "three" else None
        entries.append(entry_for(str(root / name), detected, name=name, settings=settings))
    pipelines = [
        tokens("bert-tokens", str(root / "bert")),
        ensemble("bert-ensemble", "bert-tokens", "bert", 48),
        retrieve_rerank("search", "bert", "reranker"),
        hybrid_search("hybrid", "bert", "splade", "reranker", query_prompt_name="query"),
        hybrid_search("words", sparse_embedder="splade", weights='{"sparse": 2}'),
        retrieve_rerank("late-search", "bert", "late"),
        hybrid_search("late-hybrid", "bert", "three", "late"),
        hybrid_search("routed-words", sparse_embedder="routed"),
        hybrid_search("absent", "nowhere"),
        hybrid_search("wrong", reranker="plain"),
    ]
    repository = root / "repository"
    write_repository([*entries, *pipelines], repository)
    # With another output than those of a task, only the model itself knows what it is for.
    with (repository / "plain" / "config.pbtxt").open("a") as config:
        config.write('output [ { name: "more" data_type: TYPE_FP32 dims: [ -1 ] } ]\n')
    tokenizer = Tokenizer.from_file(str(root / "bert" / "tokenizer.json"))
    with started(repository) as server:
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


def test_late_interaction_reranks(ask: Any) -> None:
    """Its model has no logits, for which every request failed."""
    documents = [f"document {i} {'xyz'[i % 3] * i}" for i in range(50)]
    query = "document 7"
    rows = np.array([query.encode()], dtype=object)
    scores = ask("late", {"query": [query], "text_input": documents})["score"].reshape(-1)
    found = ask("late-search", {"query": rows, "text_input": documents}, num_retrieved=50)
    assert found["index"].tolist() == np.argsort(-scores, kind="stable")[:50].tolist()
    np.testing.assert_allclose(found["score"], scores[found["index"]], atol=1e-5)
    # bge-m3's weights of words, 40 texts at a time.
    first = _sparse_ranking(ask, query, documents, "three")
    late = np.argsort(-scores, kind="stable").tolist()
    weights = json.dumps({"dense": 0, "sparse": 2})
    found = ask("late-hybrid", {"query": rows, "text_input": documents}, weights=weights,
                num_retrieved=50)  # fmt: skip
    expected = _fused(60, (2.0, first), (1.0, late))
    np.testing.assert_allclose(
        found["score"], [expected[i] for i in found["index"].tolist()], rtol=1e-6
    )


def test_queries_and_documents_have_their_own_parts(ask: Any) -> None:
    """A model that encodes them differently got both as texts of no kind."""
    documents = [f"{'abcdefg'[i % 7]} {i}" for i in range(30)]
    wanted = _fused(60, (1.0, _sparse_ranking(ask, "c 17", documents, "routed")))
    rows = np.array([b"c 17"], dtype=object)
    found = ask("routed-words", {"query": rows, "text_input": documents})
    np.testing.assert_allclose(
        found["score"], [wanted.get(i, 0.0) for i in found["index"].tolist()], rtol=1e-6
    )


def _fused(k: int, *rankings: tuple[float, list[int]]) -> dict[int, float]:
    """Reciprocal rank fusion by its formula: weight and documents, best first, of each ranking."""
    found: dict[int, float] = {}
    for weight, documents in rankings:
        for rank, document in enumerate(documents, start=1):
            found[document] = found.get(document, 0.0) + weight / (k + rank)
    return found


def _sparse_ranking(ask: Any, query: str, documents: list[str], model: str = "splade") -> list[int]:
    """Documents that share a word with the query."""
    size = 40 if model == "three" else 200
    parts = [documents[at : at + size] for at in range(0, len(documents), size)]
    rows = []
    for kind, texts in (("query", [query]), *(("document", part) for part in parts)):
        named = {"input_type": kind} if model == "routed" else {}
        named |= {"return_sparse": True} if model == "three" else {}
        out = ask(model, {"text_input": texts}, **named)
        for row in range(len(texts)):
            rows.append(np.zeros(96))
            if model == "three":
                is_word = out["sparse_indices"][row] >= 0
                rows[-1][out["sparse_indices"][row][is_word]] = out["sparse_values"][row][is_word]
            else:
                part = slice(*out["offsets"][row : row + 2])
                rows[-1][out["indices"][part]] = out["values"][part]
    sums = np.stack(rows[1:]) @ rows[0]
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


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("search", None, r"bert: text_input\[5\] has 92 tokens; the model accepts 70"),
        ("words", None, r"splade: text_input\[5\] has 92 tokens"),
        (
            "hybrid",
            '{"dense": 0, "sparse": 0}',
            r"reranker: text_input\[5\] has 95 tokens with its pair",
        ),
        ("late-hybrid", '{"dense": 0, "sparse": 0}', r"late: text_input\[5\] has 93 tokens"),
        ("late-hybrid", '{"rerank": 0, "dense": 0}', r"three: text_input\[5\] has 92 tokens"),
    ],
)
def test_what_a_linked_model_refuses_is_the_clients_mistake(
    ask: Any, model: str, weights: str | None, message: str
) -> None:
    """It came out as the server's, and with the index of a text in another list."""
    rows = np.array([b"ab"], dtype=object)
    documents = ["e", "d", "c", "b", "a", "x" * 90]
    options = {} if weights is None else {"weights": weights}
    with pytest.raises(InferenceServerException, match=message) as caught:
        ask(model, {"query": rows, "text_input": documents}, truncate=False, **options)
    assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "400"), caught.value
    assert len(ask(model, {"query": rows, "text_input": documents}, **options)["index"]) == 6
    with pytest.raises(
        InferenceServerException, match="direction is 'up'.*left or right"
    ) as caught:
        ask(model, {"query": rows, "text_input": documents}, truncation_direction="up")
    assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "400"), caught.value


@pytest.mark.parametrize(
    ("model", "message", "statuses"),
    [
        ("absent", "nowhere.*is not ready", ("StatusCode.UNAVAILABLE", "503")),
        ("wrong", "reranker is 'plain', which is for classify; expected rerank or multi_vector",
         ("StatusCode.UNIMPLEMENTED", "501")),
    ],
)  # fmt: skip
def test_linked_models_that_cannot_be_used(
    ask: Any, model: str, message: str, statuses: tuple[str, str]
) -> None:
    rows = np.array([b"a"], dtype=object)
    with pytest.raises(InferenceServerException, match=message) as caught:
        ask(model, {"query": rows, "text_input": ["b"]})
    assert caught.value.status() in statuses, caught.value


def test_hybrid_search_names_the_model_that_failed(ask: Any) -> None:
    rows = np.array([b"a"], dtype=object)
    with pytest.raises(InferenceServerException, match=r"text_input\[1\] is empty"):
        ask("hybrid", {"query": rows, "text_input": ["b", ""]})
    # Blanks without end cannot be cut, which only a model's tokenizer notices.
    with pytest.raises(InferenceServerException, match="(bert|splade): "):
        ask("hybrid", {"query": rows, "text_input": ["b", " " * 200_000]})
