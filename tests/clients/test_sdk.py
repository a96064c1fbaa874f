"""Atoll's own clients against a real server: gRPC and HTTP, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from gateways import EMBEDDER, GENERATOR, Served
from measured import wait_for

from atoll_client import AsyncClient, Client
from atoll_client.errors import NotFound, Unreached, UnsupportedModel, ValidationError

PROMPT = "The capital of France is"


@pytest.fixture(params=["grpc", "http"])
def client(served: Served, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client over each transport."""
    server = served.server
    with Client(server.grpc_url if request.param == "grpc" else server.http_url) as client:
        yield client


def test_models(client: Client) -> None:
    found = {model.name: model.task for model in client.models()}
    assert found == {EMBEDDER: "embed", GENERATOR: "generate"}


def test_embed(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"text number {i}" for i in range(300)]
    vectors = client.embed(texts, progress=True)
    assert vectors.shape == (300, 384) and vectors.dtype == np.float32
    assert "300/300" in capsys.readouterr().err
    one = client.embed(texts[7], EMBEDDER)
    np.testing.assert_allclose(one, vectors[7], atol=1e-5)
    raw = client.embed(texts[:2], normalize=False, dimensions=16)
    assert raw.shape == (2, 16) and not np.allclose(np.linalg.norm(raw, axis=1), 1.0)


def test_vectors_of_tokens_and_similarity(client: Client) -> None:
    texts = ["an atoll", "bread and salt"]
    for rows, text in zip(client.embed_all(texts), texts, strict=True):
        tokens = client.tokenize([text], EMBEDDER)[0]
        assert rows.shape == (len(tokens), 384)
        mean = rows.mean(0) / np.linalg.norm(rows.mean(0))
        np.testing.assert_allclose(mean, client.embed(text), atol=1e-5)
    cosines = client.similarity("a reef", texts, truncate=True)
    np.testing.assert_allclose(cosines, client.embed(texts) @ client.embed("a reef"), atol=1e-5)
    with pytest.raises(ValidationError, match="prompt_name is 'q'"):
        client.embed_all(texts, prompt_name="q")


def test_generate_and_stream_agree(client: Client) -> None:
    whole = client.generate(PROMPT, max_tokens=6, logprobs=True)
    assert whole.text.startswith(" Paris") and whole.finish_reason == "length"
    assert (whole.num_input_tokens, whole.num_output_tokens) == (5, 6)
    assert "".join(token.text for token in whole.tokens) == whole.text
    assert whole.cumulative_logprob == pytest.approx(
        sum(token.logprob or 0.0 for token in whole.tokens), abs=1e-3
    )
    chunks = list(client.stream(PROMPT, max_tokens=6))
    assert "".join(chunk.text for chunk in chunks) == whole.text and len(chunks) > 1
    ids = [token.id for token in client.tokenize([PROMPT], GENERATOR)[0]]
    assert client.generate(ids, max_tokens=6).text == whole.text
    stopped = client.generate(PROMPT, max_tokens=6, stop=["ris"])
    assert (stopped.text, stopped.stop_string) == (" Pa", "ris")


def test_details_of_a_long_prompt(client: Client) -> None:
    """An event of 512 KiB was too long over HTTP."""
    found = client.generate("one two three " * 160, max_tokens=1, prompt_logprobs=20)
    assert len(found.prompt_tokens) == found.num_input_tokens > 400
    assert "".join(token.text for token in found.prompt_tokens) == "one two three " * 160
    assert all(20 <= len(token.top) <= 21 for token in found.prompt_tokens[1:])


def test_chat_and_conversation(client: Client) -> None:
    question = [{"role": "user", "content": "Say hello."}]
    answer = client.chat(question, max_tokens=8).text
    conversation = client.conversation()
    assert conversation.say("Say hello.", max_tokens=8) == answer
    conversation.say("Again.", max_tokens=4)
    roles = [message["role"] for message in conversation.messages]
    assert roles == ["user", "assistant", "user", "assistant"]


def test_tokenize_and_decode(client: Client) -> None:
    (tokens,) = client.tokenize(["hello there"], EMBEDDER)
    assert [token.text for token in tokens] == ["[CLS]", "hello", "there", "[SEP]"]
    assert client.decode([[token.id for token in tokens]], EMBEDDER) == ["hello there"]


def test_any_model_by_its_tensors(client: Client) -> None:
    found = client.infer(EMBEDDER, {"text_input": [["hello"]]}, normalize=True)
    assert found["embedding"].shape == (1, 384)
    assert found["num_input_tokens"].tolist() == [[3]]


def test_errors(client: Client) -> None:
    with pytest.raises(NotFound, match="nix"):
        client.embed(["a"], "nix")
    with pytest.raises(UnsupportedModel, match="rerank"):
        client.rerank("q", ["a"])
    with pytest.raises(ValidationError, match="empty"):
        client.embed(["a", ""])
    with pytest.raises(UnsupportedModel, match="--allow-shared-memory"):
        client.embed(["a"], shared_memory=True)
    with Client("localhost:1", retries=0) as nobody, pytest.raises(Unreached):
        nobody.models()


def test_leaving_a_stream_frees_the_server(served: Served) -> None:
    with Client(served.server.grpc_url) as client:
        stream = client.stream(PROMPT, max_tokens=2000, ignore_eos=True)
        # The first response may be empty, where the first token takes long.
        assert next(chunk.text for chunk in stream if chunk.text)
        stream.close()
        # All of its 2,000 tokens would take longer than this waits.
        wait_for(served.server, GENERATOR, "atoll_kv_blocks_used", lambda blocks: blocks == 0)
        assert client.generate(PROMPT, max_tokens=1).text == " Paris"


def test_asynchronous(served: Served) -> None:
    async def run() -> None:
        async with AsyncClient(served.server.grpc_url) as client:
            vectors, answer = await asyncio.gather(
                client.embed(["a", "b"]), client.generate(PROMPT, max_tokens=3)
            )
            assert vectors.shape == (2, 384) and answer.text.startswith(" Paris")
            task = asyncio.create_task(client.generate(PROMPT, max_tokens=4000, ignore_eos=True))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            texts = [chunk.text async for chunk in client.stream(PROMPT, max_tokens=3)]
            assert "".join(texts) == answer.text

    asyncio.run(run())
