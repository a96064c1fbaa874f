"""What a batch of tokens looks like to a model, and the attention modules over it.

Encoders see packed sequences; decoders see a flat batch of new tokens over a paged KV cache, in
which a decoding sequence has one token and a prefilling one has a chunk.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import atoll_kernels as kernels


@dataclass(frozen=True)
class PackedBatch:
    """Concatenated sequences, without padding.

    input_ids, positions, token_type_ids: (tokens,) int64; positions count from 0 in each sequence.
    cu_seqlens: (num_seqs + 1,) int32.
    """

    input_ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    token_type_ids: Tensor | None = None


class LayerCache(NamedTuple):
    """One layer's part of the KV cache; layers of a group have their blocks at the same places.

    keys, values: (num_blocks, block_size, num_kv_heads, key or value width). group: whose block
    table and slots say where a sequence's tokens are.
    """

    keys: Tensor
    values: Tensor
    group: int = 0


@dataclass(frozen=True)
class CrossBatch:
    """Where the keys and values of each sequence's encoder output live, for cross-attention.

    block_table: (num_seqs, max_blocks) int32. seq_lens: (num_seqs,) int32, encoder tokens.
    """

    block_table: Tensor
    seq_lens: Tensor


@dataclass(frozen=True)
class EncoderInput:
    """Inputs of an encoder-decoder's encoder, and where the cross-attention keys and values go.

    packed: the new inputs, concatenated. slot_mapping: (tokens,) int64. kv_cache: the decoder's,
    in blocks that belong to the encoder's outputs alone.
    """

    packed: PackedBatch
    slot_mapping: Tensor
    kv_cache: tuple[LayerCache, ...]


@dataclass(frozen=True)
class PagedBatch:
    """New tokens of several sequences, and where their keys and values live.

    input_ids, positions: (tokens,) int64.
    slot_mappings: for each group of layers (tokens,) int64, -1 writes nothing.
    cu_seqlens_q: (num_seqs + 1,) int32. seq_lens: (num_seqs,) int32, new tokens included.
    block_tables: for each group of layers (num_seqs, max_blocks) int32.
    kv_cache: by layer.
    max_position: the largest position in the batch, known on the host.
    prompt_lens: (num_seqs,) int32, tokens of each prompt, of which the batch may hold a chunk; only
        dynamic rope scaling looks at it. None: prompts are not split.
    cross: for an encoder-decoder, whose ``encode`` has run for every sequence of the batch.
    """

    input_ids: Tensor
    positions: Tensor
    slot_mappings: tuple[Tensor, ...]
    cu_seqlens_q: Tensor
    seq_lens: Tensor
    block_tables: tuple[Tensor, ...]
    kv_cache: tuple[LayerCache, ...]
    max_position: int
    prompt_lens: Tensor | None = None
    cross: CrossBatch | None = None


class Rotation(NamedTuple):
    """How each token's queries and keys are rotated: rows (tokens,) int64 of cos and sin."""

    rows: Tensor
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class CacheSpec:
    """What the KV cache must hold for one token of one layer.

    head_dim: width of a key. value_dim: width of a value, where that is another. window: tokens
    that a query sees, itself included; None: all. shared_with: the earlier layer whose keys and
    values this one reads, instead of having its own.
    """

    num_kv_heads: int
    head_dim: int
    window: int | None = None
    value_dim: int | None = None
    shared_with: int | None = None

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Key and value of the layer; none where another layer has them."""
        if self.shared_with is not None:
            return 0
        width = self.head_dim + (self.value_dim or self.head_dim)
        return self.num_kv_heads * width * dtype.itemsize


class PackedAttention(nn.Module):
    """Bidirectional attention inside each packed sequence."""

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        alibi_slopes: Tensor | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.alibi_slopes = alibi_slopes

    def forward(
        self, qkv: Tensor, batch: PackedBatch, relative_bias: Tensor | None = None
    ) -> Tensor:
        """qkv: (tokens, 3 * num_heads * head_dim), [q; k; v] -> (tokens, num_heads * head_dim)."""
        q, k, v = qkv.view(-1, 3, self.num_heads, self.head_dim).unbind(1)
        self.alibi_slopes = _on(self.alibi_slopes, q.device)
        out = kernels.varlen_attention(
            q, k, v, batch.cu_seqlens, batch.cu_seqlens,
            scale=self.scale, alibi_slopes=self.alibi_slopes, relative_bias=relative_bias,
        )  # fmt: skip
        return out.flatten(1)


class PagedAttention(nn.Module):
    """Causal attention over the paged cache; rotates and writes the new keys and values first."""

    def __init__(
        self,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        scale: float | None = None,
        window: int | None = None,
        alibi_slopes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, num_heads
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.window, self.alibi_slopes = window, alibi_slopes

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[q; k; v] rows as (tokens, heads, head_dim) views."""
        heads = qkv.view(len(qkv), -1, self.head_dim)
        q, k, v = heads.split_with_sizes((self.num_heads, self.num_kv_heads, self.num_kv_heads), 1)
        return q, k, v

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        batch: PagedBatch,
        rotation: Rotation | None = None,
        relative_bias: Tensor | None = None,
    ) -> Tensor:
        """q: (tokens, num_heads, head_dim); k, v: (tokens, num_kv_heads, head_dim).

        Mutates the layer's cache, and q and k if they are rotated. Returns (tokens, num_heads *
        head_dim).
        """
        k_cache, v_cache, group = batch.kv_cache[self.layer]
        slots, table = batch.slot_mappings[group], batch.block_tables[group]
        self.alibi_slopes = _on(self.alibi_slopes, q.device)
        if rotation is None:
            kernels.write_kv(k, v, k_cache, v_cache, slots)
        else:
            kernels.rope_write_kv(q, k, v, *rotation, k_cache, v_cache, slots)
        out = kernels.paged_attention(
            q, k_cache, v_cache, table, batch.cu_seqlens_q, batch.seq_lens,
            scale=self.scale, window=self.window, alibi_slopes=self.alibi_slopes,
            relative_bias=relative_bias,
        )  # fmt: skip
        return out.flatten(1)

    def cross(self, q: Tensor, batch: PagedBatch) -> Tensor:
        """Attention to the encoder's outputs, which ``write`` put there; shapes as in forward."""
        assert batch.cross is not None, "an encoder-decoder needs cross"
        k_cache, v_cache, _ = batch.kv_cache[self.layer]
        out = kernels.paged_attention(
            q, k_cache, v_cache, batch.cross.block_table, batch.cu_seqlens_q, batch.cross.seq_lens,
            scale=self.scale, causal=False,
        )  # fmt: skip
        return out.flatten(1)

    def write(self, k: Tensor, v: Tensor, batch: EncoderInput) -> None:
        """Stores keys and values of encoder outputs; mutates the layer's cache."""
        k_cache, v_cache, _ = batch.kv_cache[self.layer]
        kernels.write_kv(k, v, k_cache, v_cache, batch.slot_mapping)


def _on(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    """Slopes are made when the model is built, before its device is known."""
    return tensor if tensor is None or tensor.device == device else tensor.to(device)
