"""Where routes used to answer in another shape than TEI and TGI do: one test for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gateways import EMBEDDER, GENERATOR, Served
from scored import reference

from atoll_client import Client
from atoll_client.errors import ValidationError

QUERY, TEXTS = "abc def", ["ghi", "abc abc def", "zzz", "abc"]


@pytest.fixture(scope="module")
def score(scoring: Served) -> Iterator[httpx.Client]:
    """Plain HTTP to the gateway of the tiny checkpoints."""
    with httpx.Client(base_url=scoring.url, timeout=60.0) as client:
        yield client


def post(http: httpx.Client, path: str, body: Any) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("path", "body", "status", "wanted"),
    [
        ("/", {"inputs": ""}, 400, {"error": "`inputs` cannot be empty", "error_type": "Empty"}),
        (f"/{EMBEDDER}/invocations", {"inputs": [""]}, 400,
         {"error": "`inputs` cannot be empty", "error_type": "Empty"}),
        ("/", {"inputs": "", "parameters": {"max_new_tokens": 1}}, 422,
         {"error": "Input validation error: `inputs` cannot be empty",
          "error_type": "validation"}),
        (f"/{GENERATOR}/tokenize", {"inputs": "a", "parameters": {"top_k": "x"}}, 422,
         {"error": "Input validation error: `parameters.top_k` is \"x\"; expected an integer",
          "error_type": "validation"}),
        ("/", {"messages": []}, 400,
         {"error": {"message": "`messages` cannot be empty", "type": "invalid_request_error",
                    "param": "messages", "code": "invalid_value"}}),
        ("/rerank", {"query": "q", "documents": [1]}, 400,
         {"error": {"message": "`documents[0]` is 1; expected a text or an object",
                    "type": "invalid_request_error", "param": "documents[0]",
                    "code": "invalid_type"}}),
        ("/vertex", {"instances": []}, 400,
         {"error": "`instances` cannot be empty", "error_type": "Empty"}),
    ],
)  # fmt: skip
def test_errors_of_shared_routes_are_those_of_the_interface_that_was_meant(
    http: httpx.Client, path: str, body: Any, status: int, wanted: Any
) -> None:
    """They had the shape of the route's first interface, whatever the body was."""
    response = http.post(path, json=body)
    assert (response.status_code, response.json()) == (status, wanted)


def test_one_text_of_a_pair_may_be_empty(score: httpx.Client, folders: dict[str, Path]) -> None:
    """An empty passage among many was refused, and the whole list with it."""
    texts = [*TEXTS, ""]
    logits = reference(folders["rerank"], [(QUERY, text) for text in texts])[:, 0]
    wanted = sorted(1 / (1 + np.exp(-logits)), reverse=True)
    ranks = post(score, "/rerank", {"query": QUERY, "texts": texts})
    np.testing.assert_allclose([rank["score"] for rank in ranks], wanted, atol=1e-4)
    cohere = post(score, "/v1/rerank", {"query": QUERY, "documents": texts})["results"]
    assert [rank["index"] for rank in cohere] == [rank["index"] for rank in ranks]
    (row,) = reference(folders["classify"], [("abc", "")])
    labels = post(score, "/predict", {"inputs": ["abc", ""], "raw_scores": True,
                                      "model": "tiny-classify"})  # fmt: skip
    np.testing.assert_allclose(labels[0]["score"], row.max(), atol=1e-4)
    both = score.post("/predict", json={"inputs": ["", ""], "model": "tiny-classify"})
    assert (both.status_code, both.json()["error_type"]) == (400, "Empty")


def test_hugging_face_s_parameters_of_classification(
    score: httpx.Client, folders: dict[str, Path]
) -> None:
    (row,) = reference(folders["classify"], [("abc", None)])
    raw = {
        "none": row,
        "sigmoid": 1 / (1 + np.exp(-row)),
        "softmax": np.exp(row) / sum(np.exp(row)),
    }
    for name, scores in raw.items():
        body = {"inputs": "abc", "parameters": {"function_to_apply": name, "top_k": 2}}
        (labels,) = post(score, "/tiny-classify", body)
        wanted = sorted(scores.tolist(), reverse=True)[:2]
        np.testing.assert_allclose([one["score"] for one in labels], wanted, atol=1e-4)


