"""StaticEmbedding and model2vec: a text's vector is the mean of its tokens' rows of a table.

Source: sentence-transformers' ``StaticEmbedding``, model2vec's ``StaticModel``. There is no trunk:
the hidden state of a token is its row. Weights of tokens, such as Zipf's, are already in the rows,
or in a tensor of their own; a mapping lets tokens share rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.errors import WeightError
from atoll.layers.batch import Batch
from atoll.weights.load import LoadOptions
from atoll.weights.reader import CheckpointReader
from atoll.weights.static_files import MAPPING, WEIGHTS, StaticFiles


@dataclass(frozen=True)
class Config:
    """What encoders ask of a trunk's config."""

    vocab_size: int
    hidden_size: int


class Model(nn.Module):
    """table: (vocabulary, width). max_length: tokens of the longest text."""

    def __init__(self, table: Tensor, max_length: int) -> None:
        super().__init__()
        self.table, self.max_length = table, max_length
        self.config = Config(*table.shape)

    @classmethod
    def load(cls, files: StaticFiles, options: LoadOptions, max_length: int) -> Model:
        """max_length: where tokenizer.json has no limit of its own.

        Raises:
            ConfigError, WeightError: the tensors are not those of such a model.
        """
        reader = CheckpointReader(files.folder)
        table = reader.tensor(files.table(reader))
        for name in (MAPPING, WEIGHTS):
            if name in reader and len(reader.shape(name)) != 1:
                raise WeightError(
                    f"{files.folder}: {name} has shape {list(reader.shape(name))}; expected one "
                    "number for each token"
                )
        if MAPPING in reader:
            rows = reader.tensor(MAPPING).long()
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
                raise WeightError(f"{files.folder}: {MAPPING} names rows beyond {len(table)}")
            table = table[rows]
        if WEIGHTS in reader:
            weights = reader.tensor(WEIGHTS).float()
            if len(weights) != len(table):
                raise WeightError(
                    f"{files.folder}: {WEIGHTS} has {len(weights)} numbers for {len(table)} tokens"
                )
            table = table.float() * weights[:, None]
        length = min(files.max_tokens or max_length, max_length)
        return cls(table.to(options.device, options.dtype, copy=True), length)

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, width)."""
        return torch.index_select(self.table, 0, batch.input_ids)
