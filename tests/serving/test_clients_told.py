"""Engines are told who sends a request, unless all clients are to be one; canaries are nobody's."""

from __future__ import annotations

from typing import Any

import pytest
from fake_backend import Request
from in_process import generate, running, wait, write_embedder, write_generator

from atoll.serving.tasks.embed import EmbedModel
from atoll.serving.tasks.generate import GenerateModel
from atoll.serving.triton.tensors import CANARY

# (parameters, fair_scheduling) and the client that the engine is told.
CASES = [
    ({"x-client": "key-1"}, "true", "key-1"),
    ({"X-Client": "key-1"}, "true", "key-1"),
    ({}, "true", ""),
    ({"x-client": "key-1"}, "false", ""),
    ({"x-client": "key-1", CANARY: True}, "true", None),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "generator": str(write_generator(tmp_path_factory.mktemp("generator"))),
        "embedder": str(write_embedder(tmp_path_factory.mktemp("embedder"))),
    }


def _submitted(model: Any) -> list[Any]:
    """Fills with what the engine gets."""
    found, submit = list[Any](), model.engine.submit

    def noted(given: Any) -> None:
        found.append(given)
        submit(given)

    model.engine.submit = noted
    return found


@pytest.mark.parametrize(("parameters", "is_fair", "client"), CASES)
def test_a_generator(
    folders: dict[str, str], parameters: dict[str, Any], is_fair: str, client: str | None
) -> None:
    settings = {"model_id": folders["generator"], "fair_scheduling": is_fair}
    with running(GenerateModel(), **settings) as model:
        found = _submitted(model)
        asked = generate("a reef", parameters=parameters)
        model.execute([asked])
        wait(asked)
        assert [one.client for one in found] == [client]
        assert model.limits.fair_scheduling is (is_fair == "true")
        assert not model.admission._by_client


@pytest.mark.parametrize(("parameters", "is_fair", "client"), CASES)
def test_an_encoder(
    folders: dict[str, str], parameters: dict[str, Any], is_fair: str, client: str | None
) -> None:
    settings = {"model_id": folders["embedder"], "fair_scheduling": is_fair}
    with running(EmbedModel(), **settings) as model:
        found = _submitted(model)
        asked = Request({"text_input": ["a reef", "a tide"]}, parameters, is_decoupled=False)
        model.execute([asked])
        wait(asked)
        ((first, second),) = found
        assert first.client == second.client == client
        assert not model.admission._by_client
