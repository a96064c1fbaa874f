"""Clients of other projects, unmodified. Too heavy for every run: requirements/clients*.txt install
them, and a test whose client is missing says so and is skipped.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateways import EMBEDDER, GENERATOR, Served

from atoll.weights.embedded import embedded_folder

QUESTION = "What is the capital of France?"
PROMPT = "The capital of France is"
TEXTS = ["ghi", "abc abc def", "zzz"]


def _need(name: str) -> Any:
    return pytest.importorskip(
        name, reason=f"{name} is not installed: see requirements/clients.txt"
    )


def test_text_generation(served: Served) -> None:
    package = _need("text_generation")
    client = package.Client(served.url, timeout=60)
    found = client.generate(PROMPT, max_new_tokens=4, decoder_input_details=True)
    assert found.generated_text.startswith(" Paris")
    assert found.details.generated_tokens == 4 and len(found.details.prefill) == 5
    streamed = list(client.generate_stream(PROMPT, max_new_tokens=4))
    assert "".join(event.token.text for event in streamed) == found.generated_text
    assert streamed[-1].details.finish_reason == "length"
    with pytest.raises(package.errors.ValidationError, match="top_p"):
        client.generate(PROMPT, top_p=0.9999999999999999999, temperature=0.5)
    messages = [{"role": "user", "content": QUESTION}]
    chat = client.chat(messages, max_tokens=8, temperature=0.01)
    assert "Paris" in chat.choices[0].message.content
    # Its streamed chat reads no stream that ends with [DONE], which TGI's own do since 2.0.

    async def ask() -> str:
        answer = await package.AsyncClient(served.url).generate(PROMPT, max_new_tokens=4)
        return str(answer.generated_text)

    assert asyncio.run(ask()) == found.generated_text


def test_langchain_huggingface(served: Served) -> None:
    package = _need("langchain_huggingface")
    llm = package.HuggingFaceEndpoint(endpoint_url=served.url, max_new_tokens=6, seed=1)
    text = llm.invoke(PROMPT)
    # It samples, at a temperature of its own.
    assert "Paris" in text and "".join(llm.stream(PROMPT)) == text
    chat = package.ChatHuggingFace(llm=llm, model_id=GENERATOR, max_tokens=8, temperature=0)
    answer = chat.invoke(QUESTION)
    assert answer.content and answer.usage_metadata["output_tokens"] <= 8
    # Its embeddings go to the hub only: they refuse an address.


def test_langchain_openai(served: Served) -> None:
    package = _need("langchain_openai")
    where = {"base_url": f"{served.url}/v1", "api_key": "unused"}
    chat = package.ChatOpenAI(model=GENERATOR, temperature=0, max_tokens=8, **where)
    text = chat.invoke(QUESTION).content
    assert "Paris" in text
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == text
    schema = {
        "title": "answer", "type": "object", "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"], "additionalProperties": False,
    }  # fmt: skip
    longer = package.ChatOpenAI(model=GENERATOR, temperature=0, max_tokens=30, **where)
    found = longer.with_structured_output(schema, method="json_schema").invoke(QUESTION)
    assert isinstance(found["yes"], bool)
    vectors = package.OpenAIEmbeddings(
        model=EMBEDDER, check_embedding_ctx_length=False, **where
    ).embed_documents(["a", "b"])
    assert np.shape(vectors) == (2, 384)


def test_llama_index(served: Served, scoring: Served) -> None:
    embedding = _need("llama_index.embeddings.text_embeddings_inference")
    reranking = _need("llama_index.postprocessor.tei_rerank")
    schema = _need("llama_index.core.schema")
    model = embedding.TextEmbeddingsInference(base_url=served.url, model_name=EMBEDDER)
    one = model.get_text_embedding("What is deep learning?")
    assert np.shape(model.get_text_embedding_batch(["a", "b", "c"])) == (3, 384)
    assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-4)
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.0) for text in TEXTS]
    ranker = reranking.TextEmbeddingInference(base_url=scoring.url, top_n=2)
    best = ranker.postprocess_nodes(nodes, query_str="abc def")
    assert len(best) == 2 and best[0].score >= best[1].score > 0


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_haystack(served: Served, scoring: Served, transport: str) -> None:
    embedders = _need("haystack_integrations.components.embedders.huggingface_api")
    rankers = _need("haystack_integrations.components.rankers.huggingface_api")
    documents = _need("haystack").Document
    is_grpc = transport == "grpc"
    if is_grpc:
        _need("grpc_requests")
    url = served.grpc_address if is_grpc else served.url
    embedder = embedders.HuggingFaceAPITextEmbedder(
        api_type="text_embeddings_inference", api_params={"url": url}, token=None,
        normalize=True, use_grpc=is_grpc,
    )  # fmt: skip
    vector = embedder.run("What is deep learning?")["embedding"]
    assert len(vector) == 384 and np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)
    url = scoring.grpc_address if is_grpc else scoring.url
    ranker = rankers.HuggingFaceTEIRanker(url=url, top_k=2, token=None, use_grpc=is_grpc)
    best = ranker.run(query="abc def", documents=[documents(content=text) for text in TEXTS])[
        "documents"
    ]
    assert len(best) == 2 and best[0].score >= best[1].score > 0


def test_haystack_chats(served: Served) -> None:
    package = _need(
        "haystack_integrations.components.generators.huggingface_api.chat.chat_generator"
    )
    message = _need("haystack.dataclasses").ChatMessage
    generator = package.HuggingFaceAPIChatGenerator(
        api_type="text_generation_inference", api_params={"url": served.url}, token=None,
        generation_kwargs={"max_tokens": 8, "temperature": 0.01},
    )  # fmt: skip
    (reply,) = generator.run([message.from_user(QUESTION)])["replies"]
    assert "Paris" in reply.text


def test_litellm(served: Served, scoring: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # It fetches a list of prices otherwise.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = _need("litellm")
    where = {"api_base": f"{served.url}/v1", "api_key": "unused"}
    chat = {
        "model": f"openai/{GENERATOR}", "max_tokens": 8, "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION}], **where,
    }  # fmt: skip
    text = litellm.completion(**chat).choices[0].message.content
    assert "Paris" in text
    chunks = litellm.completion(**chat, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    asked = {
        "model": f"openai/{GENERATOR}", "input": QUESTION, "max_output_tokens": 8,
        "temperature": 0, **where,
    }  # fmt: skip
    assert "Paris" in litellm.responses(**asked).output[0].content[0].text
    assert [e.type for e in litellm.responses(**asked, stream=True)][-1] in (
        "response.completed", "response.incomplete",
    )  # fmt: skip
    vectors = litellm.embedding(model=f"openai/{EMBEDDER}", input=["a", "b"], **where).data
    assert np.shape([one["embedding"] for one in vectors]) == (2, 384)
    ranks = litellm.rerank(
        model="hosted_vllm/tiny-rerank", query="abc def", documents=TEXTS, top_n=2,
        api_base=scoring.url, api_key="unused",
    )  # fmt: skip
    assert len(ranks.results) == 2
    # Its own road to Triton.
    direct = litellm.completion(
        model=f"triton/{GENERATOR}", messages=[{"role": "user", "content": PROMPT}], max_tokens=4,
        api_base=f"{served.url}/v2/models/{GENERATOR}/generate",
    )  # fmt: skip
    assert direct.choices[0].message.content
    direct = litellm.embedding(
        model=f"triton/{EMBEDDER}", input=["a", "b"],
        api_base=f"{served.url}/v2/models/{EMBEDDER}/infer",
    )  # fmt: skip
    np.testing.assert_allclose(
        [one["embedding"] for one in direct.data], [one["embedding"] for one in vectors], atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model", "flags"),
    [
        ("chat", GENERATOR, ["--streaming", "--output-tokens-mean", "8"]),
        ("embeddings", EMBEDDER, []),
    ],
)
def test_aiperf(served: Served, tmp_path: Path, kind: str, model: str, flags: list[str]) -> None:
    program = shutil.which("aiperf")
    if program is None:
        pytest.skip("aiperf is not on PATH: it needs an environment of its own")
    tokenizer = embedded_folder("HuggingFaceTB/SmolLM2-135M-Instruct")
    command = [
        program, "profile", "--model", model, "--url", served.url, "--endpoint-type", kind,
        "--request-count", "8", "--concurrency", "2", "--ui", "none", "--tokenizer", str(tokenizer),
        "--synthetic-input-tokens-mean", "16", "--artifact-dir", str(tmp_path), *flags,
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (report,) = tmp_path.rglob("profile_export_aiperf.json")
    found = json.loads(report.read_text())
    assert found["request_count"]["avg"] == 8 and not found.get("error_summary")


def test_cohere(served: Served, scoring: Served) -> None:
    package = _need("cohere")
    client = package.ClientV2(api_key="unused", base_url=served.url)
    found = client.embed(
        texts=TEXTS, model=EMBEDDER, input_type="search_document",
        embedding_types=["float", "int8", "ubinary"],
    )  # fmt: skip
    vectors = np.array(found.embeddings.float_)
    assert vectors.shape == (3, 384) and found.texts == TEXTS
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    bits = np.unpackbits(np.array(found.embeddings.ubinary, np.uint8), axis=1)
    assert np.array_equal(bits, vectors > 0) and len(found.embeddings.int8[0]) == 384
    assert found.meta.billed_units.input_tokens > 3
    short = client.embed(
        texts=TEXTS[:1], model=EMBEDDER, input_type="search_query", output_dimension=64
    )
    assert len(short.embeddings.float_[0]) == 64
    with pytest.raises(package.BadRequestError, match="output_dimension"):
        client.embed(texts=TEXTS, model=EMBEDDER, input_type="clustering", output_dimension=385)
    ranker = package.ClientV2(api_key="unused", base_url=scoring.url)
    ranks = ranker.rerank(model="tiny-rerank", query="abc", documents=TEXTS, top_n=2).results
    assert len(ranks) == 2 and ranks[0].relevance_score >= ranks[1].relevance_score
    with pytest.raises(package.BadRequestError, match="max_tokens_per_doc"):
        ranker.rerank(model="tiny-rerank", query="a", documents=TEXTS, max_tokens_per_doc=9)
