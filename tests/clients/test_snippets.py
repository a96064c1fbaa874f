"""The Python of docs/client.md and docs/cookbook.md, run as it stands there, with another address.

The cookbook's reranker and sparse embedder are tiny checkpoints under the real ones' names; its
vector store is left out where it is not installed (requirements/clients.txt). What the pages say of
shared memory and of pipelines is held against the plain calls.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gateways import EMBEDDER

from atoll.launcher import ServerProcess
from atoll_client import Client
from atoll_client.errors import ValidationError

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {page: (DOCS / page).read_text() for page in ("client.md", "cookbook.md")}
SNIPPETS = [
    (page, number, code)
    for page, text in PAGES.items()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
]


@pytest.fixture(scope="module")
def server(complete: ServerProcess) -> str:
    """The gRPC address of a server with every model that the pages name."""
    return complete.grpc_url


@pytest.mark.parametrize(
    ("page", "number", "code"), SNIPPETS, ids=[f"{page}-{number}" for page, number, _ in SNIPPETS]
)
def test_snippet_runs(
    server: str, page: str, number: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "localhost:8001" in code
    if "qdrant_client" in code:
        pytest.importorskip("qdrant_client")
    exec(compile(code.replace("localhost:8001", server), f"{page}-{number}", "exec"), {})
    said = capsys.readouterr()
    wanted = {
        ("client.md", 0): "(2, 384)  Paris", ("client.md", 1): "True",
        ("client.md", 2): "too late:", ("client.md", 3): "(600, 384)", ("client.md", 5): "(1, 384)",
    }.get((page, number), "")  # fmt: skip
    assert wanted in said.out and said.out.strip()


def test_pages_have_snippets() -> None:
    assert len(SNIPPETS) == 10
    # Imports and data included.
    assert len(next(code for page, _, code in SNIPPETS if page == "cookbook.md").splitlines()) <= 30


def test_ensemble_and_pipeline_answer_as_their_parts(server: str) -> None:
    texts = ["abc", "an atoll", "bread and salt"]
    with Client(server) as client:
        found = client.infer(f"{EMBEDDER}-ensemble", {"text_input": [[text] for text in texts]})
        vectors = client.embed(texts, EMBEDDER)
        assert abs(found["embedding"] - vectors).max() < 1e-5
        inputs = {"query": ["an atoll"], "text_input": [[text] for text in texts]}
        best = client.infer("retrieve-rerank", inputs)
        ranks = client.rerank("an atoll", texts)
    assert best["index"].reshape(-1).tolist() == [rank.index for rank in ranks]


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_shared_memory_holds_what_messages_hold(complete: ServerProcess, transport: str) -> None:
    texts = [f"text {i}" for i in range(300)]
    before = set(Path("/dev/shm").iterdir())
    with Client(complete.grpc_url if transport == "grpc" else complete.http_url) as client:
        sent = client.embed(texts, dimensions=16)
        np.testing.assert_allclose(
            client.embed(texts, dimensions=16, shared_memory=True), sent, atol=1e-5
        )
        one = client.embed(texts[3], shared_memory=True)
        assert one.shape == (384,)
        # Refused in the middle: nothing stays behind.
        with pytest.raises(ValidationError, match="empty"):
            client.embed([*texts, ""], shared_memory=True)
    left = {path.name for path in set(Path("/dev/shm").iterdir()) - before}
    assert not [name for name in left if name.startswith("psm_")]
