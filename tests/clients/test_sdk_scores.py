"""The clients' rerank, classify and embed_sparse over both transports, beside transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gateways import Served
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from atoll_client import Client
from atoll_client.errors import ValidationError

QUERY, TEXTS = "abc def", ["ghi", "abc abc def", "zzz", "abc"]


@pytest.fixture(params=["grpc", "http"])
def client(scoring: Served, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client over each transport."""
    server = scoring.server
    with Client(server.grpc_url if request.param == "grpc" else server.http_url) as client:
        yield client


def logits(folder: Path, kind: Any, *texts: str) -> Any:
    """Of one text or pair, by transformers: (labels,) or (tokens, vocabulary)."""
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoding = tokenizer.encode(*texts)
    ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
    with torch.inference_mode():
        model = kind.from_pretrained(folder).eval()
        return model(input_ids=ids, token_type_ids=types).logits[0].numpy()


def test_rerank(client: Client, folders: dict[str, Path]) -> None:
    kind = AutoModelForSequenceClassification
    raw = np.array([logits(folders["rerank"], kind, QUERY, text)[0] for text in TEXTS])
    order = np.argsort(-raw, kind="stable").tolist()
    ranks = client.rerank(QUERY, TEXTS)
    assert [(rank.index, rank.text) for rank in ranks] == [(i, TEXTS[i]) for i in order]
    scores = [rank.score for rank in ranks]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-raw[order])), atol=1e-4)
    best = client.rerank(QUERY, TEXTS, raw_scores=True, top_n=2)
    np.testing.assert_allclose([rank.score for rank in best], raw[order[:2]], atol=1e-4)
    # More than one request holds: the order is that of all.
    many = client.rerank(QUERY, TEXTS * 100)
    assert len(many) == 400 and {rank.text for rank in many[:100]} == {TEXTS[order[0]]}
    with pytest.raises(ValidationError):
        client.rerank(QUERY, ["a" * 200], truncate=False)


def test_classify(
    client: Client, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    raw = logits(folders["classify"], AutoModelForSequenceClassification, "abc", "def")
    chances = np.exp(raw) / np.exp(raw).sum()
    (labels,) = client.classify(["abc"], pairs=["def"], progress=True)
    order = np.argsort(-raw).tolist()
    assert [label.label for label in labels] == [f"LABEL_{i}" for i in order]
    np.testing.assert_allclose([label.score for label in labels], chances[order], atol=1e-4)
    assert "1/1" in capsys.readouterr().err


def test_embed_sparse(client: Client, folders: dict[str, Path]) -> None:
    raw = logits(folders["sparse"], AutoModelForMaskedLM, TEXTS[1])
    weights = np.log1p(np.maximum(raw, 0)).max(0)
    row = client.embed_sparse(TEXTS, truncate=True)[1]
    assert row.indices.tolist() == np.flatnonzero(weights).tolist()
    np.testing.assert_allclose(row.values, weights[row.indices], atol=1e-4)
