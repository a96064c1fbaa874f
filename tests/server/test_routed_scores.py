"""Scores of a model with routes for queries and for documents, through a gateway."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
from encoder_fleet import started
from gateways import start_gateway
from tiny.routed import write_dense

from atoll.catalogue import entry_for, read_model, write_repository

FIRST, *OTHERS = ["Hello", "A ring of coral", "x" * 40, "1"]


def test_what_is_compared_takes_the_route_of_its_part(tmp_path: Path) -> None:
    """All texts took the default route."""
    model = write_dense(tmp_path / "parts", tmp_path / "routed")
    folder, repository = tmp_path / "routed", tmp_path / "repository"
    write_repository([entry_for(str(folder), read_model(folder), name="routed")], repository)
    query, documents = model.encode_query([FIRST])[0], model.encode_document(OTHERS)
    inputs = {"source_sentence": FIRST, "sentences": OTHERS}
    with started(repository) as server:
        gateway = start_gateway(server.grpc_url)
        try:
            gateway.wait_ready()
            with httpx.Client(base_url=gateway.options.url, timeout=60.0) as http:
                scores = http.post("/v1/score", json={"text_1": FIRST, "text_2": OTHERS}).json()
                alike = http.post("/similarity", json={"inputs": inputs}).json()
                named = {"inputs": inputs, "parameters": {"prompt_name": "document"}}
                same = http.post("/similarity", json=named).json()
        finally:
            gateway.stop()
    found = [one["score"] for one in scores["data"]]
    np.testing.assert_allclose(found, documents @ query, atol=1e-5)
    np.testing.assert_allclose(alike, documents @ query, atol=1e-5)
    np.testing.assert_allclose(same, documents @ model.encode_document([FIRST])[0], atol=1e-5)
