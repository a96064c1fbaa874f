"""Encoders of an unusual kind behind the gateway, beside transformers: scores beyond float32's
sigmoid, tokenizers without special tokens, a truncation_side, token ids as inputs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton
from gateways import Served
from huggingface_hub import InferenceClient
from refused_fields import UNASKED
from scored import reference
from tokenizers import Tokenizer
from unusual_encoders import (
    KINDS,
    LONG,
    encoders_served,
    logits_of,
    post,
    refused,
    vectors_of,
    write_encoders,
)

from atoll_client import Client


@pytest.fixture(scope="module")
def bare_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_encoders(tmp_path_factory.mktemp("encoders"), KINDS)


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


@pytest.fixture(scope="module")
def vector(bare_folders: dict[str, Path]) -> Any:
    return vectors_of(bare_folders["bare"])


@pytest.fixture(scope="module")
def ids_of(bare_folders: dict[str, Path]) -> Any:
    core = Tokenizer.from_file(str(bare_folders["bare"] / "tokenizer.json"))
    return lambda text: core.encode(text).ids


def test_texts_without_tokens_are_refused(
    http: httpx.Client, vector: Any, ids_of: Any, bare: Served
) -> None:
    """Their vector was that of the text behind them, of another request even."""
    refused(http, "/embed", {"inputs": [" ", "coral reef"]}, 422, "`inputs[0]`", "no token")
    refused(http, "/embed", {"inputs": ["coral", "\n\t"]}, 422, "`inputs[1]`", "no token")
    refused(http, "/embed_all", {"inputs": " "}, 422, "no token")
    refused(http, "/v1/embeddings", {"input": ["a", " "]}, 400, "`input[1]`", "no token")
    refused(http, "/embed_sparse", {"inputs": " "}, 422, "no token")
    refused(http, "/predict", {"inputs": " ", "model": "steep-labels"}, 422, "no token")
    refused(http, "/rerank", {"query": " ", "texts": ["a", "  "]}, 422, "no token")
    refused(http, "/v2/rerank", {"query": " ", "documents": ["a", "  "]}, 400, "`documents[1]`")
    (found,) = post(http, "/embed", {"inputs": "coral reef"})
    np.testing.assert_allclose(found, vector(ids_of("coral reef")), atol=1e-5)
    with triton.InferenceServerClient(bare.server.grpc_url) as client:
        for ids in (np.zeros((1, 0)), np.array([[-1]]), np.array([[5, -1, 7]])):
            tensor = triton.InferInput("input_ids", list(ids.shape), "INT32")
            tensor.set_data_from_numpy(ids.astype(np.int32))
            with pytest.raises(Exception, match=r"is empty|has id -1 at index 1"):
                client.infer("bare", [tensor])


def test_the_end_of_a_long_text_is_kept(
    http: httpx.Client, vector: Any, ids_of: Any, bare_folders: dict[str, Path]
) -> None:
    """tokenizer_config.json says ``"truncation_side": "left"``: it was not read."""
    ids = ids_of(LONG)
    (found,) = post(http, "/embed", {"inputs": LONG})
    np.testing.assert_allclose(found, vector(ids[-70:]), atol=1e-5)
    (found,) = post(http, "/embed", {"inputs": LONG, "truncation_direction": "Right"})
    np.testing.assert_allclose(found, vector(ids[:70]), atol=1e-5)
    (found,) = post(http, "/embed", {"inputs": ids})
    np.testing.assert_allclose(found, vector(ids[-70:]), atol=1e-5)
    core = Tokenizer.from_file(str(bare_folders["steep"] / "tokenizer.json"))
    core.enable_truncation(70, direction="left")
    kept = core.encode("abc", LONG)
    text = core.decode(kept.ids).replace(" ", "")
    assert text == "abc" + LONG[-67:]
    logits = reference(bare_folders["steep"], [("abc", LONG[-67:])])[0, 0]
    (found,) = post(http, "/rerank", {"query": "abc", "texts": [LONG], "raw_scores": True})
    assert found["score"] == pytest.approx(float(logits), rel=1e-5)
    (labels,) = post(
        http, "/predict", {"inputs": [[LONG]], "raw_scores": True, "model": "steep-labels"}
    )
    row = reference(bare_folders["steep-labels"], [(LONG[-70:], None)])[0]
    assert labels[0]["score"] == pytest.approx(float(row.max()), rel=1e-5)


def test_token_ids_are_taken_as_they_are(
    http: httpx.Client, bare: Served, vector: Any, bare_folders: dict[str, Path]
) -> None:
    """They were made text and tokenized again, without [MASK] and with whatever frames a text."""
    rows = [[2, 40, 4, 50, 3], [4, 4], [95]]
    expected = np.stack([vector(row) for row in rows])
    client = openai.OpenAI(base_url=f"{bare.url}/v1", api_key="none", max_retries=0)
    for encoding in ("float", "base64"):
        found = client.embeddings.create(model="bare", input=rows, encoding_format=encoding)
        vectors = [
            np.frombuffer(base64.b64decode(one.embedding), "<f4")
            if isinstance(one.embedding, str) else one.embedding
            for one in found.data
        ]  # fmt: skip
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert found.usage.prompt_tokens == 8
    one = client.embeddings.create(model="bare", input=rows[0])
    np.testing.assert_allclose(one.data[0].embedding, expected[0], atol=1e-5)
    assert one.usage.total_tokens == 5
    np.testing.assert_allclose(post(http, "/embed", {"inputs": rows}), expected, atol=1e-5)
    assert np.shape(post(http, "/embed_all", {"inputs": [rows[0]]})) == (1, 5, 48)
    for address in (bare.server.grpc_url, bare.server.http_url):
        with Client(address) as own:
            np.testing.assert_allclose(own.embed(rows, model="bare"), expected, atol=1e-5)
            np.testing.assert_allclose(own.embed(rows[1], model="bare"), expected[1], atol=1e-5)
    (sparse,) = post(http, "/embed_sparse", {"inputs": [[40, 50]]})
    assert sparse and all(one["value"] > 0 for one in sparse)
    for inputs, place in (([5, 96], "[1]"), ([[5], [6, 7, -1]], "[1][2]"), ([2**40], "[0]")):
        words = (f"`input{place}`", "0 to 95")
        error = refused(http, "/v1/embeddings", {"input": inputs}, 400, *words)["error"]
        assert (error["param"], error["type"]) == ("input", "invalid_request_error")
        refused(http, "/embed", {"inputs": inputs}, 422, f"`inputs{place}`", "0 to 95")
    refused(
        http, "/embed", {"inputs": [5, 6], "prompt_name": "query"}, 422, "prompt_name", "token ids"
    )


def test_embeddings_take_teis_options(bare: Served, vector: Any, ids_of: Any) -> None:
    """prompt_name, normalize and truncate were dropped, with status 200."""
    client = openai.OpenAI(base_url=f"{bare.url}/v1", api_key="none", max_retries=0)

    def embed(text: str, **extra: Any) -> Any:
        found = client.embeddings.create(model="bare", input=text, extra_body=extra)
        return np.array(found.data[0].embedding)

    np.testing.assert_allclose(embed("abc"), vector(ids_of("abc")), atol=1e-5)
    prompted = embed("abc", prompt_name="query")
    np.testing.assert_allclose(prompted, vector(ids_of("Q: abc")), atol=1e-5)
    raw = embed("abc", normalize=False)
    np.testing.assert_allclose(raw, vector(ids_of("abc"), False), atol=1e-4)
    for name, value in (
        ("truncation_direction", "Right"), ("truncate", "END"), ("truncation_side", "right"),
    ):  # fmt: skip
        extra: dict[str, Any] = {name: value}
        np.testing.assert_allclose(embed(LONG, **extra), vector(ids_of(LONG)[:70]), atol=1e-5)
    short = embed("abc", dimensions=8)
    np.testing.assert_allclose(np.linalg.norm(short), 1.0, atol=1e-5)
    for extra, param, code in (
        ({"prompt_name": "nix"}, "prompt_name", "invalid_value"),
        ({"truncate": False}, "input", "context_length_exceeded"),
        ({"truncate": "NONE"}, "input", "context_length_exceeded"),
        ({"truncate": "START", "truncation_side": "right"}, "truncate", "invalid_value"),
        ({"dimensions": 49}, "dimensions", "invalid_value"),
        ({"input_type": "query"}, "input_type", "unsupported_parameter"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "unsupported_parameter"),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            embed(LONG, **extra)
        assert (caught.value.param, caught.value.code) == (param, code), extra
        assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="nix", input="abc")
    assert missing.value.code == "model_not_found"


def test_a_models_own_limit_holds_on_the_routes(http: httpx.Client) -> None:
    """``atoll serve --max-client-batch-size 128``, and 33 texts: the routes' limit stayed 32."""
    assert len(post(http, "/embed", {"inputs": ["a"] * 40})) == 40
    words = ("batch size 41 > maximum allowed batch size 40",)
    error = refused(http, "/embed", {"inputs": ["a"] * 41}, 422, *words)
    assert error["error_type"] == "Validation"
    assert http.get("/bare/info").json()["max_client_batch_size"] == 40
    assert len(post(http, "/rerank", {"query": "q", "texts": ["a"] * 40})) == 40
    assert len(post(http, "/vertex", {"instances": [{"inputs": "a"}] * 40})["predictions"]) == 40
    refused(http, "/vertex", {"instances": [{"inputs": "a"}] * 41}, 422, "batch size 40")
    body = {"inputs": [["a"]] * 33, "model": "steep-labels"}
    refused(http, "/predict", body, 422, "batch size 32")
    assert http.get("/steep-labels/info").json()["max_client_batch_size"] == 32
    # OpenAI's route has no such limit: what is more than a model takes goes in parts.
    assert len(post(http, "/v1/embeddings", {"input": ["a"] * 90})["data"]) == 90


