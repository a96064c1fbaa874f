"""What a GPU compiles before requests wait for it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny.encoders import TRUNKS
from tiny.sentence import write_trunk

from atoll.config import Settings
from atoll.encoders import encoder as encoders
from atoll.encoders.embedder import Embedder
from atoll.encoders.packer import batch_of
from atoll.layers import Batch


@pytest.fixture
def embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    """One that takes itself to be on a GPU."""
    write_trunk(TRUNKS[0], tmp_path)
    found = Embedder(tmp_path, Settings(model_id=str(tmp_path)))
    found.options = replace(found.options, device=torch.device("cuda", 0))
    cpu = torch.device("cpu")
    monkeypatch.setattr(encoders, "batch_of", lambda pack, device: batch_of(pack, cpu))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return found


def test_packs_of_all_kinds_up_to_the_largest(embedder: Embedder) -> None:
    """The first request of each kind waited seconds while its kernels were compiled."""
    packs: list[list[int]] = []
    trunk = embedder.trunk

    def hidden(batch: Batch) -> torch.Tensor:
        packs.append(batch.cu_seqlens.diff().tolist())
        found: torch.Tensor = trunk(batch)
        return found

    embedder.hidden = hidden  # type: ignore[assignment]
    embedder.warm_up(200)
    longest = embedder.spec.max_length
    assert 24 < longest < 100
    assert packs == [[2], [24], [longest], [longest], [longest] * (200 // longest)]
    assert sum(packs[-1]) <= 200
    embedder.options = replace(embedder.options, device=torch.device("cpu"))
    embedder.warm_up(200)
    assert len(packs) == 5


def test_a_pack_that_does_not_fit_is_told(
    embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(batch: Batch) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    embedder.hidden = fails  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        embedder.warm_up(200)
    assert "packs of max_batch_tokens, 200" in caplog.text and "9 GiB" in caplog.text
