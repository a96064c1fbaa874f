"""Texts to dense vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.encoder import Encoder, finite_rows
from atoll.encoders.heads import DenseHead, NormHead
from atoll.encoders.packer import Item
from atoll.encoders.pooling import normalized, pool
from atoll.encoders.sparse_embedder import SparseVector
from atoll.encoders.token_heads import TokenHeads
from atoll.errors import ConfigError, GenerationError
from atoll.layers import Batch
from atoll.layers.head_layouts import ProjectionLayout

Floats = npt.NDArray[np.float32]
# Modules of sentence-transformers with weights that may follow the pooling.
_HEADS: Mapping[str, type[DenseHead | NormHead]] = {"Dense": DenseHead, "LayerNorm": NormHead}


@dataclass(frozen=True)
class EmbedOptions:
    """The options of a request for vectors."""

    normalize: bool = True
    dimensions: int | None = None
    return_token_embeddings: bool = False
    return_sparse: bool = False
    return_colbert_vecs: bool = False


class Embedded(NamedTuple):
    """A text's vector, and what else was requested.

    token_vectors: (tokens, hidden), the hidden states. sparse, colbert_vecs: see ``TokenHeads``.
    """

    vector: Floats
    token_vectors: Floats | None
    sparse: SparseVector | None = None
    colbert_vecs: Floats | None = None


class Embedder(Encoder):
    """Texts to dense vectors."""

    task = "embed"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        if self.spec.pooling == "splade":
            raise ConfigError("pooling is 'splade'; serve the model with task 'sparse'")
        modules: list[Callable[[Tensor], Tensor]] = [
            normalized
            if module.kind == "Normalize"
            else _HEADS[module.kind].load(folder / module.path, self.options)
            for module in self.spec.steps
        ]
        width = self.pooled_size
        first: list[Callable[[Tensor], Tensor]] = []
        found: ProjectionLayout | None = getattr(self.trunk.config, "vector_projection", None)
        if found is not None:
            sizes = width, found.size
            first = [
                DenseHead.beside_trunk(self.folder, sizes, self.options, found.weights, bias=True)
            ]
            width = found.size
        for module, step in zip(self.spec.steps, modules, strict=True):
            if isinstance(step, DenseHead | NormHead):
                if step.in_features != width:
                    raise ConfigError(
                        f"{folder / module.path}: {step.size_key} is {step.in_features}; "
                        f"what it is given has {width}"
                    )
                width = step.out_features
        self.steps, self.dimensions = [*first, *modules], width
        self.heads = TokenHeads(self.folder, self.hidden_size, self.options)
        asked = self.spec.truncate_dim
        self.truncate_dim = None if asked is None else min(asked, width)

    @property
    def pooled_size(self) -> int:
        """Values of a text's vector before the steps."""
        return self.hidden_size * len(self.spec.pooling.split("+"))

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """An ``Embedded``, or an error, per item."""
        hidden = self.hidden(batch)
        return self.results(hidden, self.pooled(hidden, batch), batch, items)

    def results(
        self, hidden: Tensor, vectors: Tensor, batch: Batch, items: Sequence[Item]
    ) -> list[object]:
        """Answers from hidden states (tokens, hidden) and vectors (texts, pooled_size)."""
        for step in self.steps:
            vectors = step(vectors)
        vectors = vectors.cpu()
        finite = finite_rows(vectors)
        is_unit = bool(self.steps) and self.steps[-1] is normalized
        unit = vectors if is_unit else normalized(vectors)
        bounds = batch.cu_seqlens.tolist()
        results: list[object] = []
        for row, item in enumerate(items):
            options: EmbedOptions = item.options
            if not finite[row]:
                results.append(GenerationError("the embedding is not finite (NaN or infinite)"))
                continue
            vector = _cut(unit[row] if options.normalize else vectors[row], options)
            tokens = hidden[bounds[row] : bounds[row + 1]]
            try:
                results.append(self._embedded(vector, tokens, item))
            except GenerationError as error:
                results.append(error)
        return results

    def pooled(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden: (tokens, hidden) -> a vector of each text, float32."""
        return pool(hidden, batch.cu_seqlens, self.spec.pooling)

    def _embedded(self, vector: Tensor, tokens: Tensor, item: Item) -> Embedded:
        """tokens: (tokens, hidden) of the item."""
        options: EmbedOptions = item.options
        return Embedded(
            vector.numpy(),
            tokens.float().cpu().numpy() if options.return_token_embeddings else None,
            self.heads.weights(tokens, item.ids) if options.return_sparse else None,
            self.heads.vectors(tokens) if options.return_colbert_vecs else None,
        )


def _cut(vector: Tensor, options: EmbedOptions) -> Tensor:
    """The first ``dimensions`` values, normalized again if requested (Matryoshka)."""
    if options.dimensions is None:
        return vector
    short = vector[: options.dimensions]
    return normalized(short) if options.normalize else short