def test_prompts_of_a_request(http: httpx.Client, vector: Any, ids_of: Any) -> None:
    body = {"inputs": "abc", "prompt_name": "query"}
    (found,) = post(http, "/embed", body)
    np.testing.assert_allclose(found, vector(ids_of("Q: abc")), atol=1e-5)
    pair = {"source_sentence": "abc", "sentences": ["xyz"]}
    plain = vector(ids_of("abc")) @ vector(ids_of("xyz"))
    prompted = vector(ids_of("Q: abc")) @ vector(ids_of("Q: xyz"))
    assert post(http, "/similarity", {"inputs": pair}) == pytest.approx([plain], abs=1e-5)
    asked = {"inputs": pair, "parameters": {"prompt_name": "query"}}
    assert post(http, "/similarity", asked) == pytest.approx([prompted], abs=1e-5)
    words = ("`prompt_name`", "'nix'")
    refused(http, "/embed", {"inputs": "abc", "prompt_name": "nix"}, 422, *words)
    refused(http, "/predict", {"inputs": "a", "prompt_name": "nix", "model": "steep-labels"}, 422,
             *words)  # fmt: skip
    refused(http, "/rerank", {"query": "q", "texts": ["a"], "prompt_name": "query"}, 422,
             "prompt_name")  # fmt: skip


