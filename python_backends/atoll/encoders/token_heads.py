"""Weights of words and vectors of tokens, from the same hidden states as an embedder's vector.

Source: Chen et al. 2024 (M3-Embedding) and Zhang et al. 2024 (mGTE). The weight of a word is the
greatest relu(linear(h)) of its tokens; the first token, which stands for the whole text, has no
vector of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.encoders.pooling import normalized
from atoll.encoders.sparse_embedder import SparseVector
from atoll.errors import GenerationError, WeightError
from atoll.weights.load import LoadOptions
from atoll.weights.reader import CheckpointReader, load_bin
from atoll.weights.token_heads import COLBERT, SPARSE, classifier_weighs, token_heads

Floats = npt.NDArray[np.float32]


class TokenHeads:
    """The heads that a checkpoint has; ``names`` are those of ``weights.token_heads``.

    unused: ids of tokens that are no words, which get no weight. words: of every id, the one that
    its weight counts for; None: its own. Both are set once the tokenizer is known.
    """

    words: npt.NDArray[np.int32] | None = None

    def __init__(self, folder: Path, hidden_size: int, options: LoadOptions) -> None:
        """Raises WeightError: a head's file is damaged, or of another model."""
        self.names, self.unused = token_heads(folder), np.empty(0, np.int32)
        # GTE's words are texts, whichever of several tokens spells one; bge-m3's are ids.
        self.joins_texts = classifier_weighs(folder)
        self._layers: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.names:
            weight, bias = _read(folder, name, hidden_size)
            self._layers[name] = (
                weight.to(options.device, options.dtype),
                bias.to(options.device, options.dtype),
            )

    def weights(self, hidden: Tensor, ids: npt.NDArray[np.int32]) -> SparseVector:
        """hidden: (tokens, hidden) of one text. Words in ascending order, without zeros.

        Raises GenerationError: a weight is not finite.
        """
        found: Floats = self._apply(SPARSE, hidden).squeeze(1).relu().cpu().numpy()
        found[np.isin(ids, self.unused)] = 0
        words, places = np.unique(
            ids if self.words is None else self.words[ids], return_inverse=True
        )
        greatest = np.zeros(len(words), np.float32)
        np.maximum.at(greatest, places, found)
        kept = greatest > 0
        return SparseVector(words[kept].astype(np.int32), greatest[kept])

    def vectors(self, hidden: Tensor) -> Floats:
        """hidden: (tokens, hidden) of one text -> (tokens - 1, width), unit vectors.

        Raises GenerationError: a value is not finite.
        """
        found: Floats = normalized(self._apply(COLBERT, hidden[1:])).cpu().numpy()
        return found

    def _apply(self, name: str, hidden: Tensor) -> Tensor:
        weight, bias = self._layers[name]
        found = F.linear(hidden.to(weight.dtype), weight, bias).to(torch.float32)
        if not bool(torch.isfinite(found).all()):
            raise GenerationError(f"a result of {name} is not finite (NaN or infinite)")
        return found


def _read(folder: Path, name: str, hidden_size: int) -> tuple[Tensor, Tensor]:
    """weight (width, hidden_size) and bias (width,), as stored; the width of SPARSE is 1.

    Raises:
        WeightError: the file cannot be read, or holds something else; names it and the shapes.
    """
    path = folder / f"{name}.pt"
    if name == SPARSE and not path.exists():
        path, reader = folder, CheckpointReader(folder)
        found = {part: reader.tensor(f"classifier.{part}") for part in ("weight", "bias")}
    else:
        found = load_bin(path)
    if found.keys() != {"weight", "bias"} or not all(
        isinstance(value, Tensor) for value in found.values()
    ):
        raise WeightError(f"{path}: holds {sorted(found)}; expected weight and bias")
    weight, bias = found["weight"], found["bias"]
    width = 1 if name == SPARSE else bias.numel()
    if weight.shape != (width, hidden_size) or bias.shape != (width,) or not width:
        raise WeightError(
            f"{path}: weight is {tuple(weight.shape)} and bias {tuple(bias.shape)}; expected "
            f"({'1' if name == SPARSE else 'width'}, {hidden_size}) and as many"
        )
    return weight, bias
