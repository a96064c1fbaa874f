"""``tei.v1`` through a plain gRPC client: every method, streams, metadata and error codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from gateways import GENERATOR, Served, start_gateway

from atoll_client import Client
from atoll_client.errors import NotReady, Unauthorized
from atoll_client.gateway.tei import grpc_schema

TEI = grpc_schema.tei()
Call = Callable[..., Any]


def _calls(address: str) -> Iterator[Call]:
    """``call("Embed/Embed", message or messages, metadata=...)``."""
    with grpc.insecure_channel(address) as channel:

        def call(path: str, given: Any, metadata: Any = None) -> Any:
            service, method = path.split("/")
            request, response = TEI.services[service][method]
            kinds = ["stream" if " " in text else "unary" for text in (request, response)]
            found = getattr(channel, "_".join(kinds))(
                f"/tei.v1.{path}",
                request_serializer=TEI[request.split()[-1]].SerializeToString,
                response_deserializer=TEI[response.split()[-1]].FromString,
            )(iter(given) if kinds[0] == "stream" else given, timeout=60, metadata=metadata)
            return list(found) if kinds[1] == "stream" else found

        yield call


@pytest.fixture(scope="module")
def call(served: Served) -> Iterator[Call]:
    """The gateway of the embedded models."""
    yield from _calls(served.grpc_address)


@pytest.fixture(scope="module")
def score(scoring: Served) -> Iterator[Call]:
    """The gateway of the tiny ones."""
    yield from _calls(scoring.grpc_address)


def test_fields_have_teis_numbers() -> None:
    """Written by hand from the wire format: (number << 3 | type), length, value."""
    message = TEI["EmbedRequest"](
        inputs="a", truncate=True, normalize=True, truncation_direction=1, prompt_name="p",
        dimensions=3,
    )  # fmt: skip
    assert message.SerializeToString() == b"\x0a\x01a\x10\x01\x18\x01\x20\x01\x2a\x01p\x30\x03"
    rank = TEI["RerankResponse"](ranks=[{"index": 1, "text": "", "score": 0.5}])
    assert rank.SerializeToString() == b"\x0a\x09\x08\x01\x12\x00\x1d\x00\x00\x00\x3f"
    # Unset and empty are two things for an optional field.
    assert not TEI["Rank"](index=1).HasField("text")


def test_embed(call: Call, http: httpx.Client) -> None:
    text = "What is deep learning?"
    reference = np.array(http.post("/embed", json={"inputs": text}).json()[0])
    found = call("Embed/Embed", TEI["EmbedRequest"](inputs=text, normalize=True))
    np.testing.assert_allclose(found.embeddings, reference, atol=1e-5)
    assert (found.metadata.compute_chars, found.metadata.compute_tokens) == (22, 7)
    assert found.metadata.total_time_ns >= found.metadata.inference_time_ns > 0
    raw = np.array(call("Embed/Embed", TEI["EmbedRequest"](inputs=text)).embeddings)
    assert abs(np.linalg.norm(raw) - 1) > 0.1
    np.testing.assert_allclose(raw / np.linalg.norm(raw), reference, atol=1e-5)
    short = call("Embed/Embed", TEI["EmbedRequest"](inputs=text, dimensions=8))
    assert len(short.embeddings) == 8


def test_streams_keep_the_order(call: Call) -> None:
    texts = [f"text number {index} " + "word " * (index % 7) for index in range(40)]
    messages = [TEI["EmbedRequest"](inputs=text, normalize=True) for text in texts]
    found = call("Embed/EmbedStream", messages)
    for index in (0, 17, 39):
        alone = call("Embed/Embed", messages[index])
        np.testing.assert_allclose(found[index].embeddings, alone.embeddings, atol=1e-5)
    assert len(found) == 40 and call("Embed/EmbedStream", []) == []


def test_embed_all(call: Call) -> None:
    message = TEI["EmbedAllRequest"](inputs="naïve cats")
    found = call("Embed/EmbedAll", message)
    assert [len(token.embeddings) for token in found.token_embeddings] == [384] * 4
    assert call("Embed/EmbedAllStream", [message])[0].token_embeddings == found.token_embeddings


def test_tokenize_and_decode(call: Call) -> None:
    message = TEI["EncodeRequest"](inputs="naïve cats", add_special_tokens=True)
    (found,) = call("Tokenize/TokenizeStream", [message])
    assert found == call("Tokenize/Tokenize", message)
    assert [t.special for t in found.tokens] == [True, False, False, True]
    assert (found.tokens[2].start, found.tokens[2].stop) == (7, 11)
    assert not found.tokens[0].HasField("start")
    ids = TEI["DecodeRequest"](ids=[t.id for t in found.tokens], skip_special_tokens=True)
    assert call("Tokenize/Decode", ids).text == "naive cats"
    assert [one.text for one in call("Tokenize/DecodeStream", [ids, ids])] == ["naive cats"] * 2


def test_info_and_the_choice_of_a_model(call: Call) -> None:
    found = call("Info/Info", TEI["InfoRequest"]())
    assert found.model_id == "sentence-transformers/all-MiniLM-L6-v2"
    assert (found.model_type, found.max_input_length, found.max_client_batch_size) == (0, 256, 32)
    other = call("Info/Info", TEI["InfoRequest"](), metadata=[("model", GENERATOR)])
    assert other.max_input_length == 8191
    with pytest.raises(grpc.RpcError, match="'nix' is not served") as caught:
        call("Info/Info", TEI["InfoRequest"](), metadata=[("model", "nix")])
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError, match="`truncation_direction` is 7; expected 0 or 1"):
        call("Embed/Embed", TEI["EmbedRequest"](inputs="a", truncation_direction=7))


def test_scores(score: Call, scoring: Served) -> None:
    texts = ["ghi", "abc abc def", "zzz", ""]
    whole = httpx.post(
        f"{scoring.url}/rerank", json={"query": "abc", "texts": texts}, timeout=60
    ).json()
    message = TEI["RerankRequest"](query="abc", texts=texts, return_text=True)
    found = score("Rerank/Rerank", message)
    assert [rank.index for rank in found.ranks] == [one["index"] for one in whole]
    assert [rank.text for rank in found.ranks] == [texts[one["index"]] for one in whole]
    rows = [TEI["RerankStreamRequest"](query="abc", text=text) for text in texts]
    streamed = score("Rerank/RerankStream", rows)
    assert [r.score for r in streamed.ranks] == pytest.approx([r.score for r in found.ranks])
    assert not streamed.ranks[0].HasField("text")
    rows.append(TEI["RerankStreamRequest"](query="def", text="a"))
    with pytest.raises(grpc.RpcError, match="`query` is 'def' after 'abc'"):
        score("Rerank/RerankStream", rows)

    labels = httpx.post(
        f"{scoring.url}/predict", json={"inputs": ["abc", "def"]}, timeout=60
    ).json()
    pair = TEI["PredictPairRequest"](inputs=["abc", "def"])
    (answer,) = score("Predict/PredictPairStream", [pair])
    assert [p.label for p in answer.predictions] == [one["label"] for one in labels]
    assert answer.predictions[0].score == pytest.approx(labels[0]["score"], abs=1e-5)
    single = score("Predict/Predict", TEI["PredictRequest"](inputs="abc"))
    assert len(single.predictions) == 3 and single.predictions[0].score < 1

    all_tokens = httpx.post(f"{scoring.url}/embed_all", json={"inputs": "abc, d"}, timeout=60)
    tokens = score("Embed/EmbedAll", TEI["EmbedAllRequest"](inputs="abc, d")).token_embeddings
    np.testing.assert_allclose(
        [token.embeddings for token in tokens], all_tokens.json()[0], atol=1e-5
    )
    by_tokens = [("model", "tiny-multi_vector")]
    found = score("Rerank/Rerank", message, metadata=by_tokens)
    body = {"query": "abc", "texts": texts, "model": "tiny-multi_vector"}
    whole = httpx.post(f"{scoring.url}/rerank", json=body, timeout=60).json()
    assert [rank.index for rank in found.ranks] == [one["index"] for one in whole]
    assert found.ranks[0].score == pytest.approx(whole[0]["score"], abs=1e-5)

    sparse = httpx.post(f"{scoring.url}/embed_sparse", json={"inputs": "abc"}, timeout=60).json()[0]
    row = score("Embed/EmbedSparse", TEI["EmbedSparseRequest"](inputs="abc")).sparse_embeddings
    assert [one.index for one in row] == [one["index"] for one in sparse]


@pytest.mark.parametrize(
    ("path", "message", "code", "text"),
    [
        ("Embed/Embed", TEI["EmbedRequest"](), "INVALID_ARGUMENT", "cannot be empty"),
        (
            "Embed/Embed", TEI["EmbedRequest"](inputs="word " * 400), "INVALID_ARGUMENT",
            "`inputs` must have less than 256 tokens. Given: 402",
        ),
        (
            "Embed/Embed", TEI["EmbedRequest"](inputs="a", dimensions=999), "INVALID_ARGUMENT",
            "`dimensions` should be smaller",
        ),
        (
            "Embed/EmbedSparse", TEI["EmbedSparseRequest"](inputs="a"), "FAILED_PRECONDITION",
            "no model here can embed as sparse vectors",
        ),
        ("Rerank/Rerank", TEI["RerankRequest"](query="a"), "FAILED_PRECONDITION", "rerank"),
        ("Tokenize/Decode", TEI["DecodeRequest"](), "INVALID_ARGUMENT", "`ids` cannot be empty"),
    ],
)  # fmt: skip
def test_errors(call: Call, path: str, message: Any, code: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(path, message)
    assert caught.value.code().name == code and text in caught.value.details()


def test_an_error_ends_a_stream(call: Call) -> None:
    messages = [TEI["EmbedRequest"](inputs=text) for text in ("a", "", "b")]
    with pytest.raises(grpc.RpcError) as caught:
        call("Embed/EmbedStream", messages)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_and_reflection(served: Served) -> None:
    health, info = grpc_schema.health(), grpc_schema.reflection("grpc.reflection.v1alpha")
    with grpc.insecure_channel(served.grpc_address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health["HealthCheckRequest"].SerializeToString,
            response_deserializer=health["HealthCheckResponse"].FromString,
        )
        assert check(health["HealthCheckRequest"]()).status == 1
        ask = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=info["ServerReflectionRequest"].SerializeToString,
            response_deserializer=info["ServerReflectionResponse"].FromString,
        )
        questions = [{"list_services": ""}, {"file_containing_symbol": "tei.v1.Rerank"}]
        questions.append({"file_containing_symbol": "nix"})
        listed, file, none = ask(iter(info["ServerReflectionRequest"](**q) for q in questions))
    names = {one.name for one in listed.list_services_response.service}
    assert names >= {"tei.v1.Embed", "tei.v1.Predict", "tei.v1.Rerank", "tei.v1.Tokenize"}
    assert b"RerankStream" in file.file_descriptor_response.file_descriptor_proto[0]
    assert none.error_response.error_code == 5


def test_keys_and_readiness(served: Served) -> None:
    """One gateway that wants a key, and whose only server is not there."""
    from gateways import free_port

    port = free_port()
    gateway = start_gateway(f"127.0.0.1:{free_port()}", grpc_port=str(port), api_key="secret")
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        for call in _calls(f"127.0.0.1:{port}"):
            for metadata, code in (
                ((), "UNAUTHENTICATED"),
                ((("authorization", "Bearer wrong"),), "UNAUTHENTICATED"),
                ((("authorization", "Bearer secret"),), "UNAVAILABLE"),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call("Embed/Embed", TEI["EmbedRequest"](inputs="a"), metadata=metadata)
                assert caught.value.code().name == code
        # Atoll's own client says the same, whichever way it comes in.
        for address in (f"127.0.0.1:{port}", gateway.options.url):
            for key, expected in (
                ("", Unauthorized),
                ("wrong", Unauthorized),
                ("secret", NotReady),
            ):
                given = [("authorization", f"Bearer {key}")] if key else []
                with Client(address, retries=0, metadata=given) as client, pytest.raises(expected):
                    client.embed("a")
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    "method",
    ["health.v1.Health/Check", "reflection.v1.ServerReflection/ServerReflectionInfo"],
)
def test_what_is_no_message_is_refused(served: Served, method: str) -> None:
    """It was an unexpected error, with a traceback in the log."""
    with grpc.insecure_channel(served.grpc_address) as channel:
        if "Reflection" in method:
            call = channel.stream_stream(f"/grpc.{method}")(iter([b"\xff"]), timeout=30)
        else:
            call = channel.unary_unary(f"/grpc.{method}").future(b"\xff", timeout=30)
        assert call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "cannot be read" in call.details()
