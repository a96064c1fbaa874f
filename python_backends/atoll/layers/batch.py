"""What a batch of tokens looks like to a model: one form for encoders and decoders.

The sequences stand one behind the other, without padding. With a paged KV cache a decoding sequence
has one new token and a prefilling one a chunk of its prompt; without one (``block_tables is None``)
every sequence is whole, or continues another one of the batch (``SharedKeys``).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class LayerCache(NamedTuple):
    """One layer's part of the KV cache; layers of a group have their blocks at the same places.

    keys, values: (num_blocks, block_size, num_kv_heads, key or value width); values may be a view
    of the keys' first features. group: whose block table and slots say where a sequence's tokens
    are.
    """

    keys: Tensor
    values: Tensor
    group: int = 0


@dataclass(frozen=True)
class CacheSpec:
    """What the KV cache must hold for one token of one layer.

    head_dim: width of a key. value_dim: width of a value, where that is another. window: tokens
    that a query sees, itself included; None: all. shared_with: the earlier layer whose keys and
    values this one reads, instead of having its own. values_in_keys: values are the first
    ``value_dim`` features of the keys, and take no memory.
    """

    num_kv_heads: int
    head_dim: int
    window: int | None = None
    value_dim: int | None = None
    shared_with: int | None = None
    values_in_keys: bool = False

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Key and value of the layer; none where another layer has them."""
        if self.shared_with is not None:
            return 0
        values = 0 if self.values_in_keys else self.value_width
        return self.num_kv_heads * (self.head_dim + values) * dtype.itemsize

    @property
    def value_width(self) -> int:
        """Features of a value."""
        return self.head_dim if self.value_dim is None else self.value_dim


LayerState = tuple[Tensor, ...]
"""One recurrent layer's part of the states, a tensor (num_slots, *shape) per shape of its spec."""


@dataclass(frozen=True)
class StateSpec:
    """What one recurrent layer keeps of a sequence: tensors of constant size.

    shapes: of each, per sequence. dtypes: beside them; None: the model's. Where float32 is asked
    for, the setting ``state_dtype`` may say another.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype | None, ...]

    def bytes_per_sequence(
        self, dtype: torch.dtype, state_dtype: torch.dtype = torch.float32
    ) -> int:
        """All tensors of the layer, in a model of ``dtype``."""
        kept = zip(self.shapes, self.stored_as(dtype, state_dtype), strict=True)
        return sum(math.prod(shape) * stored.itemsize for shape, stored in kept)

    def stored_as(self, dtype: torch.dtype, state_dtype: torch.dtype) -> list[torch.dtype]:
        """Of each tensor, in a model of ``dtype``."""
        return [state_dtype if own == torch.float32 else own or dtype for own in self.dtypes]


@dataclass(frozen=True)
class CrossBatch:
    """Where the keys and values of each sequence's encoder output live, for cross-attention.

    block_table: (num_seqs, max_blocks) int32. seq_lens: (num_seqs,) int32, encoder tokens.
    """

    block_table: Tensor
    seq_lens: Tensor


class Attended(NamedTuple):
    """The tokens that others attend to, where a sequence's last ones are not among them.

    These still attend to the rest of their sequence: ColBERT fills its queries up with such tokens.
    tokens: (attended tokens,) int64, places in the batch. cu_seqlens: (num_seqs + 1,) int32, where
    those of each sequence begin. counts, lengths: attended and all tokens of each sequence, known
    on the host.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    counts: tuple[int, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class SharedKeys:
    """Of a batch without a KV cache some of whose sequences continue another one of the batch.

    Such a sequence has only its own tokens in the batch; its keys and values are those of the
    sequence that it continues, then its own, so that what several begin with is computed once.

    rows: (keys,) int64, which tokens of the batch are the keys of each sequence, in turn.
    cu_seqlens: (num_seqs + 1,) int32, where the keys of each sequence begin in ``rows``.
    last_rows: (texts,) int64, the last token of each text, whether it continues another or not.
    """

    rows: Tensor
    cu_seqlens: Tensor
    last_rows: Tensor


# Keys and values by layer, (tokens, num_kv_heads, width) each.
Kept = dict[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Batch:
    """New tokens of several sequences, and where their keys and values live, if those are kept.

    input_ids, positions: (tokens,) int64; positions count from 0 in each text.
    cu_seqlens: (num_seqs + 1,) int32, where the new tokens of each sequence begin.
    max_position: at least the largest position in the batch, known on the host.
    token_type_ids: (tokens,) int64, segments of a pair; None: all are of the first.
    prompt_lens: (num_seqs,) int32, tokens of each prompt, of which the batch may hold a chunk; only
        dynamic rope scaling looks at it. None: prompts are not split.
    attended: None: all tokens are. Not with a KV cache.
    shared: None: every sequence is a text of its own.
    pixels: (patches, values of a patch), of sequences that are images; their ids mean nothing.
    features: (frames, features), the inputs of an encoder of sound; a sequence has a token for each
        of the encoder's outputs, and the ids mean nothing.
    kept: without a KV cache, keys and values that layers have left for later ones, by layer.

    With a KV cache:

    seq_lens: (num_seqs,) int32, new tokens included.
    block_tables: for each group of layers (num_seqs, max_blocks) int32; None: no cache.
    slot_mappings: for each group of layers (tokens,) int64, -1 writes nothing. An
        encoder-decoder's encoder, which has no cache of its own, has here where the
        cross-attention's keys and values go.
    kv_cache: by layer that attends.
    states: by recurrent layer. state_slots: (num_seqs,) int32, each sequence's row of all of its
        tensors; -1: a padded row. A sequence without tokens before this batch begins at zero,
        whatever is there.
    cross: for an encoder-decoder, whose ``encode`` has run for every sequence of the batch.
    """

    input_ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    max_position: int
    token_type_ids: Tensor | None = None
    prompt_lens: Tensor | None = None
    attended: Attended | None = None
    shared: SharedKeys | None = None
    pixels: Tensor | None = None
    features: Tensor | None = None
    kept: Kept | None = None
    seq_lens: Tensor | None = None
    block_tables: tuple[Tensor, ...] | None = None
    slot_mappings: tuple[Tensor, ...] = ()
    kv_cache: tuple[LayerCache, ...] = ()
    states: tuple[LayerState, ...] = ()
    state_slots: Tensor | None = None
    cross: CrossBatch | None = None


def to_tensor(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on ``device``; shares memory with it on a CPU."""
    if not values.flags.writeable:  # torch warns about tensors that share read-only arrays
        values = values.copy()
    return torch.from_numpy(values).to(device)
