"""``atoll infer`` with an entry of every kind, against what the clients say of the same texts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gateways import EMBEDDER, GENERATOR, Served
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.errors import ConfigError
from atoll.launcher import ServerProcess
from atoll_client import Client
from atoll_client.errors import UnsupportedModel, ValidationError

TEXTS = ("bread and salt", "an atoll", "abc")
QUERY = ("--query", "an atoll")


def atoll(url: str, model: str, *arguments: str, texts: tuple[str, ...] = TEXTS) -> str:
    """What the command prints; raises what it raises."""
    asked = [word for text in texts for word in ("--text", text)]
    found = CliRunner().invoke(
        app, ["infer", model, *asked, *arguments], catch_exceptions=False,
        env={"ATOLL_URL": url, "COLUMNS": "200"},
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    return found.stdout


def rows(url: str, model: str, *arguments: str, texts: tuple[str, ...] = TEXTS) -> Any:
    return json.loads(atoll(url, model, *arguments, "--json", texts=texts))["results"]


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_pipelines(complete: ServerProcess, transport: str) -> None:
    url = complete.grpc_url if transport == "grpc" else complete.http_url
    with Client(url) as client:
        ranks = client.rerank(QUERY[1], TEXTS)
        vectors = client.embed(TEXTS, EMBEDDER)
        counts = [len(row) for row in client.tokenize(TEXTS, EMBEDDER)]
    wanted = [(rank.index, TEXTS[rank.index]) for rank in ranks]
    for model in ("retrieve-rerank", "bge-reranker-base"):
        found = rows(url, model, *QUERY, "--priority", "-3")
        assert [(row["index"], row["text"]) for row in found] == wanted
        scores = [rank.score for rank in ranks]
        assert [row["score"] for row in found] == pytest.approx(scores, abs=1e-5)
        with pytest.raises(ConfigError, match="--query"):
            rows(url, model)
    found = rows(url, f"{EMBEDDER}-ensemble", "--priority", "7")
    assert [row["text"] for row in found] == list(TEXTS)
    np.testing.assert_allclose([row["embedding"] for row in found], vectors, atol=1e-5)
    found = rows(url, f"{EMBEDDER}-tokens", "--priority", "7")
    assert [row["num_input_tokens"] for row in found] == [[count] for count in counts]
    assert [sum(i >= 0 for i in row["input_ids"]) for row in found] == counts
    with pytest.raises(ValidationError, match="priority is 1000; it must be between -999 and 999"):
        rows(url, EMBEDDER, "--priority", "1000")


def test_what_is_shown(complete: ServerProcess) -> None:
    url = complete.grpc_url
    shown = atoll(url, "retrieve-rerank", *QUERY)
    with Client(url) as client:
        first, *_ = client.rerank(QUERY[1], TEXTS)
    assert f"{first.score:.4f}" in shown and all(text in shown for text in TEXTS)
    assert "384 numbers" in atoll(url, f"{EMBEDDER}-ensemble")
    assert "101" in atoll(url, f"{EMBEDDER}-tokens")


def test_texts_to_a_session_are_turns(complete: ServerProcess) -> None:
    texts = ("Name a colour.", "And another.")
    asked = (f"{GENERATOR}-session", "--max-tokens", "6", "--priority", "4")
    found = rows(complete.grpc_url, *asked, texts=texts)
    with Client(complete.grpc_url) as client:
        talk = client.conversation(GENERATOR, session=False)
        said = [talk.say(text, max_tokens=6, temperature=0.0) for text in texts]
    assert [row["answer"] for row in found] == said
    assert atoll(complete.grpc_url, *asked, texts=texts) == "".join(f"{one}\n" for one in said)
    with pytest.raises(UnsupportedModel, match="within reach"):
        rows(complete.http_url, *asked, texts=texts)


def test_sparse_vectors_labels_and_hub_ids(scoring: Served, complete: ServerProcess) -> None:
    url = scoring.server.grpc_url
    texts = ("abc", "abc abc def")
    with Client(url) as client:
        vectors, labels = client.embed_sparse(texts), client.classify(texts)
    for row, vector in zip(rows(url, "tiny-sparse", texts=texts), vectors, strict=True):
        assert row["indices"] == vector.indices.tolist()
        assert row["values"] == pytest.approx(vector.values.tolist(), abs=1e-5)
    for row, wanted in zip(rows(url, "tiny-classify", texts=texts), labels, strict=True):
        assert row["labels"] == pytest.approx(dict(wanted), abs=1e-5)
    by_name = rows(complete.grpc_url, EMBEDDER, texts=texts)
    by_id = rows(complete.grpc_url, "sentence-transformers/all-MiniLM-L6-v2", texts=texts)
    np.testing.assert_allclose(by_id[0]["embedding"], by_name[0]["embedding"], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "flag", "read"),
    [
        ("tiny-classify", "--query", "texts alone"), ("tiny-sparse", "--query", "texts alone"),
        ("tiny-token_classify", "--query", "texts alone"),
        ("tiny-rerank", "--max-tokens", "--query"),
        ("tiny-multi_vector", "--temperature", "--query"), (EMBEDDER, "--query", "texts alone"),
        (GENERATOR, "--query", "--max-tokens, --temperature, --num-beams"),
        (f"{GENERATOR}-session", "--query", "--max-tokens, --temperature"),
        (f"{GENERATOR}-session", "--num-beams", "--max-tokens, --temperature"),
        ("retrieve-rerank", "--max-tokens", "--query"),
        (f"{EMBEDDER}-ensemble", "--query", "texts alone"),
    ],
)  # fmt: skip
def test_flags_that_a_model_does_not_read_are_refused(
    scoring: Served, complete: ServerProcess, model: str, flag: str, read: str
) -> None:
    """A query for a classifier was not used, and nothing said so."""
    url = scoring.server.grpc_url if model.startswith("tiny") else complete.grpc_url
    with pytest.raises(ConfigError, match=rf"{flag} is '?3'?.* {model} .* it reads {read}$"):
        atoll(url, model, flag, "3")
