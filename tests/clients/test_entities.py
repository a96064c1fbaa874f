"""Entities over every interface, beside transformers' pipeline on the same checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateways import Served
from huggingface_hub import InferenceClient
from transformers import PreTrainedTokenizerFast, pipeline
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll_client import Client, Entity
from atoll_client.errors import ValidationError

MODEL = "tiny-token_classify"
TEXTS = ["ABC é DEF 😀 GH", "x", "Zoë went to 東京, again"]


@pytest.fixture(scope="module")
def pipe(folders: dict[str, Path]) -> Any:
    folder = folders["token_classify"]
    # transformers' class for BERT would take another tokenizer than the file's.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), unk_token="[UNK]", model_max_length=70
    )
    return pipeline("token-classification", model=str(folder), tokenizer=tokenizer, device="cpu")


@pytest.fixture(scope="module")
def http(scoring: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=scoring.url, timeout=60.0) as client:
        yield client


def _same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == {**other, "score": pytest.approx(float(other["score"]), abs=1e-5)}


def _as_pipeline(found: Entity) -> dict[str, Any]:
    facts = asdict(found)
    label = facts.pop("label")
    if facts["index"] is None:
        del facts["index"]
        return {**facts, "entity_group": label}
    return {**facts, "entity": label}


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_clients(scoring: Served, pipe: Any, transport: str) -> None:
    server = scoring.server
    with Client(server.grpc_url if transport == "grpc" else server.http_url) as client:
        for strategy in ("none", "simple", "first", "average", "max"):
            found = client.classify_tokens(TEXTS, aggregation_strategy=strategy)
            for row, text in zip(found, TEXTS, strict=True):
                _same(list(map(_as_pipeline, row)), pipe(text, aggregation_strategy=strategy))
        every = client.classify_tokens(TEXTS[:1], ignore_labels=[])
        _same(list(map(_as_pipeline, every[0])), pipe(TEXTS[0], ignore_labels=[]))
        names = ["O", "B-PER", "I-PER", "LOC"]
        assert client.classify_tokens(TEXTS[:2], ignore_labels=names) == [[], []]
        assert client.classify_tokens([]) == []
        for wrong in (
            {"aggregation_strategy": "all"}, {"ignore_labels": ["ORG"]}, {"truncate": False},
        ):  # fmt: skip
            with pytest.raises(ValidationError, match=r"all.*simple|ORG.*PER|70"):
                client.classify_tokens(["a" * 200], **wrong)


def test_predict_and_the_root(http: httpx.Client, pipe: Any) -> None:
    """A list holds texts, and no pair, as for transformers' pipeline."""
    named = {"model": MODEL}
    body: dict[str, Any] = {"inputs": TEXTS[0], "aggregation_strategy": "simple"}
    _same(http.post("/predict", json=body).json(), pipe(TEXTS[0], aggregation_strategy="simple"))
    for inputs in (TEXTS, [[text] for text in TEXTS]):
        rows = http.post("/predict", json={"inputs": inputs, **named}).json()
        for row, text in zip(rows, TEXTS, strict=True):
            _same(row, pipe(text))
    options = {"aggregation_strategy": "max", "ignore_labels": ["LOC"]}
    found = http.post("/", json={"inputs": TEXTS[2], "parameters": options}).json()
    _same(found, pipe(TEXTS[2], **options))
    _same(http.post(f"/{MODEL}", json={"inputs": TEXTS[2]}).json(), pipe(TEXTS[2]))
    hub = InferenceClient(f"{http.base_url}/{MODEL}")
    first = hub.token_classification(TEXTS[0], aggregation_strategy="first")
    wanted = pipe(TEXTS[0], aggregation_strategy="first")
    assert [(e.entity_group, e.start, e.end, e.word) for e in first] == [
        (e["entity_group"], e["start"], e["end"], e["word"]) for e in wanted
    ]
    info = http.get(f"/{MODEL}/info").json()["model_type"]["classifier"]
    assert info["id2label"] == {"0": "O", "1": "B-PER", "2": "I-PER", "3": "LOC"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"raw_scores": True}, "`raw_scores` has no meaning for a model that labels tokens"),
        ({"inputs": [["a", "b"]]}, "has a pair"),
        ({"inputs": [""]}, "cannot be empty"),
        ({"aggregation_strategy": "all"}, "aggregation_strategy"),
        ({"ignore_labels": ["ORG"]}, "ignore_labels[0] is 'ORG'"),
        ({"stride": 4}, "send it in parts"),
        ({"model": "tiny-classify", "ignore_labels": []}, "is for models that label tokens"),
    ],
)
def test_refusals(http: httpx.Client, fields: dict[str, Any], message: str) -> None:
    answer = http.post("/predict", json={"inputs": "a", "model": MODEL, **fields})
    assert answer.status_code in (400, 422) and message in answer.json()["error"], answer.text


def test_options_that_contradict_each_other(http: httpx.Client) -> None:
    """Those in ``parameters`` were not used, and nothing said so."""
    body = {"inputs": "a", "aggregation_strategy": "max"}
    answer = http.post(f"/{MODEL}", json={**body, "parameters": {"aggregation_strategy": "first"}})
    assert answer.status_code == 422 and "parameters.aggregation_strategy" in answer.text
    same = {**body, "parameters": {"aggregation_strategy": "max"}}
    assert http.post(f"/{MODEL}", json=same).status_code == 200


def test_infer_command(scoring: Served, pipe: Any) -> None:
    asked = ["infer", MODEL, "--text", TEXTS[0], "--url", scoring.server.grpc_url]
    shown = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False)
    (row,) = json.loads(shown.stdout)["results"]
    wanted = pipe(TEXTS[0], aggregation_strategy="simple")
    assert [(e["label"], e["start"], e["end"]) for e in row["entities"]] == [
        (e["entity_group"], e["start"], e["end"]) for e in wanted
    ]
    lines = CliRunner().invoke(app, asked, catch_exceptions=False).stdout
    assert f"({wanted[0]['entity_group']} {wanted[0]['score']:.4f})" in lines
