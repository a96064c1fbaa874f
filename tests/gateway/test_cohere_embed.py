"""Cohere's embeddings: number formats, and which prompt an input type means."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings

from atoll_client.errors import ValidationError
from atoll_client.gateway.cohere.embed import by_type, prompt_name
from atoll_client.gateway.cohere.schemas import CohereEmbedBody
from atoll_client.gateway.core.embed_parts import ImageUri
from atoll_client.types import ModelInfo

VECTORS = np.random.default_rng(3).normal(size=(5, 64)).astype(np.float32)


def test_number_formats() -> None:
    found = by_type(VECTORS, ["float", "int8", "uint8", "binary", "ubinary", "base64"])
    for kind in ("binary", "ubinary"):
        assert found[kind] == quantize_embeddings(VECTORS, precision=kind).tolist()
    ints = np.array(found["int8"])
    assert np.abs(ints).max(1).tolist() == [127] * 5
    assert np.array_equal(np.array(found["uint8"]) - 128, ints)
    cosines = (ints * VECTORS).sum(1) / np.linalg.norm(ints, axis=1)
    assert (cosines / np.linalg.norm(VECTORS, axis=1) > 0.9999).all()
    rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in found["base64"]]
    assert np.array_equal(rows, VECTORS) and found["float"] is VECTORS
    assert by_type(np.zeros((1, 8), np.float32), ["int8"]) == {"int8": [[0] * 8]}


@pytest.mark.parametrize(
    ("prompts", "input_type", "name", "is_told"),
    [
        (("query", "document"), "search_query", "query", False),
        (("query", "passage"), "search_document", "passage", False),
        (("search_query", "search_document"), "search_document", "search_document", False),
        (("Clustering", "query"), "clustering", "Clustering", False),
        (("query",), "search_document", None, True),
        (("query",), None, None, False),
        ((), "classification", None, False),
    ],
)
def test_input_types_are_prompts(
    prompts: tuple[str, ...], input_type: str | None, name: str | None, is_told: bool
) -> None:
    model = ModelInfo("m", "embed", {"prompts": {one: f"{one}: " for one in prompts}})
    found, warnings = prompt_name(model, input_type)
    assert found == name and bool(warnings) == is_told
    assert all("query" in one for one in warnings)


def test_contents_of_several_parts_are_refused_by_name() -> None:
    """A text and an image have no common vector; the error was that ``texts`` is missing."""
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    given = {"inputs": [{"content": [part]} for part in parts]}
    body = CohereEmbedBody.model_validate(given)
    assert body.parts() == ("inputs", ["a", ImageUri("data:image/png;base64,AA==")])
    body = CohereEmbedBody.model_validate({"inputs": [{"content": parts}]})
    with pytest.raises(ValidationError, match="2 parts") as caught:
        body.parts()
    assert caught.value.param == "inputs[0]"
