"""Texts to dense vectors by a table alone: see ``models.static_embedding``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from atoll.config import Settings
from atoll.encoders.embedder import Embedder
from atoll.encoders.pooling import pool
from atoll.layers import Batch
from atoll.models.load_options import load_options
from atoll.models.static_embedding import Model
from atoll.weights.modules import read_object
from atoll.weights.static_files import StaticFiles, static_files
from atoll_kernels.device import prepare


class StaticEmbedder(Embedder):
    """The mean of the rows of a text's tokens, without special tokens."""

    adds_special_tokens = False
    _files: StaticFiles

    def open_trunk(self, folder: Path, settings: Settings) -> tuple[Any, Mapping[str, Any]]:
        """See ``Encoder.open_trunk``."""
        found = static_files(folder)
        assert found is not None, "decide() comes first"
        self._files, self._dropped = found, found.dropped_token
        raw = read_object(found.folder / "config.json")
        self.options = load_options(settings, {})
        prepare(self.options.device)
        return Model.load(found, self.options, settings.max_batch_tokens), raw

    def pooled(self, hidden: Tensor, batch: Batch) -> Tensor:
        """See ``Embedder.pooled``; without any token, a vector of zeros."""
        if self._dropped is None:
            return pool(hidden, batch.cu_seqlens, "mean")
        is_word = (batch.input_ids != self._dropped).float()[:, None]
        words, counts = (
            pool(rows, batch.cu_seqlens, "mean") for rows in (hidden.float() * is_word, is_word)
        )
        return words / counts.clamp(min=1 / len(hidden))
