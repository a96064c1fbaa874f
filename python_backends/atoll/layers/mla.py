"""Multi-head latent attention (DeepSeek-AI 2024): one small key per token, for all heads.

A token's cache is its latent, from which every head's keys and values could be projected, and one
rotated key that all heads share::

    row:    [ latent (kv_rank)            | rotated key (rope_dim) ]
    query:  [ q_nope @ W_key (kv_rank)    | rotated query (rope_dim) ]     of each head
    values: [ latent (kv_rank) ]           then attended @ W_value.T, of each head

The projections out of the latent are part of the queries and of the output ("absorbed"), so that
attention has one key-value head, whose values are the keys' first features. Prompts are computed
in the same way: keys and values of each head would take a third of the multiplications, but are
not in the cache, and a batch mixes prompts with chunks and decoding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import parallel
from atoll.layers.batch import Batch, CacheSpec
from atoll.layers.linear import Linear
from atoll.layers.norm import RMSNorm
from atoll.layers.parallel import Part
from atoll.layers.rotary import Rotary
from atoll.weights.layer_tensors import LayerTensors
from atoll.weights.load import LoadOptions

# Of the two norms inside, whatever rms_norm_eps the config has.
_EPS = 1e-6


class LatentHeads(NamedTuple):
    """Widths of the queries, keys and values of ``num_heads`` heads, and of the latent.

    nope_dim, rope_dim: features of a query or key without and with rotation.
    """

    num_heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    kv_rank: int

    @property
    def query_dim(self) -> int:
        """Features of a head's query."""
        return self.nope_dim + self.rope_dim

    @property
    def row_dim(self) -> int:
        """Features of a token in the cache."""
        return self.kv_rank + self.rope_dim


class LatentProjection(Linear):
    """What makes keys and values of the latent, kept per head: (num_heads, nope + value, kv_rank).

    Its two halves multiply queries and outputs instead of the latent, so it is never quantised, and
    no adapter can change it.
    """

    is_adaptable = False

    def __init__(self, heads: LatentHeads, query: Part) -> None:
        """query: the heads that this rank holds."""
        self.heads = heads
        outputs = query.times(heads.nope_dim + heads.value_dim)
        super().__init__(heads.kv_rank, outputs, bias=False, quantizable=False)

    def load(self, group: LayerTensors, options: LoadOptions) -> None:
        """Errors as in ``Linear.load``."""
        weight = self.dense(group, options).to(options.device, options.dtype)
        group.bias(self.outputs, is_expected=False)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def into_queries(self, q: Tensor) -> Tensor:
        """q: (tokens, num_heads, nope_dim) -> (tokens, num_heads, kv_rank)."""
        return torch.bmm(q.transpose(0, 1), self._of_heads()[:, : q.shape[2]]).transpose(0, 1)

    def out_of(self, attended: Tensor) -> Tensor:
        """attended: (tokens, num_heads, kv_rank) -> (tokens, num_heads * value_dim)."""
        values = self._of_heads()[:, self.heads.nope_dim :]
        out = torch.bmm(attended.transpose(0, 1), values.transpose(1, 2))
        return out.transpose(0, 1).flatten(1)

    def _of_heads(self) -> Tensor:
        return self.weight.view(-1, self.heads.nope_dim + self.heads.value_dim, self.heads.kv_rank)


class LatentAttention(nn.Module):
    """Causal self-attention over latents; ``q`` alone, or ``q_b`` of a norm of ``q_a``.

    Where several ranks split it, each has some of the heads and all latents; it gives partial sums.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: LatentHeads,
        *,
        layer: int,
        q_rank: int | None,
        scale: float,
        rotary: Rotary,
        bias: bool = False,
    ) -> None:
        """heads: of all ranks. layer: whose part of the KV cache it is. q_rank: width between the
        two projections of queries; None: there is one. scale: of the scores. bias: of the
        projections from and to the hidden size, other than ``q``.
        """
        super().__init__()
        query = parallel.heads(heads.num_heads, 1).query
        self.dims = heads._replace(num_heads=len(query))
        self.layer, self.rotary = layer, rotary
        self.args = kernels.AttentionArgs(scale, causal=True)
        outputs = query.times(heads.query_dim)
        if q_rank is None:
            self.q = Linear(hidden_size, outputs, bias=False)
        else:
            self.q_a = Linear(hidden_size, q_rank, bias)
            self.q_norm = RMSNorm(q_rank, _EPS)
            self.q_b = Linear(q_rank, outputs, bias=False)
        self.q_rank = q_rank
        self.kv_a = Linear(hidden_size, heads.row_dim, bias)
        self.kv_norm = RMSNorm(heads.kv_rank, _EPS)
        self.kv_b = LatentProjection(self.dims, query)
        self.out = Linear(query.times(heads.value_dim), hidden_size, bias)

    @property
    def cache_spec(self) -> CacheSpec:
        """What a token needs in the KV cache."""
        rank = self.dims.kv_rank
        return CacheSpec(1, self.dims.row_dim, value_dim=rank, values_in_keys=True)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden); mutates the layer's part of the cache."""
        rank, nope = self.dims.kv_rank, self.dims.nope_dim
        q = self._queries(x).view(len(x), -1, self.dims.query_dim)
        rows = self.kv_a(x).unsqueeze(1)
        rotation = self.rotary(batch)
        kernels.apply_rope(q[..., nope:], *rotation)
        kernels.apply_rope(rows[..., rank:], *rotation)
        rows[:, 0, :rank] = self.kv_norm(rows[:, 0, :rank])
        absorbed = torch.cat([self.kv_b.into_queries(q[..., :nope]), q[..., nope:]], -1)
        out: Tensor = self.out(self.kv_b.out_of(self._attend(absorbed, rows, batch)))
        return out

    def _queries(self, x: Tensor) -> Tensor:
        """(tokens, num_heads * query_dim)."""
        found: Tensor = self.q(x) if self.q_rank is None else self.q_b(self.q_norm(self.q_a(x)))
        return found

    def _attend(self, q: Tensor, rows: Tensor, batch: Batch) -> Tensor:
        """q: (tokens, num_heads, row_dim). rows: (tokens, 1, row_dim), what the cache gets.

        Returns (tokens, num_heads, kv_rank).
        """
        if batch.block_tables is None:
            ends = key_ends = batch.cu_seqlens
            if batch.shared is not None:
                rows, key_ends = rows[batch.shared.rows], batch.shared.cu_seqlens
            values = rows[..., : self.dims.kv_rank]
            return kernels.varlen_attention(q, rows, values, ends, key_ends, self.args)
        assert batch.seq_lens is not None, "a batch with block tables has lengths"
        keys, values, group = batch.kv_cache[self.layer]
        kernels.write_kv(rows, None, keys, None, batch.slot_mappings[group])
        kv = kernels.PagedKV(keys, values, batch.block_tables[group], batch.seq_lens)
        return kernels.paged_attention(q, kv, batch.cu_seqlens, self.args)
