"""DeBERTa's attention, whose scores compare words with words and words with distances."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers.attention import Heads
from atoll.layers.batch import Batch
from atoll.layers.linear import Linear


class DisentangledAttention(nn.Module):
    """Self-attention of whole texts, without a KV cache; see ``atoll_kernels.disentangled``.

    The projected distances are the same for every text, and computed by the first batch.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: Heads,
        distances: Callable[[], tuple[Tensor, Tensor]],
        *,
        has_keys: bool,
        has_queries: bool,
        is_shared: bool,
    ) -> None:
        """distances: gives a vector for each kind of distance, (rows, hidden), and which row a
        distance has, as ``DistanceTables.rows``. has_keys, has_queries: whether distances are
        projected to keys ("c2p") and to queries ("p2c"). is_shared: by the projections of words.
        """
        super().__init__()
        self.heads, self.distances = heads, distances
        self.has_keys, self.has_queries, self.is_shared = has_keys, has_queries, is_shared
        self.scale = ((1 + has_keys + has_queries) * heads.head_dim) ** -0.5
        self.qkv = Linear(hidden_size, 3 * heads.width)
        self.distance_key = self.distance_query = None
        if has_keys and not is_shared:
            self.distance_key = Linear(hidden_size, heads.width)
        if has_queries and not is_shared:
            self.distance_query = Linear(hidden_size, heads.width)
        self.out = Linear(heads.width, hidden_size)
        self._tables: kernels.DistanceTables | None = None

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        if self._tables is None:
            self._tables = self._projected()
        q, k, v = self._split(self.qkv(x))
        mixed = kernels.disentangled_attention(q, k, v, self._tables, batch.cu_seqlens, self.scale)
        out: Tensor = self.out(mixed.flatten(1))
        return out

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Projected rows as views of (rows, num_heads, head_dim) each."""
        parts = rows.view(len(rows), -1, self.heads.head_dim)
        found: tuple[Tensor, ...] = parts.split(self.heads.num_heads, dim=1)
        return found

    def _projected(self) -> kernels.DistanceTables:
        vectors, rows = self.distances()
        keys = queries = None
        if self.distance_key is not None:
            (keys,) = self._split(self.distance_key(vectors))
        if self.distance_query is not None:
            (queries,) = self._split(self.distance_query(vectors))
        if self.is_shared:
            queries, keys, _ = (x.contiguous() for x in self._split(self.qkv(vectors)))
        return kernels.DistanceTables(
            keys if self.has_keys else None, queries if self.has_queries else None,
            rows.to(vectors.device),
        )  # fmt: skip


def distance_rows(max_length: int, span: int, num_buckets: int, max_distance: int) -> Tensor:
    """The row of every distance of tokens, as ``DistanceTables.rows``: (2 * max_length - 1,) int32.

    Of ``2 * span`` rows, the first half is for keys that follow the query. num_buckets: a quarter
    of the rows hold one distance each on either side, the others grow logarithmically up to
    max_distance; 0: every distance has a row. Distances beyond have the last row of their side.
    """
    # In float32 and in this order: where the quotient is whole, its last bit decides.
    ahead = torch.arange(max_length - 1, -max_length, -1)
    if num_buckets:
        middle = num_buckets // 2
        far = ahead.abs().clamp_min(middle - 1)
        growth = torch.log(far / middle) / torch.log(torch.tensor((max_distance - 1) / middle))
        bucket = (torch.ceil(growth * (middle - 1)) + middle) * ahead.sign()
        ahead = torch.where(far <= middle, ahead, bucket.long())
    return (ahead + span).clamp(0, 2 * span - 1).int()