def test_huggingface_hub_reads_the_answers(
    bare: Served, logits: Any, vector: Any, ids_of: Any
) -> None:
    client = InferenceClient(bare.model_url("bare"))
    vectors = client.feature_extraction("abc", prompt_name="query", truncation_direction="right")
    np.testing.assert_allclose(vectors[0], vector(ids_of("Q: abc")), atol=1e-5)
    labels = InferenceClient(bare.model_url("steep-labels")).text_classification("abc", top_k=2)
    assert len(labels) == 2


def test_cohere_embeds(http: httpx.Client, vector: Any, ids_of: Any) -> None:
    """By input_type, the prompt that the model has for it, or a warning."""
    body = {"texts": ["abc"], "model": "bare", "input_type": "search_query"}
    found = post(http, "/v2/embed", {**body, "embedding_types": ["float", "ubinary"]})
    wanted = vector(ids_of("Q: abc"))
    np.testing.assert_allclose(found["embeddings"]["float"], [wanted], atol=1e-5)
    bits = np.unpackbits(np.array(found["embeddings"]["ubinary"][0], np.uint8))
    assert (bits == (wanted > 0))[np.abs(wanted) > 1e-5].all()
    assert found["meta"]["prompt_name"] == "query" and "warnings" not in found["meta"]
    assert found["meta"]["billed_units"] == {"input_tokens": len(ids_of("Q: abc"))}
    assert (found["texts"], found["response_type"]) == (["abc"], "embeddings_by_type")
    found = post(http, "/v2/embed", {**body, "input_type": "search_document"})
    np.testing.assert_allclose(found["embeddings"]["float"], [vector(ids_of("abc"))], atol=1e-5)
    assert "no prompt; it has: query" in found["meta"]["warnings"][0]
    short = post(http, "/v2/embed", {**body, "output_dimension": 16})["embeddings"]["float"]
    np.testing.assert_allclose(short[0], wanted[:16] / np.linalg.norm(wanted[:16]), atol=1e-5)
    cut = post(http, "/v2/embed", {"texts": [LONG], "truncate": "START"})["embeddings"]["float"]
    np.testing.assert_allclose(cut, [vector(ids_of(LONG)[-70:])], atol=1e-5)
    cut = post(http, "/v2/embed", {"texts": [LONG]})["embeddings"]["float"]
    np.testing.assert_allclose(cut, [vector(ids_of(LONG)[:70])], atol=1e-5)


