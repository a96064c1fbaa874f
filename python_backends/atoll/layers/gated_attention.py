"""Attention whose output is gated: by the sigmoid of one more projection of the input."""

from torch import Tensor

from atoll.layers import parallel
from atoll.layers.attention import Attention, Heads
from atoll.layers.batch import Batch
from atoll.layers.linear import Linear
from atoll.layers.norm import RMSNorm
from atoll.layers.parallel import Part
from atoll.layers.qk_norm import normed
from atoll.layers.rotary import Rotary


class GatedAttention(Attention):
    """``out(attention(x) * sigmoid(gate(x)))``, with norms of queries and keys, head by head.

    Its projection gives [q; gate; k; v].
    """

    def __init__(
        self,
        hidden_size: int,
        heads: Heads,
        *,
        layer: int,
        bias: bool,
        rotary: Rotary,
        qk_norms: tuple[RMSNorm, RMSNorm],
    ) -> None:
        """layer: among those that attend. bias: of both projections."""
        super().__init__(
            hidden_size, heads, layer=layer, bias=bias, rotary=rotary, qk_norms=qk_norms
        )
        query, kv = parallel.heads(heads.num_heads, heads.num_kv_heads)
        q, k = query.times(heads.head_dim), kv.times(heads.head_dim)
        self.qkv = Linear(
            hidden_size, Part.joined(q, q, k, k), bias,
            rows=(2 * heads.width, heads.kv_width, heads.kv_width),
        )  # fmt: skip

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden); mutates the layer's part of the cache."""
        num_heads, num_kv_heads, head_dim = self.heads
        rows = self.qkv(x).view(len(x), -1, head_dim)
        counts = (num_heads, num_heads, num_kv_heads, num_kv_heads)
        q, gate, k, v = rows.split_with_sizes(counts, 1)
        assert self.q_norm is not None and self.k_norm is not None
        q, k = normed(q, k, self.q_norm, self.k_norm)
        attended = self._attend(q, k, v, batch) * gate.sigmoid()
        out: Tensor = self.out(attended.flatten(1))
        return out
