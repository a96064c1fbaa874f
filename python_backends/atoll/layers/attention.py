"""Attention over a batch, with its projections: with or without a KV cache, causal or not."""

from typing import NamedTuple

from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.layers.batch import Batch, CacheSpec
from atoll.layers.linear import Linear
from atoll.layers.norm import UnitNorm
from atoll.layers.parallel import Part
from atoll.layers.partial_attention import attend_to_some
from atoll.layers.qk_norm import QKNorm, normed
from atoll.layers.query_growth import QueryGrowth
from atoll.layers.relative import RelativeBias
from atoll.layers.rotary import Rotary, Rotation
from atoll.layers.sinks import Sinks


class Heads(NamedTuple):
    """Query heads, key-value heads, and the features of each."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Features of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all keys, or of all values."""
        return self.num_kv_heads * self.head_dim


class Attention(nn.Module):
    """Self-attention: [q; k; v] in one projection, and the projection of what comes out.

    Where the batch has a KV cache, new keys and values are written first and all of a sequence's
    are read there; without one, the tokens of a sequence see those of the batch.

    Where several ranks split it, each has some of the heads, and gives partial sums.

    Some layers project less: keys are also the values (``qk``), or an earlier layer's keys and
    values are read (``q``).
    """

    def __init__(
        self,
        hidden_size: int,
        heads: Heads,
        *,
        layer: int = 0,
        bias: bool = True,
        key_bias: bool = True,
        out_bias: bool | None = None,
        causal: bool = True,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        rotary: Rotary | None = None,
        alibi_slopes: Tensor | None = None,
        relative_bias: RelativeBias | None = None,
        qk_norms: tuple[QKNorm, QKNorm] | None = None,
        v_norm: UnitNorm | None = None,
        query_growth: QueryGrowth | None = None,
        has_sinks: bool = False,
        values_are_keys: bool = False,
        shared_with: int | None = None,
    ) -> None:
        """heads: of all ranks. layer: whose part of the KV cache it is. bias: of both projections,
        but that of the output has ``out_bias`` where that is given, and keys have none without
        ``key_bias``.

        scale: of the scores, head_dim^-0.5 if None. qk_norms: of queries and of keys, head by head
        or of all heads as one (``wide_norms``); v_norm: of values, head by head. has_sinks: see
        ``Sinks``. values_are_keys: before the keys' norm and rotation. shared_with: the earlier
        layer whose keys and values are read. The others say how positions enter; masks and biases
        are as in ``AttentionArgs``.
        """
        super().__init__()
        query, kv = parallel.heads(heads.num_heads, heads.num_kv_heads)
        self.heads = Heads(len(query), len(kv), heads.head_dim)
        self.layer, self.causal, self.window = layer, causal, window
        self.scale = heads.head_dim**-0.5 if scale is None else scale
        self.softcap = softcap
        self.rotary, self.relative_bias = rotary, relative_bias
        self.query_growth = query_growth
        self.alibi_slopes = alibi_slopes
        if alibi_slopes is not None and not query.is_whole:
            self.alibi_slopes = query.columns(alibi_slopes)
        q, k = query.times(heads.head_dim), kv.times(heads.head_dim)
        rows = (heads.width, heads.kv_width, heads.kv_width)
        self.shared_with = shared_with
        if shared_with is not None:
            self.q = Linear(hidden_size, q, bias)
        elif values_are_keys:
            self.qk = Linear(hidden_size, Part.joined(q, k), bias, rows=rows[:2])
        else:
            zero = () if key_bias else (1,)
            self.qkv = Linear(hidden_size, Part.joined(q, k, k), bias, rows=rows, zero_biases=zero)
        self.values_are_keys = values_are_keys
        self.q_norm = None if qk_norms is None else qk_norms[0]
        self.k_norm = None if qk_norms is None or shared_with is not None else qk_norms[1]
        self.v_norm = v_norm
        self.sinks = Sinks(query) if has_sinks else None
        self.out = Linear(q, hidden_size, bias if out_bias is None else out_bias)

    @property
    def cache_spec(self) -> CacheSpec:
        """What a token needs in the KV cache."""
        _, num_kv_heads, head_dim = self.heads
        return CacheSpec(num_kv_heads, head_dim, self.window, shared_with=self.shared_with)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden); mutates the layer's part of the cache."""
        if self.shared_with is not None:
            out: Tensor = self.out(self._attend(self.query(x), None, None, batch).flatten(1))
            return out
        q, k, v = self.project(x)
        if self.query_growth is not None:
            q = self.query_growth(q, batch)
        out = self.out(self._attend(q, k, v, batch).flatten(1))
        return out

    def query(self, x: Tensor) -> Tensor:
        """Queries of a layer that reads another's keys, (tokens, heads, head_dim)."""
        q: Tensor = self.q(x).view(len(x), -1, self.heads.head_dim)
        return q if self.q_norm is None else self.q_norm(q.flatten(0, 1)).view_as(q)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (tokens, heads, head_dim) each; q and k not yet rotated."""
        if self.values_are_keys:
            num_heads, num_kv_heads, head_dim = self.heads
            rows = self.qk(x).view(len(x), -1, head_dim)
            q, k = rows.split_with_sizes((num_heads, num_kv_heads), 1)
            v = k
        else:
            q, k, v = self.split(self.qkv(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = normed(q, k, self.q_norm, self.k_norm)
        if self.v_norm is not None:
            v = self.v_norm(v.reshape(-1, self.heads.head_dim)).view_as(v)
        return q, k, v

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[q; k; v] rows as (tokens, heads, head_dim) views."""
        num_heads, num_kv_heads, head_dim = self.heads
        rows = qkv.view(len(qkv), -1, head_dim)
        q, k, v = rows.split_with_sizes((num_heads, num_kv_heads, num_kv_heads), 1)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor | None, v: Tensor | None, batch: Batch) -> Tensor:
        """Mutates q and k if they are rotated; (tokens, num_heads, head_dim).

        k, v: None in a layer that reads another's.
        """
        if self.alibi_slopes is not None:
            # Made with the model, before its device is known.
            self.alibi_slopes = self.alibi_slopes.to(q.device)
        args = kernels.AttentionArgs(
            self.scale, self.causal, self.window, self.softcap, self.alibi_slopes,
            relative_bias=None if self.relative_bias is None else self.relative_bias(),
            sinks=None if self.sinks is None else self.sinks(),
        )  # fmt: skip
        rotation: Rotation | None = None if self.rotary is None else self.rotary(batch)
        if batch.block_tables is None:
            if rotation is not None:
                kernels.apply_rope(q, *rotation)
            k, v = self._keys(k, v, rotation, batch)
            ends = key_ends = batch.cu_seqlens
            if batch.attended is not None:
                return attend_to_some(q, k, v, ends, batch.attended, args)
            if batch.shared is not None:
                k, v, key_ends = k[batch.shared.rows], v[batch.shared.rows], batch.shared.cu_seqlens
            return kernels.varlen_attention(q, k, v, ends, key_ends, args)
        assert batch.seq_lens is not None, "a batch with block tables has lengths"
        k_cache, v_cache, group = batch.kv_cache[self.layer]
        slots = batch.slot_mappings[group]
        if k is None or v is None:
            if rotation is not None:
                kernels.apply_rope(q, *rotation)
        elif rotation is None:
            kernels.write_kv(k, v, k_cache, v_cache, slots)
        else:
            kernels.rope_write_kv(q, k, v, *rotation, k_cache, v_cache, slots)
        kv = kernels.PagedKV(k_cache, v_cache, batch.block_tables[group], batch.seq_lens)
        return kernels.paged_attention(q, kv, batch.cu_seqlens, args)

    def _keys(
        self, k: Tensor | None, v: Tensor | None, rotation: Rotation | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of a batch without a cache, rotated; mutates k and ``batch.kept``."""
        if k is None or v is None:
            assert self.shared_with is not None and batch.kept is not None
            return batch.kept[self.shared_with]
        if rotation is not None:
            kernels.apply_rope(k, *rotation)
        if batch.kept is not None:
            batch.kept[self.layer] = k, v
        return k, v


class CrossAttention(nn.Module):
    """Attention of a decoder's tokens to the encoder's outputs, whose keys and values are cached.

    They are in the same cache as the decoder's own, in blocks of theirs.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: Heads,
        *,
        layer: int,
        bias: bool,
        scale: float,
        key_bias: bool = True,
    ) -> None:
        """key_bias: whether keys have one where the others do."""
        super().__init__()
        query, kv = parallel.heads(heads.num_heads, heads.num_kv_heads)
        self.heads = Heads(len(query), len(kv), heads.head_dim)
        self.layer, self.scale = layer, scale
        q, k = query.times(heads.head_dim), kv.times(heads.head_dim)
        self.q = Linear(hidden_size, q, bias)
        self.kv = Linear(hidden_size, Part.joined(k, k), bias, zero_biases=() if key_bias else (0,))
        self.out = Linear(q, hidden_size, bias)

    def store(self, encoded: Tensor, batch: Batch) -> None:
        """Writes keys and values of the encoder's outputs (tokens, hidden) to the cache."""
        _, num_kv_heads, head_dim = self.heads
        k, v = self.kv(encoded).view(-1, 2, num_kv_heads, head_dim).unbind(1)
        k_cache, v_cache, group = batch.kv_cache[self.layer]
        kernels.write_kv(k, v, k_cache, v_cache, batch.slot_mappings[group])

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        assert batch.cross is not None, "an encoder-decoder needs cross"
        k_cache, v_cache, _ = batch.kv_cache[self.layer]
        q = self.q(x).view(len(x), -1, self.heads.head_dim)
        kv = kernels.PagedKV(k_cache, v_cache, batch.cross.block_table, batch.cross.seq_lens)
        args = kernels.AttentionArgs(self.scale, causal=False)
        attended = kernels.paged_attention(q, kv, batch.cu_seqlens, args)
        out: Tensor = self.out(attended.flatten(1))
        return out