def test_vertex(http: httpx.Client, score: httpx.Client) -> None:
    """TEI answers what its routes answer, TGI the text alone."""
    options = {"max_new_tokens": 3}
    texts = [{"inputs": text, "parameters": options} for text in ("The capital of France is", "a")]
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "temperature": 0}
    found = post(http, "/vertex", {"instances": [*texts, {**chat, "stream": True}]})["predictions"]
    wanted: list[Any] = [post(http, "/generate", text)["generated_text"] for text in texts]
    wanted.append(post(http, "/v1/chat/completions", chat)["choices"][0]["message"]["content"])
    assert found == wanted
    vectors = post(http, f"/{EMBEDDER}/vertex", {"instances": [{"inputs": "a"}, {"inputs": ["b"]}]})
    assert np.shape(vectors["predictions"]) == (2, 1, 384)
    rerank = {"query": QUERY, "texts": TEXTS, "model": "tiny-rerank"}
    labels = {"inputs": "abc", "model": "tiny-classify"}
    both = post(score, "/vertex", {"instances": [rerank, labels]})["predictions"]
    assert both == [post(score, "/rerank", rerank), post(score, "/predict", labels)]
    bad = {"instances": [texts[0], {"inputs": "a", "parameters": {"top_k": 0}}]}
    refused = http.post("/vertex", json=bad)
    assert refused.status_code == 422 and "`top_k` must be strictly" in refused.json()["error"]


def test_every_64_bit_seed(http: httpx.Client) -> None:
    """Seeds went through a float: the largest was refused, and neighbours were the same."""

    def sampled(seed: int) -> tuple[str, int]:
        parameters = {"max_new_tokens": 12, "do_sample": True, "details": True, "seed": seed}
        found = post(http, "/generate", {"inputs": "Once", "parameters": parameters})
        return found["generated_text"], found["details"]["seed"]

    texts = [sampled(2**64 - 1 - i) for i in range(3)]
    assert [seed for _, seed in texts] == [2**64 - 1 - i for i in range(3)]
    assert len({text for text, _ in texts}) == 3
    assert sampled(2**64 - 1) == texts[0]


def test_numbers_beyond_every_float_are_refused(served: Served) -> None:
    """They ended as an internal error."""
    with (
        Client(served.server.grpc_url) as client,
        pytest.raises(ValidationError, match="temperature is 1000.*expected a number"),
    ):
        client.generate("a", temperature=10**400)


def test_info_says_splade_and_how_many_tokenize(score: httpx.Client) -> None:
    info = score.get("/tiny-sparse/info").json()
    assert info["model_type"] == {"embedding": {"pooling": "splade"}}
    assert info["tokenization_workers"] >= 1


def test_streams_say_what_computed_them(http: httpx.Client) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    with http.stream("POST", "/generate_stream", json=body) as response:
        assert response.headers["x-compute-type"] == "triton"


def test_failures_are_counted_in_their_words(http: httpx.Client) -> None:
    def page() -> dict[str, float]:
        lines = http.get("/metrics").text.splitlines()
        return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if x[:1] not in "#")}

    before = page()
    http.post("/embed", json={"inputs": ""})
    http.post("/embed", json={"inputs": ["a"] * 33})
    http.post("/predict", json={"inputs": "a"})
    http.post("/v1/embeddings", json={"input": "a"})
    http.post("/", json={"inputs": "a"})
    http.post("/generate", json={"inputs": ""})
    after = page()
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    failed = {name: count for name, count in grown.items() if "_request_failure" in name and count}
    assert failed == {
        'te_request_failure{err="validation"}': 1, 'te_request_failure{err="batch_size"}': 1,
        'te_request_failure{err="model_type"}': 1, 'tgi_request_failure{err="validation"}': 1,
    }  # fmt: skip
    # OpenAI's route for embeddings is one of TEI's, and POST / of an embedder as well.
    assert grown['te_request_success{method="single"}'] == 2
    own = f'{{model="{EMBEDDER}"}}'
    assert after[f"te_request_inference_duration_count{own}"] > 0
    assert after[f"te_batch_next_tokens_count{own}"] > 0
