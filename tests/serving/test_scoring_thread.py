"""Where a late-interaction model scores documents: their vectors' thread, batch by batch."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from fake_backend import Request
from in_process import answer, running
from tiny.late import write_colbert

from atoll.encoders.multi_vector_encoder import Floats, MultiVectorEncoder
from atoll.serving.tasks.multi_vector import MultiVectorModel


def test_documents_are_scored_with_the_batch_that_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a request's were scored at once, on the thread that sends every answer."""
    write_colbert(tmp_path)
    threads: list[str] = []
    counts: list[tuple[int, int]] = []  # of each batch: its items, and what was scored

    def score(self: MultiVectorEncoder, query: Floats, text: Floats) -> float:
        threads.append(threading.current_thread().name)
        return original(self, query, text)

    def call(self: MultiVectorEncoder, batch: object, items: list[object]) -> list[object]:
        before = len(threads)
        found = forward(self, batch, items)  # type: ignore[arg-type]
        counts.append((len(items), len(threads) - before))
        return found

    original, forward = MultiVectorEncoder.score, MultiVectorEncoder.__call__
    monkeypatch.setattr(MultiVectorEncoder, "score", score)
    monkeypatch.setattr(MultiVectorEncoder, "__call__", call)
    texts = ["abc def" + "g" * (i % 5) for i in range(90)]
    with running(MultiVectorModel(), model_id=str(tmp_path), max_batch_tokens="100") as model:
        counts.clear()
        one = {"query": ["abc"], "text_input": texts}
        (whole,) = answer(model, Request(one, is_decoupled=False, requested=["score", "vectors"]))
        assert len(counts) > 9 and all(scored <= items for items, scored in counts)
        assert sum(scored for _, scored in counts) == len(threads) == len(texts)
        (scores,) = answer(model, Request(one, is_decoupled=False, requested=["score"]))
        each = {"query": ["abc"] * 3, "text_input": texts[:3]}
        (pairs,) = answer(model, Request(each, is_decoupled=False, requested=["score"]))
    assert set(threads) == {"atoll-encoder"}
    found, short, few = ({t.name(): t.as_numpy() for t in r.output_tensors()}
                         for r in (whole, scores, pairs))  # fmt: skip
    assert "vectors" in found and not {"vectors"} & short.keys()
    assert found["offsets"].tolist() == short["offsets"].tolist()
    np.testing.assert_array_equal(found["score"], short["score"])
    np.testing.assert_allclose(few["score"], found["score"][:3], atol=1e-5)
