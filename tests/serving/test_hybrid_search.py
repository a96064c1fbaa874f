"""The settings of a hybrid search's entry, and its ranks; its answers: tests/server."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fake_backend import Request
from in_process import arguments

from atoll.errors import ConfigError, EmptyInputError
from atoll.serving.tasks.hybrid import HybridSearchModel, reciprocal_ranks
from atoll.serving.tasks.linked_models import LinkedModel
from atoll.serving.tasks.pipeline import RetrieveRerankModel


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "none of the parameters embedder, sparse_embedder, reranker"),
        ({"embedder": "a", "k": "none"}, "config.pbtxt: k is 'none'"),
        ({"embedder": "a", "weights": '{"sparse": 1}'}, "config.pbtxt: weights has 'sparse'"),
        ({"reranker": "a", "query_prompt_name": "q"}, "query_prompt_name is set without an embed"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HybridSearchModel().initialize(arguments(**settings))


@pytest.mark.parametrize("kind", [HybridSearchModel, RetrieveRerankModel])
def test_empty_documents_are_named(kind: type[LinkedModel]) -> None:
    """Their index was that among the texts of the embedder, and the error a server's."""
    model = kind()
    model.configure({"embedder": "a", "reranker": "b"})
    with pytest.raises(EmptyInputError, match=r"text_input\[1\] is empty"):
        asyncio.run(model.answer(Request({"query": "a", "text_input": ["a", "", "b"]})))


def test_ranks() -> None:
    found = reciprocal_ranks(np.array([2.0, -np.inf, 7.0, 2.0]), 1)
    assert found.tolist() == [1 / 3, 0.0, 1 / 2, 1 / 4]