@pytest.mark.parametrize(("path", "body", "field"), UNASKED)
def test_what_cannot_be_done_is_refused_by_name(
    http: httpx.Client, path: str, body: Any, field: str
) -> None:
    status = 400 if path.startswith(("/v1", "/v2")) else 422
    refused(http, path, body, status, f"`{field}`")


def test_unknown_fields_are_named_or_refused(http: httpx.Client) -> None:
    for path, body in (
        ("/embed", {"inputs": "a"}), ("/rerank", {"query": "q", "texts": ["a"]}),
        ("/predict", {"inputs": ["a", "b"]}), ("/tokenize", {"inputs": "a"}),
        ("/", {"inputs": "a", "model": "bare"}),
    ):  # fmt: skip
        response = http.post(path, json={**body, "nonsense": 1})
        assert response.status_code == 200, response.text
        assert response.headers["x-unknown-fields"] == "nonsense"
    for path, body in (
        ("/v1/embeddings", {"input": "a"}), ("/v1/rerank", {"query": "q", "documents": ["a"]}),
        ("/v1/score", {"text_1": "a", "text_2": "b"}),
    ):  # fmt: skip
        refused(http, path, {**body, "nonsense": 1}, 400, "`nonsense`", "unknown_parameter")


def test_long_texts_hold_nobody_up(http: httpx.Client, vector: Any, ids_of: Any) -> None:
    """2 MB to /embed were tokenized whole; here that is answered with the tokens of the end."""
    text = "coral reef " * 150_000
    (found,) = post(http, "/embed", {"inputs": text})
    np.testing.assert_allclose(found, vector(ids_of(text[-400:])[-70:]), atol=1e-5)
    body = json.dumps({"inputs": "你" * 17_000, "model": "bare"})
    (tokens,) = http.post("/tokenize", content=body).json()
    assert len(tokens) == 17_000 and tokens[-1]["stop"] == 51_000
    refused(http, "/tokenize", {"inputs": "你" * 17_501, "model": "bare"}, 422, "17500", "17501")
