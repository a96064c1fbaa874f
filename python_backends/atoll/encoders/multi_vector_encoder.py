"""Texts to a vector for each token (late interaction), and their scores for a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.encoder import Encoder, finite_rows
from atoll.encoders.heads import DenseHead
from atoll.encoders.packer import Item
from atoll.encoders.pooling import normalized
from atoll.errors import ConfigError, GenerationError, UnsupportedModel
from atoll.layers import Attention, Batch
from atoll.weights.late_interaction import LateInteraction

Floats = npt.NDArray[np.float32]


@dataclass
class Query:
    """What texts are scored for. vectors: (kept tokens, dimensions), once they are computed.

    The engine computes a query before the texts that it gets after it.
    """

    vectors: Floats | None = None


@dataclass(frozen=True)
class TokenOptions:
    """kept: (tokens,) bool, which tokens of the text keep their vectors; None: all.

    query: a text is scored for it. is_query: this text is that query itself.
    """

    kept: npt.NDArray[np.bool_] | None = None
    query: Query | None = None
    is_query: bool = False


class TokenVectors(NamedTuple):
    """A text's vectors, (kept tokens, dimensions), and its score for the query, if it has one."""

    vectors: Floats
    score: float | None = None


class MultiVectorEncoder(Encoder):
    """Texts to vectors of their tokens (Khattab and Zaharia 2020).

    query_length, document_length: tokens of the longest query and document.
    """

    task = "multi_vector"

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.late = late = LateInteraction.read(folder)
        self.steps: list[Callable[[Tensor], Tensor]] = [
            normalized if path is None else DenseHead.load(path, self.options, "token_embeddings")
            for path in late.steps
        ]
        if late.linear_size is not None:
            sizes = self.hidden_size, late.linear_size
            self.steps.insert(0, DenseHead.beside_trunk(self.folder, sizes, self.options))
        self.dimensions = self.hidden_size
        for step in self.steps:
            if isinstance(step, DenseHead):
                if step.in_features != self.dimensions:
                    raise ConfigError(
                        f"{folder}: a Dense module's in_features is {step.in_features}; what it is "
                        f"given has {self.dimensions}"
                    )
                self.dimensions = step.out_features
        self._set_lengths(folder, settings)

    def _set_lengths(self, folder: Path, settings: Settings) -> None:
        """Within the model's positions; a query is filled up whatever the settings say."""
        late, most = self.late, self.trunk.max_length
        limit = min(most, settings.max_input_tokens or most, settings.max_batch_tokens)
        usual = self.spec.max_length
        self.document_length = min(late.document_length or usual, limit)
        self.query_length = min(late.query_length or usual, limit)
        if late.expansion is not None:
            length = late.expansion.length
            is_fixed = late.expansion.is_fixed
            self.query_length = length if is_fixed else max(length, self.query_length)
            if self.query_length > min(most, settings.max_batch_tokens):
                raise ConfigError(
                    f"{folder}: queries have {self.query_length} tokens; the model accepts {most}, "
                    f"and max_batch_tokens is {settings.max_batch_tokens}"
                )
            if not late.expansion.is_attended:
                _check_attention(folder, self.trunk, length)
        longest = max(self.document_length, self.query_length)
        self.spec = replace(self.spec, max_length=longest)

    def __call__(self, batch: Batch, items: Sequence[Item]) -> list[object]:
        """``TokenVectors``, or an error, per item."""
        vectors = self.hidden(batch).float()
        for step in self.steps:
            vectors = step(vectors)
        vectors = vectors.cpu()
        finite = finite_rows(vectors)
        bounds = batch.cu_seqlens.tolist()
        results: list[object] = []
        for row, item in enumerate(items):
            tokens = slice(bounds[row], bounds[row + 1])
            if not all(finite[tokens]):
                results.append(GenerationError("a vector is not finite (NaN or infinite)"))
                continue
            results.append(self._result(vectors[tokens].numpy(), item.options))
        return results

    def _result(self, vectors: Floats, options: TokenOptions) -> TokenVectors:
        found = vectors if options.kept is None else vectors[options.kept]
        query = options.query
        if query is None:
            return TokenVectors(found)
        if options.is_query:
            query.vectors = found
            return TokenVectors(found)
        # Of a query that has failed there are none, and its request has failed with it.
        score = None if query.vectors is None else self.score(query.vectors, found)
        return TokenVectors(found, score)

    def score(self, query: Floats, text: Floats) -> float:
        """MaxSim: for each vector of the query, the greatest product with one of the text's.

        query, text: (tokens, dimensions). Runs on the engine's thread, as much as one batch needs
        at a time: a product with a text takes a small part of what its vectors did.
        """
        if not len(text) or not len(query):
            return 0.0
        found = (torch.from_numpy(query) @ torch.from_numpy(text).T).amax(1).sum()
        return float(found / len(query) if self.late.is_mean else found)


def _check_attention(folder: Path, trunk: torch.nn.Module, length: int) -> None:
    """Raises UnsupportedModel: the trunk cannot leave out tokens of a query of this length."""
    layers = [block.attention for block in trunk.blocks]  # type: ignore[union-attr]
    for layer in layers:
        if not isinstance(layer, Attention) or type(layer).forward is not Attention.forward:
            raise UnsupportedModel(
                f"{folder}: queries are filled up with tokens that are not attended to, which this "
                "architecture's attention does not support"
            )
        if layer.window is not None and layer.window < length:
            raise UnsupportedModel(
                f"{folder}: queries are filled up to {length} tokens that are not attended to; "
                f"with a window of {layer.window} tokens, at most {layer.window} are supported"
            )
